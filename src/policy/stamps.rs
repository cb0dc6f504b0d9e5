//! The clock of a policy: each use takes the next stamp, so that of two uses the later has the higher one.
//!
//! Stamps are 32 bits wide, as each record keeps one, and run out after some hours of use. So records are given lower
//! ones of the same order now and then, which is their owner's part. Here is known when that is due, and what comes
//! next.

use super::Settling;
use crate::sync::atomic::{AtomicU64, Ordering};

/// No two uses have the same, but for those that come when stamps have run out: they all have the highest.
pub(super) type Stamp = u32;

#[derive(Debug)]
pub(super) struct Stamps {
    /// Uses so far.
    uses: AtomicU64,
    /// The use before the one whose stamp is 1.
    start: u64,
    /// How many stamps may be taken from one restart to the next.
    period: Stamp,
    /// From this stamp on, a restart is due.
    due_at: Stamp,
}

impl Stamps {
    pub fn new(period: Stamp) -> Self {
        Self { uses: AtomicU64::new(0), start: 0, period, due_at: period }
    }

    pub fn next(&self) -> Stamp {
        // Relaxed: stamps only have to differ, and to grow within a thread and from lock to lock, as they do.
        self.stamp(self.uses.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub fn uses(&mut self) -> u64 {
        *self.uses.get_mut()
    }

    /// Whether it is time for a restart, once this stamp has been taken.
    pub fn settling(&self, stamp: Stamp) -> Settling {
        if stamp < self.due_at { Settling::NotDue } else { Settling::Due }
    }

    pub fn is_due(&mut self) -> bool {
        let last = *self.uses.get_mut();
        self.settling(self.stamp(last)) == Settling::Due
    }

    /// The next stamp comes after `kept`, the highest that is still in use.
    pub fn restart(&mut self, kept: Stamp) {
        // Each stamp that was kept has had a use of its own.
        self.start = *self.uses.get_mut() - u64::from(kept);
        self.due_at = kept.saturating_add(self.period);
    }

    fn stamp(&self, uses: u64) -> Stamp {
        Stamp::try_from(uses - self.start).unwrap_or(Stamp::MAX)
    }

    /// As after so many uses.
    #[cfg(test)]
    pub fn skip_to(&mut self, uses: u64) {
        *self.uses.get_mut() = uses;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_due_after_each_period() {
        let mut stamps = Stamps::new(3);
        let take = |stamps: &mut Stamps| {
            let stamp = stamps.next();
            assert_eq!(stamps.is_due(), stamps.settling(stamp) == Settling::Due);
            (stamp, stamps.is_due())
        };
        assert_eq!([0; 5].map(|_| take(&mut stamps)), [(1, false), (2, false), (3, true), (4, true), (5, true)]);
        stamps.restart(2);
        assert!(!stamps.is_due());
        assert_eq!([0; 3].map(|_| take(&mut stamps)), [(3, false), (4, false), (5, true)]);
        assert_eq!(stamps.uses(), 8);
    }

    #[test]
    fn stamps_that_run_out_stay_the_highest_until_a_restart() {
        let mut stamps = Stamps::new(Stamp::MAX);
        stamps.skip_to(u64::from(Stamp::MAX) - 2);
        assert_eq!([0; 4].map(|_| stamps.next()), [Stamp::MAX - 1, Stamp::MAX, Stamp::MAX, Stamp::MAX]);
        assert!(stamps.is_due());
        stamps.restart(4);
        assert_eq!(stamps.next(), 5);
        stamps.restart(Stamp::MAX);
        assert_eq!((stamps.next(), stamps.is_due()), (Stamp::MAX, true));
    }
}
