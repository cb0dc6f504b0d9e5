//! SET with a sync before each acknowledgement, beside `redis-server --appendonly yes --appendfsync always` on the same disk:
//! the same client, `redis-benchmark`, in turns. Prints `docs/benchmarks.md`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, directory, free_port};
use crate::{CONNECTIONS, Outcome, TIMEOUT, connect, get, put, shard_stats};

const ROUNDS: usize = 5;
const CAPACITY: usize = 2_000_000;
/// For the restart.
const RECORDS: usize = 1_000_000;
/// Writers, requests, and what else `redis-benchmark` is told. Without `-r`, all write one key.
const LOADS: [(&str, usize, usize, &[&str]); 4] = [
    ("50 writers", 50, 100_000, &["-r", "100000"]),
    ("50 writers of one key", 50, 100_000, &[]),
    ("50 writers, pipelines of 16", 50, 400_000, &["-r", "100000", "-P", "16"]),
    ("1 writer", 1, 4_000, &["-r", "100000"]),
];

pub async fn run() -> Outcome<()> {
    let place = directory()?;
    let redis = Redis::start(place.path())?;
    let tier = format!("sqlite://{}", place.path().join("tier.sqlite").display());
    let cluster = Cluster::start(&tier, CAPACITY)?;
    connect(cluster.primary(), 1).await?;
    let (_, port) = cluster.secondary().rsplit_once(':').ok_or("no port")?;
    println!("{}", heading()?);
    println!(
        "| `redis-benchmark -t set -d 100` | Redis, appendfsync always | Overspill, --fsync always | ratio of each turn, and median |"
    );
    println!("|---|---|---|---|");
    for (name, writers, requests, options) in LOADS {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            eprintln!("{name}: {round} of {ROUNDS}");
            theirs.push(benchmark(&redis.port, writers, requests, options)?);
            ours.push(benchmark(port, writers, requests, options)?);
        }
        let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        let listed: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
        let shown = |rates: &[f64]| {
            let rate = median(rates);
            format!("{rate:.0} SET/s, {:.0} µs a write", 1e6 * writers as f64 / rate)
        };
        println!(
            "| {name}: `{}` | {} | {} | {}; **{:.2}** |",
            command(writers, requests, options),
            shown(&theirs),
            shown(&ours),
            listed.join(", "),
            median(&ratios)
        );
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
    println!("## Recovery");
    println!();
    println!("Restart after kill -9 with {unspilled} unspilled records of 116 bytes: served again after {took:.2?};");
    crate::drive(&clients, RECORDS, 64, get).await?;
    println!("every one of the {RECORDS} records was read back as last written.");
    Ok(())
}

fn heading() -> Outcome<String> {
    let version = String::from_utf8(Process::new("redis-server").arg("--version").output()?.stdout)?;
    let redis =
        version.split_whitespace().find_map(|word| word.strip_prefix("v=")).ok_or("no version of redis-server")?;
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "# Benchmarks

Made by `make bench-durable`. Redis {redis} and a secondary with one worker thread, on {cores} cores that they share with the client, their files in the
same file system. They are asked in turns; the figures are medians of {ROUNDS}, the ratio is ours to Redis' in each turn: above 1 we are faster.
Machines differ and are shared: compare within a row.

## A sync before each acknowledgement
"
    ))
}

/// What `redis-benchmark` is told of a load.
fn command(writers: usize, requests: usize, options: &[&str]) -> String {
    [format!("-c {writers} -n {requests}"), options.join(" ")].join(" ").trim_end().to_owned()
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// SETs a second.
fn benchmark(port: &str, clients: usize, requests: usize, options: &[&str]) -> Outcome<f64> {
    let (clients, requests) = (clients.to_string(), requests.to_string());
    let fixed = ["-p", port, "-t", "set", "-c", &clients, "-n", &requests, "-d", "100", "--csv"];
    let output = Process::new("redis-benchmark").args(fixed).args(options).output()?;
    let text = String::from_utf8(output.stdout)?;
    let row = text.lines().find(|line| line.starts_with("\"SET\"")).ok_or("redis-benchmark has failed")?;
    let rate = row.split(',').nth(1).ok_or("no rate")?;
    Ok(rate.trim_matches('"').parse()?)
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
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill(); // it may have ended
        let _ = self.server.wait();
    }
}
