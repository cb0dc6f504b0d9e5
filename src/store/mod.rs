//! The table in memory: records, what the tier knows of them, eviction, expiry and fill tokens.
//!
//! Synchronous and free of I/O: the store decides what leaves memory and *hands out* what has to be written; its owner
//! writes it and reports back. It must not know who asks, nor how the tier works.
//!
//! **Invariant (R13):** a key that is absent from memory has its newest applied version, or a newer one, in the tier, or does
//! not exist. **Invariant (R2):** only committed effects are applied.
//!
//! Lock order: whoever holds a partition waits for no other. Only [`Store::hints`] holds several, shared, and gets them without
//! waiting. Under a partition's lock there is no I/O, no logging and no drop of a value.

mod arena;
mod budget;
mod entry;
mod fills;
mod filter;
mod hash;
mod index;
#[cfg(test)]
#[cfg(feature = "shuttle")]
mod interleavings;
mod packed;
mod partition;
mod slab;
mod slot_lists;
mod spill_queue;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::command::{Effect, Found, Place};
use crate::policy::{Handle, PolicyKind, Settling};
use crate::record::{KEY_BYTES_MAX, Key, Record, Timestamp, VALUE_BYTES_MAX, Version};
use crate::slots::{Slot, SlotSet};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub use budget::Admission;
use budget::Budget;
use entry::cost_bytes_max;
pub use fills::{FillId, Ticket};
pub use filter::ScanId;
use hash::{Hasher, KeyHash};
use partition::{Limits, Partition};

/// Fewer records than this a partition, and the store has only one: then its eviction order is exactly the policy's.
const PARTITION_RECORDS_MIN: usize = 8192;
/// A partition holds several of the largest values, so that one of them can't empty it.
const PARTITION_BYTES_MIN: usize = 8 * VALUE_BYTES_MAX;
const PARTITIONS_MAX: usize = 64;
/// The smallest memory bound: one of the largest records on its way in and some on their way out.
pub const MEMORY_BYTES_MIN: usize = 4 * cost_bytes_max(VALUE_BYTES_MAX + KEY_BYTES_MAX);
/// Evicted records that wait for the tier, beyond the capacity: enough to keep flushes of 1,000 rows going.
const BACKLOG_RECORDS_MIN: usize = 8000;

/// How many keys are fetched ahead of their use: their lines fit the fastest cache.
pub const PREFETCHED: usize = 32;
/// For fewer it does not pay.
const PREFETCHED_MIN: usize = 4;

/// How many entries a step of a walk looks at, under one lock.
const WALK_ENTRIES: usize = 4096;

/// How large a store may grow, and what becomes of what it evicts.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Live records in memory, at least 1.
    pub capacity: usize,
    /// All bytes in memory, at least [`MEMORY_BYTES_MIN`]: records, tombstones, and what waits for the tier.
    pub memory_bytes_max: usize,
    pub policy: PolicyKind,
    pub spill: Spill,
    /// Seeds the hash of the keys.
    pub seed: u64,
}

/// What is handed out to be written into the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spill {
    /// Nothing: a pure cache. What is evicted is gone.
    Nothing,
    /// What is evicted or deleted.
    Evicted,
    /// Every change, as soon as possible.
    Everything,
}

/// Where a key is to be looked for. It stays right whatever becomes of the key.
#[derive(Debug, Clone, Copy)]
pub struct Hint {
    hash: KeyHash,
    /// What was most likely its entry when somebody looked.
    likely: Option<Handle>,
}

/// Of the first of some keys, in their order.
pub type Hints = SmallVec<[Option<Hint>; PREFETCHED]>;

/// What memory knows of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    Known(Known),
    /// Only the tier can tell.
    Unknown,
}

/// What a key is, for certain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// `None`: the key does not exist; it was deleted, has expired, or was never there.
    pub found: Option<Found>,
    /// The version behind this, if the tier does not have it yet.
    pub unspilled: Option<Version>,
}

/// What became of a request to load a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Fill {
    /// No need to: memory knows.
    Known(Known),
    /// The caller loads the key and then calls [`Store::complete_fill`].
    Started(FillId),
    /// Somebody else is loading the key already.
    Joined,
}

/// Memory's side of an explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub place: Place,
    pub version: Version,
    pub expires_at: Option<Timestamp>,
    pub value_bytes: u64,
    pub rank: Option<u64>,
}

/// Figures of a store now, except where they say "since start".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub live: u64,
    pub leaving: u64,
    pub unspilled: u64,
    pub bytes_unspilled: u64,
    /// On their way to the tier: queued, or in a flush.
    pub spilling: u64,
    pub tombstones: u64,
    pub tier_records: u64,
    pub filter_is_complete: bool,
    pub records_bound: u64,
    pub bytes: u64,
    pub bytes_max: u64,
    /// Since start.
    pub evicted: u64,
    /// Since start: evicted with no tier to go to.
    pub dropped: u64,
    /// Live keys that have no row, and keys with a row that are deleted: what [`Store::count`] adds and takes away.
    memory_only: u64,
    tombstones_in_tier: u64,
}

/// Where a walk over all entries goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walk {
    partition: usize,
    entry: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    partitions: Box<[RwLock<Partition>]>,
    hasher: Hasher,
    budget: Arc<Budget>,
    /// Where the next batch to spill is taken first, so that no partition starves.
    next_spill: AtomicUsize,
    last_scan: AtomicU64,
}

impl Store {
    pub fn new(options: &StoreOptions) -> Self {
        let backlog_records = (options.capacity / 8).max(BACKLOG_RECORDS_MIN);
        let backlog_bytes = options.memory_bytes_max / 4;
        let count = partition_count(options);
        let hasher = Hasher::with_seed(options.seed);
        let budget = Budget::new(options.capacity.saturating_add(backlog_records), options.memory_bytes_max);
        let partition = |i: usize| {
            let limits = Limits {
                records_max: options.capacity / count + usize::from(i < options.capacity % count),
                bytes_max: (options.memory_bytes_max - backlog_bytes) / count,
                spill: options.spill,
            };
            RwLock::new(Partition::new(options.policy, limits, hasher, Arc::clone(&budget)))
        };
        let partitions = (0..count).map(partition).collect();
        Self { partitions, hasher, budget, next_spill: AtomicUsize::new(0), last_scan: AtomicU64::new(0) }
    }

    /// What memory knows of a key, as a read that the policy takes note of. Takes a read lock only, but for once in two
    /// billion reads. `hint`: of this key.
    #[inline]
    pub fn get(&self, key: &Key, hint: Hint, now: Timestamp) -> Lookup {
        debug_assert_eq!(hint.hash, self.hash(key), "the hint is for another key");
        let partition = self.partition(hint.hash);
        let (lookup, settling) = partition.read().get(key, hint, now);
        if settling == Settling::Due {
            partition.write().policy.settle();
        }
        lookup
    }

    /// Where a key is to be looked for.
    pub fn hint(&self, key: &Key) -> Hint {
        Hint { hash: self.hash(key), likely: None }
    }

    /// Puts into `hints` where the first of some keys are to be looked for, if they are so many that it pays to look for all. Has the
    /// processor fetch what memory holds of them, so that the waits for one overlap with those for the others.
    pub fn look_ahead<'a>(&self, keys: impl ExactSizeIterator<Item = Option<&'a Key>>, hints: &mut Hints) {
        hints.clear();
        if keys.len() < PREFETCHED_MIN {
            return;
        }
        hints.extend(keys.take(PREFETCHED).map(|key| key.map(|key| self.hint(key))));
        let partition_of = |hint: &Option<Hint>| {
            let Hint { hash, .. } = (*hint)?;
            let partition = self.partition(hash).try_read()?; // the keys of one that is being written go without
            partition.index.prefetch(hash);
            Some(partition)
        };
        let partitions: SmallVec<[_; PREFETCHED]> = hints.iter().map(partition_of).collect();
        for (hint, partition) in hints.iter_mut().zip(&partitions) {
            if let (Some(hint), Some(partition)) = (hint, partition) {
                hint.likely = partition.prefetch_likely(hint.hash);
            }
        }
        for (hint, partition) in hints.iter().zip(&partitions) {
            if let (Some(Hint { likely: Some(handle), .. }), Some(partition)) = (hint, partition) {
                partition.slab.prefetch_entry(*handle);
            }
        }
    }

    /// What memory knows of a key, without the policy taking note.
    pub fn peek(&self, key: &Key, now: Timestamp) -> Lookup {
        let hash = self.hash(key);
        self.partition(hash).read().peek(key, hash, now)
    }

    /// Room for a record or tombstone with `payload_bytes` of key and value; `None` if memory is full now (R15).
    pub fn admit(&self, payload_bytes: usize) -> Option<Admission> {
        self.budget.admit(payload_bytes)
    }

    /// Makes a committed effect visible, evicts what no longer fits, and poisons a load of the key in flight (R12). An effect
    /// that is not newer than what memory has changes nothing. Returns whether there is something to spill.
    pub fn apply(&self, effect: &Effect, admission: Admission) -> bool {
        let hash = self.hash(effect.key());
        let mut garbage = Vec::new();
        let mut partition = self.partition(hash).write();
        partition.apply(effect, hash, admission, &mut garbage);
        partition.has_spill()
        // The guard goes before the garbage: declared later, dropped earlier.
    }

    /// Takes in an effect that was committed in an earlier life, whether or not there is room: it was admitted then.
    pub fn restore(&self, effect: &Effect) {
        self.apply(effect, self.admit_anyway(effect.size_bytes()));
    }

    /// Room for what was admitted in an earlier life, even where there is none.
    pub fn admit_anyway(&self, payload_bytes: usize) -> Admission {
        self.budget.admit_anyway(payload_bytes)
    }

    /// What the tier does not have yet among the next entries of memory, and where to go on; `None` at the end. What changes
    /// meanwhile is seen as it was before or after, or twice.
    pub fn unspilled(&self, walk: Walk) -> (Vec<Effect>, Option<Walk>) {
        let Some(partition) = self.partitions.get(walk.partition) else { return (Vec::new(), None) };
        let (effects, more) = partition.read().unspilled(walk.entry, WALK_ENTRIES);
        let next = if more {
            Walk { entry: walk.entry + WALK_ENTRIES, ..walk }
        } else {
            Walk { partition: walk.partition + 1, entry: 0 }
        };
        (effects, (next.partition < self.partitions.len()).then_some(next))
    }

    /// Hands out everything that the tier does not have yet, also what stays in memory.
    pub fn hand_out_unspilled(&self) {
        self.partitions.iter().for_each(|partition| partition.write().hand_out_unspilled());
    }

    /// Asks to load a key that memory does not know. `ticket` is answered by whoever completes the load.
    pub fn begin_fill(&self, key: &Key, ticket: Ticket, now: Timestamp) -> Fill {
        let hash = self.hash(key);
        self.partition(hash).write().begin_fill(key, hash, ticket, now)
    }

    /// A load has ended, with the key's row if there is one. Memory keeps it unless the key was written meanwhile (R12), it
    /// is expired, or memory is full. Returns the tickets to answer with the row.
    pub fn complete_fill(&self, key: &Key, id: FillId, row: Option<&Record>, now: Timestamp) -> Vec<Ticket> {
        let hash = self.hash(key);
        let row = row.filter(|row| !row.is_expired(now));
        let admission = row.and_then(|row| self.budget.admit(row.key.as_bytes().len() + row.value.as_bytes().len()));
        let mut garbage = Vec::new();
        let mut partition = self.partition(hash).write();
        partition.complete_fill(key, hash, id, row, admission, &mut garbage)
    }

    /// A load has failed. Returns the tickets to answer with its error.
    pub fn fail_fill(&self, key: &Key, id: FillId) -> Vec<Ticket> {
        self.partition(self.hash(key)).write().end_fill(key, id).1
    }

    /// Asks to be told when the tier has `version` of a key or a newer one. `false` if it already has: then `ticket` is
    /// never answered.
    pub fn await_clean(&self, key: &Key, version: Version, ticket: Ticket) -> bool {
        let hash = self.hash(key);
        self.partition(hash).write().await_clean(key, hash, version, ticket)
    }

    /// Drops every entry of some slots, whether the tier has it or not. For what was vacated and set aside: somebody else looks
    /// after it now.
    pub fn forget(&self, slots: &SlotSet) {
        for partition in &self.partitions {
            let mut garbage = Vec::new();
            partition.write().forget(slots, &mut garbage);
        }
    }

    /// Whether something waits to be spilled.
    pub fn has_spill(&self) -> bool {
        self.partitions.iter().any(|partition| partition.read().has_spill())
    }

    /// How many entries wait to be spilled, at most: some may have been written again, and stay.
    pub fn spill_len(&self) -> usize {
        self.partitions.iter().map(|partition| partition.read().spill_len()).sum()
    }

    /// Whoever holds this ticket has given up: it will not be answered.
    pub fn stop_awaiting(&self, key: &Key, ticket: Ticket) {
        self.partition(self.hash(key)).write().stop_awaiting(key, ticket);
    }

    /// What is to be written into the tier next, coldest first: at most `rows_max` effects and about `bytes_max` bytes, each
    /// key once. The caller reports back with [`Store::confirm`], [`Store::unflushed`] or [`Store::set_aside`].
    pub fn take_spill(&self, rows_max: usize, bytes_max: usize) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut bytes = 0;
        // Relaxed: only a starting point.
        let start = self.next_spill.fetch_add(1, Ordering::Relaxed);
        for i in 0..self.partitions.len() {
            let Some(partition) = self.partitions.get((start + i) % self.partitions.len()) else { continue };
            if partition.read().has_spill() {
                partition.write().take_spill(&mut effects, rows_max, &mut bytes, bytes_max);
            }
            if effects.len() >= rows_max || bytes >= bytes_max {
                break;
            }
        }
        effects
    }

    /// The tier has these effects: what waited to leave leaves. Returns the tickets of those who waited for it.
    pub fn confirm(&self, effects: &[Effect]) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        let mut garbage = Vec::new();
        for effect in effects {
            let hash = self.hash(effect.key());
            self.partition(hash).write().confirm(effect, hash, &mut tickets, &mut garbage);
        }
        tickets
    }

    /// The tier does not have these effects, or nobody knows: they are handed out again, first.
    pub fn unflushed(&self, effects: &[Effect]) {
        for effect in effects.iter().rev() {
            let hash = self.hash(effect.key());
            self.partition(hash).write().unflushed(effect.key(), hash, true);
        }
    }

    /// The tier will not take this effect: it stays in memory and is not handed out until [`Store::hand_out_again`].
    pub fn set_aside(&self, effect: &Effect) {
        let hash = self.hash(effect.key());
        self.partition(hash).write().unflushed(effect.key(), hash, false);
    }

    /// Another try for a key that was set aside. Returns whether there was still something to spill.
    pub fn hand_out_again(&self, key: &Key) -> bool {
        let hash = self.hash(key);
        self.partition(hash).write().hand_out_again(key, hash)
    }

    /// Sends every entry of some slots out of memory: the clean ones at once, the others as soon as the tier has them. A pure
    /// cache drops them. Loads in flight keep nothing, as the rows may become somebody else's (R12). The caller makes sure
    /// that nothing is written to these slots any more, and that no load is begun.
    pub fn vacate(&self, slots: &SlotSet) {
        for partition in &self.partitions {
            let mut garbage = Vec::new();
            partition.write().vacate(slots, &mut garbage);
        }
    }

    /// Entries of some slots in memory, tombstones too.
    pub fn entries_in(&self, slots: &SlotSet) -> usize {
        self.partitions.iter().map(|partition| partition.read().entries_in(slots)).sum()
    }

    /// Of the entries of some slots, those that are queued for the tier or being flushed: what was set aside is not.
    pub fn on_their_way(&self, slots: &SlotSet) -> usize {
        self.partitions.iter().map(|partition| partition.read().on_their_way(slots)).sum()
    }

    /// At most `limit` keys of a partition that are dead by now, for the proposer to delete (R27).
    pub fn expired(&self, now: Timestamp, limit: usize) -> Vec<Key> {
        let mut keys = Vec::new();
        for partition in &self.partitions {
            partition.read().expired(now, limit, &mut keys);
        }
        keys
    }

    /// The keys of a slot that memory knows of, in order, after `after`; and whether each of them exists.
    pub fn keys_in(&self, slot: Slot, after: Option<&Key>, now: Timestamp) -> Vec<(Key, bool)> {
        let mut keys = Vec::new();
        for partition in &self.partitions {
            partition.read().keys_in(slot, after, now, &mut keys);
        }
        keys.sort_unstable();
        keys
    }

    /// Forgets which keys have rows, but for those that may be getting one now: until [`Store::finish_filter`] every key may have one
    /// (R17). Scans that were started before have nothing to say any more.
    pub fn restart_filter(&self) -> ScanId {
        // Relaxed: only uniqueness counts.
        let scan = ScanId(self.last_scan.fetch_add(1, Ordering::Relaxed) + 1);
        self.partitions.iter().for_each(|partition| partition.write().restart_filter(scan));
        scan
    }

    /// These keys had rows when the scan, begun after [`Store::restart_filter`], read them.
    pub fn extend_filter<'a>(&self, scan: ScanId, keys: impl IntoIterator<Item = &'a Key>) {
        for key in keys {
            let hash = self.hash(key);
            self.partition(hash).write().filter.extend(scan, hash);
        }
    }

    /// The scan has told all keys with rows.
    pub fn finish_filter(&self, scan: ScanId) {
        self.partitions.iter().for_each(|partition| partition.write().finish_filter(scan));
    }

    /// How many keys exist, in memory and tier; `None` until the filter is finished. Expired keys count until deleted.
    pub fn count(&self) -> Option<u64> {
        let stats = self.stats();
        stats
            .filter_is_complete
            .then(|| (stats.tier_records + stats.memory_only).saturating_sub(stats.tombstones_in_tier))
    }

    pub fn explain(&self, key: &Key) -> Option<Sighting> {
        let hash = self.hash(key);
        self.partition(hash).read().explain(key, hash)
    }

    pub fn stats(&self) -> StoreStats {
        let mut stats = StoreStats {
            filter_is_complete: true,
            records_bound: self.budget.records_max() as u64,
            bytes: self.budget.bytes() as u64,
            bytes_max: self.budget.bytes_max() as u64,
            ..StoreStats::default()
        };
        for partition in &self.partitions {
            partition.read().add_stats(&mut stats);
        }
        stats
    }

    fn hash(&self, key: &Key) -> KeyHash {
        self.hasher.hash(key.as_bytes())
    }

    #[expect(clippy::indexing_slicing, reason = "the hash is masked by the number of partitions, a power of two")]
    fn partition(&self, hash: KeyHash) -> &RwLock<Partition> {
        &self.partitions[hash.partition(self.partitions.len())]
    }
}

/// A power of two, small enough that every partition can be exact about its share.
fn partition_count(options: &StoreOptions) -> usize {
    let by_records = options.capacity / PARTITION_RECORDS_MIN;
    let by_bytes = options.memory_bytes_max / PARTITION_BYTES_MIN;
    let most = by_records.min(by_bytes).clamp(1, PARTITIONS_MAX);
    1 << most.ilog2()
}
