//! The index that finds the coldest record although hits raise ranks behind its back.
//!
//! A 4-ary min-heap of *listed* ranks. Between two exclusive calls a record's true rank may only rise, so a listed rank
//! is a lower bound of the true one, and a record whose listed rank is the lowest and is still true is the coldest.
//! It knows handles and ranks, and not what a rank means. Source of the heap: Johnson 1975, "Priority queues with
//! update and finding minimum spanning trees"; of its O(n) construction: Floyd 1964, "Algorithm 245: treesort".

use super::Handle;

/// Four children's ranks share a cache line or two, and the heap is half as deep as a binary one.
const ARITY: usize = 4;

/// The position of a handle that is not listed. Only the last of 2^32 records could be there.
const ABSENT: u32 = u32::MAX;

/// An eviction relists up to this many records however few there are: small heaps need no second algorithm.
const RELISTINGS_MIN: usize = 32;

/// Relisting a sixteenth of all records, at up to 4 log4(n) comparisons each, is about the work of one rebuild: past it,
/// an eviction rebuilds, and so does at most about twice that work.
const RELISTINGS_SHARE: usize = 16;

/// Handles by rank, the lowest first.
///
/// **Invariants:** a listed rank is never above the true rank; no parent's listed rank is above its child's;
/// `positions` holds each listed handle's index into `ranks` and `handles`, which are equally long.
#[derive(Debug)]
pub(super) struct Coldest<R> {
    ranks: Vec<R>,
    handles: Vec<Handle>,
    /// By handle; grows with the highest handle seen and never shrinks.
    positions: Vec<u32>,
}

impl<R: Ord + Copy> Coldest<R> {
    pub fn new() -> Self {
        Self { ranks: Vec::new(), handles: Vec::new(), positions: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Lists a handle that is not listed. O(1) if no rank is higher.
    pub fn insert(&mut self, handle: Handle, rank: R) {
        debug_assert!(self.position(handle).is_none(), "handle {handle} is listed already");
        // A caller's mistake must not become a handle in two places.
        self.remove(handle);
        if self.positions.len() <= handle as usize {
            self.positions.resize(handle as usize + 1, ABSENT);
        }
        let leaf = self.len();
        self.ranks.push(rank);
        self.handles.push(handle);
        let at = self.hole_up(leaf, rank);
        self.place(at, handle, rank);
    }

    /// Unlists a handle, if it is listed.
    pub fn remove(&mut self, handle: Handle) {
        let Some(at) = self.position(handle) else { return };
        if let Some(position) = self.positions.get_mut(handle as usize) {
            *position = ABSENT;
        }
        let (Some(rank), Some(last)) = (self.ranks.pop(), self.handles.pop()) else { return };
        if last != handle {
            // The last leaf fills the gap. It comes from another branch, so it may belong above the gap or below it.
            let at = self.hole_up(at, rank);
            let at = self.hole_down(at, rank);
            self.place(at, last, rank);
        }
    }

    /// Unlists the handle with the lowest listed rank: the coldest, where ranks never rise.
    pub fn pop(&mut self) -> Option<Handle> {
        let &handle = self.handles.first()?;
        self.remove(handle);
        Some(handle)
    }

    /// Unlists the handle with the lowest true rank.
    ///
    /// O(log n) for each record that was raised since it was last listed and is met on the way, so amortized over
    /// the hits that raised them; at worst O(n).
    pub fn evict(&mut self, true_rank: impl Fn(Handle) -> R) -> Option<Handle> {
        for _ in 0..RELISTINGS_MIN.max(self.len() / RELISTINGS_SHARE) {
            let (&listed, &handle) = (self.ranks.first()?, self.handles.first()?);
            let rank = true_rank(handle);
            debug_assert!(listed <= rank, "the rank of handle {handle} sank");
            if rank == listed {
                // Every other true rank is at least its listed one, and that is at least this one.
                return self.pop();
            }
            let at = self.hole_down(0, rank);
            self.place(at, handle, rank);
        }
        self.rebuild(true_rank);
        self.pop()
    }

    /// Lists every handle with its true rank, in O(n). The only way for a rank to sink.
    pub fn rebuild(&mut self, true_rank: impl Fn(Handle) -> R) {
        for (rank, &handle) in self.ranks.iter_mut().zip(&self.handles) {
            *rank = true_rank(handle);
        }
        let parents = self.len().saturating_sub(1).div_ceil(ARITY);
        for parent in (0..parents).rev() {
            let (Some(&rank), Some(&handle)) = (self.ranks.get(parent), self.handles.get(parent)) else { continue };
            let at = self.hole_down(parent, rank);
            self.place(at, handle, rank);
        }
    }

    /// How many listed handles have a lower true rank; `None` if this one is not listed. O(n).
    pub fn rank<K: Ord>(&self, handle: Handle, true_rank: impl Fn(Handle) -> K) -> Option<usize> {
        self.position(handle)?;
        let own = true_rank(handle);
        Some(self.handles.iter().filter(|&&other| true_rank(other) < own).count())
    }

    pub fn listed(&self, handle: Handle) -> Option<R> {
        self.ranks.get(self.position(handle)?).copied()
    }

    fn position(&self, handle: Handle) -> Option<usize> {
        self.positions.get(handle as usize).filter(|&&position| position != ABSENT).map(|&position| position as usize)
    }

    /// Moves the hole `at` up, each higher ranked parent down into it, until `rank` fits; returns where.
    fn hole_up(&mut self, mut at: usize, rank: R) -> usize {
        while at > 0 {
            let parent = (at - 1) / ARITY;
            let (Some(&above), Some(&handle)) = (self.ranks.get(parent), self.handles.get(parent)) else { break };
            if above <= rank {
                break;
            }
            self.place(at, handle, above);
            at = parent;
        }
        at
    }

    /// Moves the hole `at` down, its lowest ranked child up into it, until `rank` fits; returns where.
    fn hole_down(&mut self, mut at: usize, rank: R) -> usize {
        while let Some((child, below)) = self.lowest_child(at) {
            let Some(&handle) = self.handles.get(child) else { break };
            if rank <= below {
                break;
            }
            self.place(at, handle, below);
            at = child;
        }
        at
    }

    fn lowest_child(&self, parent: usize) -> Option<(usize, R)> {
        let first = parent * ARITY + 1;
        let children = self.ranks.get(first..self.len().min(first + ARITY))?;
        let (nth, &rank) = children.iter().enumerate().min_by_key(|&(_, rank)| rank)?;
        Some((first + nth, rank))
    }

    fn place(&mut self, at: usize, handle: Handle, rank: R) {
        if let (Some(r), Some(h), Some(p)) =
            (self.ranks.get_mut(at), self.handles.get_mut(at), self.positions.get_mut(handle as usize))
        {
            // Positions are fewer than handles, which are 32 bits wide.
            (*r, *h, *p) = (rank, handle, at as u32);
        }
    }

    /// Panics if an invariant does not hold.
    #[cfg(test)]
    pub fn check(&self, true_rank: impl Fn(Handle) -> R) {
        assert_eq!(self.ranks.len(), self.handles.len());
        for (at, (&rank, &handle)) in self.ranks.iter().zip(&self.handles).enumerate() {
            assert_eq!(self.position(handle), Some(at), "handle {handle} is not where its position says");
            assert!(rank <= true_rank(handle), "handle {handle} is listed above its true rank");
            assert!(at == 0 || self.ranks[(at - 1) / ARITY] <= rank, "handle {handle} is below a higher rank");
        }
        assert_eq!(self.positions.iter().filter(|&&position| position != ABSENT).count(), self.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(ranks: &[u64]) -> Coldest<u64> {
        let mut coldest = Coldest::new();
        for (handle, &rank) in ranks.iter().enumerate() {
            coldest.insert(handle as Handle, rank);
        }
        coldest
    }

    fn drain(coldest: &mut Coldest<u64>, ranks: &[u64]) -> Vec<u64> {
        std::iter::from_fn(|| coldest.evict(|handle| ranks[handle as usize])).map(|h| ranks[h as usize]).collect()
    }

    fn sorted(ranks: &[u64]) -> Vec<u64> {
        let mut sorted = ranks.to_vec();
        sorted.sort_unstable();
        sorted
    }

    #[test]
    fn empty_index_evicts_nothing() {
        let mut coldest = Coldest::<u64>::new();
        assert_eq!(coldest.evict(|_| 0), None);
        assert_eq!(coldest.pop(), None);
        coldest.rebuild(|_| 0);
        coldest.remove(7);
        assert_eq!(coldest.len(), 0);
        assert_eq!(coldest.rank(7, |_| 0), None);
    }

    #[test]
    fn insert_of_the_highest_rank_moves_nothing() {
        let mut coldest = listed(&(0..100).collect::<Vec<_>>());
        let before = coldest.handles.clone();
        coldest.insert(100, 100);
        assert_eq!(coldest.handles[..100], before);
        assert_eq!(coldest.handles[100], 100);
    }

    #[test]
    fn an_unlisted_handle_can_be_listed_again() {
        let mut coldest = listed(&[1, 2, 3]);
        coldest.remove(0);
        assert_eq!(coldest.listed(0), None);
        coldest.insert(0, 4);
        assert_eq!(coldest.listed(0), Some(4));
        assert_eq!(drain(&mut coldest, &[4, 2, 3]), [2, 3, 4]);
    }

    #[test]
    fn when_all_records_were_raised_one_eviction_relists_no_more_than_its_share() {
        let before: Vec<u64> = (0..10_000).collect();
        let after: Vec<u64> = before.iter().map(|rank| 30_000 - rank).collect();
        let mut coldest = listed(&before);
        let asked = std::cell::Cell::new(0);
        let coldest_of_all = coldest.evict(|handle| {
            asked.set(asked.get() + 1);
            after[handle as usize]
        });
        assert_eq!(coldest_of_all, Some(9_999));
        // One question for each relisting, one for each record in the rebuild.
        assert_eq!(asked.get(), 10_000 / RELISTINGS_SHARE + 10_000);
        coldest.check(|handle| after[handle as usize]);
        assert_eq!(drain(&mut coldest, &after), sorted(&after)[1..]);
    }

    proptest! {
        #[test]
        fn raised_ranks_leave_in_true_order(pairs in prop::collection::vec((0..1000_u64, 0..1000_u64), 0..300)) {
            let before: Vec<u64> = pairs.iter().map(|&(rank, _)| rank).collect();
            let after: Vec<u64> = pairs.iter().map(|&(rank, raise)| rank + raise).collect();
            let mut coldest = listed(&before);
            coldest.check(|handle| after[handle as usize]);
            prop_assert_eq!(drain(&mut coldest, &after), sorted(&after));
        }

        #[test]
        fn rebuilt_index_lists_true_ranks_even_when_they_sank(
            pairs in prop::collection::vec((0..1000_u64, 0..1000_u64), 0..300),
        ) {
            let (before, after): (Vec<u64>, Vec<u64>) = pairs.into_iter().unzip();
            let mut coldest = listed(&before);
            coldest.rebuild(|handle| after[handle as usize]);
            coldest.check(|handle| after[handle as usize]);
            for (handle, &rank) in after.iter().enumerate() {
                prop_assert_eq!(coldest.listed(handle as Handle), Some(rank));
            }
            prop_assert_eq!(drain(&mut coldest, &after), sorted(&after));
        }

        #[test]
        fn removal_anywhere_keeps_the_heap_a_heap(
            ranks in prop::collection::vec(0..1000_u64, 1..200),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..100),
        ) {
            let mut coldest = listed(&ranks);
            let mut left: Vec<Option<u64>> = ranks.iter().copied().map(Some).collect();
            for index in removed {
                let handle = index.index(ranks.len());
                coldest.remove(handle as Handle);
                left[handle] = None;
                coldest.check(|handle| ranks[handle as usize]);
            }
            let left: Vec<u64> = left.into_iter().flatten().collect();
            prop_assert_eq!(drain(&mut coldest, &ranks), sorted(&left));
        }
    }
}
