//! Makes a failing plan smaller, as long as it fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::plan::{Plan, Weather};
use crate::world;

/// Runs that are tried at most.
const RUNS_MAX: usize = 3000;
const TIME_MAX: Duration = Duration::from_secs(60);

pub struct Shrunk {
    pub plan: Arc<Plan>,
    pub runs: usize,
}

pub fn shrink(plan: &Plan, failure: &str) -> Shrunk {
    let mut shrinker = Shrinker { best: Arc::new(plan.clone()), kind: kind(failure), runs: 0, start: Instant::now() };
    loop {
        let size = shrinker.size();
        shrinker.fewer_faults();
        shrinker.fewer_clients();
        shrinker.fewer_steps();
        shrinker.milder_weather();
        shrinker.kinder_network();
        if shrinker.size() == size || shrinker.is_enough() {
            return Shrunk { plan: shrinker.best, runs: shrinker.runs };
        }
    }
}

struct Shrinker {
    best: Arc<Plan>,
    /// Only the same failure counts: smaller plans fail in other ways as well, for a harness that is worth its name.
    kind: String,
    runs: usize,
    start: Instant,
}

/// A failure without its particulars.
fn kind(failure: &str) -> String {
    let is_plain = |word: &&str| word.chars().all(|c| c.is_ascii_alphabetic() || "`,.:;()".contains(c));
    failure.split_whitespace().filter(is_plain).take(8).collect()
}

impl Shrinker {
    fn is_enough(&self) -> bool {
        self.runs >= RUNS_MAX || self.start.elapsed() > TIME_MAX
    }

    fn size(&self) -> usize {
        let calls: usize = self.best.clients.iter().flatten().map(|step| step.calls.len() + 1).sum();
        let weather = self.best.weather;
        let weather = [weather.refuses, weather.conflicts, weather.loses_answer, weather.stalls];
        let faults: u64 = self.best.clients.iter().flatten().map(|step| step.fate.faults()).sum();
        self.best.faults.len() + calls + weather.iter().filter(|n| **n > 0).count() + faults as usize
    }

    /// Keeps a smaller plan if it still fails.
    fn try_plan(&mut self, plan: Plan) -> bool {
        if self.is_enough() {
            return false;
        }
        self.runs += 1;
        let plan = Arc::new(plan);
        let fails = world::run(&plan, false).failure.is_some_and(|failure| kind(&failure) == self.kind);
        if fails {
            self.best = plan;
        }
        fails
    }

    fn fewer_faults(&mut self) {
        let mut chunk = self.best.faults.len();
        while chunk > 0 {
            let mut at = 0;
            while at < self.best.faults.len() {
                let mut plan = (*self.best).clone();
                let end = (at + chunk).min(plan.faults.len());
                plan.faults.drain(at..end);
                if !self.try_plan(plan) {
                    at += chunk;
                }
            }
            chunk /= 2;
        }
    }

    fn fewer_clients(&mut self) {
        for client in 0..self.best.clients.len() {
            let mut plan = (*self.best).clone();
            if !plan.clients[client].is_empty() {
                plan.clients[client].clear();
                self.try_plan(plan);
            }
        }
    }

    /// What is left of a client keeps its time.
    fn fewer_steps(&mut self) {
        for client in 0..self.best.clients.len() {
            let mut chunk = self.best.clients[client].len();
            while chunk > 0 {
                let mut at = 0;
                while at < self.best.clients[client].len() {
                    let mut plan = (*self.best).clone();
                    let steps = &mut plan.clients[client];
                    let end = (at + chunk).min(steps.len());
                    let pause_ms: u32 = steps.drain(at..end).map(|step| step.pause_ms).sum();
                    if let Some(next) = steps.get_mut(at) {
                        next.pause_ms += pause_ms;
                    }
                    if !self.try_plan(plan) {
                        at += chunk;
                    }
                }
                chunk /= 2;
            }
            for step in 0..self.best.clients[client].len() {
                for call in (0..self.best.clients[client][step].calls.len()).rev() {
                    let mut plan = (*self.best).clone();
                    if plan.clients[client][step].calls.len() > 1 {
                        plan.clients[client][step].calls.remove(call);
                        self.try_plan(plan);
                    }
                }
            }
        }
    }

    fn milder_weather(&mut self) {
        let changes: [fn(&mut Weather); 5] = [
            |weather| weather.refuses = 0,
            |weather| weather.conflicts = 0,
            |weather| weather.loses_answer = 0,
            |weather| weather.stalls = 0,
            |weather| weather.latency_ms = 1,
        ];
        for change in changes {
            let mut plan = (*self.best).clone();
            change(&mut plan.weather);
            self.try_plan(plan);
        }
    }

    fn kinder_network(&mut self) {
        for client in 0..self.best.clients.len() {
            for step in 0..self.best.clients[client].len() {
                if self.best.clients[client][step].fate.faults() > 0 {
                    let mut plan = (*self.best).clone();
                    plan.clients[client][step].fate = Default::default();
                    self.try_plan(plan);
                }
            }
        }
    }
}
