//! One record or tombstone in memory, and the slab it lives in.

use bytes::Bytes;
use prefetch_index::prefetch_index;

use crate::command::Effect;
use crate::policy::Handle;
use crate::record::{Key, LimitError, Record, Timestamp, Value, Version};
use crate::slots::Slot;

/// What an entry costs beside its key and value: itself, its place in table, policy and slot list, and the allocator's
/// share. Measured as resident memory over 0.4 to 2 million records of 116 bytes that were read once: 124 to 196 (LRU), 138 to
/// 222 (LFU), the more the later the tables of all partitions have doubled; 37 more with an expiry. This is the middle of that.
pub(super) const OVERHEAD_BYTES: usize = 176;

/// No entry: the end of a slot list.
pub(super) const NIL: Handle = Handle::MAX;

/// A record, or the tombstone of a deleted one.
#[derive(Debug)]
pub(super) struct Entry {
    payload: Payload,
    key_len: u16,
    pub slot: Slot,
    pub version: Version,
    /// Milliseconds; [`NEVER`] if it lives for ever.
    expires_at: u64,
    /// Neighbours in the list of the slot's entries.
    pub previous: Handle,
    pub next: Handle,
    pub flags: Flags,
}

const NEVER: u64 = u64::MAX;
/// Of the processor's cache.
const LINE_BYTES: usize = 64;

/// The key, then the value: one allocation.
#[derive(Debug)]
pub(super) enum Payload {
    /// Whoever reads it gets a copy: cheaper than to count a reference, which would take memory and a cache line of its own.
    Copied(Box<[u8]>),
    /// Whoever reads it shares it.
    Shared(Box<Bytes>),
}

/// Longer payloads are shared.
const COPIED_BYTES_MAX: usize = 1024;

impl Payload {
    fn pack(key: &[u8], value: &[u8]) -> Self {
        let mut payload = Vec::with_capacity(key.len() + value.len());
        payload.extend_from_slice(key);
        payload.extend_from_slice(value);
        if payload.len() <= COPIED_BYTES_MAX {
            Self::Copied(payload.into())
        } else {
            Self::Shared(Box::new(payload.into()))
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    fn from(&self, start: usize) -> Bytes {
        match self {
            Self::Copied(bytes) => Bytes::copy_from_slice(bytes.get(start..).unwrap_or_default()),
            Self::Shared(bytes) => bytes.slice(start..),
        }
    }
}

/// What the tier knows of an entry, and what will become of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flags {
    /// Deleted; the row, if there is one, is still to go.
    pub tombstone: bool,
    /// The tier has confirmed this version or a newer one (R13).
    pub clean: bool,
    /// Not in the policy any more: gone as soon as it is clean.
    pub leaving: bool,
    /// To be written into the tier although it stays, so that the journal can forget it.
    pub due: bool,
    /// In the spill queue.
    pub queued: bool,
    /// A flush of this key is under way, of this version or an older one (R11).
    pub flushing: bool,
    /// The key may have a row: its fingerprint is in the filter.
    pub in_tier: bool,
}

impl Entry {
    pub fn new(record: &Record, slot: Slot, flags: Flags) -> Self {
        let payload = Payload::pack(record.key.as_bytes(), record.value.as_bytes());
        let mut entry = Self::bare(&record.key, payload, record.version, slot, flags);
        entry.expire(record.expires_at);
        entry
    }

    pub fn tombstone(key: &Key, version: Version, slot: Slot, flags: Flags) -> Self {
        let payload = Payload::pack(key.as_bytes(), &[]);
        Self::bare(key, payload, version, slot, Flags { tombstone: true, ..flags })
    }

    fn bare(key: &Key, payload: Payload, version: Version, slot: Slot, flags: Flags) -> Self {
        let key_len = key.as_bytes().len() as u16; // a key has at most 1,024 bytes
        Self { payload, key_len, slot, version, expires_at: NEVER, previous: NIL, next: NIL, flags }
    }

    /// Puts another value (or, with `None`, a tombstone) in place of this one; answers the old payload, to be dropped
    /// outside the lock.
    pub fn replace(&mut self, value: Option<&Value>, version: Version, expires_at: Option<Timestamp>) -> Payload {
        let payload = Payload::pack(self.key_bytes(), value.map_or(&[], Value::as_bytes));
        self.version = version;
        self.expire(expires_at);
        self.flags.tombstone = value.is_none();
        self.flags.clean = false;
        std::mem::replace(&mut self.payload, payload)
    }

    pub fn into_payload(self) -> Payload {
        self.payload
    }

    pub fn key_bytes(&self) -> &[u8] {
        self.payload.as_bytes().get(..usize::from(self.key_len)).unwrap_or_default()
    }

    /// Asks the processor for the payload: for as much of it as it does not fetch by itself once the first is read.
    pub fn prefetch_payload(&self) {
        let payload = self.payload.as_bytes();
        prefetch_index(payload, 0);
        prefetch_index(payload, LINE_BYTES);
    }

    pub fn value_len(&self) -> usize {
        self.payload.as_bytes().len() - usize::from(self.key_len)
    }

    /// # Errors
    /// Never: what was packed had been checked. The constructors can't know that.
    pub fn key(&self) -> Result<Key, LimitError> {
        Key::copy_from(self.key_bytes())
    }

    /// # Errors
    /// Never, as [`Entry::key`].
    pub fn value(&self) -> Result<Value, LimitError> {
        Value::new(self.payload.from(usize::from(self.key_len)))
    }

    /// What the tier has to be told of this entry.
    pub fn effect(&self) -> Result<Effect, LimitError> {
        let (key, version) = (self.key()?, self.version);
        if self.flags.tombstone {
            return Ok(Effect::Delete { key, version });
        }
        Ok(Effect::Set(Record { key, value: self.value()?, version, expires_at: self.expires_at() }))
    }

    /// What the entry costs of the memory budget.
    pub fn cost_bytes(&self) -> usize {
        self.payload.as_bytes().len() + OVERHEAD_BYTES
    }

    pub fn expires_at(&self) -> Option<Timestamp> {
        (self.expires_at != NEVER).then_some(Timestamp(self.expires_at))
    }

    fn expire(&mut self, at: Option<Timestamp>) {
        self.expires_at = at.map_or(NEVER, |Timestamp(at)| at);
    }

    /// In the policy, and so counted against the capacity.
    pub fn is_resident(&self) -> bool {
        !self.flags.tombstone && !self.flags.leaving
    }

    pub fn is_unspilled(&self) -> bool {
        !self.flags.clean
    }
}

/// Entries by handle; freed handles are used again.
#[derive(Debug, Default)]
pub(super) struct Slab {
    entries: Vec<Option<Entry>>,
    free: Vec<Handle>,
}

impl Slab {
    pub fn insert(&mut self, entry: Entry) -> Handle {
        if let Some(handle) = self.free.pop()
            && let Some(place) = self.entries.get_mut(handle as usize)
        {
            debug_assert!(place.is_none(), "a free handle is in use");
            *place = Some(entry);
            return handle;
        }
        self.entries.push(Some(entry));
        (self.entries.len() - 1) as Handle // the capacity of a partition is far below 2^32
    }

    pub fn get(&self, handle: Handle) -> Option<&Entry> {
        self.entries.get(handle as usize)?.as_ref()
    }

    /// Asks the processor for an entry, which may lie across two lines.
    pub fn prefetch(&self, handle: Handle) {
        prefetch_index(&self.entries, handle as usize);
        prefetch_index(&self.entries, handle as usize + 1);
    }

    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut Entry> {
        self.entries.get_mut(handle as usize)?.as_mut()
    }

    pub fn remove(&mut self, handle: Handle) -> Option<Entry> {
        let entry = self.entries.get_mut(handle as usize)?.take()?;
        self.free.push(handle);
        Some(entry)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The entries of `len` places from `start` on, and whether there are places behind them.
    pub fn range(&self, start: usize, len: usize) -> (impl Iterator<Item = &Entry>, bool) {
        let end = start.saturating_add(len).min(self.entries.len());
        let places = self.entries.get(start..end).unwrap_or_default();
        (places.iter().flatten(), end < self.entries.len())
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, &Entry)> {
        self.entries.iter().enumerate().filter_map(|(i, entry)| Some((i as Handle, entry.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_cache_line() {
        assert_eq!(size_of::<Option<Entry>>(), 64);
    }
}
