//! What nobody should send, and clients that do not behave. The door is served on its own, with little patience; what is behind
//! it has one value for every key.

use std::future::Future;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use overspill::command::{Command, Found, Reply};
use overspill::doors::{self, Access, Door, NoMember};
use overspill::record::{Value, Version};
use overspill::service::{Batch, Error, Replies, Service};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::generate::Generator;
use crate::wire::{Wire, request};
use crate::world::seed;

const STALL_MAX: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(30);

/// Every key has the same value, but those that begin with `away`.
#[derive(Clone)]
struct Constant(Bytes);

impl Constant {
    fn found(&self) -> Reply {
        let value = Value::new(self.0.clone()).unwrap();
        Reply::Found(Some(Found { value, version: Version::new(1, 1), expires_at: None }))
    }
}

impl Service for Constant {
    fn execute(&self, batch: Batch) -> impl Future<Output = Replies> + Send {
        let one = |command: &Command| match command {
            command if command.key().is_some_and(|key| key.as_bytes().starts_with(b"away")) => {
                Err(Error::Unavailable("the shard is away".to_owned()))
            }
            Command::Get { .. } => Ok(self.found()),
            Command::Put { .. } => Ok(Reply::Stored(Version::new(1, 1))),
            Command::Count => Ok(Reply::Count(1)),
            Command::Scan { .. } => Ok(Reply::Page { keys: Vec::new(), next: None }),
            Command::Stats => Ok(Reply::Stats(Vec::new())),
            _ => Ok(Reply::Done(true)),
        };
        let replies = batch.commands.iter().map(one).collect();
        async { replies }
    }

    fn answer_now(&self, command: &Command) -> Option<Reply> {
        match command {
            Command::Get { key } if !key.as_bytes().starts_with(b"away") => Some(self.found()),
            _ => None,
        }
    }
}

struct Doors {
    _runtime: Runtime,
    port: u16,
}

impl Doors {
    fn open(value: usize, options: doors::Options) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let service = Constant(Bytes::from(vec![b'v'; value]));
        let door = Arc::new(Door::new(service, NoMember, NoMember, options));
        let listener = runtime.block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(doors::serve(listener, door, CancellationToken::new()));
        Self { _runtime: runtime, port }
    }

    fn impatient() -> Self {
        Self::open(
            10,
            doors::Options { stall_max: STALL_MAX, role: overspill::rpc::Role::Primary, ..doors::Options::default() },
        )
    }
}

#[test]
fn who_stops_in_the_middle_of_a_request_is_closed_and_who_is_idle_is_not() {
    let doors = Doors::impatient();
    let mut idle = Wire::connect(doors.port);
    assert_eq!(idle.line("PING"), "+PONG");
    let whole = request(&["SET", "key", "value"]);
    let started = Instant::now();
    let silent: Vec<Wire> = (1..whole.len())
        .map(|len| {
            let mut wire = Wire::connect(doors.port);
            wire.send(&[request(&["PING"]).as_slice(), &whole[..len]].concat());
            wire
        })
        .collect();
    for wire in silent {
        assert_eq!(wire.rest(), b"+PONG\r\n");
    }
    assert!(started.elapsed() >= STALL_MAX && started.elapsed() < PATIENCE);
    assert_eq!(idle.line("PING"), "+PONG");
}

#[test]
fn who_does_not_read_is_closed_and_others_are_served_meanwhile() {
    let options =
        doors::Options { stall_max: STALL_MAX, role: overspill::rpc::Role::Primary, ..doors::Options::default() };
    let doors = Doors::open(64 << 10, options);
    // More than sockets hold, and less than the room for answers.
    let gets = request(&["GET", "a"]).repeat(500);
    let mut deaf: Vec<Wire> = (0..4).map(|_| Wire::connect(doors.port)).collect();
    let (mut other, started) = (Wire::connect(doors.port), Instant::now());
    for wire in &mut deaf {
        wire.send(&gets);
        wire.reply(); // it is served
    }
    while !other.told(&["INFO", "CLIENTS"]).contains("connected_clients:1\\r") {
        assert_eq!(other.ask(&["GET", "a"]).len(), (64 << 10) + 10);
        assert!(started.elapsed() < PATIENCE, "they are kept: {}", other.told(&["INFO", "CLIENTS"]));
    }
    assert!(started.elapsed() >= STALL_MAX, "they had no time");
    drop(deaf);
}

#[test]
fn lengths_that_are_only_announced_are_refused_or_cost_nothing() {
    let doors = Doors::impatient();
    for (bytes, told) in [
        (&b"*1048577\r\n"[..], "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*99999999999999999999\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*x\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n$536870913\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*1\r\n$-1\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*1\r\nPING\r\n", "-ERR Protocol error: expected '$', got 'P'\r\n"),
        (b"*1\r\n$4\r\nPINGxx", "-ERR Protocol error: expected CRLF after bulk\r\n"),
        (b"ping \"\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
    ] {
        let mut wire = Wire::connect(doors.port);
        wire.send(bytes);
        assert_eq!(String::from_utf8(wire.rest()).unwrap(), told, "{}", bytes.escape_ascii());
    }
    // Replies to what came before come first.
    let mut wire = Wire::connect(doors.port);
    wire.send(&[request(&["PING"]).as_slice(), b"*x\r\n", &request(&["PING"])].concat());
    assert_eq!(wire.rest(), b"+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n");
    let announced: Vec<Wire> = (0..300)
        .map(|_| {
            let mut wire = Wire::connect(doors.port);
            wire.send(b"*1000000\r\n$8388608\r\nabc");
            wire
        })
        .collect();
    assert_eq!(Wire::connect(doors.port).line("PING"), "+PONG");
    drop(announced);
}

#[test]
fn two_thousand_idle_connections_do_not_keep_others_out() {
    let doors = Doors::impatient();
    let idle: Vec<Wire> = (0..2000)
        .map(|i| {
            let mut wire = Wire::connect(doors.port);
            if i % 2 == 0 {
                wire.send(&request(&["PING"]));
            }
            wire
        })
        .collect();
    let mut wire = Wire::connect(doors.port);
    for _ in 0..100 {
        assert_eq!(wire.line("PING"), "+PONG");
    }
    drop(idle);
}

/// A value that was not read is never told as a missing one, and a write that may have failed never as done.
#[test]
fn a_request_of_which_a_part_failed_is_an_error() {
    let doors = Doors::impatient();
    let mut wire = Wire::connect(doors.port);
    for line in [
        "MGET a away b",
        "MGET away",
        "MSET a 1 away 2",
        "DEL a away",
        "EXISTS away a",
        "UNLINK away",
        "TOUCH a away",
        "GET away",
        "STRLEN away",
    ] {
        let told = wire.line(line);
        assert!(told.starts_with("-CLUSTERDOWN ") && told.contains("the shard is away"), "{line}: {told}");
    }
    assert_eq!(wire.line("MGET a b"), r"*2\r\n$10\r\nvvvvvvvvvv\r\n$10\r\nvvvvvvvvvv");
}

#[test]
fn a_password_is_asked_for_before_anything_is_told() {
    let access = Access::with_password("secret");
    let doors =
        Doors::open(10, doors::Options { access, role: overspill::rpc::Role::Primary, ..doors::Options::default() });
    let mut wire = Wire::connect(doors.port);
    for line in
        ["GET a", "PING", "INFO", "COMMAND", "CLIENT LIST", "SELECT 0", "KEYS *", "SET a b NOSUCH", "CONFIG GET *"]
    {
        assert_eq!(wire.line(line), "-NOAUTH Authentication required.", "{line}");
    }
    assert!(wire.line("HELLO 3").starts_with("-NOAUTH HELLO must be called with the client already authenticated"));
    assert_eq!(wire.line("HELLO 4"), "-NOPROTO unsupported protocol version");
    assert!(wire.line("AUTH wrong").starts_with("-WRONGPASS"));
    assert!(wire.line("HELLO 3 AUTH default wrong").starts_with("-WRONGPASS"));
    for bytes in [request(&["AUTH", &"x".repeat(20_000)]), request(&["MGET"; 20])] {
        let mut stranger = Wire::connect(doors.port);
        stranger.send(&bytes);
        assert!(stranger.rest().starts_with(b"-ERR Protocol error: invalid "));
    }
    wire.send(&[request(&["AUTH", "secret"]), request(&["SET", "a", &"x".repeat(100_000)])].concat());
    assert_eq!(wire.reply(), b"+OK\r\n");
    assert_eq!(wire.reply(), b"+OK\r\n");
    assert_eq!(wire.line("GET a"), r"$10\r\nvvvvvvvvvv");
    assert_eq!(wire.line("RESET"), "+RESET");
    assert_eq!(wire.line("GET a"), "-NOAUTH Authentication required.");
    assert!(wire.line("HELLO 3 AUTH default secret").starts_with('%'));
    assert_eq!(wire.line("GET a"), r"$10\r\nvvvvvvvvvv");
}

/// Requests, bent.
fn fuzzed(generator: &mut Generator, random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = match random.random_range(0..10) {
        0 => {
            let mut bytes = vec![0; random.random_range(1..200)];
            random.fill_bytes(&mut bytes);
            bytes
        }
        1 => generator.next().join(&b' ').into_iter().chain(*b"\r\n").collect(),
        _ => (0..random.random_range(1..4)).flat_map(|_| request(&generator.next())).collect(),
    };
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..6) {
            0 => bytes[at] = random.random(),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, b"\r\n*$-10"[random.random_range(0..7)]),
            3 => bytes.truncate(at.max(1)),
            4 => bytes.splice(at..at, b"*3\r\n$1\r\n".iter().copied()).for_each(drop),
            _ => {
                let piece = bytes[at..].to_vec();
                bytes.extend(piece);
            }
        }
        if bytes.is_empty() {
            bytes.push(b'*');
        }
    }
    bytes
}

#[test]
fn ten_thousand_bent_requests_are_answered_or_refused() {
    const INPUTS: usize = 10_000;
    const CLIENTS: usize = 4;
    let (doors, seed) = (Doors::impatient(), seed());
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS as u64 {
            let (answered, port) = (&answered, doors.port);
            scope.spawn(move || {
                let (mut generator, mut random) =
                    (Generator::new(seed ^ client, false), SmallRng::seed_from_u64(seed.wrapping_add(client)));
                for _ in 0..INPUTS / CLIENTS {
                    let bytes = fuzzed(&mut generator, &mut random);
                    let mut wire = Wire::connect(port);
                    std::io::Write::write_all(&mut wire.stream, &bytes).unwrap();
                    let _ = TcpStream::shutdown(&wire.stream, Shutdown::Write); // it may be closed already
                    let rest = wire.rest();
                    let is_reply = rest.is_empty() || b"+-:$*_%=~".contains(&rest[0]) || rest.starts_with(b"HTTP/1.1 ");
                    assert!(is_reply || bytes[0] == 0 || bytes[0] == 0x16, "{}", bytes.escape_ascii());
                    answered.fetch_add(usize::from(!rest.is_empty()), Ordering::Relaxed);
                }
            });
        }
    });
    assert!(answered.into_inner() > INPUTS / 2, "most of them are hardly bent");
    assert_eq!(Wire::connect(doors.port).line("PING"), "+PONG");
}
