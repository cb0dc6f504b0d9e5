//! Callers that speak RPC with a node, as the shell does, and check what they are answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use overspill::command::{Command, Condition, Reply, ShardStats};
use overspill::record::{Key, Value};
use overspill::rpc::{Client, Options};
use overspill::service::{Batch, Service};

use crate::Outcome;
use crate::load::VALUE_BYTES;

pub const CONNECTIONS: usize = 4;
pub const CALLERS_PER_CONNECTION: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(20);
fn key(i: usize) -> Outcome<Key> {
    Ok(Key::new(format!("user:{i:011}"))?)
}

fn value(i: usize) -> Vec<u8> {
    let mut value = format!("{i:020}").into_bytes();
    value.resize(VALUE_BYTES, b'v');
    value
}

pub fn put(i: usize) -> Outcome<Command> {
    Ok(Command::Put { key: key(i)?, value: Value::new(value(i))?, ttl: None, condition: Condition::Always })
}

pub fn get(i: usize) -> Outcome<Command> {
    Ok(Command::Get { key: key(i)? })
}

pub fn get_absent(i: usize) -> Outcome<Command> {
    Ok(Command::Get { key: Key::new(format!("none:{i:011}"))? })
}

/// Runs `command(0..records)` from many callers, `batch` commands a call, and checks every reply.
pub async fn drive(
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

pub async fn shard_stats(clients: &[Arc<Client>]) -> Outcome<ShardStats> {
    let client = clients.first().ok_or("no client")?;
    let batch = Batch { commands: vec![Command::Stats], epoch: None, timeout: TIMEOUT };
    match client.execute(batch).await.pop().ok_or("no reply")?? {
        Reply::Stats(mut stats) => stats.pop().ok_or_else(|| "no shard".into()),
        other => Err(format!("not statistics: {other:?}").into()),
    }
}

/// Until the tier has all that was evicted.
pub async fn wait_spilled(clients: &[Arc<Client>]) -> Outcome<ShardStats> {
    loop {
        let stats = shard_stats(clients).await?;
        if stats.records_spilling == 0 {
            return Ok(stats);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Connections to a node, once it serves.
pub async fn connect(address: &str, connections: usize) -> Outcome<Vec<Arc<Client>>> {
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
