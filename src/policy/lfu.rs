//! Least frequently used, aged: the record with the fewest uses leaves first, among equals the least recently used.
//!
//! Plain LFU fossilises: what was hot last week outlives what is hot now. So all counts are halved now and then.
//! Sources: Robinson and Devarakonda 1990, "Data cache management using frequency-based replacement", for halving by
//! period; Einziger, Friedman, Manes 2017, "TinyLFU: a highly efficient cache admission policy" (its reset), for a
//! period counted in accesses and in proportion to the capacity. Until the first ageing it is the textbook's LFU.

use std::num::NonZeroU32;

use super::coldest::Ranked;
use super::lru::LastUse;
use super::order::{History, Order};
use super::stamps::Stamp;
use super::{Handle, Policy, Settling};
use crate::sync::atomic::{AtomicU32, Ordering};

/// TinyLFU's sample size: with this many accesses a record, frequencies say something before they are halved.
const AGEING_ACCESSES_PER_RECORD: u64 = 10;

/// Small policies are not aged more often than this, so that they are exact for as long as anyone watches.
const AGEING_ACCESSES_MIN: u64 = 100_000;

/// Where frequencies stop. Half the range, so that all the threads which read a count just below it have room to add.
const FREQUENCY_MAX: u32 = u32::MAX / 2;

/// One record's uses, in one place so that a hit touches one cache line of them.
#[derive(Debug, Default)]
struct Uses {
    frequency: AtomicU32,
    last: LastUse,
}

impl Uses {
    fn age(&mut self) {
        let frequency = self.frequency.get_mut();
        *frequency = ((*frequency).min(FREQUENCY_MAX) / 2).max(1);
    }
}

impl Ranked for Uses {
    /// Frequency, then the stamp of the last use.
    type Rank = (u32, NonZeroU32);

    fn rank(&self) -> Option<Self::Rank> {
        let last = self.last.rank()?;
        // Relaxed: as there.
        Some((self.frequency.load(Ordering::Relaxed).min(FREQUENCY_MAX), last))
    }
}

impl History for Uses {
    fn new(stamp: Stamp) -> Self {
        Self { frequency: AtomicU32::new(1), last: LastUse::new(stamp) }
    }

    fn touch(&self, stamp: Stamp) {
        // Relaxed: only says whether to count; hits that race past the limit are cut off by `rank`.
        if self.frequency.load(Ordering::Relaxed) < FREQUENCY_MAX {
            // Relaxed: an addition is atomic, so no count is lost, and it publishes nothing but itself.
            self.frequency.fetch_add(1, Ordering::Relaxed);
        }
        self.last.touch(stamp);
    }

    fn last(&mut self) -> &mut Stamp {
        self.last.last()
    }
}

#[derive(Debug)]
pub(super) struct Lfu {
    order: Order<Uses>,
    ageing_period: u64,
    /// The first exclusive call that finds as many uses or more halves the frequencies.
    ageing_at: u64,
}

impl Lfu {
    pub fn new(capacity: usize) -> Self {
        let capacity = u64::try_from(capacity).unwrap_or(u64::MAX);
        Self::aged_every(AGEING_ACCESSES_MIN.max(capacity.saturating_mul(AGEING_ACCESSES_PER_RECORD)), Order::new())
    }

    fn aged_every(ageing_period: u64, order: Order<Uses>) -> Self {
        Self { order, ageing_period, ageing_at: ageing_period }
    }

    /// Halves all frequencies if it is time. Once, however late: a long run of hits without an exclusive call is one
    /// period of evidence, and halving it away for each period missed would leave nothing to tell records apart.
    fn age_if_due(&mut self) {
        let now = self.order.uses();
        if now >= self.ageing_at {
            self.ageing_at = now.saturating_add(self.ageing_period);
            self.order.rewrite(Uses::age);
        }
    }
}

impl Policy for Lfu {
    fn insert(&mut self, handle: Handle) {
        self.age_if_due();
        self.order.insert(handle);
    }

    fn hit(&self, handle: Handle) -> Settling {
        self.order.hit(handle)
    }

    fn prefetch(&self, handle: Handle) {
        self.order.prefetch(handle);
    }

    fn update(&mut self, handle: Handle) {
        self.age_if_due();
        self.order.update(handle);
    }

    fn remove(&mut self, handle: Handle) {
        self.age_if_due();
        self.order.remove(handle);
    }

    fn evict(&mut self) -> Option<Handle> {
        self.age_if_due();
        self.order.evict()
    }

    fn settle(&mut self) {
        self.age_if_due();
        self.order.settle();
    }

    fn rank(&self, handle: Handle) -> Option<usize> {
        self.order.rank(handle)
    }

    fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use proptest::prelude::*;

    use super::super::PolicyKind;
    use super::super::model::{Model, assert_agree, drain, hit_all, steps};
    use super::*;

    fn check(lfu: &Lfu) {
        lfu.order.check();
    }

    fn frequency(lfu: &mut Lfu, handle: Handle) -> u32 {
        lfu.order.history(handle).rank().map_or(0, |(frequency, _)| frequency)
    }

    /// Never aged.
    fn settled_every(period: Stamp) -> Lfu {
        Lfu::aged_every(u64::MAX, Order::settled_every(period))
    }

    #[test]
    fn a_history_takes_eight_bytes() {
        assert_eq!(size_of::<Uses>(), 8);
    }

    #[test]
    fn the_least_used_leaves_first_and_among_equals_the_least_recently_used() {
        let mut lfu = Lfu::new(5);
        (0..5).for_each(|handle| lfu.insert(handle));
        hit_all(&lfu, [3, 0, 0, 1]);
        lfu.update(4);
        let ranks = [Some(4), Some(2), Some(0), Some(1), Some(3), None];
        assert_eq!([0, 1, 2, 3, 4, 5].map(|handle| lfu.rank(handle)), ranks);
        assert_eq!(drain(&mut lfu), [2, 3, 1, 4, 0]);
    }

    #[test]
    fn a_handle_that_is_used_again_starts_from_one() {
        let mut lfu = Lfu::new(2);
        lfu.insert(0);
        hit_all(&lfu, [0; 10]);
        lfu.remove(0);
        hit_all(&lfu, [0]);
        assert_eq!((lfu.rank(0), lfu.len()), (None, 0));
        lfu.insert(0);
        assert_eq!(frequency(&mut lfu, 0), 1);
        lfu.insert(1);
        assert_eq!(drain(&mut lfu), [0, 1]);
    }

    #[test]
    fn records_that_come_and_go_do_not_pile_up() {
        let mut lfu = Lfu::new(100);
        (0..100).for_each(|handle| lfu.insert(handle));
        hit_all(&lfu, 0..100);
        // Now the bound is above all that come in.
        assert_eq!(lfu.evict(), Some(0));
        for _ in 0..1_000 {
            lfu.insert(0);
            lfu.remove(0);
            check(&lfu);
        }
        lfu.insert(0);
        assert_eq!(drain(&mut lfu), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn thousands_of_hits_between_two_writes_do_not_disturb_the_order() {
        const RECORDS: Handle = 200;
        let mut lfu = Lfu::new(RECORDS as usize);
        (0..RECORDS).for_each(|handle| lfu.insert(handle));
        // Record h is hit in every round up to round h, the coldest are the first; 7919 is prime and scrambles rounds.
        for round in 0..RECORDS {
            let visits = (0..RECORDS).map(|i| i * 7919 % RECORDS);
            hit_all(&lfu, visits.filter(|&handle| round < handle));
        }
        assert_eq!(lfu.evict(), Some(0));
        check(&lfu);
        assert_eq!(drain(&mut lfu), (1..RECORDS).collect::<Vec<_>>());
    }

    #[test]
    fn concurrent_hits_lose_no_count() {
        const THREADS: u32 = 4;
        // Enough for several time slices each: shorter threads may never meet when other tests keep the cores busy.
        const ROUNDS: u32 = 300_000;
        let mut lfu = Lfu::new(2);
        lfu.insert(0);
        lfu.insert(1);
        // All start together, or the first is done before the last begins.
        let start = Barrier::new(THREADS as usize);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    start.wait();
                    for round in 0..ROUNDS {
                        hit_all(&lfu, [0, round % 2]);
                    }
                });
            }
        });
        assert_eq!(frequency(&mut lfu, 0), 1 + THREADS * ROUNDS * 3 / 2);
        assert_eq!(frequency(&mut lfu, 1), 1 + THREADS * ROUNDS / 2);
        assert_eq!(lfu.order.uses(), u64::from(2 + THREADS * ROUNDS * 2));
        check(&lfu);
        assert_eq!(drain(&mut lfu), [1, 0]);
    }

    #[test]
    fn a_late_hit_counts_and_does_not_take_a_later_one_back() {
        let mut uses = Uses::new(1);
        uses.touch(6);
        // Took its stamp first, and was overtaken before it got here.
        uses.touch(5);
        assert_eq!((*uses.frequency.get_mut(), *uses.last()), (3, 6));
    }

    #[test]
    fn a_frequency_stops_at_its_limit_and_recency_goes_on() {
        let mut lfu = Lfu::new(2);
        for handle in 0..2 {
            lfu.insert(handle);
            *lfu.order.history(handle).frequency.get_mut() = FREQUENCY_MAX - 1;
            hit_all(&lfu, [handle]);
        }
        hit_all(&lfu, [1, 0]);
        assert_eq!([0, 1].map(|handle| frequency(&mut lfu, handle)), [FREQUENCY_MAX; 2]);
        // As left behind by threads that raced past the limit.
        *lfu.order.history(1).frequency.get_mut() = FREQUENCY_MAX + 3;
        assert_eq!(drain(&mut lfu), [1, 0]);
    }

    #[test]
    fn the_ageing_period_grows_with_the_capacity() {
        let table = [(0, 100_000), (10_000, 100_000), (10_001, 100_010), (1_000_000, 10_000_000)];
        for (capacity, period) in table {
            assert_eq!(Lfu::new(capacity).ageing_period, period, "capacity {capacity}");
        }
        assert!(Lfu::new(usize::MAX).ageing_period >= 100_000);
    }

    #[test]
    fn hits_alone_do_not_age_and_the_next_exclusive_call_ages_once() {
        let mut lfu = Lfu::aged_every(10, Order::new());
        lfu.insert(0);
        hit_all(&lfu, [0; 99]);
        assert_eq!(frequency(&mut lfu, 0), 100);
        lfu.remove(1);
        assert_eq!(frequency(&mut lfu, 0), 50);
        lfu.remove(1);
        assert_eq!(frequency(&mut lfu, 0), 50);
    }

    /// A record that was hot once among three places through which records go that are used thrice each. Returns
    /// after how many of them the hot one left.
    fn fossil_leaves_after(mut lfu: Lfu) -> Option<u32> {
        lfu.insert(0);
        hit_all(&lfu, [0; 1_000]);
        (1..=3).for_each(|handle| lfu.insert(handle));
        for passed in 0..20_000 {
            let victim = lfu.evict().unwrap();
            if victim == 0 {
                return Some(passed);
            }
            lfu.insert(victim);
            hit_all(&lfu, [victim; 2]);
        }
        None
    }

    #[test]
    fn a_formerly_hot_record_leaves_once_it_has_aged() {
        assert_eq!(fossil_leaves_after(settled_every(1 << 20)), None);
        // Eight halvings take 1001 uses to the others' three. The first is due at once, then one each 1000/3 others.
        let passed = fossil_leaves_after(Lfu::aged_every(1_000, Order::new())).unwrap();
        assert!((2_330..=2_350).contains(&passed), "left after {passed} others");
    }

    proptest! {
        #[test]
        fn few_records_leave_as_in_the_textbook(steps in steps(8)) {
            assert_agree(Lfu::new(8), Model::new(PolicyKind::Lfu), &steps, check);
        }

        #[test]
        fn many_records_leave_as_in_the_textbook(steps in steps(150)) {
            assert_agree(Lfu::new(150), Model::new(PolicyKind::Lfu), &steps, check);
        }

        #[test]
        fn renumbered_records_leave_as_in_the_textbook(steps in steps(60), period in 0..100_u32) {
            assert_agree(settled_every(period), Model::new(PolicyKind::Lfu), &steps, check);
        }

        #[test]
        fn aged_records_leave_as_in_the_model(steps in steps(12), period in 1..60_u64, settling_period in 1..100_u32) {
            let lfu = Lfu::aged_every(period, Order::settled_every(settling_period));
            assert_agree(lfu, Model::aged_every(PolicyKind::Lfu, period), &steps, check);
        }
    }
}
