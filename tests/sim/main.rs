//! The simulator (`docs/adr/0007-simulator.md`): whole shards of production over a simulated tier, network and clock, in one
//! thread and in virtual time, with everything going wrong that may. One seed decides everything.
//!
//! `make sim SECONDS=600` tries fresh seeds for so long; `SEED=… make sim` replays one, with its trace.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "in a test a panic is the report"
)]

mod check;
mod clients;
mod clock;
mod disk;
mod ending;
mod faults;
mod figures;
mod history;
mod invariants;
#[cfg(feature = "mutants")]
mod mutants;
mod panics;
mod plan;
mod primary;
mod seeds;
mod shrink;
mod tier;
mod trace;
mod weather;
mod world;

#[test]
fn seeds_that_once_failed_hold() {
    for line in include_str!("corpus.txt").lines() {
        let seed = line.split('#').next().unwrap_or_default().trim();
        if !seed.is_empty() {
            seeds::must_hold(seed.parse().expect("a seed is a number"));
        }
    }
}

/// For `SIM_SECONDS`, by default a few.
#[test]
fn fresh_seeds_hold() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        return seeds::replay(seed);
    }
    let seconds = std::env::var("SIM_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(20);
    seeds::try_fresh(std::time::Duration::from_secs(seconds));
}
