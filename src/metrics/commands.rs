//! Commands by door, name and result, and how long they took.

use std::array;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::doors::DoorName;
use super::{Counter, encode_counters};

/// What came of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// There was no such key.
    Missing,
    /// A condition did not hold.
    Conflict,
    Busy,
    Unavailable,
    /// Nobody knows what came of it.
    Unknown,
    WrongShard,
    TooLarge,
    Invalid,
}

impl Outcome {
    const ALL: [Self; 9] = [
        Self::Ok,
        Self::Missing,
        Self::Conflict,
        Self::Busy,
        Self::Unavailable,
        Self::Unknown,
        Self::WrongShard,
        Self::TooLarge,
        Self::Invalid,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::WrongShard => "wrong_shard",
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
        }
    }
}

/// Upper bounds of the buckets, in microseconds: a hit takes some 10, a load from the tier some 500, a request five seconds at
/// most.
const BOUNDS_US: [u64; 18] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Durations by bucket. Unlike prometheus-client's, it takes no lock.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [Counter; BOUNDS_US.len()],
    /// Of those beyond the last bound.
    beyond: Counter,
    sum_ns: Counter,
}

impl Histogram {
    fn observe(&self, took: Duration, count: u64) {
        let nanos = took.as_nanos().min(u128::from(u64::MAX)) as u64;
        let index = BOUNDS_US.partition_point(|bound| bound.saturating_mul(1_000) < nanos);
        self.buckets.get(index).unwrap_or(&self.beyond).add(count);
        self.sum_ns.add(nanos.saturating_mul(count));
    }

    /// The count of each bucket by itself, and the sum in seconds.
    fn read(&self) -> (Vec<(f64, u64)>, f64) {
        let bounds = BOUNDS_US.iter().map(|&bound| bound as f64 / 1e6).chain([f64::INFINITY]);
        let counts = self.buckets.iter().chain([&self.beyond]).map(Counter::get);
        (bounds.zip(counts).collect(), self.sum_ns.get() as f64 / 1e9)
    }
}

/// One command at one door.
#[derive(Debug)]
pub struct CommandMetrics {
    door: DoorName,
    name: &'static str,
    outcomes: [Counter; Outcome::ALL.len()],
    took: Histogram,
}

impl CommandMetrics {
    /// `count` commands ended so, after `took` each: those of a batch take as long as the batch.
    pub fn record(&self, outcome: Outcome, count: u64, took: Duration) {
        if let Some(counter) = self.outcomes.get(outcome as usize) {
            counter.add(count);
        }
        self.took.observe(took, count);
    }
}

/// All commands that somebody counts.
#[derive(Debug, Default)]
pub(super) struct Commands {
    all: RwLock<Vec<Arc<CommandMetrics>>>,
}

impl Commands {
    pub fn of(&self, door: DoorName, name: &'static str) -> Arc<CommandMetrics> {
        // Nothing panics under the lock.
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.iter().find(|known| known.door == door && known.name == name) {
            return Arc::clone(known);
        }
        let outcomes = array::from_fn(|_| Counter::default());
        let new = Arc::new(CommandMetrics { door, name, outcomes, took: Histogram::default() });
        all.push(Arc::clone(&new));
        new
    }

    /// Those that were never asked are left out: a node knows a hundred.
    pub fn encode_into(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner).clone();
        let counts = all.iter().flat_map(|command| {
            let labels = move |outcome: Outcome| {
                [("door", command.door.name()), ("command", command.name), ("result", outcome.name())]
            };
            let counted = Outcome::ALL.into_iter().zip(&command.outcomes).filter(|(_, count)| count.get() > 0);
            counted.map(move |(outcome, count)| (Some(labels(outcome)), count.get()))
        });
        encode_counters(&mut encoder, "kv_commands", "Commands by what came of them", counts)?;
        let help = "How long commands took, from when they were read to when their answer was there";
        let mut family = encoder.encode_descriptor("kv_command_seconds", help, None, MetricType::Histogram)?;
        for command in &all {
            let (buckets, sum) = command.took.read();
            let count = buckets.iter().map(|(_, count)| count).sum();
            if count > 0 {
                let labels = [("door", command.door.name()), ("command", command.name)];
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let histogram = Histogram::default();
        for (nanos, count) in [(0, 1), (25_000, 2), (25_001, 3), (10_000_000_000, 4), (10_000_000_001, 5)] {
            histogram.observe(Duration::from_nanos(nanos), count);
        }
        let (buckets, sum) = histogram.read();
        assert_eq!((buckets[0], buckets[1]), ((0.000_025, 3), (0.000_05, 3)));
        assert_eq!((buckets[17], buckets[18]), ((10.0, 4), (f64::INFINITY, 5)));
        assert!((sum - 90.000_125).abs() < 1e-6, "{sum}");
        histogram.observe(Duration::MAX, 1);
        assert_eq!(histogram.read().0[18].1, 6);
    }
}
