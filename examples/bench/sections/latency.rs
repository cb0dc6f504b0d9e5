//! Latency against throughput: what waiting comes to as more is asked.

use std::fmt::Write;

use overspill::bench::{Extent, Plan};

use crate::caches::Caches;
use crate::load::{self, Sample, measure, mixed};
use crate::page::Chapter;
use crate::plot::{Line, lines};
use crate::process::Server;
use crate::rounds::{Sides, tell, turns};
use crate::{Bench, Outcome};

pub const TITLE: &str = "Latency";
const KEYS: u64 = 100_000;
const PIPELINE: usize = 16;
const RATES: [f64; 5] = [10_000.0, 20_000.0, 40_000.0, 60_000.0, 80_000.0];
const RATES_QUICK: [f64; 2] = [10_000.0, 40_000.0];
/// A server that answers less of what was due has no latency worth telling.
const ANSWERED_MIN: f64 = 0.99;

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let rates = bench.choose(RATES.as_slice(), RATES_QUICK.as_slice());
    let mut chapter = Chapter::new(
        TITLE,
        "The load of the hits with an open loop: so many requests are due each second, and a latency counts from then, so that nobody's waiting is hidden. The 99th percentile in \
         microseconds, median of the rounds; the client takes its part of the cores, most at high rates, alike for all. `–`: less than 99 % were answered.",
    );
    let caches = Caches::start(bench).await?;
    let sides = caches.sides()?;
    for (_, server) in &sides {
        load::fill(server, KEYS)?;
    }
    let mut drawn: Vec<Line> = sides.iter().map(|(name, _)| ((*name).to_owned(), Vec::new())).collect();
    let mut table = format!("| a second | {} |\n|---|{}\n", names(&sides), "---|".repeat(sides.len()));
    for rate in rates {
        let mut samples: Sides<Sample> = Sides::new();
        for round in 0..bench.rounds {
            tell(&format!("latency at {rate} a second"), round, bench.rounds);
            for (name, server) in turns(&sides, round) {
                let plan = Plan {
                    rate: Some(*rate),
                    extent: Extent::Time(bench.time / 3),
                    ..mixed(server, KEYS, PIPELINE, bench.time)
                };
                samples.push(name, measure(&plan, &[server])?);
                chapter.command(&load::command(&plan));
            }
        }
        let answered = samples.medians(|sample| sample.answered);
        let _ = write!(table, "| {rate} |"); // a string takes it
        for ((name, p99), (_, answered)) in samples.medians(|sample| sample.p99_micros).into_iter().zip(answered) {
            if answered < ANSWERED_MIN {
                table += " – |";
                continue;
            }
            let _ = write!(table, " {p99:.0} |"); // a string takes it
            if let Some((_, points)) = drawn.iter_mut().find(|(line, _)| *line == name) {
                points.push((*rate, p99));
            }
        }
        table += "\n";
    }
    chapter.more.push(table);
    let axes = ["requests a second that were due", "99th percentile, µs"];
    chapter.plots.push(("latency", lines("99th percentile of latency against throughput", axes, &drawn)?));
    Ok(chapter)
}

fn names(sides: &[(&str, &Server)]) -> String {
    sides.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" | ")
}
