//! One record or tombstone in memory, and what is known of it.

use bytes::Bytes;

use super::packed::is_long;
use crate::command::Effect;
use crate::record::{Key, LimitError, Record, Timestamp, Value, Version};

/// What an entry costs beside its key and value: its head, its place in slab, index, policy and slot list, and its share of what is
/// free or dead between the living. Measured as resident memory over 0.4 to 2 million records of 116 bytes: 32 to 45 (LRU), 40 at
/// a million (LFU), and up to 16 more when an eighth is dead; see `docs/adr/0011`.
const OVERHEAD_BYTES: usize = 56;
/// What an expiry costs: eight bytes in the entry, and a place in the order of expiries, whose nodes are half full where
/// deadlines come in order.
pub(super) const EXPIRY_OVERHEAD_BYTES: usize = 40;
/// What an entry costs more that is too long to be packed: allocations of its own, which are rounded up to sizes a quarter apart, and
/// so by an eighth in the middle. Measured: 280 bytes for 1,116 of key and value, 149 for 1,516.
const LONG_BYTES: usize = 96;
const ROUNDING_BYTES_MAX: usize = 32 * 1024;

/// What an entry with so many bytes of key and value costs at most.
pub(super) const fn cost_bytes_max(payload_bytes: usize) -> usize {
    // All of it may be key.
    payload_bytes + OVERHEAD_BYTES + EXPIRY_OVERHEAD_BYTES + long_bytes(payload_bytes, payload_bytes)
}

const fn long_bytes(key_bytes: usize, payload_bytes: usize) -> usize {
    let eighth = payload_bytes / 8;
    let rounding_bytes = if eighth < ROUNDING_BYTES_MAX { eighth } else { ROUNDING_BYTES_MAX };
    if is_long(key_bytes, payload_bytes) { LONG_BYTES + rounding_bytes } else { 0 }
}

/// A record, or the tombstone of a deleted one, as it lies in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub key: &'a [u8],
    pub value: Content<'a>,
    pub version: Version,
    pub expires_at: Option<Timestamp>,
    pub flags: Flags,
}

/// A value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    /// Whoever reads it gets a copy: cheaper than to count a reference, which would take memory and a cache line of its own.
    Copied(&'a [u8]),
    /// Whoever reads it shares it.
    Shared(&'a Bytes),
}

impl<'a> Content<'a> {
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// What the tier knows of an entry, and what will become of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

impl<'a> Entry<'a> {
    pub fn of(record: &'a Record, flags: Flags) -> Self {
        let value = Content::Copied(record.value.as_bytes());
        let (key, version, expires_at) = (record.key.as_bytes(), record.version, record.expires_at);
        Self { key, value, version, expires_at, flags }
    }

    pub fn tombstone(key: &'a Key, version: Version, flags: Flags) -> Self {
        let flags = Flags { tombstone: true, ..flags };
        Self { key: key.as_bytes(), value: Content::Copied(&[]), version, expires_at: None, flags }
    }

    pub fn value_len(&self) -> usize {
        self.value.as_bytes().len()
    }

    /// # Errors
    /// Never: what was packed had been checked. The constructors can't know that.
    pub fn key(&self) -> Result<Key, LimitError> {
        Key::copy_from(self.key)
    }

    /// # Errors
    /// Never, as [`Entry::key`].
    pub fn value(&self) -> Result<Value, LimitError> {
        Value::new(match self.value {
            Content::Copied(bytes) => Bytes::copy_from_slice(bytes),
            Content::Shared(bytes) => bytes.clone(),
        })
    }

    /// What the tier has to be told of this entry.
    pub fn effect(&self) -> Result<Effect, LimitError> {
        let (key, version) = (self.key()?, self.version);
        if self.flags.tombstone {
            return Ok(Effect::Delete { key, version });
        }
        Ok(Effect::Set(Record { key, value: self.value()?, version, expires_at: self.expires_at }))
    }

    /// What the entry costs of the memory budget.
    pub fn cost_bytes(&self) -> usize {
        let payload_bytes = self.key.len() + self.value_len();
        let expiry_bytes = if self.expires_at.is_some() { EXPIRY_OVERHEAD_BYTES } else { 0 };
        payload_bytes + OVERHEAD_BYTES + expiry_bytes + long_bytes(self.key.len(), payload_bytes)
    }

    /// In the policy, and so counted against the capacity.
    pub fn is_resident(&self) -> bool {
        !self.flags.tombstone && !self.flags.leaving
    }

    pub fn is_unspilled(&self) -> bool {
        !self.flags.clean
    }
}
