//! Least recently used: the record whose last use is longest ago leaves first.
//!
//! A record's rank is the stamp of its last use, read or write, from the policy's own clock. Source: Mattson, Gecsei,
//! Slutz, Traiger 1970, "Evaluation techniques for storage hierarchies".

use std::num::NonZeroU32;

use super::coldest::Ranked;
use super::order::{History, Order};
use super::stamps::Stamp;
use crate::sync::atomic::{AtomicU32, Ordering};

pub(super) type Lru = Order<LastUse>;

/// A stamp; 0 if there is none.
#[derive(Debug, Default)]
pub(super) struct LastUse(AtomicU32);

impl Ranked for LastUse {
    type Rank = NonZeroU32;

    fn rank(&self) -> Option<NonZeroU32> {
        // Relaxed: an eviction's exclusive lock came after the shared locks of all hits; an explanation may be late.
        NonZeroU32::new(self.0.load(Ordering::Relaxed))
    }
}

impl History for LastUse {
    fn new(stamp: Stamp) -> Self {
        Self(AtomicU32::new(stamp))
    }

    fn touch(&self, stamp: Stamp) {
        // Relaxed: publishes nothing but itself. The maximum, not a store: a thread that was slow to get here must not
        // undo the later hits of others.
        self.0.fetch_max(stamp, Ordering::Relaxed);
    }

    fn last(&mut self) -> &mut Stamp {
        self.0.get_mut()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use ::lru::LruCache;
    use proptest::prelude::*;

    use super::super::model::{Model, Step, assert_agree, drain, hit_all, steps};
    use super::super::{Handle, Policy, PolicyKind, Settling};
    use super::*;

    #[test]
    fn a_history_takes_four_bytes() {
        assert_eq!(size_of::<LastUse>(), 4);
    }

    #[test]
    fn reads_and_overwrites_keep_a_record_warm() {
        let mut lru = Lru::new();
        (0..4).for_each(|handle| lru.insert(handle));
        hit_all(&lru, [0]);
        lru.update(1);
        assert_eq!([0, 1, 2, 3, 4].map(|handle| lru.rank(handle)), [Some(2), Some(3), Some(0), Some(1), None]);
        assert_eq!(drain(&mut lru), [2, 3, 0, 1]);
    }

    #[test]
    fn a_hit_on_a_handle_that_never_came_in_is_ignored() {
        let mut lru = Lru::new();
        hit_all(&lru, [7]);
        lru.update(7);
        lru.remove(7);
        assert_eq!((lru.evict(), lru.rank(7), lru.len()), (None, None, 0));
    }

    #[test]
    fn a_hit_on_a_handle_that_was_taken_out_does_not_bring_it_back() {
        let mut lru = Lru::new();
        (0..3).for_each(|handle| lru.insert(handle));
        lru.remove(1);
        assert_eq!(lru.evict(), Some(0));
        hit_all(&lru, [0, 1]);
        lru.update(1);
        assert_eq!((lru.rank(0), lru.rank(1), lru.len()), (None, None, 1));
        assert_eq!(drain(&mut lru), [2]);
    }

    #[test]
    fn thousands_of_hits_between_two_writes_do_not_disturb_the_order() {
        const RECORDS: Handle = 1000;
        let mut lru = Lru::new();
        (0..RECORDS).for_each(|handle| lru.insert(handle));
        // 7919 is prime, so each round visits all records, in a scrambled order; only the last round's order counts.
        let visits: Vec<Handle> = (0..20 * RECORDS).map(|i| i * 7919 % RECORDS).collect();
        hit_all(&lru, visits.iter().copied());
        let expected = &visits[visits.len() - RECORDS as usize..];
        assert_eq!(lru.evict(), Some(expected[0]));
        lru.check();
        assert_eq!(drain(&mut lru), expected[1..]);
    }

    #[test]
    fn a_late_hit_does_not_take_a_later_one_back() {
        let mut last = LastUse::new(1);
        last.touch(6);
        // Took its stamp first, and was overtaken before it got here.
        last.touch(5);
        assert_eq!(*last.last(), 6);
    }

    #[test]
    fn racing_hits_keep_each_threads_own_order() {
        let mut lru = Lru::new();
        (0..3).for_each(|handle| lru.insert(handle));
        // Both start together, or one is done before the other begins.
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                hit_all(&lru, (0..100_000).map(|_| 1));
            });
            // This thread uses 1 after 0, so 0 is the colder one however the other thread's hits fall.
            scope.spawn(|| {
                start.wait();
                for _ in 0..100_000 {
                    hit_all(&lru, [0, 1]);
                    assert!(lru.rank(0) < lru.rank(1));
                }
            });
        });
        lru.check();
        assert_eq!(drain(&mut lru), [2, 0, 1]);
    }

    #[test]
    fn a_hit_tells_when_settling_is_due_and_settling_keeps_the_order() {
        let mut lru = Lru::settled_every(5);
        (0..3).for_each(|handle| lru.insert(handle));
        assert_eq!([2, 1, 2].map(|handle| lru.hit(handle)), [Settling::NotDue, Settling::Due, Settling::Due]);
        lru.settle();
        // Of the five next, the fifth tells again.
        let told = [0, 1, 1, 2, 1].map(|handle| lru.hit(handle));
        assert_eq!(told, [Settling::NotDue, Settling::NotDue, Settling::NotDue, Settling::NotDue, Settling::Due]);
        assert_eq!(drain(&mut lru), [0, 2, 1]);
    }

    #[test]
    fn when_nobody_settles_only_the_order_of_the_latest_is_lost() {
        let mut lru = Lru::new();
        (0..5).for_each(|handle| lru.insert(handle));
        lru.skip_to(u64::from(Stamp::MAX) - 1);
        hit_all(&lru, [0, 4, 3]);
        lru.check();
        assert_eq!((lru.evict(), lru.evict()), (Some(1), Some(2)));
        lru.insert(1);
        let mut saturated = [lru.evict(), lru.evict(), lru.evict()];
        saturated.sort_unstable();
        assert_eq!(saturated, [Some(0), Some(3), Some(4)]);
        assert_eq!(drain(&mut lru), [1]);
    }

    proptest! {
        #[test]
        fn few_records_leave_as_in_the_textbook(steps in steps(8)) {
            assert_agree(Lru::new(), Model::new(PolicyKind::Lru), &steps, Lru::check);
        }

        #[test]
        fn many_records_leave_as_in_the_textbook(steps in steps(150)) {
            assert_agree(Lru::new(), Model::new(PolicyKind::Lru), &steps, Lru::check);
        }

        #[test]
        fn renumbered_records_leave_as_in_the_textbook(steps in steps(60), period in 0..100_u32) {
            assert_agree(Lru::settled_every(period), Model::new(PolicyKind::Lru), &steps, Lru::check);
        }

        #[test]
        fn records_leave_as_in_the_lru_crate(steps in steps(16), period in 1..200_u32) {
            let (mut lru, mut oracle) = (Lru::settled_every(period), LruCache::<Handle, ()>::unbounded());
            for step in steps {
                match step {
                    Step::Insert(handle) | Step::Update(handle) => match oracle.put(handle, ()) {
                        Some(()) => lru.update(handle),
                        None => lru.insert(handle),
                    },
                    Step::Hit(handle) => {
                        oracle.get(&handle);
                        hit_all(&lru, [handle]);
                    }
                    Step::Remove(handle) => {
                        oracle.pop(&handle);
                        lru.remove(handle);
                    }
                    Step::Evict => prop_assert_eq!(lru.evict(), oracle.pop_lru().map(|(handle, ())| handle)),
                }
                prop_assert_eq!(lru.len(), oracle.len());
            }
            let expected: Vec<Handle> = oracle.iter().rev().map(|(&handle, ())| handle).collect();
            prop_assert_eq!(drain(&mut lru), expected);
        }
    }
}
