//! Whether hits and routing cost more when there is more of everything.

use overspill::bench::Plan;

use crate::callers::{connect, shard_stats, wait_spilled};
use crate::cluster::{Cluster, Setup};
use crate::database::Database;
use crate::load::{self, Sample, measure, mixed};
use crate::page::Chapter;
use crate::profile::{self, Process};
use crate::rounds::{Goal, MICROS, Sides, count, tell, turns};
use crate::{Bench, Outcome};

pub const TITLE: &str = "Growth";
const FEW: u64 = 10_000;
/// Records that are asked for, which stay in memory.
const HOT: u64 = 10_000;
const SECONDARIES: [usize; 2] = [1, 8];
const KEYS: u64 = 100_000;
const PIPELINES: [usize; 2] = [1, 16];
const GOAL: Goal = Goal::AtMost(1.1);

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let many = match bench.options.full {
        true => 10_000_000,
        false => bench.choose(1_000_000, 100_000),
    };
    let mut chapter = Chapter::new(
        TITLE,
        format!(
            "GETs of {} records that stay in memory, by 50 connections straight to a secondary with {} rows in its tier, and to one with {}{}. And the load of the hits through \
             a primary before {} secondary and before {}, all pure caches: what the primary takes, without the secondaries.",
            count(HOT),
            count(FEW),
            count(many),
            if bench.options.full { "" } else { " (10,000,000 with `--full`)" },
            SECONDARIES[0],
            SECONDARIES[1]
        ),
    );
    rows(bench, many, &mut chapter).await?;
    secondaries(bench, &mut chapter).await?;
    Ok(chapter)
}

async fn rows(bench: &Bench, many: u64, chapter: &mut Chapter) -> Outcome<()> {
    let mut clusters = Vec::new();
    for rows in [FEW, many] {
        eprintln!("growth: {rows} rows");
        let database = Database::create().await?;
        let cluster = Cluster::start(&database.url(), 2 * HOT as usize).await?;
        let secondary = cluster.secondary()?;
        let clients = connect(&secondary.address, 1).await?;
        // The last that were written are in memory.
        load::fill(secondary, rows + HOT)?;
        load::run(&hot(load::writes(secondary, HOT)))?;
        wait_spilled(&clients).await?;
        chapter.command(&secondary.command);
        clusters.push((format!("{} rows", count(rows)), cluster, clients, database));
    }
    for pipeline in PIPELINES {
        let mut samples: Sides<Sample> = Sides::new();
        let (rounds, time) = bench.short_turns();
        for round in 0..rounds {
            tell(&format!("growth of the tier, pipeline {pipeline}"), round, rounds);
            for (name, cluster, clients, _) in turns(&clusters, round) {
                let secondary = cluster.secondary()?;
                let plan = Plan { gets_percent: 100, ..hot(mixed(secondary, HOT, pipeline, time)) };
                let before = shard_stats(clients).await?.misses;
                samples.push(name, measure(&plan, &[secondary])?);
                let misses = shard_stats(clients).await?.misses - before;
                if misses > 0 {
                    return Err(format!("{misses} of the GETs with {name} were not answered from memory").into());
                }
                chapter.command(&load::command(&plan));
            }
        }
        compare(
            chapter,
            &samples,
            &format!("server CPU of a hit, {}", load::how(pipeline)),
            &[FEW, many].map(|rows| format!("{} rows", count(rows))),
        );
    }
    Ok(())
}

async fn secondaries(bench: &Bench, chapter: &mut Chapter) -> Outcome<()> {
    let mut clusters = Vec::new();
    for secondaries in SECONDARIES {
        let cluster = Cluster::start_with(&Setup { tier: "none", capacity: 1_000_000, secondaries }).await?;
        load::fill(&cluster.primary, KEYS)?;
        chapter.command(&cluster.primary.command);
        clusters.push((name(secondaries), cluster));
    }
    for pipeline in PIPELINES {
        let mut samples: Sides<Sample> = Sides::new();
        let (rounds, time) = bench.short_turns();
        for round in 0..rounds {
            tell(&format!("growth of the cluster, pipeline {pipeline}"), round, rounds);
            for (name, cluster) in turns(&clusters, round) {
                let plan = mixed(&cluster.primary, KEYS, pipeline, time);
                samples.push(name, measure(&plan, &[&cluster.primary])?);
                chapter.command(&load::command(&plan));
            }
        }
        let is_missed = compare(
            chapter,
            &samples,
            &format!("CPU of the primary per operation, {}", load::how(pipeline)),
            &SECONDARIES.map(name),
        );
        if is_missed {
            let looked_at = clusters.iter().map(|(name, cluster)| {
                let plan = mixed(&cluster.primary, KEYS, pipeline, bench.time);
                (name.as_str(), plan, vec![Process::of("primary", &cluster.primary)])
            });
            chapter.more.push(profile::of_loads(&load::how(pipeline), &looked_at.collect::<Vec<_>>())?);
        }
    }
    Ok(())
}

fn name(secondaries: usize) -> String {
    if secondaries == 1 { "1 secondary".to_owned() } else { format!("{secondaries} secondaries") }
}

fn hot(plan: Plan) -> Plan {
    Plan { prefix: "hot:".to_owned(), ..plan }
}

/// The greater beside the smaller. Tells whether the goal is missed.
fn compare(chapter: &mut Chapter, samples: &Sides<Sample>, what: &str, [small, great]: &[String; 2]) -> bool {
    let what = format!("{what}, {great}");
    let row = samples.compare(&what, great, &[small.as_str()], MICROS, Some(GOAL), |s| s.cpu_micros);
    let is_missed = row.is_missed();
    chapter.rows.push(row);
    is_missed
}
