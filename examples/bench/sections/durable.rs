//! SET with a sync before each acknowledgement, beside `redis-server --appendonly yes --appendfsync always` on the same disk:
//! the same client, `redis-benchmark`, in turns. And how long a restart takes.

use std::time::Instant;

use crate::callers::{CONNECTIONS, connect, drive, get, put, shard_stats};
use crate::cluster::Cluster;
use crate::page::Chapter;
use crate::peers::Kind;
use crate::process::{Server, directory};
use crate::profile::{self, Look, Process};
use crate::redis_benchmark;
use crate::rounds::{Goal, MICROS, PER_SECOND, Sides, tell, turns};
use crate::{Bench, OURS, Outcome};

pub const TITLE: &str = "A sync before each acknowledgement";
const CAPACITY: usize = 2_000_000;
/// Fewer are over before anything can be told.
const REQUESTS_MIN: usize = 1_000;
const GOAL: Goal = Goal::AtLeast(1.0);

/// What `redis-benchmark` is told.
struct Load {
    name: &'static str,
    writers: usize,
    requests: usize,
    /// Without `-r`, all write one key.
    options: &'static [&'static str],
    goal: Option<Goal>,
}

const LOADS: [Load; 4] = [
    Load { name: "50 writers", writers: 50, requests: 100_000, options: &["-r", "100000"], goal: Some(GOAL) },
    Load { name: "50 writers of one key", writers: 50, requests: 100_000, options: &[], goal: None },
    Load {
        name: "50 writers, pipelines of 16",
        writers: 50,
        requests: 400_000,
        options: &["-r", "100000", "-P", "16"],
        goal: Some(GOAL),
    },
    Load { name: "1 writer", writers: 1, requests: 4_000, options: &["-r", "100000"], goal: None },
];

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let mut chapter = Chapter::new(
        TITLE,
        "SET of 100 bytes by `redis-benchmark`, which is another client than the one of the other sections and so checks that one too, straight to a secondary whose journal is synced \
         before a write is acknowledged, beside Redis that syncs its log as often, their files in the same file system.",
    );
    let place = directory()?;
    let path = place.path().display().to_string();
    let redis = bench.peers.need(Kind::Redis)?;
    let redis = redis.start(&["--appendonly", "yes", "--appendfsync", "always", "--dir", &path]).await?;
    let cluster = Cluster::start(&format!("sqlite://{path}/tier.sqlite"), CAPACITY).await?;
    let sides = [(OURS, cluster.secondary()?), ("Redis", &redis)];
    sides.iter().for_each(|(_, server)| chapter.command(&server.command));
    for load in LOADS {
        let load = Load { requests: bench.choose(load.requests, (load.requests / 10).max(REQUESTS_MIN)), ..load };
        let mut samples = Sides::new();
        for round in 0..bench.rounds {
            tell(load.name, round, bench.rounds);
            for (name, server) in turns(&sides, round) {
                samples.push(name, redis_benchmark::run(server, "set", &load.options())?);
            }
        }
        let mut row = samples.compare(load.name, OURS, &["Redis"], PER_SECOND, load.goal, |rate| *rate);
        for (cell, (_, rate)) in [&mut row.ours, &mut row.peers].into_iter().zip(samples.medians(|rate| *rate)) {
            *cell += &format!(", {:.0} µs a write", 1e6 * load.writers as f64 / rate);
        }
        if row.is_missed() {
            chapter.more.push(look(&sides, &load)?);
        }
        chapter.rows.push(row);
        chapter.command(&redis_benchmark::command("set", &load.options()));
    }
    chapter.more.push(restart(cluster, bench.choose(1_000_000, 100_000)).await?);
    Ok(chapter)
}

/// One more turn of each, and where the time of the servers goes.
fn look(sides: &[(&'static str, &Server)], load: &Load) -> Outcome<String> {
    let mut columns = Vec::new();
    for (name, server) in sides {
        let Some(look) = Look::start(&[Process::of("server", server)])? else { return Ok(profile::missing()) };
        redis_benchmark::run(server, "set", &load.options())?;
        columns.push((*name, look.end()?, 1e6 / load.requests as f64));
    }
    Ok(profile::table(&format!("{}, in microseconds a write", load.name), &columns, MICROS))
}

/// How long a secondary that was killed takes to serve again, with records that only its journal has.
async fn restart(mut cluster: Cluster, records: usize) -> Outcome<String> {
    eprintln!("recovery of {records} records");
    let clients = connect(&cluster.secondary()?.address, CONNECTIONS).await?;
    drive(&clients, records, 64, put).await?;
    let unspilled = shard_stats(&clients).await?.unspilled;
    drop(clients);
    let killed = Instant::now();
    cluster.crash()?;
    let clients = connect(&cluster.secondary()?.address, 1).await?;
    let took = killed.elapsed();
    drive(&clients, records, 64, get).await?;
    Ok(format!(
        "### Recovery\n\nRestart after `kill -9` with {unspilled} unspilled records of 116 bytes: served again after {took:.2?}; \
         every one of the {records} records was read back as last written."
    ))
}

impl Load {
    fn options(&self) -> Vec<String> {
        let fixed = ["-c".to_owned(), self.writers.to_string(), "-n".to_owned(), self.requests.to_string()];
        fixed.into_iter().chain(self.options.iter().map(ToString::to_string)).collect()
    }
}
