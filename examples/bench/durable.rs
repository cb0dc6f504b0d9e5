//! PUT with a sync before each acknowledgement, beside `redis-server --appendonly yes --appendfsync always` on the same disk:
//! the same number of writers, in turns. Prints a table for `docs/benchmarks.md`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overspill::rpc::Client;
use overspill::service::{Batch, Service};

use crate::cluster::{Cluster, directory, free_port};
use crate::{CONNECTIONS, Outcome, TIMEOUT, check, connect, get, put, shard_stats};

const ROUNDS: usize = 5;
const CAPACITY: usize = 2_000_000;
/// For the restart.
const RECORDS: usize = 1_000_000;
const WRITERS: [(usize, usize); 2] = [(50, 50_000), (1, 2_000)];

pub async fn run() -> Outcome<()> {
    let place = directory()?;
    let redis = Redis::start(place.path())?;
    let tier = format!("sqlite://{}", place.path().join("tier.sqlite").display());
    let cluster = Cluster::start(&tier, CAPACITY)?;
    connect(cluster.primary(), 1).await?;
    println!("| writers | Redis, appendfsync always | Overspill, --fsync always | ratio of each turn |");
    println!("|---|---|---|---|");
    for (writers, writes) in WRITERS {
        let clients = connect(cluster.secondary(), writers).await?;
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            theirs.push(redis.benchmark(writers, writes)?);
            ours.push(writes as f64 / drive(&clients, writes).await?.as_secs_f64());
        }
        let ratios: Vec<String> =
            ours.iter().zip(&theirs).map(|(ours, theirs)| format!("{:.2}", ours / theirs)).collect();
        let shown = |rates: &[f64]| {
            let rate = median(rates);
            format!("{rate:.0} PUT/s, {:.0} µs a write", 1e6 * writers as f64 / rate)
        };
        println!("| {writers} | {} | {} | {} |", shown(&theirs), shown(&ours), ratios.join(", "));
    }
    restart(cluster).await
}

/// How long a secondary that was killed takes to serve again, with records that only its journal has.
async fn restart(mut cluster: Cluster) -> Outcome<()> {
    let clients = connect(cluster.secondary(), CONNECTIONS).await?;
    crate::drive(&clients, RECORDS, 64, put).await?;
    let unspilled = shard_stats(&clients).await?.unspilled;
    drop(clients);
    let killed = Instant::now();
    cluster.crash()?;
    let clients = connect(cluster.secondary(), 1).await?;
    let took = killed.elapsed();
    println!();
    println!("Restart after kill -9 with {unspilled} unspilled records of 116 bytes: served again after {took:.2?}");
    crate::drive(&clients, RECORDS, 64, get).await?;
    println!("every one of the {RECORDS} records was read back as last written");
    Ok(())
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Each client writes one record at a time.
async fn drive(clients: &[Arc<Client>], writes: usize) -> Outcome<Duration> {
    let started = Instant::now();
    let mut running = Vec::new();
    for (i, client) in clients.iter().cloned().enumerate() {
        let (from, to) = (writes * i / clients.len(), writes * (i + 1) / clients.len());
        running.push(tokio::spawn(async move {
            for i in from..to {
                let command = put(i)?;
                let batch = Batch { commands: vec![command.clone()], epoch: None, timeout: TIMEOUT };
                check(i, &command, client.execute(batch).await.pop().ok_or("no reply")??)?;
            }
            Outcome::Ok(())
        }));
    }
    for client in running {
        client.await??;
    }
    Ok(started.elapsed())
}

/// A server that ends with it.
struct Redis {
    server: Child,
    port: String,
}

impl Redis {
    fn start(directory: &Path) -> Outcome<Self> {
        let port = free_port()?.to_string();
        let options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"];
        let mut process = Process::new("redis-server");
        process.args(["--port", &port]).args(options).arg("--dir").arg(directory);
        let server = process.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let redis = Self { server: server.map_err(|error| format!("redis-server is needed: {error}"))?, port };
        let deadline = Instant::now() + TIMEOUT;
        while !redis.answers() {
            if Instant::now() > deadline {
                return Err("redis-server has not started".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(redis)
    }

    fn answers(&self) -> bool {
        let mut pong = [0; 5];
        let asked = TcpStream::connect(format!("127.0.0.1:{}", self.port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            stream.read_exact(&mut pong)
        });
        asked.is_ok() && pong == *b"+PONG"
    }

    /// SETs a second.
    fn benchmark(&self, clients: usize, requests: usize) -> Outcome<f64> {
        let (clients, requests) = (clients.to_string(), requests.to_string());
        let options = ["-t", "set", "-c", &clients, "-n", &requests, "-d", "100", "-r", "100000", "--csv"];
        let output = Process::new("redis-benchmark").args(["-p", &self.port]).args(options).output()?;
        let text = String::from_utf8(output.stdout)?;
        let row = text.lines().find(|line| line.starts_with("\"SET\"")).ok_or("redis-benchmark has failed")?;
        let rate = row.split(',').nth(1).ok_or("no rate")?;
        Ok(rate.trim_matches('"').parse()?)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill(); // it may have ended
        let _ = self.server.wait();
    }
}
