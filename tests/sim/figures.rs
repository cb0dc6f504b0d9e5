//! What a number of runs amounts to.

use std::fmt;
use std::time::Duration;

use crate::world::Outcome;

#[derive(Debug, Default)]
pub struct Figures {
    pub seeds: u64,
    pub twice: u64,
    pub cpu: Duration,
    pub virtual_time: Duration,
    pub faults: u64,
    pub operations: u64,
    pub events: u64,
    pub undecided: u64,
}

impl Figures {
    pub fn add(&mut self, outcome: &Outcome, cpu: Duration) {
        self.cpu += cpu;
        self.virtual_time += outcome.virtual_time;
        self.faults += outcome.faults;
        self.operations += outcome.operations;
        self.events += outcome.events;
        self.undecided += outcome.undecided;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu_hours = self.cpu.as_secs_f64() / 3600.0;
        let per_hour = |n: f64| (n / cpu_hours.max(f64::MIN_POSITIVE)).round();
        let per_second = self.operations as f64 / self.cpu.as_secs_f64().max(f64::MIN_POSITIVE);
        writeln!(f, "seeds run                     {:>12} ({} of them twice, with one trace)", self.seeds, self.twice)?;
        writeln!(f, "simulated time                {:>12.1} h", self.virtual_time.as_secs_f64() / 3600.0)?;
        writeln!(f, "simulated hours per CPU hour  {:>12}", per_hour(self.virtual_time.as_secs_f64() / 3600.0))?;
        writeln!(f, "faults planted per CPU hour   {:>12} ({} in all)", per_hour(self.faults as f64), self.faults)?;
        writeln!(f, "operations checked a second   {:>12.0} ({} in all)", per_second, self.operations)?;
        write!(f, "histories too hard to judge   {:>12}", self.undecided)
    }
}
