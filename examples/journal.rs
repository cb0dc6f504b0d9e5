//! Figures of the journal on a real disk: recovery of 1,000,000 effects, and group commit with 50 tasks.
//!
//! `cargo run --release --example journal [DIRECTORY]`
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use overspill::command::Effect;
use overspill::journal::{Directory, Fsync, Options, open};
use overspill::record::{JournalId, Key, Record, Value, Version};
use overspill::task::Threads;
use tokio_util::sync::CancellationToken;

const RECORDS: u64 = 1_000_000;
const TASKS: u64 = 50;
const MEASURED: Duration = Duration::from_secs(5);

/// 16 bytes of key, 100 of value.
fn effect(lsn: u64) -> Effect {
    let key = Key::new(format!("key:{lsn:012}")).unwrap();
    let value = Value::new(vec![b'v'; 100]).unwrap();
    Effect::Set(Record { key, value, version: Version::new(1, lsn), expires_at: None })
}

#[tokio::main]
async fn main() {
    let place = std::env::args().nth(1).unwrap_or_else(|| "target/journal-bench".into());
    let _ = std::fs::remove_dir_all(&place);
    recover(&format!("{place}/recover")).await;
    for fsync in [Fsync::Always, Fsync::Interval(Duration::from_millis(200)), Fsync::Never] {
        for tasks in [1, TASKS] {
            commit(&format!("{place}/{fsync}-{tasks}"), fsync, tasks).await;
        }
    }
    std::fs::remove_dir_all(&place).unwrap();
}

async fn recover(path: &str) {
    let options = Options::new(Fsync::Never, 8 << 30);
    let disk = Arc::new(Directory::create(path).unwrap());
    let (journal, _) = open(disk.clone(), options, JournalId(1), &mut |_| {}).unwrap();
    let stop = CancellationToken::new();
    let (worker, token) = (journal.clone(), stop.clone());
    let task = tokio::spawn(async move { worker.run(&Threads, &token).await });
    let began = Instant::now();
    for lsn in (1..=RECORDS).step_by(20) {
        let effects: Vec<Effect> = (lsn..lsn + 20).map(effect).collect();
        let pending = journal.append(&effects).unwrap();
        if lsn % 2000 == 1 {
            pending.durable().await.unwrap();
        }
    }
    stop.cancel();
    task.await.unwrap();
    println!("written: {RECORDS} effects, {} bytes, {:?}", journal.usage().bytes, began.elapsed());
    drop(journal);
    for _ in 0..3 {
        let began = Instant::now();
        let (_, recovered) = open(disk.clone(), options, JournalId(1), &mut |_| {}).unwrap();
        println!("recovered: {} effects in {:?}", recovered.effects.len(), began.elapsed());
    }
}

async fn commit(path: &str, fsync: Fsync, tasks: u64) {
    let disk = Arc::new(Directory::create(path).unwrap());
    let (journal, _) = open(disk, Options::new(fsync, 8 << 30), JournalId(1), &mut |_| {}).unwrap();
    let stop = CancellationToken::new();
    let (worker, token) = (journal.clone(), stop.clone());
    let task = tokio::spawn(async move { worker.run(&Threads, &token).await });
    let began = Instant::now();
    let writers = (0..tasks).map(|writer| {
        let journal = journal.clone();
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < MEASURED {
                let effect = effect(1 + writer + latencies.len() as u64 * tasks);
                let started = Instant::now();
                journal.append(&[effect]).unwrap().durable().await.unwrap();
                latencies.push(started.elapsed());
            }
            latencies
        })
    });
    let latencies = futures::future::join_all(writers).await;
    let elapsed = began.elapsed();
    let mut latencies: Vec<Duration> = latencies.into_iter().flat_map(Result::unwrap).collect();
    stop.cancel();
    task.await.unwrap();
    latencies.sort();
    let at = |part: usize| latencies.get(latencies.len() * part / 1000).copied().unwrap_or_default();
    let usage = journal.usage();
    println!(
        "{fsync}, {tasks} tasks: {:.0} appends/s, {:.0} groups/s, {:.0} syncs/s, p50 {:?}, p99 {:?}",
        latencies.len() as f64 / elapsed.as_secs_f64(),
        usage.groups as f64 / elapsed.as_secs_f64(),
        usage.syncs as f64 / elapsed.as_secs_f64(),
        at(500),
        at(990),
    );
}
