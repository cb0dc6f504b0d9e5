//! What nobody should send, and peers that do not behave.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::SinkExt;
use futures::future::join_all;
use overspill::command::Command;
use overspill::rpc::frames::{FRAME_BYTES_MAX, Frames, STALL_MAX};
use overspill::rpc::{Role, hello};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::time::timeout;

use crate::support::PATIENCE;
use crate::support::client::{Client, get};
use crate::support::cluster::Cluster;
use crate::support::process::Process;

/// For requests as bytes.
#[path = "../rpc/support.rs"]
#[expect(dead_code)]
mod rpc_support;

const MIB: usize = 1 << 20;

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes and no more, and reads to the end of the connection.
fn answer_to(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(port);
    let _ = stream.write_all(bytes); // it may have been closed in the middle
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return answer,
            Err(error) => panic!("the node neither answers nor closes: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_or_closed_while_others_are_served_and_memory_stays() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    client.put("bob", "bob@gmail.com").await.unwrap();
    let nodes = [(&cluster.primary, cluster.port), (&cluster.secondaries[0], cluster.secondary_ports()[0])];
    let mut random = StdRng::seed_from_u64(1);
    for (process, port) in nodes {
        let before = process.resident_bytes();
        for _ in 0..200 {
            let mut bytes = vec![0; random.random_range(1..2000)];
            random.fill_bytes(&mut bytes);
            if bytes[0] == 0 {
                bytes[1..4].fill(0xff); // else it may be a frame that is only begun
            }
            answer_to(port, &bytes);
        }
        let huge_frame = [&[0xff; 4][..], &[0; 64]].concat();
        answer_to(port, &huge_frame);
        let wrong_hello = [&[0, 0, 0, 8][..], b"OVERSPIL"].concat();
        answer_to(port, &wrong_hello);
        let text = answer_to(port, b"hello?\r\n");
        assert!(text.starts_with(b"-ERR"), "a person gets a line: {}", text.escape_ascii());

        // Half a frame, each announcing almost 16 MiB; silence; and nobody reading.
        let mut idle: Vec<TcpStream> = (0..500).map(|_| connect(port)).collect();
        for stream in &mut idle {
            stream.write_all(&[0, 0xff, 0xff, 0xff, 1]).unwrap();
        }
        assert_eq!(client.get("bob").await.unwrap().as_deref(), Some("bob@gmail.com"));
        let grown = process.resident_bytes().saturating_sub(before);
        assert!(grown < 64 << 20, "memory grew by {grown} bytes");
        drop(idle);
    }
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_idle_connections_do_not_keep_others_out() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let idle: Vec<TcpStream> = (0..2000).map(|_| connect(cluster.port)).collect();
    for i in 0..50 {
        client.put(&format!("k{i}"), "v").await.unwrap();
        assert_eq!(client.get(&format!("k{i}")).await.unwrap().as_deref(), Some("v"));
    }
    drop(idle);
    let late = tokio::time::timeout(Duration::from_secs(30), client.get("k1")).await.unwrap();
    assert_eq!(late.unwrap().as_deref(), Some("v"));
    cluster.stop();
}

/// A request that costs little to send and much to answer; its name is long, so that the sockets on the way hold few of them.
const GETS: usize = 64;
const NAME_BYTES: usize = 900;
const ANSWER_BYTES: u64 = (GETS * MIB) as u64;
/// Far more of them than sockets hold and a node has in hand.
const REQUESTS: usize = 1000;
const DEAF: usize = 4;
/// For a secondary, which answers from what it holds in memory anyway.
const SECONDARY_GROWTH_BYTES_MAX: u64 = 64 << 20;
/// For a primary: what all connections may hold at most.
const PRIMARY_GROWTH_BYTES_MAX: u64 = 256 << 20;
/// Requests of somebody else may take so long meanwhile: half a second, or more on a machine that is busy anyway.
const DELAY_MAX: Duration = Duration::from_secs(3);

/// A connection that asks and never reads.
struct Deaf {
    frames: Frames<tokio::net::TcpStream>,
    /// Requests that the node or the sockets on the way took.
    taken: u64,
}

impl Deaf {
    /// Asks until no more is taken for a while.
    async fn ask(port: u16, gets: &[Command], check: impl Fn()) -> Self {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut frames = Frames::new(stream, FRAME_BYTES_MAX, 10 * STALL_MAX);
        hello::offer(&mut frames, Role::Client, PATIENCE).await.unwrap();
        for taken in 0..REQUESTS as u64 {
            check();
            match timeout(Duration::from_secs(2), frames.send(rpc_support::execute(taken, gets))).await {
                Ok(sent) => sent.unwrap(),
                Err(_) => return Self { frames, taken },
            }
        }
        panic!("{REQUESTS} requests were taken, although no answer is");
    }

    /// Returns when the node has closed the connection. Asks on until then: requests that run out of their time make way.
    async fn closed(mut self, gets: &[Command], check: impl Fn()) {
        let ask_on = async {
            while self.frames.send(rpc_support::execute(self.taken, gets)).await.is_ok() {
                check();
            }
        };
        timeout(PATIENCE, ask_on).await.expect("the node keeps it for ever");
    }
}

/// Puts and gets while something goes on; answers how often. Neither may take long.
async fn serve_others(client: &Client, meanwhile: impl Future<Output = ()>) -> u64 {
    let (mut meanwhile, mut count) = (pin!(meanwhile), 0);
    let mut slowest = Duration::ZERO;
    while futures::poll!(&mut meanwhile).is_pending() {
        let begun = Instant::now();
        client.put("bob", &count.to_string()).await.unwrap();
        assert_eq!(client.get("bob").await.unwrap(), Some(count.to_string()));
        count += 1;
        slowest = slowest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{count} times served, in {slowest:?} at most");
    assert!(slowest < DELAY_MAX, "{slowest:?}");
    count
}

/// Clients that ask for far more than memory holds, and do not read.
async fn the_deaf_are_held_back_then_closed_and_cost_little(process: &Process, port: u16, client: &Client, most: u64) {
    let name = |i: usize| format!("{i:0NAME_BYTES$}");
    for i in 0..GETS {
        client.put(&name(i), &"v".repeat(MIB)).await.unwrap();
    }
    let gets: Vec<Command> = (0..GETS).map(|i| get(&name(i))).collect();
    let before = process.resident_bytes();
    let growth = AtomicU64::new(0);
    let check = || {
        let grown = process.resident_bytes().saturating_sub(before);
        growth.fetch_max(grown, Ordering::Relaxed);
        assert!(grown < most, "memory grew by {} MiB", grown >> 20);
    };
    let mut deaf = Vec::new();
    let asking = async { deaf = join_all((0..DEAF).map(|_| Deaf::ask(port, &gets, check))).await };
    serve_others(client, asking).await;
    let taken: u64 = deaf.iter().map(|deaf| deaf.taken).sum();
    assert!(taken * ANSWER_BYTES > 100 * most, "{taken} requests prove nothing");

    let hits = client.stats().await.remove(0).hits;
    assert!(hits < taken * GETS as u64, "more requests were carried out than a connection may have in hand");
    let served = serve_others(client, tokio::time::sleep(Duration::from_secs(2))).await;
    assert_eq!(client.stats().await.remove(0).hits, hits + served, "what nobody reads is not asked for");
    let closed = async {
        join_all(deaf.into_iter().map(|deaf| deaf.closed(&gets, check))).await;
    };
    serve_others(client, closed).await;
    println!("{taken} requests taken; memory grew by {} MiB", growth.into_inner() >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_from_a_secondary_is_held_back_then_closed_and_costs_little_meanwhile() {
    let cluster = Cluster::start(1, &[]).await;
    let (secondary, port) = (&cluster.secondaries[0], cluster.secondary_ports()[0]);
    let (client, most) = (cluster.client(), SECONDARY_GROWTH_BYTES_MAX);
    the_deaf_are_held_back_then_closed_and_cost_little(secondary, port, &client, most).await;
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_from_a_primary_is_held_back_then_closed_and_costs_little_meanwhile() {
    let cluster = Cluster::start(1, &[]).await;
    let (client, most) = (cluster.client(), PRIMARY_GROWTH_BYTES_MAX);
    the_deaf_are_held_back_then_closed_and_cost_little(&cluster.primary, cluster.port, &client, most).await;
    cluster.stop();
}
