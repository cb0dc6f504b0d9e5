//! Fill tokens: at most one load of a key at a time, and none that outlives a write (R12).

use hashbrown::HashMap;

use crate::mutants::{Rule, is_planted};
use crate::record::Key;
use crate::slots::{Slot, SlotSet};

/// Names somebody who waits; the store's owner knows who.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// Names one load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FillId(u64);

/// The loads in flight of a partition.
#[derive(Debug, Default)]
pub(super) struct Fills {
    last_id: u64,
    by_key: HashMap<Key, (FillId, Vec<Ticket>), foldhash::fast::RandomState>,
    /// Loads that were overtaken by a write: they answer who waited, and nobody may join them any more.
    poisoned: HashMap<FillId, Vec<Ticket>, foldhash::fast::RandomState>,
}

impl Fills {
    /// Joins the load of a key in flight (`None`), or starts one.
    pub fn join_or_start(&mut self, key: &Key, ticket: Ticket) -> Option<FillId> {
        if let Some((_, tickets)) = self.by_key.get_mut(key) {
            tickets.push(ticket);
            return None;
        }
        self.last_id += 1;
        let id = FillId(self.last_id);
        self.by_key.insert(key.clone(), (id, vec![ticket]));
        Some(id)
    }

    /// The key was written: what its load reads must not get into memory.
    pub fn poison(&mut self, key: &Key) {
        if self.by_key.is_empty() || is_planted(Rule::R12Poison) {
            return;
        }
        if let Some((id, tickets)) = self.by_key.remove(key) {
            self.poisoned.insert(id, tickets);
        }
    }

    /// The rows of these slots may change without the store being told.
    pub fn poison_slots(&mut self, slots: &SlotSet) {
        let overtaken = self.by_key.extract_if(|key, _| slots.contains(Slot::of(key)));
        self.poisoned.extend(overtaken.map(|(_, fill)| fill));
    }

    /// Ends a load. Returns whether what it read may be kept, and who waited for it.
    pub fn end(&mut self, key: &Key, id: FillId) -> (bool, Vec<Ticket>) {
        if self.by_key.get(key).is_some_and(|(current, _)| *current == id) {
            let tickets = self.by_key.remove(key).map(|(_, tickets)| tickets);
            return (true, tickets.unwrap_or_default());
        }
        (false, self.poisoned.remove(&id).unwrap_or_default())
    }
}
