//! The index that finds the coldest record although hits raise ranks behind its back.
//!
//! It lists the coldest sixteenth or so of all records as *candidates*, in a heap of their *listed* ranks, and knows up
//! to which rank its list is complete: the *bound*. Between two exclusive calls a true rank may only rise, so a
//! candidate's listed rank is a lower bound of its true one, and the lowest listed rank that is still true is that of
//! the coldest record. When no candidate is left, one pass over all records finds the next ones. It knows handles and
//! ranks, and not what a rank means. Sources: Williams 1964, "Algorithm 232: heapsort", for the heap; Hoare 1961,
//! "Algorithm 65: find", for the selection.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fmt::Debug;
use std::mem;

use super::Handle;

/// A pass over all records yields this share of them, so each eviction has its share in 16 of a pass's sequential
/// reads.
const CANDIDATES_SHARE: usize = 16;

/// However few the records are: a pass over so few is cheap, and need not come at each eviction.
const CANDIDATES_MIN: usize = 32;

/// What is kept by handle and has a rank.
pub(super) trait Ranked {
    type Rank: Ord + Copy + Debug + Send + Sync;

    /// The true rank; `None` if the handle is not in the policy.
    fn rank(&self) -> Option<Self::Rank>;
}

/// The handles of the lowest ranks.
///
/// **Invariants:** a handle whose true rank is below the bound is a candidate, listed with a rank that is not above its
/// true one; no listed rank is above the bound.
///
/// Removal does not touch the list, so there may be other candidates too: of handles that are not in the policy any
/// more, or that are again, with another rank. They do no harm: a handle whose true rank is below such a listed one,
/// and so below the bound, is listed once more with that or less, and met first.
#[derive(Debug)]
pub(super) struct Coldest<H: Ranked> {
    candidates: BinaryHeap<Candidate<H::Rank>>,
    /// `None` is below all ranks.
    bound: Option<H::Rank>,
}

/// Listed rank and handle. Reversed, as the heap has its greatest element on top.
type Candidate<R> = Reverse<(R, Handle)>;

impl<H: Ranked> Coldest<H> {
    pub fn new() -> Self {
        Self { candidates: BinaryHeap::new(), bound: None }
    }

    /// Lists a handle that came in, if its rank is within the bound. O(log n), O(1) if it is not.
    pub fn insert(&mut self, handle: Handle, rank: H::Rank) {
        if Some(rank) > self.bound {
            return;
        }
        if self.candidates.len() < self.candidates.capacity() {
            self.candidates.push(Reverse((rank, handle)));
        } else {
            // As many have come since the last pass as it found: the next one, which makes room again, is paid for.
            self.clear();
        }
    }

    /// Forgets all candidates. Whoever lets a rank sink has to do so.
    pub fn clear(&mut self) {
        self.candidates.clear();
        self.bound = None;
    }

    /// The handle with the lowest true rank of all; its owner takes it out. `None` after a pass that found no rank.
    ///
    /// O(log n) for each candidate it meets; at worst it meets them all, and then passes over all records, O(n). But
    /// who is met in vain was raised by a hit or removed since it was listed, so the cost is amortized over those.
    pub fn evict(&mut self, records: &[H]) -> Option<Handle> {
        loop {
            if self.candidates.is_empty() {
                self.find_candidates(records);
            }
            let mut lowest = self.candidates.peek_mut()?;
            let Reverse((listed, handle)) = *lowest;
            match records.get(handle as usize).and_then(H::rank) {
                // Every other true rank is at least the bound, or at least its listed one, and neither is below this
                // one.
                Some(rank) if rank == listed => {
                    PeekMut::pop(lowest);
                    return Some(handle);
                }
                Some(rank) if Some(rank) <= self.bound => {
                    debug_assert!(listed < rank, "the rank of handle {handle} sank");
                    *lowest = Reverse((rank, handle));
                }
                Some(_) | None => {
                    PeekMut::pop(lowest);
                }
            }
        }
    }

    /// Lists the coldest with their true ranks. Sequential reads, and O(n) in all, as each selection halves its list.
    fn find_candidates(&mut self, records: &[H]) {
        let count = CANDIDATES_MIN.max(records.len() / CANDIDATES_SHARE);
        let mut lowest = mem::take(&mut self.candidates).into_vec();
        // Room for as many again: for the search, and then for records that come in within the bound.
        lowest.reserve_exact(2 * count);
        let mut bound = None;
        for (record, handle) in records.iter().zip(0..) {
            let Some(rank) = record.rank() else { continue };
            if bound.is_some_and(|bound| bound < rank) {
                continue;
            }
            lowest.push(Reverse((rank, handle)));
            if lowest.len() == 2 * count {
                bound = keep_lowest(&mut lowest, count);
            }
        }
        self.bound = keep_lowest(&mut lowest, count);
        self.candidates = lowest.into();
    }
}

/// Drops all but the `count` lowest; returns the highest rank left.
fn keep_lowest<R: Ord + Copy>(candidates: &mut Vec<Candidate<R>>, count: usize) -> Option<R> {
    if count < candidates.len() {
        candidates.select_nth_unstable_by_key(count, |&Reverse(candidate)| candidate);
        candidates.truncate(count);
    }
    candidates.iter().map(|&Reverse((rank, _))| rank).max()
}

#[cfg(test)]
impl<H: Ranked> Coldest<H> {
    /// Panics if an invariant does not hold, or if the list is longer than it may be.
    pub fn check(&self, records: &[H]) {
        let mut listed = std::collections::HashMap::new();
        for &Reverse((rank, handle)) in &self.candidates {
            assert!(Some(rank) <= self.bound, "handle {handle} is listed above the bound");
            let lowest = listed.entry(handle).or_insert(rank);
            *lowest = rank.min(*lowest);
        }
        for (handle, record) in (0..).zip(records) {
            let Some(rank) = record.rank().filter(|&rank| Some(rank) < self.bound) else { continue };
            let listed = listed.get(&handle);
            assert!(listed.is_some_and(|&listed| listed <= rank), "handle {handle} has {rank:?}, listed is {listed:?}");
        }
        assert!(self.candidates.capacity() <= 2 * CANDIDATES_MIN.max(records.len() / CANDIDATES_SHARE));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    impl Ranked for Option<u64> {
        type Rank = u64;

        fn rank(&self) -> Option<u64> {
            *self
        }
    }

    fn records(ranks: impl IntoIterator<Item = u64>) -> Vec<Option<u64>> {
        ranks.into_iter().map(Some).collect()
    }

    /// An index that has found its candidates among these records, and found that `evicted` is the coldest.
    fn after_a_pass(records: &mut [Option<u64>], evicted: Handle) -> Coldest<Option<u64>> {
        let mut coldest = Coldest::new();
        assert_eq!(coldest.evict(records), Some(evicted));
        records[evicted as usize] = None;
        coldest
    }

    fn drain(coldest: &mut Coldest<Option<u64>>, mut records: Vec<Option<u64>>) -> Vec<u64> {
        let evict = || {
            coldest.check(&records);
            let handle = coldest.evict(&records)?;
            records[handle as usize].take()
        };
        std::iter::from_fn(evict).collect()
    }

    fn sorted(records: &[Option<u64>]) -> Vec<u64> {
        let mut sorted: Vec<u64> = records.iter().copied().flatten().collect();
        sorted.sort_unstable();
        sorted
    }

    #[test]
    fn without_records_nothing_is_evicted() {
        let mut coldest = Coldest::<Option<u64>>::new();
        assert_eq!(coldest.evict(&[]), None);
        assert_eq!(coldest.evict(&[None, None]), None);
        coldest.insert(0, 1);
        assert_eq!(coldest.evict(&[None]), None);
    }

    #[test]
    fn a_sixteenth_of_the_records_are_candidates() {
        for (count, candidates) in [(1, 1), (32, 32), (33, 32), (512, 32), (1_600, 100)] {
            // From the warmest to the coldest: the order that makes a pass select most often.
            let mut records = records((0..count).rev());
            let coldest = after_a_pass(&mut records, count as Handle - 1);
            assert_eq!(coldest.candidates.len(), candidates - 1, "of {count}");
            assert_eq!(coldest.bound, Some(candidates as u64 - 1), "of {count}");
            coldest.check(&records);
        }
    }

    #[test]
    fn a_record_that_comes_in_above_the_bound_is_no_candidate() {
        let mut records = records(0..100);
        let mut coldest = after_a_pass(&mut records, 0);
        records.extend([Some(31), Some(32)]);
        coldest.insert(100, 31);
        assert_eq!(coldest.candidates.len(), 32);
        coldest.insert(101, 32);
        assert_eq!(coldest.candidates.len(), 32);
        assert_eq!(drain(&mut coldest, records.clone()), sorted(&records));
    }

    #[test]
    fn a_handle_that_is_used_again_leaves_by_its_new_rank() {
        for rank in [1, 5, 31, 32, 1_000] {
            let mut records = records(0..100);
            let mut coldest = after_a_pass(&mut records, 0);
            records[5] = None;
            records[7] = Some(rank);
            coldest.insert(7, rank);
            assert_eq!(drain(&mut coldest, records.clone()), sorted(&records), "new rank {rank}");
        }
    }

    #[test]
    fn candidates_of_one_handle_do_not_pile_up() {
        let mut records = records(0..100);
        let mut coldest = after_a_pass(&mut records, 0);
        for life in 0..1_000 {
            records[1] = Some(life % 10);
            coldest.insert(1, life % 10);
            coldest.check(&records);
        }
        assert_eq!(drain(&mut coldest, records.clone()), sorted(&records));
    }

    #[test]
    fn when_all_records_were_raised_one_eviction_meets_each_candidate_and_then_each_record_once() {
        struct Asked<'a>(u64, &'a Cell<usize>);

        impl Ranked for Asked<'_> {
            type Rank = u64;

            fn rank(&self) -> Option<u64> {
                self.1.set(self.1.get() + 1);
                Some(self.0)
            }
        }

        let asked = Cell::new(0);
        let mut records: Vec<Asked> = (0..10_000).map(|rank| Asked(rank, &asked)).collect();
        let mut coldest = Coldest::new();
        assert_eq!(coldest.evict(&records), Some(0));
        records.iter_mut().for_each(|record| record.0 = 30_000 - record.0);
        asked.set(0);
        assert_eq!(coldest.evict(&records), Some(9_999));
        // The first candidate is gone already, and of the new ones the coldest is asked once more.
        assert_eq!(asked.get(), (10_000 / CANDIDATES_SHARE - 1) + 10_000 + 1);
    }

    proptest! {
        #[test]
        fn raised_ranks_leave_in_true_order(pairs in prop::collection::vec((0..1000_u64, 0..1000_u64), 1..300)) {
            let mut before = records(pairs.iter().map(|&(rank, _)| rank));
            let first = (0..before.len()).min_by_key(|&handle| (before[handle], handle)).unwrap();
            let mut coldest = after_a_pass(&mut before, first as Handle);
            let mut after = records(pairs.iter().map(|&(rank, raise)| rank + raise));
            after[first] = None;
            let expected = sorted(&after);
            prop_assert_eq!(drain(&mut coldest, after), expected);
        }

        #[test]
        fn cleared_index_follows_ranks_that_sank(pairs in prop::collection::vec((0..1000_u64, 0..1000_u64), 1..300)) {
            let (before, after): (Vec<u64>, Vec<u64>) = pairs.into_iter().unzip();
            let (before, after) = (records(before), records(after));
            let mut coldest = Coldest::new();
            coldest.evict(&before);
            coldest.clear();
            let expected = sorted(&after);
            prop_assert_eq!(drain(&mut coldest, after), expected);
        }

        #[test]
        fn records_come_go_and_rise_and_the_coldest_is_found(
            steps in prop::collection::vec((0..90_usize, 0..60_u64, 0..5_u8), 0..800),
        ) {
            let mut records: Vec<Option<u64>> = records(0..90);
            let mut coldest = Coldest::new();
            for (handle, rank, step) in steps {
                match (step, records[handle]) {
                    (0, _) => {
                        let expected = records.iter().copied().flatten().min();
                        let evicted = coldest.evict(&records);
                        prop_assert_eq!(evicted.and_then(|handle| records[handle as usize].take()), expected);
                    }
                    (1, _) => records[handle] = None,
                    (_, Some(before)) => records[handle] = Some(before + rank),
                    (_, None) => {
                        records[handle] = Some(rank);
                        coldest.insert(handle as Handle, rank);
                    }
                }
                coldest.check(&records);
            }
            let expected = sorted(&records);
            prop_assert_eq!(drain(&mut coldest, records), expected);
        }
    }
}
