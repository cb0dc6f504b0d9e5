//! Writes that do not fit: how much of what the database takes is left when a cache stands before it.

use std::time::Instant;

use overspill::command::Effect;
use overspill::record::{Key, Lsn, Record, Value, Version};
use overspill::tier::{Lane, ROWS_MAX, Tier};
use tokio::task::JoinSet;

use crate::callers::{connect, wait_spilled};
use crate::cluster::Cluster;
use crate::database::{Database, claim};
use crate::load::{self, CONNECTIONS, PREFIX, VALUE_BYTES};
use crate::page::Chapter;
use crate::profile::{self, Look, Process, Profile};
use crate::rounds::{Goal, MICROS, PER_SECOND, Sides, count, tell, turns};
use crate::{Bench, OURS, Outcome};

pub const TITLE: &str = "Evicting";
/// How many times more records there are than fit in memory.
const TIMES: usize = 100;
const RAW: [(&str, u32); 2] = [("one connection", 1), ("two connections", 2)];
const GOAL: Goal = Goal::AtLeast(0.7);

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let records = bench.choose(300_000, 50_000);
    let mut chapter = Chapter::new(
        TITLE,
        format!(
            "SET of {} new keys by 50 connections with pipelines of 64, straight to a secondary that has room for a {TIMES}th of them and a journal that is \
             synced before each acknowledgement, until the database has all that was evicted. Beside it the yardstick: the same rows in the same order into \
             the same tables by the tier's own code (`overspill::tier`), upserts that are guarded by their version, 1,000 in a transaction under a fence, on one \
             connection or two with a fence each, with nothing around them: no cache, no journal, no clients. Each run has an empty database.",
            count(records)
        ),
    );
    let mut samples = Sides::new();
    let sides = [(OURS, 0), RAW[0], RAW[1]];
    for round in 0..bench.rounds {
        tell("evicting", round, bench.rounds);
        for &(name, connections) in turns(&sides, round) {
            samples.push(name, one(records, connections, false, &mut chapter).await?.0);
        }
    }
    let names = RAW.map(|(name, _)| name);
    let row = samples.compare("new records, sustained", OURS, &names, PER_SECOND, Some(GOAL), |rate| *rate);
    if row.is_missed() {
        let mut columns = Vec::new();
        for (name, connections) in sides {
            if let (_, Some(profile)) = one(records, connections, true, &mut chapter).await? {
                columns.push((name, profile, 1e6 / records as f64));
            }
        }
        chapter.more.push(profile::table("in microseconds a record", &columns, MICROS));
    }
    chapter.rows.push(row);
    Ok(chapter)
}

/// Records a second, by us (without `connections`) or raw, and where the time went, if it is looked at.
async fn one(
    records: usize,
    connections: u32,
    is_looked_at: bool,
    chapter: &mut Chapter,
) -> Outcome<(f64, Option<Profile>)> {
    match connections {
        0 => ours(records, is_looked_at, chapter).await,
        _ => raw(records, connections, is_looked_at).await,
    }
}

/// Records a second, until all are spilled but those that fit.
async fn ours(records: usize, is_looked_at: bool, chapter: &mut Chapter) -> Outcome<(f64, Option<Profile>)> {
    let database = Database::create().await?;
    let cluster = Cluster::start(&database.url(), records / TIMES).await?;
    let secondary = cluster.secondary()?;
    let clients = connect(&secondary.address, 1).await?;
    let plan = load::writes(secondary, records as u64);
    let look = match is_looked_at {
        true => Look::start(&[Process::this(), Process::of("server", secondary), database.process().await?])?,
        false => None,
    };
    let started = Instant::now();
    load::run(&plan)?;
    wait_spilled(&clients).await?;
    let took = started.elapsed();
    let profile = look.map(Look::end).transpose()?;
    chapter.command(&secondary.command);
    chapter.command(&load::command(&plan));
    Ok((records as f64 / took.as_secs_f64(), profile))
}

async fn raw(records: usize, connections: u32, is_looked_at: bool) -> Outcome<(f64, Option<Profile>)> {
    let database = Database::create().await?;
    let effects = effects(records)?;
    let batches: Vec<&[Effect]> = effects.chunks(ROWS_MAX).collect();
    let mut shares = Vec::new();
    for (number, share) in batches.chunks(batches.len().div_ceil(connections as usize).max(1)).enumerate() {
        let tier = database.tier().await?;
        let (shard, token) = claim(&tier, &format!("raw:{number}")).await?;
        let share: Vec<Vec<Effect>> = share.iter().map(|batch| batch.to_vec()).collect();
        shares.push((tier, shard, token, share));
    }
    let look = match is_looked_at {
        true => Look::start(&[Process::this(), database.process().await?])?,
        false => None,
    };
    let started = Instant::now();
    let mut writers = JoinSet::new();
    for (tier, shard, token, share) in shares {
        writers.spawn(async move {
            for batch in share {
                tier.flush(&shard, Lane::FIRST, token, &batch, Lsn(0)).await?;
            }
            Outcome::Ok(tier)
        });
    }
    let mut tiers = Vec::new();
    while let Some(writer) = writers.join_next().await {
        tiers.push(writer??);
    }
    let took = started.elapsed();
    let profile = look.map(Look::end).transpose()?;
    for tier in tiers {
        tier.close().await;
    }
    Ok((records as f64 / took.as_secs_f64(), profile))
}

/// In the order in which the connections of the load walk through their parts of the keys.
fn effects(records: usize) -> Outcome<Vec<Effect>> {
    let value = Value::new(vec![b'v'; VALUE_BYTES])?;
    let part = records / CONNECTIONS;
    let numbers = (0..part).flat_map(|step| (0..CONNECTIONS).map(move |connection| connection * part + step));
    let effect = |(lsn, number)| {
        let key = Key::new(format!("{PREFIX}{number:012}"))?;
        Ok(Effect::Set(Record { key, value: value.clone(), version: Version::new(1, lsn), expires_at: None }))
    };
    (1..).zip(numbers).map(effect).collect()
}
