//! Whether the load generator measures what another one does.

use std::time::Duration;

use overspill::bench::{Extent, Plan};

use crate::load::{self, CONNECTIONS, measure, mixed};
use crate::page::Chapter;
use crate::peers::Kind;
use crate::process::{Server, cpu};
use crate::redis_benchmark;
use crate::rounds::{MICROS, PER_SECOND, Sides, tell, turns};
use crate::{Bench, Outcome};

pub const TITLE: &str = "The client";
const OWN: &str = "kv bench";
const OTHER: &str = "redis-benchmark";
const KEYS: u64 = 100_000;
/// Requests of a connection that are on their way, and how many there are in all.
const LOADS: [(usize, u64); 2] = [(1, 60_000), (16, 600_000)];

/// Requests a second, and microseconds of the server's CPU for each.
struct Found {
    rate: f64,
    cpu_micros: f64,
}

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let mut chapter = Chapter::new(
        TITLE,
        "The same GETs of 100,000 keys by 50 connections to the same Redis, by our load generator (in the column of Overspill) and by Redis' own: with 1, the two agree.",
    );
    let redis = bench.peers.need(Kind::Redis)?.start(&[]).await?;
    load::fill(&redis, KEYS)?;
    chapter.command(&redis.command);
    for (pipeline, requests) in LOADS {
        let requests = bench.choose(requests, requests / 5);
        let mut samples: Sides<Found> = Sides::new();
        for round in 0..bench.rounds {
            tell(&format!("the client, pipeline {pipeline}"), round, bench.rounds);
            for &name in turns(&[OWN, OTHER], round) {
                let found = if name == OWN {
                    own(&redis, pipeline, requests, &mut chapter)?
                } else {
                    other(&redis, pipeline, requests, &mut chapter)?
                };
                samples.push(name, found);
            }
        }
        let mut compare = |what: &str, unit, figure: fn(&Found) -> f64| {
            let what = format!("{what}, {}", load::how(pipeline));
            chapter.rows.push(samples.compare(&what, OWN, &[OTHER], unit, None, figure));
        };
        compare("CPU of Redis per operation", MICROS, |found| found.cpu_micros);
        compare("throughput", PER_SECOND, |found| found.rate);
    }
    Ok(chapter)
}

fn own(redis: &Server, pipeline: usize, requests: u64, chapter: &mut Chapter) -> Outcome<Found> {
    let extent = Extent::Requests(requests);
    let plan = Plan { gets_percent: 100, extent, ..mixed(redis, KEYS, pipeline, Duration::ZERO) };
    chapter.command(&load::command(&plan));
    let sample = measure(&plan, &[redis])?;
    Ok(Found { rate: sample.rate, cpu_micros: sample.cpu_micros })
}

fn other(redis: &Server, pipeline: usize, requests: u64, chapter: &mut Chapter) -> Outcome<Found> {
    let options = format!("-c {CONNECTIONS} -n {requests} -r {KEYS} -P {pipeline}");
    let options: Vec<String> = options.split(' ').map(str::to_owned).collect();
    chapter.command(&redis_benchmark::command("get", &options));
    let before = cpu([redis])?;
    let rate = redis_benchmark::run(redis, "get", &options)?;
    let spent = cpu([redis])?.saturating_sub(before);
    Ok(Found { rate, cpu_micros: spent.as_secs_f64() * 1e6 / requests as f64 })
}
