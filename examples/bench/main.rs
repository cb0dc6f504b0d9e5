//! Figures of a cluster as a user runs it: real processes of `secondary` and `primary`, a real database
//! (`KV_TEST_MYSQL_URL`, or else SQLite), and clients that speak RPC through the primary.
//!
//! `cargo run --release --example bench [-- --quick]`, or `make bench-quick`, which starts a MariaDB around it; with `durable`
//! (`make bench-durable`) writes with a sync each, beside Redis.

mod cluster;
mod durable;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overspill::command::{Command, Condition, Reply, ShardStats};
use overspill::record::{Key, Value};
use overspill::rpc::{Client, Options};
use overspill::service::{Batch, Service};

use crate::cluster::Cluster;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const VALUE_BYTES: usize = 100;
const CONNECTIONS: usize = 4;
const CALLERS_PER_CONNECTION: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(20);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the original system did on two cores: PUT and GET a second with room for everything, and with eviction.
const ORIGINAL: [(&str, f64); 4] =
    [("PUT in memory", 8_000.0), ("GET in memory", 5_600.0), ("PUT evicting", 2_000.0), ("GET of spilled", 1_700.0)];

#[tokio::main]
async fn main() -> Outcome<()> {
    if std::env::args().any(|arg| arg == "durable") {
        return durable::run().await;
    }
    let is_quick = std::env::args().any(|arg| arg == "--quick");
    let records = if is_quick { 100_000 } else { 1_000_000 };
    let directory = tempfile::tempdir()?;
    let tier = std::env::var("KV_TEST_MYSQL_URL").ok();
    let tier = match tier {
        Some(url) => database_url(&url, std::process::id()),
        None => format!("sqlite://{}", directory.path().join("bench.sqlite").display()),
    };
    let kind = tier.split(':').next().unwrap_or("?");
    println!("{records} records of {} bytes, one secondary, {kind}, {CONNECTIONS} connections", 16 + VALUE_BYTES);
    println!("{:<34} {:>14} {:>16}", "", "a second", "times original");

    let cluster = Cluster::start("none", 10 * records)?;
    let clients = connect(cluster.primary(), CONNECTIONS).await?;
    for (batch, name) in [(1, "one at a time"), (64, "64 a batch")] {
        report("PUT in memory", name, records, drive(&clients, records, batch, put).await?);
        report("GET in memory", name, records, drive(&clients, records, batch, get).await?);
    }
    drop((clients, cluster));

    let cluster = Cluster::start(&tier, 1_000)?;
    let clients = connect(cluster.primary(), CONNECTIONS).await?;
    report("PUT evicting", "one at a time", records, drive(&clients, records, 1, put).await?);
    let started = Instant::now();
    let more = drive(&clients, records, 64, put).await?;
    report("PUT evicting", "64 a batch", records, more);
    let stats = wait_spilled(&clients).await?;
    let spilled = stats.spilled_rows as f64 / (started.elapsed().as_secs_f64() + more.as_secs_f64()).max(0.001);
    println!("{:<34} {:>14} rows in {} batches", "spilled", stats.spilled_rows, stats.spilled_batches);
    println!("{:<34} {spilled:>14.0} rows/s over the second run", "");
    report("GET of spilled", "one at a time", records, drive(&clients, records, 1, get).await?);
    report("GET of spilled", "64 a batch", records, drive(&clients, records, 64, get).await?);
    let before = shard_stats(&clients).await?.load_batches;
    report("GET of absent", "64 a batch", records, drive(&clients, records, 64, get_absent).await?);
    let statements = shard_stats(&clients).await?.load_batches - before;
    println!("{:<34} {statements:>14} SQL statements for {records} absent keys", "");
    println!("every one of the {records} records was read back as last written");
    Ok(())
}

fn report(what: &str, how: &str, records: usize, took: Duration) {
    let rate = records as f64 / took.as_secs_f64();
    let times = ORIGINAL.iter().find(|(name, _)| *name == what).map(|(_, original)| rate / original);
    let times = times.map(|times| format!("{times:.1}")).unwrap_or_default();
    println!("{:<34} {rate:>14.0} {times:>16}", format!("{what}, {how}"));
}

fn key(i: usize) -> Outcome<Key> {
    Ok(Key::new(format!("user:{i:011}"))?)
}

fn value(i: usize) -> Vec<u8> {
    let mut value = format!("{i:020}").into_bytes();
    value.resize(VALUE_BYTES, b'v');
    value
}

fn put(i: usize) -> Outcome<Command> {
    Ok(Command::Put { key: key(i)?, value: Value::new(value(i))?, ttl: None, condition: Condition::Always })
}

fn get(i: usize) -> Outcome<Command> {
    Ok(Command::Get { key: key(i)? })
}

fn get_absent(i: usize) -> Outcome<Command> {
    Ok(Command::Get { key: Key::new(format!("none:{i:011}"))? })
}

/// Runs `command(0..records)` from many callers, `batch` commands a call, and checks every reply.
async fn drive(
    clients: &[Arc<Client>],
    records: usize,
    batch: usize,
    command: fn(usize) -> Outcome<Command>,
) -> Outcome<Duration> {
    let started = Instant::now();
    let callers = clients.len() * CALLERS_PER_CONNECTION;
    let mut running = Vec::new();
    for caller in 0..callers {
        let Some(client) = clients.get(caller % clients.len()).cloned() else { continue };
        let (from, to) = (records * caller / callers, records * (caller + 1) / callers);
        running.push(tokio::spawn(async move {
            let mut next = from;
            while next < to {
                let end = (next + batch).min(to);
                let commands: Vec<Command> = (next..end).map(command).collect::<Outcome<_>>()?;
                let replies = client.execute(Batch { commands: commands.clone(), epoch: None, timeout: TIMEOUT }).await;
                for ((i, command), reply) in (next..end).zip(&commands).zip(replies) {
                    check(i, command, reply?)?;
                }
                next = end;
            }
            Outcome::Ok(())
        }));
    }
    for caller in running {
        caller.await??;
    }
    Ok(started.elapsed())
}

fn check(i: usize, command: &Command, reply: Reply) -> Outcome<()> {
    let is_absent = command.key().is_some_and(|key| key.as_bytes().starts_with(b"none"));
    match reply {
        Reply::Stored(_) => Ok(()),
        Reply::Found(Some(found)) if found.value.as_bytes() == value(i) => Ok(()),
        Reply::Found(None) if is_absent => Ok(()),
        other => Err(format!("record {i} is lost or wrong: {other:?}").into()),
    }
}

async fn shard_stats(clients: &[Arc<Client>]) -> Outcome<ShardStats> {
    let client = clients.first().ok_or("no client")?;
    let batch = Batch { commands: vec![Command::Stats], epoch: None, timeout: TIMEOUT };
    match client.execute(batch).await.pop().ok_or("no reply")?? {
        Reply::Stats(mut stats) => stats.pop().ok_or_else(|| "no shard".into()),
        other => Err(format!("not statistics: {other:?}").into()),
    }
}

/// Until the tier has all that was evicted.
async fn wait_spilled(clients: &[Arc<Client>]) -> Outcome<ShardStats> {
    loop {
        let stats = shard_stats(clients).await?;
        if stats.records_spilling == 0 {
            return Ok(stats);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The server's URL with a database of our own.
fn database_url(url: &str, id: u32) -> String {
    let (server, _) = url.split_once("://").map_or((url, ""), |(_, rest)| (rest, ""));
    let server = server.split(['/', '?']).next().unwrap_or(server);
    format!("mysql://{server}/overspill_bench_{id}")
}

/// Connections to a node, once it serves.
async fn connect(address: &str, connections: usize) -> Outcome<Vec<Arc<Client>>> {
    let clients: Vec<_> =
        (0..connections).map(|_| Arc::new(Client::spawn(address.to_owned(), Options::default()))).collect();
    let deadline = Instant::now() + TIMEOUT;
    while let Err(error) = drive(&clients, 64, 1, get_absent).await {
        if Instant::now() > deadline {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(clients)
}
