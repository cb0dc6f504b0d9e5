//! What the hop costs: `cargo test --release --test rpc -- --ignored --nocapture`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use overspill::command::Command;
use overspill::doors::Options;
use overspill::rpc::Client;
use overspill::service::Service;

use crate::support::{LONG, Memory, Server, batch, get, put};

const CALLERS: usize = 50;
const RUN: Duration = Duration::from_secs(3);

/// CPU time of this process, in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn measure(service: &Memory, client: &Client, callers: usize, commands: usize) {
    let (calls, executed, cpu, begun) =
        (service.calls(), service.commands.load(Ordering::SeqCst), cpu_seconds(), Instant::now());
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let client = client.clone();
            tokio::spawn(async move {
                while begun.elapsed() < RUN {
                    let gets: Vec<Command> = (0..commands).map(|i| get(format!("k{}", (caller + i) % 1000))).collect();
                    let replies = client.execute(batch(gets, LONG)).await;
                    assert!(replies.len() == commands && replies.iter().all(Result::is_ok));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let executed = (service.commands.load(Ordering::SeqCst) - executed) as f64;
    let calls = (service.calls() - calls) as f64;
    println!(
        "{callers:3} callers x {commands:3}: {:7.0} commands/s, {:6.0} calls/s, {:5.1} commands/call, {:5.2} us CPU/command",
        executed / seconds,
        calls / seconds,
        executed / calls,
        (cpu_seconds() - cpu) * 1e6 / executed,
    );
}

#[ignore = "measures"]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn throughput_of_the_hop() {
    let service = Memory::open();
    let server = Server::start_at("127.0.0.1:0".parse().unwrap(), Arc::clone(&service), Options::default());
    let client = server.client();
    let puts = (0..1000).map(|i| put(format!("k{i}"), vec![b'v'; 100])).collect();
    client.execute(batch(puts, LONG)).await;
    for (callers, commands) in [(1, 1), (1, 16), (1, 64), (CALLERS, 1), (CALLERS, 16), (CALLERS, 64)] {
        measure(&service, &client, callers, commands).await;
    }
}
