//! The bound on what a store holds: every record and tombstone is admitted before it takes memory (R15).

use std::sync::Arc;

use super::entry::cost_bytes_max;
use crate::mutants::{Rule, is_planted};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Counts records and bytes in memory, and refuses what would go over a bound.
#[derive(Debug)]
pub(super) struct Budget {
    records: AtomicUsize,
    bytes: AtomicUsize,
    records_max: usize,
    bytes_max: usize,
}

// Relaxed everywhere: the counters guard no other memory. A bound holds because each addition is one
// read-modify-write that is taken back when it went over.
impl Budget {
    pub fn new(records_max: usize, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { records: AtomicUsize::new(0), bytes: AtomicUsize::new(0), records_max, bytes_max })
    }

    /// Room for one entry with `payload_bytes` of key and value, whatever else it has; `None` if there is none now.
    pub fn admit(self: &Arc<Self>, payload_bytes: usize) -> Option<Admission> {
        let bytes = cost_bytes_max(payload_bytes);
        if self.records.fetch_add(1, Ordering::Relaxed) >= self.records_max {
            self.records.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.bytes_max && !is_planted(Rule::R15Bound) {
            self.give_back(1, bytes);
            return None;
        }
        Some(Admission { budget: Arc::clone(self), bytes })
    }

    /// Room for one entry even where there is none: for what was admitted in an earlier life.
    pub fn admit_anyway(self: &Arc<Self>, payload_bytes: usize) -> Admission {
        let bytes = cost_bytes_max(payload_bytes);
        self.records.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Admission { budget: Arc::clone(self), bytes }
    }

    pub fn give_back(&self, records: usize, bytes: usize) {
        let records_before = self.records.fetch_sub(records, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(records_before >= records && bytes_before >= bytes, "gave back more than was admitted");
    }

    #[cfg(test)]
    pub fn records(&self) -> usize {
        self.records.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn records_max(&self) -> usize {
        self.records_max
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }
}

/// Room for one entry. Given back when dropped, unless an entry took it over.
#[derive(Debug)]
pub struct Admission {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Admission {
    /// An entry of `cost_bytes` now owns the room; what is over goes back.
    pub(super) fn take_over(mut self, cost_bytes: usize) {
        debug_assert!(cost_bytes <= self.bytes, "an entry costs more than was admitted");
        self.budget.give_back(0, self.bytes.saturating_sub(cost_bytes));
        self.bytes = 0;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        // An entry costs at least its overhead, so zero means that it was taken over.
        if self.bytes > 0 {
            self.budget.give_back(1, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admission_stops_at_both_bounds_and_resumes_when_room_is_given_back() {
        let bytes_max = cost_bytes_max(10) + cost_bytes_max(0);
        let budget = Budget::new(2, bytes_max);
        let first = budget.admit(10).unwrap();
        let second = budget.admit(0).unwrap();
        assert!(budget.admit(0).is_none(), "two records are the bound");
        drop(second);
        assert!(budget.admit(1).is_none(), "bytes are bounded too");
        first.take_over(60);
        assert_eq!((budget.records(), budget.bytes()), (1, 60));
        assert!(budget.admit(1).is_some(), "what was over has come back");
        budget.give_back(1, 60);
        assert_eq!((budget.records(), budget.bytes()), (0, 0));
    }
}
