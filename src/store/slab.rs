//! The entries of a partition by handle: a handle is small, dense and used again, and stays with its entry wherever that moves.

use bytes::Bytes;
use prefetch_index::prefetch_index;

use super::arena::{Address, Arena};
use super::entry::{Content, Entry, Flags};
use super::packed::{self, Epochs, Packing};
use crate::policy::Handle;
use crate::record::{Timestamp, Version};

/// An entry that is not packed.
#[derive(Debug)]
pub(super) struct Large {
    key: Box<[u8]>,
    value: Bytes,
    version: Version,
    expires_at: Option<Timestamp>,
    flags: Flags,
}

impl Large {
    fn entry(&self) -> Entry<'_> {
        let Self { key, value, version, expires_at, flags } = self;
        let (version, expires_at, flags) = (*version, *expires_at, *flags);
        Entry { key, value: Content::Shared(value), version, expires_at, flags }
    }
}

/// Where an entry is: an address in the arena, or a place among the large ones, or nowhere. Four bytes a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u32);

#[derive(Debug, Clone, Copy)]
enum Where {
    Packed(Address),
    Large(usize),
}

impl Place {
    const NOWHERE: Self = Self(u32::MAX);
    const LARGE: u32 = 1 << 31;

    fn packed(address: Address) -> Self {
        Self(address.0)
    }

    fn large(nth: usize) -> Self {
        Self(nth as u32 | Self::LARGE) // fewer than handles, and those are below 2^31
    }

    fn find(self) -> Option<Where> {
        match self {
            Self::NOWHERE => None,
            Self(place) if place & Self::LARGE != 0 => Some(Where::Large((place & !Self::LARGE) as usize)),
            Self(place) => Some(Where::Packed(Address(place))),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Slab {
    places: Vec<Place>,
    free: Vec<Handle>,
    arena: Arena,
    epochs: Epochs,
    large: Vec<Option<Box<Large>>>,
    free_large: Vec<usize>,
}

impl Slab {
    pub fn insert(&mut self, entry: &Entry<'_>) -> Handle {
        let packing = Packing::of(entry, &mut self.epochs);
        let place = self.store(entry, packing);
        if let Some(handle) = self.free.pop() {
            self.set_place(handle, place);
            return handle;
        }
        self.places.push(place);
        (self.places.len() - 1) as Handle // the capacity of a partition is far below 2^31
    }

    pub fn get(&self, handle: Handle) -> Option<Entry<'_>> {
        match self.find(handle)? {
            Where::Packed(address) => packed::read(self.arena.get(address), &self.epochs),
            Where::Large(nth) => self.large.get(nth)?.as_deref().map(Large::entry),
        }
    }

    pub fn set_flags(&mut self, handle: Handle, flags: Flags) {
        match self.find(handle) {
            Some(Where::Packed(address)) => packed::set_flags(self.arena.get_mut(address), flags),
            Some(Where::Large(nth)) => {
                if let Some(Some(large)) = self.large.get_mut(nth) {
                    large.flags = flags;
                }
            }
            None => {}
        }
    }

    /// Puts another entry into a handle's place. Answers what is left of the old one, to be dropped outside the lock.
    pub fn replace(&mut self, handle: Handle, entry: &Entry<'_>) -> Option<Box<Large>> {
        let packing = Packing::of(entry, &mut self.epochs);
        if let (Some(Where::Packed(address)), Some(packing)) = (self.find(handle), &packing) {
            let block = self.arena.get_mut(address);
            if block.len() == packing.len {
                packing.write(entry, block);
                return None;
            }
        }
        let old = self.take(handle);
        let place = self.store(entry, packing);
        self.set_place(handle, place);
        old
    }

    /// As [`Slab::replace`], with nothing.
    pub fn remove(&mut self, handle: Handle) -> Option<Box<Large>> {
        if self.find(handle).is_some() {
            self.free.push(handle);
        }
        self.take(handle)
    }

    /// Moves entries together if too much between them is dead. `handle_of` finds the handle of a key for which a test of handles
    /// holds.
    ///
    /// # Panics
    /// If it does not find one: going on would lose data.
    pub fn tidy(&mut self, handle_of: impl Fn(&[u8], &dyn Fn(Handle) -> bool) -> Option<Handle>) {
        let (places, epochs) = (&mut self.places, &self.epochs);
        self.arena.clean(|block, from, to| {
            let is_it = |handle: Handle| places.get(handle as usize) == Some(&Place::packed(from));
            let handle = packed::read(block, epochs).and_then(|entry| handle_of(entry.key, &is_it));
            assert!(handle.is_some(), "a living block has no handle");
            if let Some(place) = handle.and_then(|handle| places.get_mut(handle as usize)) {
                *place = Place::packed(to);
            }
        });
    }

    /// Asks the processor for where an entry is.
    pub fn prefetch_place(&self, handle: Handle) {
        prefetch_index(&self.places, handle as usize);
    }

    /// Asks it for the entry, once that has come.
    pub fn prefetch_entry(&self, handle: Handle) {
        if let Some(Where::Packed(address)) = self.find(handle) {
            self.arena.prefetch(address);
        }
    }

    #[cfg(test)]
    pub fn used_bytes(&self) -> usize {
        self.arena.used_bytes()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// The entries of `len` handles from `start` on, and whether there are handles behind them.
    pub fn range(&self, start: usize, len: usize) -> (impl Iterator<Item = Entry<'_>>, bool) {
        let end = start.saturating_add(len).min(self.places.len());
        ((start..end).filter_map(|handle| self.get(handle as Handle)), end < self.places.len())
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, Entry<'_>)> {
        (0..self.places.len() as Handle).filter_map(|handle| Some((handle, self.get(handle)?)))
    }

    fn find(&self, handle: Handle) -> Option<Where> {
        self.places.get(handle as usize)?.find()
    }

    fn set_place(&mut self, handle: Handle, place: Place) {
        if let Some(known) = self.places.get_mut(handle as usize) {
            *known = place;
        }
    }

    fn store(&mut self, entry: &Entry<'_>, packing: Option<Packing>) -> Place {
        let packed = packing.and_then(|packing| Some((self.arena.allocate(packing.len)?, packing)));
        if let Some((address, packing)) = packed {
            packing.write(entry, self.arena.get_mut(address));
            return Place::packed(address);
        }
        let (key, value) = (entry.key.into(), Bytes::copy_from_slice(entry.value.as_bytes()));
        let Entry { version, expires_at, flags, .. } = *entry;
        let large = Some(Box::new(Large { key, value, version, expires_at, flags }));
        let nth = self.free_large.pop().unwrap_or(self.large.len());
        match self.large.get_mut(nth) {
            Some(place) => *place = large,
            None => self.large.push(large),
        }
        Place::large(nth)
    }

    fn take(&mut self, handle: Handle) -> Option<Box<Large>> {
        let found = self.find(handle)?;
        self.set_place(handle, Place::NOWHERE);
        match found {
            Where::Packed(address) => {
                self.arena.free(address);
                None
            }
            Where::Large(nth) => {
                self.free_large.push(nth);
                self.large.get_mut(nth)?.take()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::record::{Key, Record, Value};

    fn record(name: u32, value_len: usize, lsn: u64) -> Record {
        Record {
            key: Key::new(format!("key {name}")).unwrap(),
            value: Value::new(vec![lsn as u8; value_len]).unwrap(),
            version: Version::new(1, lsn),
            expires_at: lsn.is_multiple_of(3).then_some(Timestamp(lsn)),
        }
    }

    /// A slab, and what must be in it.
    #[derive(Default)]
    struct World {
        slab: Slab,
        records: BTreeMap<Handle, (Record, Flags)>,
        last_lsn: u64,
    }

    impl World {
        fn step(&mut self, name: u32, value_len: usize, is_removal: bool) {
            self.last_lsn += 1;
            let record = record(name, value_len, self.last_lsn);
            let flags = Flags { clean: self.last_lsn.is_multiple_of(2), ..Flags::default() };
            let known = self.records.iter().find(|(_, (known, _))| known.key == record.key).map(|(handle, _)| *handle);
            match known {
                Some(handle) if is_removal => {
                    self.slab.remove(handle);
                    self.records.remove(&handle);
                }
                Some(handle) => {
                    self.slab.replace(handle, &Entry::of(&record, flags));
                    self.records.insert(handle, (record, flags));
                }
                None => {
                    let handle = self.slab.insert(&Entry::of(&record, flags));
                    assert_eq!(self.records.insert(handle, (record, flags)), None, "the handle was in use");
                }
            }
            let records = &self.records;
            self.slab.tidy(|key, is_it| {
                let of_key = records.iter().filter(|(_, (record, _))| record.key.as_bytes() == key);
                of_key.map(|(handle, _)| *handle).find(|handle| is_it(*handle))
            });
        }

        fn check(&self) {
            assert_eq!(self.slab.len(), self.records.len());
            let seen = self.slab.iter().map(|(handle, entry)| {
                let (key, value) = (entry.key().unwrap(), entry.value().unwrap());
                let record = Record { key, value, version: entry.version, expires_at: entry.expires_at };
                (handle, (record, entry.flags))
            });
            assert_eq!(seen.collect::<BTreeMap<_, _>>(), self.records);
        }
    }

    #[test]
    fn flags_are_changed_in_place_wherever_the_entry_is() {
        for value_len in [100, 5_000] {
            let mut slab = Slab::default();
            let record = record(1, value_len, 3);
            let handle = slab.insert(&Entry::of(&record, Flags::default()));
            let flags = Flags { due: true, in_tier: true, ..Flags::default() };
            slab.set_flags(handle, flags);
            let entry = slab.get(handle).unwrap();
            assert_eq!((entry.flags, entry.expires_at, entry.value()), (flags, record.expires_at, Ok(record.value)));
        }
    }

    #[test]
    fn what_is_gone_is_nowhere_and_changes_nothing() {
        let mut slab = Slab::default();
        let handle = slab.insert(&Entry::of(&record(1, 10, 1), Flags::default()));
        slab.remove(handle);
        slab.remove(handle);
        slab.set_flags(handle, Flags::default());
        assert!(slab.get(handle).is_none() && slab.get(7).is_none());
        assert_eq!((slab.len(), slab.iter().count()), (0, 0));
    }

    #[test]
    fn a_short_value_over_a_long_one_leaves_the_long_one_to_be_dropped_elsewhere() {
        let mut slab = Slab::default();
        let handle = slab.insert(&Entry::of(&record(1, 5_000, 1), Flags::default()));
        let left = slab.replace(handle, &Entry::of(&record(1, 10, 2), Flags::default()));
        assert_eq!(left.map(|large| large.value.len()), Some(5_000));
        assert_eq!(slab.get(handle).unwrap().version, Version::new(1, 2));
    }

    proptest! {
        #[test]
        fn entries_keep_their_handles(
            steps in prop::collection::vec((0..60_u32, prop_oneof![0..1_100_usize, Just(100)], any::<bool>()), 0..1_500),
        ) {
            let mut world = World::default();
            for (name, value_len, is_removal) in steps {
                world.step(name, value_len, is_removal);
            }
            world.check();
        }
    }
}
