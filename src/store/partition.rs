//! One partition of the store: everything about a key that must change together, under one lock.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;

use super::budget::{Admission, Budget};
use super::entry::{Entry, Flags};
use super::fills::{FillId, Fills, Ticket};
use super::filter::SpilledKeys;
use super::hash::{Hasher, KeyHash};
use super::index::Index;
use super::slab::{Large, Slab};
use super::slot_lists::{Listed, SlotLists};
use super::{Fill, Hint, Known, Lookup, Sighting, Spill, StoreStats};
use crate::command::{Effect, Found, Place};
use crate::mutants::{Rule, is_planted};
use crate::policy::{Handle, Policy, PolicyKind, Settling};
use crate::record::{Key, Record, Timestamp, Version, is_expired};
use crate::slots::{Slot, SlotSet};

/// What left the table under its lock, to be dropped after it.
pub(super) type Garbage = Vec<Box<Large>>;

/// For so many slots it takes less to look at all entries than at the chains of each.
const SLOTS_WALKED_MIN: usize = 2048;

/// A partition's share of the store's bounds. What waits for the tier is bounded by the store's budget instead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Resident records.
    pub records_max: usize,
    /// Bytes of resident records.
    pub bytes_max: usize,
    pub spill: Spill,
}

pub(super) struct Partition {
    pub(super) index: Index,
    pub(super) slab: Slab,
    /// Knows exactly the resident entries.
    pub(super) policy: Box<dyn Policy>,
    pub(super) filter: SpilledKeys,
    pub(super) slots: SlotLists,
    expiries: BTreeSet<(Timestamp, Handle)>,
    /// Handles to hand out to the spiller, coldest first. May hold stale ones: an entry's `queued` flag decides.
    pub(super) spill_queue: VecDeque<Handle>,
    pub(super) fills: Fills,
    /// Who waits until the tier has a version of a key.
    pub(super) clean_waiters: HashMap<Key, Vec<(Version, Ticket)>, foldhash::fast::RandomState>,
    pub(super) limits: Limits,
    pub(super) hasher: Hasher,
    budget: Arc<Budget>,
    pub(super) counts: Counts,
    evicted: u64,
    dropped: u64,
}

/// Sums over the entries of a partition, kept up by [`Partition::edit`], insertion and removal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    live: usize,
    leaving: usize,
    pub(super) unspilled: usize,
    bytes_unspilled: usize,
    /// On their way to the tier.
    spilling: usize,
    tombstones: usize,
    memory_only: usize,
    tombstones_in_tier: usize,
    bytes_resident: usize,
}

impl Counts {
    fn of(entry: &Entry<'_>) -> Self {
        let flags = entry.flags;
        let one = usize::from;
        Self {
            live: one(!flags.tombstone),
            leaving: one(flags.leaving && !flags.tombstone),
            unspilled: one(entry.is_unspilled()),
            bytes_unspilled: if entry.is_unspilled() { entry.cost_bytes() } else { 0 },
            spilling: one(flags.queued || flags.flushing),
            tombstones: one(flags.tombstone),
            memory_only: one(!flags.tombstone && !flags.in_tier),
            tombstones_in_tier: one(flags.tombstone && flags.in_tier),
            bytes_resident: if entry.is_resident() { entry.cost_bytes() } else { 0 },
        }
    }

    fn merge(&mut self, other: Self, combine: impl Fn(usize, usize) -> usize) {
        self.live = combine(self.live, other.live);
        self.leaving = combine(self.leaving, other.leaving);
        self.unspilled = combine(self.unspilled, other.unspilled);
        self.bytes_unspilled = combine(self.bytes_unspilled, other.bytes_unspilled);
        self.spilling = combine(self.spilling, other.spilling);
        self.tombstones = combine(self.tombstones, other.tombstones);
        self.memory_only = combine(self.memory_only, other.memory_only);
        self.tombstones_in_tier = combine(self.tombstones_in_tier, other.tombstones_in_tier);
        self.bytes_resident = combine(self.bytes_resident, other.bytes_resident);
    }

    fn add(&mut self, entry: &Entry<'_>) {
        self.merge(Self::of(entry), |a, b| a + b);
    }

    fn subtract(&mut self, entry: &Entry<'_>) {
        self.merge(Self::of(entry), |a, b| a - b);
    }
}

impl Partition {
    pub fn new(policy: PolicyKind, limits: Limits, hasher: Hasher, budget: Arc<Budget>) -> Self {
        Self {
            index: Index::new(),
            slab: Slab::default(),
            policy: policy.build(limits.records_max),
            filter: SpilledKeys::new(limits.spill == Spill::Nothing),
            slots: SlotLists::new(limits.records_max),
            expiries: BTreeSet::new(),
            spill_queue: VecDeque::new(),
            fills: Fills::default(),
            clean_waiters: HashMap::default(),
            limits,
            hasher,
            budget,
            counts: Counts::default(),
            evicted: 0,
            dropped: 0,
        }
    }

    #[inline]
    pub fn get(&self, key: &Key, hint: Hint, now: Timestamp) -> (Lookup, Settling) {
        let Hint { hash, likely } = hint;
        let likely = likely.and_then(|handle| Some((handle, self.entry_of(key, handle)?)));
        let Some((handle, entry)) = likely.or_else(|| self.find(key, hash)) else {
            return (self.lookup_absent(hash), Settling::NotDue);
        };
        let settling = if entry.is_resident() { self.policy.hit(handle) } else { Settling::NotDue };
        (lookup(&entry, now), settling)
    }

    /// The entry that is most likely the one of this hash; asks the processor for where that is.
    pub fn prefetch_likely(&self, hash: KeyHash) -> Option<Handle> {
        let handle = self.index.first(hash)?;
        self.slab.prefetch_place(handle);
        self.policy.prefetch(handle);
        Some(handle)
    }

    pub fn peek(&self, key: &Key, hash: KeyHash, now: Timestamp) -> Lookup {
        match self.find(key, hash) {
            Some((_, entry)) => lookup(&entry, now),
            None => self.lookup_absent(hash),
        }
    }

    fn lookup_absent(&self, hash: KeyHash) -> Lookup {
        if self.filter.may_contain(hash) { Lookup::Unknown } else { Lookup::Known(Known::default()) }
    }

    pub fn begin_fill(&mut self, key: &Key, hash: KeyHash, ticket: Ticket, now: Timestamp) -> Fill {
        match self.peek(key, hash, now) {
            Lookup::Unknown => self.fills.join_or_start(key, ticket).map_or(Fill::Joined, Fill::Started),
            Lookup::Known(known) => Fill::Known(known),
        }
    }

    pub fn end_fill(&mut self, key: &Key, id: FillId) -> (bool, Vec<Ticket>) {
        self.fills.end(key, id)
    }

    pub fn complete_fill(
        &mut self,
        key: &Key,
        hash: KeyHash,
        id: FillId,
        row: Option<&Record>,
        admission: Option<Admission>,
        garbage: &mut Garbage,
    ) -> Vec<Ticket> {
        let (is_current, tickets) = self.end_fill(key, id);
        if !is_current {
            return tickets; // R12: a write has overtaken this load
        }
        if is_planted(Rule::R12Poison) && self.find(key, hash).is_some() {
            return tickets;
        }
        debug_assert!(self.find(key, hash).is_none(), "an entry came without poisoning the load");
        if let (Some(row), Some(admission)) = (row, admission) {
            let flags = Flags { clean: true, in_tier: true, ..Flags::default() };
            self.filter.insert(hash);
            self.insert_resident(&Entry::of(row, flags), hash, admission, garbage);
        }
        tickets
    }

    pub fn apply(&mut self, effect: &Effect, hash: KeyHash, admission: Admission, garbage: &mut Garbage) {
        self.fills.poison(effect.key()); // R12
        match effect {
            Effect::Set(record) => self.apply_set(record, hash, admission, garbage),
            Effect::Delete { key, version } => self.apply_delete(key, *version, hash, admission, garbage),
        }
    }

    fn apply_set(&mut self, record: &Record, hash: KeyHash, admission: Admission, garbage: &mut Garbage) {
        let Some((handle, entry)) = self.find(&record.key, hash) else {
            let flags = Flags { in_tier: self.filter.may_contain(hash), ..self.fresh() };
            let handle = self.insert_resident(&Entry::of(record, flags), hash, admission, garbage);
            self.enqueue_if_eager(handle);
            return;
        };
        if record.version <= entry.version {
            return;
        }
        let flags = Flags { tombstone: false, leaving: false, clean: self.fresh().clean, ..entry.flags };
        let was_resident = entry.is_resident();
        let entry = Entry::of(record, flags);
        if was_resident {
            self.policy.update(handle);
        } else {
            self.make_room(entry.cost_bytes(), garbage);
            self.policy.insert(handle);
        }
        self.replace(handle, &entry, admission, garbage);
        self.make_room(0, garbage);
        self.enqueue_if_eager(handle);
    }

    fn apply_delete(
        &mut self,
        key: &Key,
        version: Version,
        hash: KeyHash,
        admission: Admission,
        garbage: &mut Garbage,
    ) {
        let Some((handle, entry)) = self.find(key, hash) else {
            if self.filter.may_contain(hash) && !is_planted(Rule::R13Tombstone) {
                let flags = Flags { in_tier: true, leaving: true, ..Flags::default() };
                let handle = self.insert(&Entry::tombstone(key, version, flags), hash, admission);
                self.enqueue(handle);
            }
            return;
        };
        if version <= entry.version {
            return;
        }
        let flags = entry.flags;
        let is_awaited = self.clean_waiters.contains_key(key);
        if entry.is_resident() {
            self.policy.remove(handle);
        }
        // Whoever waits to hear of the tier hears of it when that has confirmed the deletion.
        let may_have_row = flags.in_tier || flags.flushing;
        if (!may_have_row && !is_awaited) || is_planted(Rule::R13Tombstone) {
            self.remove(handle, garbage);
            return;
        }
        // R13: the tombstone stays until the tier has confirmed the deletion.
        let flags = Flags { clean: false, leaving: true, ..flags };
        self.replace(handle, &Entry::tombstone(key, version, flags), admission, garbage);
        self.enqueue(handle);
    }

    /// The flags of a record that was just written: in a pure cache there is nothing to spill.
    fn fresh(&self) -> Flags {
        Flags { clean: self.limits.spill == Spill::Nothing, ..Flags::default() }
    }

    fn enqueue_if_eager(&mut self, handle: Handle) {
        if self.limits.spill == Spill::Everything {
            self.enqueue(handle);
        }
    }

    fn insert_resident(
        &mut self,
        entry: &Entry<'_>,
        hash: KeyHash,
        admission: Admission,
        garbage: &mut Garbage,
    ) -> Handle {
        self.make_room(entry.cost_bytes(), garbage);
        let handle = self.insert(entry, hash, admission);
        self.policy.insert(handle);
        handle
    }

    /// Evicts until one more record of `cost_bytes` fits (zero: until what is there fits).
    fn make_room(&mut self, cost_bytes: usize, garbage: &mut Garbage) {
        let more = usize::from(cost_bytes > 0);
        while self.policy.len() + more > self.limits.records_max
            || self.counts.bytes_resident + cost_bytes > self.limits.bytes_max
        {
            let Some(handle) = self.policy.evict() else { return };
            self.evicted += 1;
            self.send_off(handle, garbage);
        }
    }

    /// Lets an entry go that has just left the policy: at once if it is clean, else by way of the tier (R13).
    pub(super) fn send_off(&mut self, handle: Handle, garbage: &mut Garbage) {
        let Some(entry) = self.slab.get(handle) else { return };
        if entry.flags.clean {
            self.dropped += u64::from(self.limits.spill == Spill::Nothing);
            self.remove(handle, garbage);
        } else {
            self.enqueue_with(handle, |flags| flags.leaving = true);
        }
    }

    pub fn unspilled(&self, start: usize, len: usize) -> (Vec<Effect>, bool) {
        let (entries, more) = self.slab.range(start, len);
        (entries.filter(|entry| entry.is_unspilled()).filter_map(|entry| entry.effect().ok()).collect(), more)
    }

    pub fn expired(&self, now: Timestamp, limit: usize, keys: &mut Vec<Key>) {
        let due = self.expiries.iter().take_while(|(at, _)| *at <= now).take(limit);
        keys.extend(due.filter_map(|&(_, handle)| self.slab.get(handle)?.key().ok()));
    }

    pub fn keys_in(&self, slot: Slot, after: Option<&Key>, now: Timestamp, keys: &mut Vec<(Key, bool)>) {
        for (_, entry) in self.in_slot(slot) {
            if after.is_some_and(|after| entry.key <= after.as_bytes()) {
                continue;
            }
            let exists = !entry.flags.tombstone && !is_expired(entry.expires_at, now);
            keys.extend(entry.key().ok().map(|key| (key, exists)));
        }
    }

    pub fn entries_in(&self, slots: &SlotSet) -> usize {
        self.in_slots(slots).count()
    }

    pub fn on_their_way(&self, slots: &SlotSet) -> usize {
        self.in_slots(slots).filter(|(_, entry)| entry.flags.queued || entry.flags.flushing).count()
    }

    /// The entries of some slots: by their chains, or if these are many by a walk over all.
    pub(super) fn in_slots(&self, slots: &SlotSet) -> impl Iterator<Item = (Handle, Entry<'_>)> {
        let few = (slots.len() < SLOTS_WALKED_MIN).then(|| slots.iter().flat_map(|slot| self.in_slot(slot)));
        let many = few.is_none().then(|| self.slab.iter());
        let many = many.into_iter().flatten().filter(|(_, entry)| slots.contains(Slot::of_bytes(entry.key)));
        few.into_iter().flatten().chain(many)
    }

    fn in_slot(&self, slot: Slot) -> impl Iterator<Item = (Handle, Entry<'_>)> {
        let candidates = self.slots.candidates(slot).filter_map(|handle| Some((handle, self.slab.get(handle)?)));
        candidates.filter(move |(_, entry)| Slot::of_bytes(entry.key) == slot)
    }

    pub fn explain(&self, key: &Key, hash: KeyHash) -> Option<Sighting> {
        let (handle, entry) = self.find(key, hash)?;
        let place = match entry.flags {
            Flags { tombstone: true, .. } => Place::Deleting,
            Flags { leaving: true, .. } => Place::Spilling,
            Flags { clean, .. } => Place::Memory { clean },
        };
        Some(Sighting {
            place,
            version: entry.version,
            expires_at: entry.expires_at,
            value_bytes: entry.value_len() as u64,
            rank: self.policy.rank(handle).map(|rank| rank as u64),
        })
    }

    pub fn add_stats(&self, stats: &mut StoreStats) {
        let counts = self.counts;
        stats.live += counts.live as u64;
        stats.leaving += counts.leaving as u64;
        stats.unspilled += counts.unspilled as u64;
        stats.bytes_unspilled += counts.bytes_unspilled as u64;
        stats.spilling += counts.spilling as u64;
        stats.tombstones += counts.tombstones as u64;
        stats.tier_records += self.filter.len() as u64;
        stats.filter_is_complete &= self.filter.is_complete();
        stats.evicted += self.evicted;
        stats.dropped += self.dropped;
        stats.memory_only += counts.memory_only as u64;
        stats.tombstones_in_tier += counts.tombstones_in_tier as u64;
    }

    pub fn find(&self, key: &Key, hash: KeyHash) -> Option<(Handle, Entry<'_>)> {
        let mut found = None;
        let handle = self.index.find(hash, |handle| {
            found = self.entry_of(key, handle);
            found.is_some()
        })?;
        Some((handle, found?))
    }

    /// What the handle stands for, if it is of this key.
    fn entry_of(&self, key: &Key, handle: Handle) -> Option<Entry<'_>> {
        self.slab.get(handle).filter(|entry| entry.key == key.as_bytes())
    }

    /// Changes the flags of an entry; the only way to, so that the counts follow.
    ///
    /// # Panics
    /// If the handle is stale, which would mean that index and slab have come apart: going on would lose data.
    pub fn edit(&mut self, handle: Handle, change: impl FnOnce(&mut Flags)) {
        let mut entry = self.slab.get(handle).expect("the handle of an entry that was just found");
        self.counts.subtract(&entry);
        change(&mut entry.flags);
        self.counts.add(&entry);
        let flags = entry.flags;
        self.slab.set_flags(handle, flags);
    }

    /// Puts another record or tombstone in an entry's place.
    fn replace(&mut self, handle: Handle, entry: &Entry<'_>, admission: Admission, garbage: &mut Garbage) {
        if let Some(old) = self.slab.get(handle) {
            self.counts.subtract(&old);
            self.budget.give_back(1, old.cost_bytes());
            unlist_expiry(&mut self.expiries, handle, old.expires_at);
        }
        self.counts.add(entry);
        admission.take_over(entry.cost_bytes());
        garbage.extend(self.slab.replace(handle, entry));
        self.list_expiry(handle, entry.expires_at);
        self.tidy();
    }

    fn insert(&mut self, entry: &Entry<'_>, hash: KeyHash, admission: Admission) -> Handle {
        admission.take_over(entry.cost_bytes());
        self.counts.add(entry);
        let handle = self.slab.insert(entry);
        let (slab, hasher) = (&self.slab, self.hasher);
        let hash_of = |handle| slab.get(handle).map_or(hash, |entry| hasher.hash(entry.key));
        self.index.insert(hash, handle, hash_of);
        let listed_by = |handle| slab.get(handle).map(|entry| listed(hasher, &entry));
        self.slots.link(handle, Listed { slot: Slot::of_bytes(entry.key), hash }, listed_by);
        self.list_expiry(handle, entry.expires_at);
        self.tidy();
        handle
    }

    /// Forgets an entry that is not in the policy any more.
    pub fn remove(&mut self, handle: Handle, garbage: &mut Garbage) {
        let Some(entry) = self.slab.get(handle) else { return };
        unlist_expiry(&mut self.expiries, handle, entry.expires_at);
        self.counts.subtract(&entry);
        self.budget.give_back(1, entry.cost_bytes());
        let by = listed(self.hasher, &entry);
        let hash_of = |other| self.slab.get(other).map_or(by.hash, |entry| self.hasher.hash(entry.key));
        self.index.remove(by.hash, handle, hash_of);
        self.slots.unlink(handle, by);
        garbage.extend(self.slab.remove(handle));
        self.tidy();
    }

    /// Moves entries together if too much between them is dead.
    fn tidy(&mut self) {
        let (index, hasher) = (&self.index, self.hasher);
        self.slab.tidy(|key, is_it| index.find(hasher.hash(key), is_it));
    }

    fn list_expiry(&mut self, handle: Handle, expires_at: Option<Timestamp>) {
        self.expiries.extend(expires_at.map(|at| (at, handle)));
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition").field("limits", &self.limits).field("counts", &self.counts).finish_non_exhaustive()
    }
}

fn unlist_expiry(expiries: &mut BTreeSet<(Timestamp, Handle)>, handle: Handle, expires_at: Option<Timestamp>) {
    if let Some(at) = expires_at {
        expiries.remove(&(at, handle));
    }
}

fn listed(hasher: Hasher, entry: &Entry<'_>) -> Listed {
    Listed { slot: Slot::of_bytes(entry.key), hash: hasher.hash(entry.key) }
}

fn lookup(entry: &Entry<'_>, now: Timestamp) -> Lookup {
    let unspilled = entry.is_unspilled().then_some(entry.version);
    if entry.flags.tombstone || is_expired(entry.expires_at, now) {
        return Lookup::Known(Known { found: None, unspilled });
    }
    // What was packed had been checked; were it not so, the tier still could tell.
    entry.value().map_or(Lookup::Unknown, |value| {
        let found = Found { value, version: entry.version, expires_at: entry.expires_at };
        Lookup::Known(Known { found: Some(found), unspilled })
    })
}
