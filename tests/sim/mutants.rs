//! Takes out one rule after the other, and shows that the simulator finds it.

use std::sync::Arc;

use overspill::mutants::{Rule, plant};

use crate::plan::Plan;
use crate::{panics, world};

/// Seeds that are tried for each.
const SEEDS_MAX: u64 = 3000;
const MEDIAN_MAX: u64 = 100;

/// Seeds until a rule that is taken out is missed, and what was noticed.
fn find(rule: Rule, first: u64) -> Option<(u64, String)> {
    plant(Some(rule));
    panics::watch(true);
    let found = (0..SEEDS_MAX).find_map(|i| {
        let plan = Arc::new(Plan::of_seed(first + i));
        let failure = world::run(&plan, false).failure?;
        plant(None);
        let unplanted = world::run(&plan, false).failure;
        plant(Some(rule));
        assert_eq!(unplanted, None, "seed {} fails with all rules in place", plan.seed);
        Some((i + 1, failure))
    });
    panics::watch(false);
    plant(None);
    found
}

#[test]
fn every_rule_that_is_taken_out_is_missed() {
    let first = std::env::var("FIRST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let wanted = std::env::var("MUTANT").ok();
    let mut needed = Vec::new();
    let mut lost = Vec::new();
    println!("{:<16} {:>6}  what was noticed", "rule", "seeds");
    for rule in Rule::ALL {
        let name = format!("{rule:?}");
        if wanted.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        match find(rule, first) {
            Some((seeds, reason)) => {
                let reason: String = reason.replace('\n', " ").chars().take(150).collect();
                println!("{name:<16} {seeds:>6}  {reason}");
                needed.push(seeds);
            }
            None => {
                println!("{name:<16} {:>6}  NOT FOUND", "");
                lost.push(name);
            }
        }
    }
    needed.sort_unstable();
    let median = needed.get(needed.len() / 2).copied().unwrap_or(0);
    let worst = needed.last().copied().unwrap_or(0);
    println!("{} of {} found; seeds: median {median}, worst {worst}", needed.len(), needed.len() + lost.len());
    assert!(lost.is_empty(), "not found within {SEEDS_MAX} seeds: {lost:?}");
    assert!(median <= MEDIAN_MAX, "it takes {median} seeds");
}
