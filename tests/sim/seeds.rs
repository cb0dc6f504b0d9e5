//! Tries seeds, and tells what failed in a way that a person can work with.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::figures::Figures;
use crate::panics;
use crate::plan::Plan;
use crate::shrink::shrink;
use crate::world::{Outcome, run};

/// Every so many seeds one is run twice.
const TWICE: u64 = 100;
/// At most one history in so many seeds may be too hard to judge.
const UNDECIDED: u64 = 1_000;
/// Lines of a trace that are printed unless a seed is replayed.
const LINES_MAX: usize = 120;

/// Tries fresh seeds for so long.
pub fn try_fresh(time: Duration) {
    let first = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64) % 1_000_000_000_000;
    let first = std::env::var("FIRST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(first);
    println!("seeds from {first}, for {} s", time.as_secs());
    let (start, mut figures) = (Instant::now(), Figures::default());
    while start.elapsed() < time {
        let seed = first + figures.seeds;
        figures.seeds += 1;
        let begin = Instant::now();
        let plan = Arc::new(Plan::of_seed(seed));
        let outcome = watched(&plan, false);
        figures.add(&outcome, begin.elapsed());
        if outcome.failure.is_some() {
            println!("{figures}");
            report(&plan, &outcome);
        }
        if figures.seeds % TWICE == 1 {
            figures.twice += 1;
            must_repeat(&plan, &outcome);
        }
    }
    println!("{figures}");
    assert!(figures.undecided <= 1 + figures.seeds / UNDECIDED, "too many histories are too hard to judge");
}

/// One seed, for the corpus.
pub fn must_hold(seed: u64) {
    let plan = Arc::new(Plan::of_seed(seed));
    let outcome = watched(&plan, false);
    if outcome.failure.is_some() {
        report(&plan, &outcome);
    }
}

/// One seed with everything that happens.
pub fn replay(seed: u64) {
    let plan = Arc::new(Plan::of_seed(seed));
    println!("{:#?}\n{:?}", plan.setup, plan.weather);
    let outcome = watched(&plan, true);
    outcome.lines.iter().for_each(|line| println!("{line}"));
    match &outcome.failure {
        Some(_) => report(&plan, &outcome),
        None => println!("seed {seed} holds; trace {:016x}", outcome.hash),
    }
}

fn watched(plan: &Arc<Plan>, is_recording: bool) -> Outcome {
    panics::watch(true);
    let outcome = run(plan, is_recording);
    panics::watch(false);
    outcome
}

fn must_repeat(plan: &Arc<Plan>, first: &Outcome) {
    if watched(plan, false).hash == first.hash {
        return;
    }
    let (one, two) = (watched(plan, true), watched(plan, true));
    let differ = one.lines.iter().zip(&two.lines).position(|(one, two)| one != two);
    let at = differ.unwrap_or(one.lines.len().min(two.lines.len()));
    let context = |outcome: &Outcome| outcome.lines[at.saturating_sub(3)..].iter().take(6).cloned().collect::<Vec<_>>();
    panic!(
        "seed {}: two runs, two traces; from line {at} on:\n{:#?}\nand\n{:#?}",
        plan.seed,
        context(&one),
        context(&two)
    );
}

fn report(plan: &Arc<Plan>, outcome: &Outcome) -> ! {
    let reason = outcome.failure.as_deref().unwrap_or_default();
    println!("seed {} fails: {reason}", plan.seed);
    if std::env::var("NO_SHRINK").is_ok() {
        panic!("seed {}: {reason}", plan.seed);
    }
    println!("made smaller, it is:");
    panics::watch(true);
    let shrunk = shrink(plan, reason);
    let small = run(&shrunk.plan, true);
    panics::watch(false);
    let plan = &shrunk.plan;
    println!("{:?}\n{:?}", plan.setup, plan.weather);
    let skipped = small.lines.len().saturating_sub(LINES_MAX);
    if skipped > 0 {
        println!("… {skipped} lines, and then");
    }
    small.lines.iter().skip(skipped).for_each(|line| println!("{line}"));
    println!("{} steps of clients, {} faults, after {} runs", plan.steps(), plan.faults.len(), shrunk.runs);
    panic!("seed {}: {reason}\nmade smaller: {}", plan.seed, small.failure.unwrap_or_default());
}
