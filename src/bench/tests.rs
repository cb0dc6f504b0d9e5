//! Against servers that do what a test wants. Real ones: `tests/redis/bench.rs`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::*;

fn plan(address: &str, extent: Extent) -> Plan {
    Plan {
        address: address.to_owned(),
        wire: Wire::Resp,
        password: None,
        threads: 2,
        connections: 4,
        pipeline: 1,
        gets_percent: 50,
        prefix: "key:".to_owned(),
        keys: 1000,
        pattern: Pattern::Uniform,
        value_bytes: 10,
        extent,
        rate: None,
        seed: 1,
    }
}

fn run(plan: &Plan) -> Result<Report, BenchError> {
    plan.run(&CancellationToken::new(), |_| {})
}

/// A server that lets `answer` deal with what each read of a connection brought.
fn serve(answer: impl Fn(&[u8], &mut TcpStream) + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            thread::spawn(move || {
                let mut bytes = [0; 65536];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    answer(&bytes[..read], &mut stream);
                }
            });
        }
    });
    address
}

/// Commands in some bytes, each of which is there as a whole.
fn commands(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'*').count()
}

/// Answers all with `OK`, but nothing in the 400 ms after the first request of all.
fn stalling() -> String {
    let first = Arc::new(std::sync::OnceLock::new());
    serve(move |bytes, stream| {
        let over = *first.get_or_init(|| Instant::now() + Duration::from_millis(400));
        thread::sleep(over.saturating_duration_since(Instant::now()));
        let _ = stream.write_all(&b"+OK\r\n".repeat(commands(bytes)));
    })
}

/// How many of a thousand took more than 50 ms.
fn slow(report: &Report) -> usize {
    let all = report.all();
    (0..1000).filter(|&mille| all.percentile(f64::from(mille) / 10.0) > Duration::from_millis(50)).count()
}

#[test]
fn with_a_rate_all_who_would_have_come_pay_for_a_stall() {
    let mut plan = plan(&stalling(), Extent::Requests(1000));
    let closed = run(&plan).unwrap();
    plan.address = stalling();
    plan.rate = Some(1000.0);
    let open = run(&plan).unwrap();
    assert_eq!((closed.count(), open.count()), (1000, 1000));
    // One for each connection, and what the machine adds; and each that was due in the stall, but for those in its last 50 ms.
    assert!(slow(&closed) < 100, "{closed}");
    assert!(slow(&open) > 200, "{open}");
    assert!(open.elapsed > Duration::from_millis(950), "{open}");
}

#[test]
fn so_many_requests_are_made_and_their_answers_counted() {
    let address = serve(|bytes, stream| {
        for command in bytes.split(|byte| *byte == b'*').skip(1) {
            let reply: &[u8] = match command {
                _ if command.windows(3).any(|word| word == b"GET") => b"$3\r\nabc\r\n",
                _ => b"-BUSY later\r\n",
            };
            stream.write_all(reply).unwrap();
        }
    });
    let mut told = 0;
    let plan = Plan { pipeline: 7, ..plan(&address, Extent::Requests(1001)) };
    let report = plan.run(&CancellationToken::new(), |answered| told = answered).unwrap();
    assert_eq!((report.count(), report.hits, report.unsent), (1001, report.gets.count(), 0));
    assert_eq!((report.errors, report.first_error.as_deref()), (report.sets.count(), Some("BUSY later")));
    assert!((300..700).contains(&report.hits), "{report}");
    assert!(told <= 1001);
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!((&json["requests"], &json["errors"]), (&1001.into(), &report.errors.into()));
}

#[test]
fn a_walk_comes_by_each_key_once() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keys = seen.clone();
    let address = serve(move |bytes, stream| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let found: Vec<u64> = text.split("key:").skip(1).map(|rest| rest[..12].parse().unwrap()).collect();
        stream.write_all(&b"+OK\r\n".repeat(found.len())).unwrap();
        keys.lock().unwrap().extend(found);
    });
    let plan = Plan { pattern: Pattern::Sequential, gets_percent: 0, ..plan(&address, Extent::Requests(1000)) };
    assert_eq!(run(&plan).unwrap().sets.count(), 1000);
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, (0..1000).collect::<Vec<_>>());
}

#[test]
fn the_most_popular_of_zipf_is_asked_for_as_often_as_its_share_says() {
    let plan = Plan { pattern: "zipf:0.99".parse().unwrap(), ..plan("", Extent::Requests(1)) };
    let (mut choice, mut rng, mut key) = (Choice::new(&plan, 0..1), SmallRng::seed_from_u64(1), String::new());
    let mut counts = std::collections::HashMap::new();
    for _ in 0..100_000 {
        choice.next(&mut rng, "", &mut key);
        *counts.entry(key.parse::<u64>().unwrap()).or_insert(0) += 1;
    }
    let weights: f64 = (1..=1000).map(|n| f64::from(n).powf(-0.99)).sum();
    for number in [0, 1, 9] {
        let expected = 100_000.0 * (number as f64 + 1.0).powf(-0.99) / weights;
        assert!((f64::from(counts[&number]) / expected - 1.0).abs() < 0.1, "{number}: {} {expected}", counts[&number]);
    }
    assert!(counts.keys().all(|number| *number < 1000));
    for wrong in ["zipf", "zipf:", "zipf:0", "zipf:-1", "zipf:inf", "random"] {
        assert!(wrong.parse::<Pattern>().is_err(), "{wrong}");
    }
}

#[test]
fn a_server_that_is_slower_than_the_rate_or_goes_away_is_told_of() {
    let gone = serve(|_, stream| stream.shutdown(std::net::Shutdown::Both).unwrap());
    assert!(matches!(run(&plan(&gone, Extent::Requests(9))), Err(BenchError::Lost { .. })));
    let odd = serve(|_, stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap());
    let error = run(&plan(&odd, Extent::Requests(9))).unwrap_err().to_string();
    assert!(error.contains("is no reply"), "{error}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert!(matches!(run(&plan(&closed, Extent::Requests(9))), Err(BenchError::Connect { .. })));
    let refusing = serve(|_, stream| stream.write_all(b"-WRONGPASS no\r\n").unwrap());
    let refused = Plan { password: Some("p".to_owned()), ..plan(&refusing, Extent::Requests(9)) };
    assert!(matches!(run(&refused), Err(BenchError::Refused { answer, .. }) if answer == "WRONGPASS no"));
}

#[test]
fn who_asks_to_stop_has_the_figures_so_far() {
    let address = serve(|bytes, stream| stream.write_all(&b"+OK\r\n".repeat(commands(bytes))).unwrap());
    for rate in [None, Some(500.0)] {
        let stop = CancellationToken::new();
        let plan = Plan { rate, ..plan(&address, Extent::Time(Duration::MAX)) };
        let enough = |answered| {
            if answered > 100 {
                stop.cancel();
            }
        };
        let report = plan.run(&stop, enough).unwrap();
        assert!(report.count() > 100);
    }
}

#[test]
fn replies_may_come_in_any_pieces() {
    let cases: [(Wire, &[u8], Reply); 12] = [
        (Wire::Resp, b"$5\r\nab\r\nc\r\n", Reply::Hit(5)),
        (Wire::Resp, b"$0\r\n\r\n", Reply::Hit(0)),
        (Wire::Resp, b"$-1\r\n", Reply::Miss),
        (Wire::Resp, b"_\r\n", Reply::Miss),
        (Wire::Resp, b"+OK\r\n", Reply::Done),
        (Wire::Resp, b"-ERR no\r\n", Reply::Error("ERR no".to_owned())),
        (Wire::Memcached, b"VALUE key 0 5\r\nab\r\nc\r\nEND\r\n", Reply::Hit(5)),
        (Wire::Memcached, b"END\r\n", Reply::Miss),
        (Wire::Resp, b":1\r\n", Reply::Done),
        (Wire::Memcached, b"DELETED\r\n", Reply::Done),
        (Wire::Memcached, b"NOT_FOUND\r\n", Reply::Miss),
        (Wire::Memcached, b"SERVER_ERROR out of memory\r\n", Reply::Error("SERVER_ERROR out of memory".to_owned())),
    ];
    for (wire, bytes, reply) in cases {
        for end in 0..bytes.len() {
            assert_eq!(wire.reply(&bytes[..end]).unwrap(), None, "{:?}", String::from_utf8_lossy(&bytes[..end]));
        }
        let more = [bytes, b"+OK\r\n"].concat();
        assert_eq!(wire.reply(&more).unwrap(), Some((reply, bytes.len())));
    }
    for (wire, bytes) in [(Wire::Resp, "$x\r\n"), (Wire::Resp, "hello\r\n"), (Wire::Memcached, "VALUE key 0 x\r\n")] {
        assert!(wire.reply(bytes.as_bytes()).is_err(), "{bytes}");
    }
}
