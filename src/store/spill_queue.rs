//! What a partition hands out to be written into the tier, and what it does when the tier has answered.

use super::Spill;
use super::entry::{Entry, Flags};
use super::fills::Ticket;
use super::filter::ScanId;
use super::hash::KeyHash;
use super::partition::{Garbage, Partition};
use crate::command::Effect;
use crate::mutants::{Rule, is_planted};
use crate::policy::Handle;
use crate::record::{Key, Version};
use crate::slots::SlotSet;

/// So few stale handles are not worth looking for.
const QUEUE_SLACK: usize = 64;

impl Partition {
    pub fn has_spill(&self) -> bool {
        !self.spill_queue.is_empty()
    }

    /// Stale handles too.
    pub fn spill_len(&self) -> usize {
        self.spill_queue.len()
    }

    /// Queues an entry that the tier does not have yet, unless it is queued or being flushed: what is being flushed is
    /// queued again when its flush has ended (R11).
    pub(super) fn enqueue(&mut self, handle: Handle) {
        self.enqueue_with(handle, |_| ());
    }

    /// Changes an entry's flags, and queues it as [`Partition::enqueue`] does.
    pub(super) fn enqueue_with(&mut self, handle: Handle, change: impl FnOnce(&mut Flags)) {
        let Some(entry) = self.slab.get(handle) else { return };
        let is_new = entry.is_unspilled() && !entry.flags.queued && !entry.flags.flushing;
        self.edit(handle, |flags| {
            change(flags);
            flags.queued |= is_new;
        });
        if is_new {
            self.spill_queue.push_back(handle);
            self.compact_queue();
        }
    }

    /// Takes stale handles out once they are the most: while the tier is away nobody else does, and records that come and
    /// go would fill the queue without end.
    fn compact_queue(&mut self) {
        if self.spill_queue.len() <= 2 * self.slab.len() + QUEUE_SLACK {
            return;
        }
        let slab = &mut self.slab;
        let mut set_queued = |handle: Handle, queued: bool| {
            let flags = slab.get(handle).map(|entry| entry.flags).filter(|flags| flags.queued != queued);
            flags.inspect(|flags| slab.set_flags(handle, Flags { queued, ..*flags })).is_some()
        };
        // Each entry once: the flag goes with the first of its handles and comes back for all of them.
        self.spill_queue.retain(|&handle| set_queued(handle, false));
        for &handle in &self.spill_queue {
            set_queued(handle, true);
        }
    }

    pub fn take_spill(&mut self, effects: &mut Vec<Effect>, rows_max: usize, bytes: &mut usize, bytes_max: usize) {
        while effects.len() < rows_max && *bytes < bytes_max {
            let Some(handle) = self.spill_queue.pop_front() else { return };
            let Some(entry) = self.slab.get(handle) else { continue };
            if !entry.flags.queued {
                continue; // a stale handle, perhaps of another entry by now
            }
            let wanted = entry.is_unspilled() && self.should_spill(&entry);
            let (true, Ok(effect)) = (wanted, entry.effect()) else {
                self.edit(handle, |flags| flags.queued = false);
                continue;
            };
            // From here on the row may come into being, whatever becomes of the answer.
            self.filter.insert(self.hasher.hash(effect.key().as_bytes()));
            self.edit(handle, |flags| *flags = Flags { queued: false, flushing: true, in_tier: true, ..*flags });
            *bytes += effect.size_bytes();
            effects.push(effect);
        }
    }

    /// A record that was evicted and then written again stays in memory: no need to spill it, unless everything is.
    fn should_spill(&self, entry: &Entry<'_>) -> bool {
        entry.flags.leaving || entry.flags.due || self.limits.spill == Spill::Everything
    }

    pub fn hand_out_unspilled(&mut self) {
        let unspilled = self.slab.iter().filter(|(_, entry)| entry.is_unspilled());
        let handles: Vec<Handle> = unspilled.map(|(handle, _)| handle).collect();
        for handle in handles {
            self.enqueue_with(handle, |flags| flags.due = true);
        }
    }

    pub fn confirm(&mut self, effect: &Effect, hash: KeyHash, tickets: &mut Vec<Ticket>, garbage: &mut Garbage) {
        let has_row = matches!(effect, Effect::Set(_));
        if !has_row {
            self.filter.remove(hash);
        }
        let Some((handle, entry)) = self.find(effect.key(), hash) else {
            debug_assert!(is_planted(Rule::R13Tombstone), "an entry left memory while it was being flushed");
            return;
        };
        let is_current = entry.version == effect.version() || is_planted(Rule::R11Version); // R11
        // A deletion is done by an older one as well: there is no row.
        let is_done = is_current || (entry.flags.tombstone && !has_row);
        let (version, is_resident) = (entry.version, entry.is_resident());
        self.wake_waiters(effect.key(), if is_done { version } else { effect.version() }, tickets);
        if is_done && !is_resident {
            return self.remove(handle, garbage);
        }
        let done = |flags: Flags| Flags { flushing: false, due: false, in_tier: has_row, clean: is_current, ..flags };
        self.edit(handle, |flags| *flags = done(*flags));
        let should_spill = self.slab.get(handle).is_some_and(|entry| self.should_spill(&entry));
        if !is_done && should_spill && !is_planted(Rule::R11Again) {
            self.enqueue(handle);
        }
    }

    /// A flush of this key has ended without the tier having it, or without anybody knowing.
    pub fn unflushed(&mut self, key: &Key, hash: KeyHash, hand_out_again: bool) {
        let Some((handle, entry)) = self.find(key, hash) else { return };
        if !entry.flags.flushing {
            return; // reported twice: part of a batch that was cut in pieces
        }
        let again = hand_out_again && entry.is_unspilled() && self.should_spill(&entry);
        if again && !entry.is_resident() && is_planted(Rule::R13Unflushed) {
            return self.remove(handle, &mut Garbage::new());
        }
        self.edit(handle, |flags| {
            flags.flushing = false;
            flags.queued = again;
            flags.in_tier = true;
        });
        // There may be a row, and a scan may have looked too early to see it.
        self.filter.insert(hash);
        if again {
            self.spill_queue.push_front(handle);
        }
    }

    pub fn hand_out_again(&mut self, key: &Key, hash: KeyHash) -> bool {
        let Some((handle, entry)) = self.find(key, hash) else { return false };
        let is_unspilled = entry.is_unspilled();
        if is_unspilled && self.should_spill(&entry) {
            self.enqueue(handle);
        }
        is_unspilled
    }

    pub fn await_clean(&mut self, key: &Key, hash: KeyHash, version: Version, ticket: Ticket) -> bool {
        // Absent is clean (R13); a newer version will be flushed later, and then the tier has a newer one.
        let is_pending = self.find(key, hash).is_some_and(|(_, entry)| entry.version >= version && !entry.flags.clean);
        if is_pending {
            self.clean_waiters.entry(key.clone()).or_default().push((version, ticket));
        }
        is_pending
    }

    pub fn stop_awaiting(&mut self, key: &Key, ticket: Ticket) {
        let Some(waiters) = self.clean_waiters.get_mut(key) else { return };
        waiters.retain(|(_, waiting)| *waiting != ticket);
        if waiters.is_empty() {
            self.clean_waiters.remove(key);
        }
    }

    fn wake_waiters(&mut self, key: &Key, flushed: Version, tickets: &mut Vec<Ticket>) {
        let Some(waiters) = self.clean_waiters.get_mut(key) else { return };
        tickets.extend(waiters.extract_if(.., |(version, _)| *version <= flushed).map(|(_, ticket)| ticket));
        if waiters.is_empty() {
            self.clean_waiters.remove(key);
        }
    }

    pub fn forget(&mut self, slots: &SlotSet, garbage: &mut Garbage) {
        self.fills.poison_slots(slots); // R12
        for handle in self.handles_in(slots) {
            self.policy.remove(handle);
            self.remove(handle, garbage);
        }
    }

    fn handles_in(&self, slots: &SlotSet) -> Vec<Handle> {
        self.in_slots(slots).map(|(handle, _)| handle).collect()
    }

    pub fn vacate(&mut self, slots: &SlotSet, garbage: &mut Garbage) {
        self.fills.poison_slots(slots); // R12
        for handle in self.handles_in(slots) {
            if self.slab.get(handle).is_some_and(|entry| entry.is_resident()) {
                self.policy.remove(handle);
                self.send_off(handle, garbage);
            }
        }
    }

    /// See [`Store::restart_filter`](super::Store::restart_filter).
    pub fn restart_filter(&mut self, scan: ScanId) {
        self.filter.restart(scan);
        for (_, entry) in self.slab.iter().filter(|(_, entry)| entry.flags.flushing) {
            self.filter.insert(self.hasher.hash(entry.key));
        }
    }

    /// Takes what the scan found as the truth. What is being flushed may have a row by now: it stays in the filter, until the
    /// end of its flush tells.
    pub fn finish_filter(&mut self, scan: ScanId) {
        if !self.filter.finish(scan) {
            return;
        }
        let entries: Vec<_> = self.slab.iter().map(|(handle, entry)| (handle, self.hasher.hash(entry.key))).collect();
        for (handle, hash) in entries {
            let in_tier = self.filter.contains(hash);
            self.edit(handle, |flags| flags.in_tier = in_tier);
        }
    }
}
