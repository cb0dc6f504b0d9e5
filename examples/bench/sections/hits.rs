//! What a hit costs: a secondary as a pure cache, beside the caches that people know.

use crate::bare;
use crate::caches::Caches;
use crate::load::{self, measure, mixed};
use crate::page::Chapter;
use crate::plot::bars;
use crate::process::Server;
use crate::profile::{self, Process};
use crate::rounds::{Goal, MICROS, PER_SECOND, Sides, tell, turns};
use crate::{Bench, OURS, Outcome};

pub const TITLE: &str = "Hits";
const KEYS: u64 = 100_000;
/// Requests of a connection that are on their way, and the goal.
const PIPELINES: [(usize, f64); 2] = [(1, 0.85), (16, 0.7)];

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let mut chapter = Chapter::new(
        TITLE,
        "Nine GETs to a SET, uniform over 100,000 keys, from 50 connections straight to one server: a secondary as a pure cache, which was given its slots by a \
         primary that then stands aside, and the others as caches that keep nothing. In our column too, in a row of its own: a bare server, which receives requests, \
         sends answers as long as the true ones, and does nothing else.",
    );
    let caches = Caches::start(bench).await?;
    let sides = caches.sides()?;
    for (_, server) in &sides {
        load::fill(server, KEYS)?;
    }
    let bare = bare::start().await?;
    let asked: Vec<(&str, &Server)> = sides.iter().copied().chain([(bare::NAME, &bare)]).collect();
    asked.iter().for_each(|(_, server)| chapter.command(&server.command));
    let names: Vec<&str> = sides.iter().skip(1).map(|(name, _)| *name).collect();
    let mut plotted = Vec::new();
    for (pipeline, goal) in PIPELINES {
        let mut samples = Sides::new();
        let (rounds, time) = bench.short_turns();
        for round in 0..rounds {
            tell(&format!("hits, pipeline {pipeline}"), round, rounds);
            for (name, server) in turns(&asked, round) {
                let plan = mixed(server, KEYS, pipeline, time);
                samples.push(name, measure(&plan, &[server])?);
                chapter.command(&load::command(&plan));
            }
        }
        let what = |figure: &str| format!("{figure}, {}", load::how(pipeline));
        let goal = Some(Goal::AtMost(goal));
        let row = samples.compare(&what("server CPU per operation"), OURS, &names, MICROS, goal, |s| s.cpu_micros);
        if row.is_missed() {
            let looked_at = sides.iter().map(|(name, server)| {
                (*name, mixed(server, KEYS, pipeline, bench.time), vec![Process::of("server", server)])
            });
            chapter.more.push(profile::of_loads(&load::how(pipeline), &looked_at.collect::<Vec<_>>())?);
        }
        chapter.rows.push(row);
        let of_bare = what("server CPU per operation of a bare server");
        chapter.rows.push(samples.compare(&of_bare, bare::NAME, &names, MICROS, None, |s| s.cpu_micros));
        chapter.rows.push(samples.compare(&what("throughput"), OURS, &names, PER_SECOND, None, |s| s.rate));
        plotted.push((load::how(pipeline), samples.medians(|s| s.cpu_micros)));
    }
    chapter.plots.push(("hits", bars("Server CPU per operation, µs", &plotted)?));
    Ok(chapter)
}
