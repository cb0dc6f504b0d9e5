//! Inputs that no client sends: each connection ends or is answered, and the door goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use overspill::doors::http::Http;
use overspill::doors::{self, Door};
use overspill::rpc::answers::Budget;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::world::{World, connect};

const INPUTS: usize = 10_000;
const PER_CONNECTION: usize = 4;

const SEEDS: [&[u8]; 8] = [
    b"GET /v1/kv/key HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"1.2\"\r\n\r\n",
    b"PUT /v1/kv/k%20y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nOverspill-TTL: 30s\r\nIf-Match: \"1.1\"\r\n\r\nabc",
    b"PUT /v1/kv/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"DELETE /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /store/set HTTP/1.1\r\nContent-Length: 23\r\n\r\n{\"key\":\"a\",\"value\":\"b\"}",
    b"GET /store/get/k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /readyz?verbose HTTP/1.1\r\nAuthorization: Basic OnNlY3JldA==\r\n\r\n",
    b"HEAD /v1/map HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
];

const WORDS: [&[u8]; 16] = [
    b"\r\n",
    b"\r\n\r\n",
    b"%",
    b"%ff",
    b"\0",
    b"\xff",
    b"*",
    b"\"",
    b"99999999999999999999",
    b"-1",
    b":",
    b"/",
    b"?",
    b" HTTP/1.1",
    b"chunked",
    b"Content-Length: 8388609\r\n",
];

/// One of the seeds, cut, spliced and overwritten; or noise.
fn input(random: &mut fastrand::Rng) -> Vec<u8> {
    if random.u8(..10) == 0 {
        return (0..random.usize(..200)).map(|_| random.u8(..)).collect();
    }
    let mut bytes = SEEDS[random.usize(..SEEDS.len())].to_vec();
    for _ in 0..random.usize(..6) {
        let at = random.usize(..=bytes.len());
        match random.u8(..5) {
            0 => bytes.truncate(at),
            1 => bytes.splice(at..at, WORDS[random.usize(..WORDS.len())].iter().copied()).for_each(drop),
            2 if at < bytes.len() => bytes[at] = random.u8(..),
            3 => {
                let other = SEEDS[random.usize(..SEEDS.len())];
                bytes.splice(at.., other[random.usize(..other.len())..].iter().copied()).for_each(drop);
            }
            _ => {
                let end = random.usize(at..=bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_strange_inputs_are_answered_or_closed() {
    let seed = std::env::var("HTTP_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("HTTP_SEED={seed}");
    let world = World::serving(100).await;
    let options = doors::Options { stall_max: Duration::from_millis(200), ..doors::Options::default() };
    let door: Arc<Door<_, _>> = Arc::new(world.door(options));
    let http = Http::new(&door);
    let budget = Budget::new(256 << 20);
    let (mut random, answered) = (fastrand::Rng::with_seed(seed), Arc::new(AtomicUsize::new(0)));
    let mut connections = tokio::task::JoinSet::new();
    for i in 0..INPUTS / PER_CONNECTION {
        let inputs: Vec<u8> = (0..PER_CONNECTION).flat_map(|_| input(&mut random)).collect();
        let (http, budget, answered) = (http.clone(), Arc::clone(&budget), Arc::clone(&answered));
        connections.spawn(async move {
            let (mut near, far) = duplex(16 * 1024);
            let served = tokio::spawn(async move {
                http.serve(far, ([127, 0, 0, 1], 1).into(), budget, CancellationToken::new()).await
            });
            let exchange = async {
                // It may be closed before it has heard all.
                let _ = near.write_all(&inputs).await;
                let _ = near.shutdown().await;
                let mut answers = Vec::new();
                let _ = near.read_to_end(&mut answers).await;
                answers
            };
            let shown = || format!("HTTP_SEED={seed}, connection {i}: {}", inputs.escape_ascii());
            let answers = timeout(Duration::from_secs(20), exchange).await.unwrap_or_else(|_| panic!("{}", shown()));
            assert!(answers.is_empty() || answers.starts_with(b"HTTP/1."), "{}: {}", shown(), answers.escape_ascii());
            // Relaxed: a figure, read after all have ended.
            answered.fetch_add(usize::from(!answers.is_empty()), Ordering::Relaxed);
            let ended = timeout(Duration::from_secs(20), served).await.unwrap_or_else(|_| panic!("{}", shown()));
            assert!(ended.is_ok(), "it panicked: {}", shown());
        });
        while connections.len() > 64 {
            connections.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(ended) = connections.join_next().await {
        ended.unwrap();
    }
    let answered = answered.load(Ordering::Relaxed);
    assert!(answered > INPUTS / PER_CONNECTION / 4, "too many were not even answered: {answered}");
    assert_eq!(budget.held(), 0, "all room was given back");
    assert_eq!(connect(&http).get("/livez").await.status, 200);
}
