//! The newest that was ever seen of each key, in memory, in an answer or in the tier: what must not be lost.

use overspill::command::Effect;
use overspill::record::{Key, Version};

use crate::history::Ask;

#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub version: Version,
    /// The key existed at `version`, for all that is known.
    pub is_live: bool,
    pub expires_at: Option<u64>,
    /// A command that may end the key's life was under way at that time or later.
    pub may_be_gone: bool,
    /// Such commands that are under way, by the life that they were told.
    removals: Vec<u64>,
    /// It was handed to the tier.
    pub was_flushed: bool,
}

#[derive(Debug)]
pub struct Witness {
    keys: Vec<Seen>,
    /// Lives whose filter of spilled keys was complete when looked at, and since when.
    pub filters: Vec<(u64, tokio::time::Instant)>,
}

impl Witness {
    pub fn new(keys: usize) -> Self {
        Self { keys: vec![Seen::default(); keys], filters: Vec::new() }
    }

    pub fn seen(&self, key: usize) -> &Seen {
        &self.keys[key]
    }

    pub fn begins(&mut self, key: usize, ask: Ask, life: u64) {
        if ask.may_remove() {
            self.keys[key].removals.push(life);
            self.keys[key].may_be_gone = true;
        }
    }

    pub fn ends(&mut self, key: usize, ask: Ask, life: u64) {
        let seen = &mut self.keys[key];
        if ask.may_remove()
            && let Some(at) = seen.removals.iter().position(|&other| other == life)
        {
            seen.removals.swap_remove(at);
        }
    }

    /// What a dead process was told happens no more.
    pub fn died(&mut self, life: u64) {
        self.keys.iter_mut().for_each(|seen| seen.removals.retain(|&other| other != life));
        self.filters.retain(|(other, _)| *other != life);
    }

    pub fn saw(&mut self, key: usize, version: Version, is_live: bool, expires_at: Option<u64>) {
        let seen = &mut self.keys[key];
        seen.version = version;
        seen.is_live = is_live;
        seen.expires_at = expires_at;
        seen.may_be_gone = !seen.removals.is_empty();
    }

    pub fn flushed(&mut self, keys: &[Key], effects: &[Effect]) {
        for effect in effects {
            if let Some(key) = keys.iter().position(|key| key == effect.key()) {
                self.keys[key].was_flushed = true;
            }
        }
    }

    /// It was lost, with leave.
    pub fn forget(&mut self, key: usize) {
        let was_flushed = self.keys[key].was_flushed;
        self.keys[key] = Seen { was_flushed, ..Seen::default() };
    }
}
