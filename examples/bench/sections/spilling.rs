//! Whether hits feel that records are spilled beside them.

use std::time::Instant;

use overspill::bench::{Extent, Pattern, Plan};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::callers::{connect, shard_stats};
use crate::cluster::Cluster;
use crate::database::Database;
use crate::load::{self, Sample, measure, mixed};
use crate::page::Chapter;
use crate::process::Server;
use crate::profile::{self, Look, Process};
use crate::rounds::{Goal, LATENCY, OF_A_CORE, Row, Sides, count, tell, turns};
use crate::{Bench, Outcome};

pub const TITLE: &str = "Spilling";
/// So few, and asked for so often, that they stay in memory.
const HOT: u64 = 1_000;
const RATE: f64 = 5_000.0;
const CAPACITY: usize = 100_000;
const GOAL: Goal = Goal::AtMost(2.0);

const SPILLING: &str = "while new records are written and spilled";
const WRITING: &str = "while records that stay in memory are written";
const ALONE: &str = "alone";

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let mut chapter = Chapter::new(
        TITLE,
        format!(
            "GETs of {} records that stay in memory, {} a second whether or not they are answered in time (open loop), straight to a secondary with room for {} records and \
             a synced journal: alone; while 8 connections with pipelines of 64 write new records as fast as they are taken, each of which pushes another out \
             to MariaDB; and, to tell the spiller's part from that of the writers, of the journal and of cores that are taken, while the same connections write records that stay in \
             memory.",
            count(HOT),
            count(RATE),
            count(CAPACITY)
        ),
    );
    let database = Database::create().await?;
    let cluster = Cluster::start(&database.url(), CAPACITY).await?;
    let secondary = cluster.secondary()?;
    let clients = connect(&secondary.address, 1).await?;
    // Full, so that every new record pushes another out.
    load::fill(secondary, 2 * CAPACITY as u64)?;
    let hits = Plan {
        gets_percent: 100,
        prefix: "hot:".to_owned(),
        keys: HOT,
        rate: Some(RATE),
        extent: Extent::Time(2 * bench.time),
        ..mixed(secondary, HOT, 16, bench.time)
    };
    load::run(&Plan { prefix: hits.prefix.clone(), ..load::writes(secondary, HOT) })?;
    chapter.command(&secondary.command);
    chapter.command(&load::command(&hits));
    let mut samples: Sides<Sample> = Sides::new();
    let (mut spilled, mut seconds) = (0, 0.0);
    for round in 0..bench.rounds {
        tell("spilling", round, bench.rounds);
        for &name in turns(&[ALONE, SPILLING, WRITING], round) {
            let others = others(name, secondary, round);
            others.iter().for_each(|plan| chapter.command(&load::command(plan)));
            let before = shard_stats(&clients).await?.spilled_rows;
            let sample = beside(others, || measure(&hits, &[secondary])).await?;
            if name == SPILLING {
                spilled += shard_stats(&clients).await?.spilled_rows - before;
                seconds += 2.0 * bench.time.as_secs_f64();
            }
            samples.push(name, sample);
        }
    }
    let mut compare = |what, side, peer, goal, figure: fn(&Sample) -> f64| {
        chapter.rows.push(samples.compare(what, side, &[peer], LATENCY, goal, figure));
    };
    compare("99th percentile of hits, spilling beside alone", SPILLING, ALONE, Some(GOAL), |s| s.p99_micros);
    compare("99th percentile of hits, spilling beside writing", SPILLING, WRITING, None, |s| s.p99_micros);
    compare("median of hits, spilling beside alone", SPILLING, ALONE, None, |s| s.p50_micros);
    if chapter.rows.iter().any(Row::is_missed) {
        let processes = [Process::this(), Process::of("server", secondary), database.process().await?];
        let mut columns = Vec::new();
        for name in [SPILLING, WRITING, ALONE] {
            let others = others(name, secondary, bench.rounds);
            let looked = beside(others, || {
                let Some(look) = Look::start(&processes)? else { return Ok(None) };
                let started = Instant::now();
                load::run(&hits)?;
                let scale = 100.0 / started.elapsed().as_secs_f64();
                Ok(Some((look.end()?, scale)))
            });
            columns.extend(looked.await?.map(|(profile, scale)| (name, profile, scale)));
        }
        chapter.more.push(profile::table("of the cores that client, server and database share", &columns, OF_A_CORE));
    }
    let answered = samples.medians(|sample| sample.answered);
    if answered.iter().any(|(_, share)| *share < 1.0) {
        chapter.more.push(format!("Not all hits that were due were answered: {answered:?}."));
    }
    chapter
        .more
        .push(format!("Meanwhile {} records a second were spilled.", count((spilled as f64 / seconds).round())));
    Ok(chapter)
}

/// What runs beside the hits.
fn others(name: &str, secondary: &Server, round: usize) -> Option<Plan> {
    match name {
        SPILLING => Some(writers(secondary, &format!("new{round}:"), 1_000_000_000)),
        WRITING => Some(writers(secondary, "same:", HOT)),
        _ => None,
    }
}

fn writers(secondary: &Server, prefix: &str, keys: u64) -> Plan {
    Plan {
        connections: 8,
        prefix: prefix.to_owned(),
        pattern: Pattern::Sequential,
        extent: Extent::Requests(u64::MAX >> 1),
        seed: 2,
        ..load::writes(secondary, keys)
    }
}

/// Does something while a load runs.
async fn beside<T>(load: Option<Plan>, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let running = load.map(|plan| spawn_blocking(move || plan.run(&stopping, |_| {})));
    let done = work();
    stop.cancel();
    if let Some(running) = running {
        let report = running.await??;
        if let Some(error) = report.first_error {
            return Err(format!("{} writes failed: {error}", report.errors).into());
        }
    }
    done
}
