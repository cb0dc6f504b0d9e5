//! What a shard counts, since start.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that many threads add to.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

// Relaxed: a figure for people, no memory depends on it.
impl Counter {
    pub fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See [`crate::command::ShardStats`] for what each of them means.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub hits: Counter,
    pub misses: Counter,
    pub puts: Counter,
    pub deletes: Counter,
    pub expired: Counter,
    pub spilled_rows: Counter,
    pub spilled_batches: Counter,
    pub spill_errors: Counter,
    pub loaded_rows: Counter,
    pub load_batches: Counter,
    pub load_errors: Counter,
    pub loads_avoided: Counter,
    pub loads_joined: Counter,
    pub busy: Counter,
    pub dead_letters: Counter,
    pub losses_accepted: Counter,
}
