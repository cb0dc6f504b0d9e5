//! What the way through the primary costs, beside the proxy that people put before Redis.

use crate::cluster::{Cluster, Setup};
use crate::load::{self, measure, mixed};
use crate::page::Chapter;
use crate::peers::Proxied;
use crate::plot::bars;
use crate::process::Server;
use crate::profile::{self, Process};
use crate::rounds::{Goal, MICROS, PER_SECOND, Sides, tell, turns};
use crate::{Bench, OURS, Outcome};

pub const TITLE: &str = "Through the primary";
const KEYS: u64 = 100_000;
const PEER: &str = "twemproxy + 2 Redis";
/// Requests of a connection that are on their way, and the goal.
const PIPELINES: [(usize, f64); 2] = [(1, 0.9), (16, 0.45)];

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let mut chapter = Chapter::new(
        TITLE,
        "The load of the hits through a primary with two secondaries, pure caches, beside twemproxy before two Redis. What all three processes take counts.",
    );
    let peer = Proxied::start(&bench.peers).await?;
    let cluster = Cluster::start_with(&Setup { tier: "none", capacity: 1_000_000, secondaries: 2 }).await?;
    let sides: [(&str, &Server, Vec<&Server>); 2] =
        [(OURS, &cluster.primary, cluster.servers()), (PEER, &peer.proxy, peer.all())];
    for (_, front, all) in &sides {
        load::fill(front, KEYS)?;
        all.iter().for_each(|server| chapter.command(&server.command));
    }
    let mut plotted = Vec::new();
    for (pipeline, goal) in PIPELINES {
        let mut samples = Sides::new();
        let (rounds, time) = bench.short_turns();
        for round in 0..rounds {
            tell(&format!("through the primary, pipeline {pipeline}"), round, rounds);
            for (name, front, all) in turns(&sides, round) {
                let plan = mixed(front, KEYS, pipeline, time);
                samples.push(name, measure(&plan, all)?);
                chapter.command(&load::command(&plan));
            }
        }
        let what = |figure: &str| format!("{figure}, {}", load::how(pipeline));
        let goal = Some(Goal::AtMost(goal));
        let row =
            samples.compare(&what("CPU of all servers per operation"), OURS, &[PEER], MICROS, goal, |s| s.cpu_micros);
        if row.is_missed() {
            let looked_at = sides.iter().map(|(name, front, all)| {
                let role = |server: &Server| if server.id() == front.id() { "in front" } else { "behind" };
                let processes = all.iter().map(|server| Process::of(role(server), server)).collect();
                (*name, mixed(front, KEYS, pipeline, bench.time), processes)
            });
            chapter.more.push(profile::of_loads(&load::how(pipeline), &looked_at.collect::<Vec<_>>())?);
        }
        chapter.rows.push(row);
        chapter.rows.push(samples.compare(&what("throughput"), OURS, &[PEER], PER_SECOND, None, |s| s.rate));
        plotted.push((load::how(pipeline), samples.medians(|s| s.cpu_micros)));
    }
    chapter.plots.push(("proxied", bars("CPU of all servers per operation, µs", &plotted)?));
    Ok(chapter)
}
