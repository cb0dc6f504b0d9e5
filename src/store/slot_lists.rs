//! The entries of each slot: chains that run through the handles.
//!
//! A chain is for a few slots, as a bucket of a hash table is for a few keys, and linked one way: whoever leaves it is looked for from
//! its head. A slot with so many entries that its chain would be long has chains of its own, by the hash of the key. So all that
//! costs five bytes a record, and a few steps, also if tags put all keys into one slot.

use hashbrown::HashMap;

use super::hash::KeyHash;
use crate::policy::Handle;
use crate::slots::{SLOTS, Slot};

/// The end of a chain.
const NIL: Handle = Handle::MAX;
/// A chain is about this long when the partition is full.
const CHAIN_LEN: usize = 8;
/// However few the entries are: a walk over all slots looks at each entry once for every slot of its chain.
const SHARED_MIN: usize = 1024;
/// A chain that gets longer is split.
const CHAIN_LEN_MAX: u32 = 64;

/// By which an entry is listed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed {
    pub slot: Slot,
    pub hash: KeyHash,
}

/// See the module.
#[derive(Debug)]
pub(super) struct SlotLists {
    /// Of the chains that slots share: as many as are needed for the capacity, and not more than [`SLOTS`].
    shared: Box<[Head]>,
    /// Of the slots that have chains of their own.
    crowded: HashMap<Slot, Own, foldhash::fast::RandomState>,
    /// What follows each handle.
    next: Vec<Handle>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    first: Handle,
    len: u32,
}

impl Head {
    const EMPTY: Self = Self { first: NIL, len: 0 };
}

/// The chains of one slot.
#[derive(Debug)]
struct Own {
    /// A power of two.
    heads: Box<[Head]>,
    len: usize,
}

impl SlotLists {
    /// For about so many entries.
    pub fn new(capacity: usize) -> Self {
        let heads = (capacity / CHAIN_LEN).next_power_of_two().clamp(SHARED_MIN, usize::from(SLOTS));
        Self { shared: vec![Head::EMPTY; heads].into(), crowded: HashMap::default(), next: Vec::new() }
    }

    /// `listed` tells by what another entry of the same chain is listed.
    pub fn link(&mut self, handle: Handle, by: Listed, listed: impl Fn(Handle) -> Option<Listed>) {
        if self.next.len() <= handle as usize {
            self.next.resize(handle as usize + 1, NIL);
        }
        if self.push(handle, by) > CHAIN_LEN_MAX {
            self.split(by.slot, listed);
        }
    }

    pub fn unlink(&mut self, handle: Handle, by: Listed) {
        let Some(&Head { first, len }) = self.head(by) else { return };
        let (mut before, mut at) = (NIL, first);
        while at != handle && at != NIL {
            (before, at) = (at, self.next(at));
        }
        assert_eq!(at, handle, "an entry is not in the chain of its slot");
        let behind = self.next(handle);
        let first = if before == NIL { behind } else { first };
        self.set_next(before, behind);
        self.set_head(by, Head { first, len: len - 1 });
        if let Some(own) = self.crowded.get_mut(&by.slot) {
            own.len -= 1;
            if own.len == 0 {
                self.crowded.remove(&by.slot);
            }
        }
    }

    /// The handles that may be of a slot: others share its chain.
    pub fn candidates(&self, slot: Slot) -> impl Iterator<Item = Handle> + '_ {
        let shared = self.shared.get(self.group(slot)).map_or(&[][..], std::slice::from_ref);
        let heads = self.crowded.get(&slot).map_or(shared, |own| &own.heads);
        heads.iter().flat_map(|head| self.chain(head.first))
    }

    /// Puts a handle first in its chain; answers how long that is then.
    fn push(&mut self, handle: Handle, by: Listed) -> u32 {
        let Some(&Head { first, len }) = self.head(by) else { return 0 };
        self.set_next(handle, first);
        self.set_head(by, Head { first: handle, len: len + 1 });
        if let Some(own) = self.crowded.get_mut(&by.slot) {
            own.len += 1;
        }
        len + 1
    }

    /// Gives the slot that has the most of a long chain chains of its own, or more of them.
    fn split(&mut self, slot: Slot, listed: impl Fn(Handle) -> Option<Listed>) {
        let entries: Vec<(Handle, Listed)> =
            self.candidates(slot).filter_map(|handle| Some((handle, listed(handle)?))).collect();
        let mut counts: HashMap<Slot, usize, foldhash::fast::RandomState> = HashMap::default();
        entries.iter().for_each(|(_, by)| *counts.entry(by.slot).or_default() += 1);
        let Some((slot, count)) = counts.into_iter().max_by_key(|&(slot, count)| (count, slot)) else { return };
        let group = self.group(slot);
        let heads = match self.crowded.remove(&slot) {
            Some(own) => 2 * own.heads.len(),
            None => {
                self.shared.get_mut(group).into_iter().for_each(|head| *head = Head::EMPTY);
                1
            }
        };
        let heads = heads.max((count / CHAIN_LEN).next_power_of_two());
        self.crowded.insert(slot, Own { heads: vec![Head::EMPTY; heads].into(), len: 0 });
        for (handle, by) in entries {
            self.push(handle, by);
        }
    }

    fn chain(&self, first: Handle) -> impl Iterator<Item = Handle> + '_ {
        let some = |handle: Handle| (handle != NIL).then_some(handle);
        std::iter::successors(some(first), move |&handle| some(self.next(handle)))
    }

    fn group(&self, slot: Slot) -> usize {
        slot.index() % self.shared.len()
    }

    fn head(&self, by: Listed) -> Option<&Head> {
        match self.crowded.get(&by.slot) {
            Some(own) => own.heads.get(nth(by.hash, own.heads.len())),
            None => self.shared.get(self.group(by.slot)),
        }
    }

    fn set_head(&mut self, by: Listed, head: Head) {
        let group = self.group(by.slot);
        let place = match self.crowded.get_mut(&by.slot) {
            Some(own) => own.heads.get_mut(nth(by.hash, own.heads.len())),
            None => self.shared.get_mut(group),
        };
        place.into_iter().for_each(|place| *place = head);
    }

    fn next(&self, handle: Handle) -> Handle {
        self.next.get(handle as usize).copied().unwrap_or(NIL)
    }

    /// Nothing precedes the first of a chain, [`NIL`], and nothing is noted for it.
    fn set_next(&mut self, handle: Handle, next: Handle) {
        if let Some(place) = self.next.get_mut(handle as usize) {
            *place = next;
        }
    }
}

/// Which of a slot's own chains, a power of two.
fn nth(hash: KeyHash, chains: usize) -> usize {
    hash.fingerprint() as usize & (chains - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::store::hash::Hasher;

    /// Lists, and what must be in them.
    struct World {
        lists: SlotLists,
        entries: BTreeMap<Handle, Listed>,
    }

    impl World {
        fn new(capacity: usize) -> Self {
            Self { lists: SlotLists::new(capacity), entries: BTreeMap::new() }
        }

        fn link(&mut self, handle: Handle, slot: u16) {
            let hash = Hasher::with_seed(7).hash(&handle.to_le_bytes());
            let by = Listed { slot: Slot::try_from(slot).unwrap(), hash };
            self.entries.insert(handle, by);
            self.lists.link(handle, by, |other| self.entries.get(&other).copied());
        }

        fn unlink(&mut self, handle: Handle) {
            let by = self.entries.remove(&handle).unwrap();
            self.lists.unlink(handle, by);
        }

        fn of_slot(&self, slot: Slot) -> Vec<Handle> {
            let mut handles: Vec<Handle> =
                self.lists.candidates(slot).filter(|handle| self.entries[handle].slot == slot).collect();
            handles.sort_unstable();
            handles
        }

        fn check(&self) {
            for slot in Slot::all().step_by(SHARED_MIN / 2).chain(Slot::all().take(16)) {
                let of_slot = self.entries.iter().filter(|(_, by)| by.slot == slot).map(|(handle, _)| *handle);
                assert_eq!(self.of_slot(slot), of_slot.collect::<Vec<_>>());
            }
        }

        fn longest_chain(&self) -> usize {
            let heads = self.lists.shared.iter().chain(self.lists.crowded.values().flat_map(|own| &own.heads));
            let lengths = heads.map(|head| {
                let len = self.lists.chain(head.first).count();
                assert_eq!(len, head.len as usize);
                len
            });
            lengths.max().unwrap()
        }
    }

    #[test]
    fn a_slot_that_has_all_entries_has_short_chains_and_keeps_none_when_they_are_gone() {
        let mut world = World::new(100);
        for handle in 0..50_000 {
            world.link(handle, 5);
            if handle % 5_000 == 0 {
                assert!(world.longest_chain() <= CHAIN_LEN_MAX as usize);
            }
        }
        let own = world.lists.crowded.values().next().unwrap();
        assert_eq!(own.len, 50_000);
        assert!(own.heads.len() <= 50_000 / CHAIN_LEN, "{}", own.heads.len());
        assert_eq!(world.of_slot(Slot::try_from(5).unwrap()).len(), 50_000);
        (0..50_000).for_each(|handle| world.unlink(handle));
        assert!(world.lists.crowded.is_empty());
    }

    #[test]
    fn slots_that_share_a_long_chain_are_told_apart() {
        let mut world = World::new(0);
        (0..1_000).for_each(|handle| world.link(handle, handle as u16 % 10 * SHARED_MIN as u16));
        assert!(world.longest_chain() <= CHAIN_LEN_MAX as usize, "{}", world.longest_chain());
        assert!(world.lists.crowded.len() > 5);
        world.check();
    }

    proptest! {
        #[test]
        fn every_entry_is_found_by_its_slot(steps in prop::collection::vec((0..200_u32, 0..6_u16), 0..1_000)) {
            let mut world = World::new(8);
            for (handle, slot) in steps {
                match world.entries.contains_key(&handle) {
                    true => world.unlink(handle),
                    false => world.link(handle, slot * (SHARED_MIN / 2) as u16), // every other shares a chain
                }
            }
            world.check();
        }
    }
}
