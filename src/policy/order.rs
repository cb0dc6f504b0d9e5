//! An exact order of records by their uses: what LRU, LFU and FIFO have in common.
//!
//! A record's history holds the stamp of its last use, and is all that is kept by handle: an empty one says that the
//! handle is not in the policy. Hits change histories under the shared lock; everything else happens under the
//! exclusive one. What a use means for the rank is the history's own affair.

use prefetch_index::prefetch_index;

use super::coldest::{Coldest, Ranked};
use super::stamps::{Stamp, Stamps};
use super::{Handle, Policy, Settling};

/// Half of all stamps. The other half are for what records keep when they are renumbered, and for the hits that come
/// before the owner settles.
const SETTLING_PERIOD: Stamp = 1 << 31;

/// What is remembered of one record's uses. The default has no rank, and stands for a handle that is not in the policy.
pub(super) trait History: Ranked + Default + Send + Sync {
    /// Of a record that comes in.
    fn new(stamp: Stamp) -> Self;

    /// One more use, under a shared lock. Never lowers the rank.
    fn touch(&self, stamp: Stamp);

    /// The last use's stamp; 0 if there is none.
    fn last(&mut self) -> &mut Stamp;
}

#[derive(Debug)]
pub(super) struct Order<H: Ranked> {
    stamps: Stamps,
    /// By handle; grows with the highest handle seen and never shrinks.
    histories: Vec<H>,
    coldest: Coldest<H>,
    /// How many histories have a rank.
    len: usize,
}

impl<H: History> Order<H> {
    pub fn new() -> Self {
        Self::settled_every(SETTLING_PERIOD)
    }

    /// With a period of its own between two renumberings.
    pub fn settled_every(period: Stamp) -> Self {
        Self { stamps: Stamps::new(period), histories: Vec::new(), coldest: Coldest::new(), len: 0 }
    }

    /// Uses so far.
    pub fn uses(&mut self) -> u64 {
        self.stamps.uses()
    }

    /// Changes all histories, and may lower ranks. O(n).
    pub fn rewrite(&mut self, change: impl FnMut(&mut H)) {
        self.histories.iter_mut().for_each(change);
        self.coldest.clear();
    }

    /// Replaces the stamps by 1, 2, 3 and so on, in the same order. O(n log n).
    fn renumber(&mut self) {
        let mut used = Vec::with_capacity(self.len);
        let stamps = self.histories.iter_mut().map(|history| *history.last());
        used.extend(stamps.zip(0..).filter(|&(stamp, _)| stamp != 0));
        used.sort_unstable();
        let mut kept = 0;
        for (_, handle) in used {
            let Some(history) = self.histories.get_mut(handle as usize) else { continue };
            kept += 1;
            *history.last() = kept;
        }
        self.stamps.restart(kept);
        self.coldest.clear();
    }
}

impl<H: History> Policy for Order<H> {
    fn insert(&mut self, handle: Handle) {
        let len = self.len;
        self.remove(handle);
        // A caller's mistake, and then a record is not counted twice.
        debug_assert_eq!(self.len, len, "handle {handle} is in already");
        let history = H::new(self.stamps.next());
        if let Some(rank) = history.rank() {
            self.coldest.insert(handle, rank);
        }
        let at = handle as usize;
        if self.histories.len() <= at {
            self.histories.resize_with(at + 1, H::default);
        }
        if let Some(place) = self.histories.get_mut(at) {
            *place = history;
            self.len += 1;
        }
    }

    fn hit(&self, handle: Handle) -> Settling {
        let history = self.histories.get(handle as usize);
        // What is not in stays out: only exclusive calls change that, so no other thread can between these lines.
        let Some(history) = history.filter(|history| history.rank().is_some()) else { return Settling::NotDue };
        let stamp = self.stamps.next();
        history.touch(stamp);
        self.stamps.settling(stamp)
    }

    fn prefetch(&self, handle: Handle) {
        prefetch_index(&self.histories, handle as usize);
    }

    fn update(&mut self, handle: Handle) {
        self.settle();
        // The next exclusive call settles what this one makes due.
        let _ = self.hit(handle);
    }

    fn remove(&mut self, handle: Handle) {
        self.settle();
        let history = self.histories.get_mut(handle as usize);
        if let Some(history) = history.filter(|history| history.rank().is_some()) {
            *history = H::default();
            self.len -= 1;
        }
    }

    fn evict(&mut self) -> Option<Handle> {
        self.settle();
        if self.is_empty() {
            // No pass over histories which are all empty.
            return None;
        }
        let handle = self.coldest.evict(&self.histories)?;
        self.remove(handle);
        Some(handle)
    }

    fn settle(&mut self) {
        if self.stamps.is_due() {
            self.renumber();
        }
    }

    fn rank(&self, handle: Handle) -> Option<usize> {
        let own = self.histories.get(handle as usize)?.rank()?;
        Some(self.histories.iter().filter_map(H::rank).filter(|&other| other < own).count())
    }

    fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
impl<H: History> Order<H> {
    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        self.coldest.check(&self.histories);
        assert_eq!(self.histories.iter().filter_map(H::rank).count(), self.len);
    }

    pub fn history(&mut self, handle: Handle) -> &mut H {
        &mut self.histories[handle as usize]
    }

    pub fn skip_to(&mut self, uses: u64) {
        self.stamps.skip_to(uses);
    }
}
