//! Least recently used: the record whose last use is longest ago leaves first.
//!
//! A record's rank is the stamp of its last use, read or write, from the policy's own clock. Source: Mattson, Gecsei,
//! Slutz, Traiger 1970, "Evaluation techniques for storage hierarchies".

use prefetch_index::prefetch_index;

use super::coldest::Coldest;
use super::{Handle, Policy};
use crate::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Lru {
    /// Uses so far: each takes the count as its stamp, so no two stamps are equal.
    clock: AtomicU64,
    /// The last use's stamp by handle; meaningless where the handle is not in the policy.
    stamps: Vec<AtomicU64>,
    coldest: Coldest<u64>,
}

impl Lru {
    pub fn new() -> Self {
        Self { clock: AtomicU64::new(0), stamps: Vec::new(), coldest: Coldest::new() }
    }
}

fn true_rank(stamps: &[AtomicU64], handle: Handle) -> u64 {
    // Relaxed: an eviction's exclusive lock came after the shared locks of all hits; an explanation may be late.
    stamps.get(handle as usize).map_or(0, |stamp| stamp.load(Ordering::Relaxed))
}

fn raise(stamp: &AtomicU64, now: u64) {
    // Relaxed: publishes nothing but itself. The maximum, not a store: a thread that was slow to get here must not
    // undo the later hits of others.
    stamp.fetch_max(now, Ordering::Relaxed);
}

impl Policy for Lru {
    fn insert(&mut self, handle: Handle) {
        let now = *self.clock.get_mut();
        *self.clock.get_mut() += 1;
        if self.stamps.len() <= handle as usize {
            self.stamps.resize_with(handle as usize + 1, AtomicU64::default);
        }
        if let Some(stamp) = self.stamps.get_mut(handle as usize) {
            *stamp.get_mut() = now;
        }
        self.coldest.insert(handle, now);
    }

    fn hit(&self, handle: Handle) {
        let Some(stamp) = self.stamps.get(handle as usize) else { return };
        // Relaxed: stamps only have to differ, and to grow within a thread and from lock to lock, as they do.
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        raise(stamp, now);
    }

    fn prefetch(&self, handle: Handle) {
        prefetch_index(&self.stamps, handle as usize);
    }

    fn update(&mut self, handle: Handle) {
        self.hit(handle);
    }

    fn remove(&mut self, handle: Handle) {
        self.coldest.remove(handle);
    }

    fn evict(&mut self) -> Option<Handle> {
        self.coldest.evict(|handle| true_rank(&self.stamps, handle))
    }

    fn rank(&self, handle: Handle) -> Option<usize> {
        self.coldest.rank(handle, |other| true_rank(&self.stamps, other))
    }

    fn len(&self) -> usize {
        self.coldest.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use ::lru::LruCache;
    use proptest::prelude::*;

    use super::super::PolicyKind;
    use super::super::model::{Model, Step, assert_agree, steps};
    use super::*;

    fn check(lru: &Lru) {
        lru.coldest.check(|handle| true_rank(&lru.stamps, handle));
    }

    fn drain(lru: &mut Lru) -> Vec<Handle> {
        std::iter::from_fn(|| lru.evict()).collect()
    }

    #[test]
    fn reads_and_overwrites_keep_a_record_warm() {
        let mut lru = Lru::new();
        (0..4).for_each(|handle| lru.insert(handle));
        lru.hit(0);
        lru.update(1);
        assert_eq!([0, 1, 2, 3, 4].map(|handle| lru.rank(handle)), [Some(2), Some(3), Some(0), Some(1), None]);
        assert_eq!(drain(&mut lru), [2, 3, 0, 1]);
    }

    #[test]
    fn a_hit_on_a_handle_that_never_came_in_is_ignored() {
        let mut lru = Lru::new();
        lru.hit(7);
        lru.update(7);
        lru.remove(7);
        assert_eq!((lru.evict(), lru.rank(7), lru.len()), (None, None, 0));
    }

    #[test]
    fn thousands_of_hits_between_two_writes_do_not_disturb_the_order() {
        const RECORDS: Handle = 1000;
        let mut lru = Lru::new();
        (0..RECORDS).for_each(|handle| lru.insert(handle));
        // 7919 is prime, so each round visits all records, in a scrambled order; only the last round's order counts.
        let visits: Vec<Handle> = (0..20 * RECORDS).map(|i| i * 7919 % RECORDS).collect();
        visits.iter().for_each(|&handle| lru.hit(handle));
        let expected = &visits[visits.len() - RECORDS as usize..];
        assert_eq!(lru.evict(), Some(expected[0]));
        check(&lru);
        assert_eq!(drain(&mut lru), expected[1..]);
    }

    #[test]
    fn a_late_hit_does_not_take_a_later_one_back() {
        let stamp = AtomicU64::new(0);
        raise(&stamp, 6);
        // Took its stamp first, and was overtaken before it got here.
        raise(&stamp, 5);
        assert_eq!(stamp.into_inner(), 6);
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
                (0..100_000).for_each(|_| lru.hit(1));
            });
            // This thread uses 1 after 0, so 0 is the colder one however the other thread's hits fall.
            scope.spawn(|| {
                start.wait();
                for _ in 0..100_000 {
                    lru.hit(0);
                    lru.hit(1);
                    assert!(true_rank(&lru.stamps, 0) < true_rank(&lru.stamps, 1));
                }
            });
        });
        check(&lru);
        assert_eq!(drain(&mut lru), [2, 0, 1]);
    }

    proptest! {
        #[test]
        fn few_records_leave_as_in_the_textbook(steps in steps(8)) {
            assert_agree(Lru::new(), Model::new(PolicyKind::Lru), &steps, check);
        }

        #[test]
        fn many_records_leave_as_in_the_textbook(steps in steps(150)) {
            assert_agree(Lru::new(), Model::new(PolicyKind::Lru), &steps, check);
        }

        #[test]
        fn records_leave_as_in_the_lru_crate(steps in steps(16)) {
            let (mut lru, mut oracle) = (Lru::new(), LruCache::<Handle, ()>::unbounded());
            for step in steps {
                match step {
                    Step::Insert(handle) | Step::Update(handle) => match oracle.put(handle, ()) {
                        Some(()) => lru.update(handle),
                        None => lru.insert(handle),
                    },
                    Step::Hit(handle) => {
                        oracle.get(&handle);
                        lru.hit(handle);
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
