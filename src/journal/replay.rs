//! What remains of a journal's entries: the newest effect of each key that was not confirmed.

use std::collections::HashMap;
use std::collections::hash_map;

use bytes::Bytes;

use super::format::{self, Entry};
use crate::command::Effect;
use crate::record::{Key, Record, Timestamp, Value, Version};

/// Entries in the order in which they were written.
#[derive(Default)]
pub(super) struct Replay {
    /// Seeded by chance, so that no client can make it slow. The order of the keys is never shown.
    newest: HashMap<Key, Newest, foldhash::fast::RandomState>,
    pub note: Option<Bytes>,
    pub last: Option<Version>,
    pub effects: u64,
    pub confirms: u64,
    pub notes: u64,
}

struct Newest {
    version: Version,
    /// `None` for a deletion.
    value: Option<(Value, Option<Timestamp>)>,
}

impl Replay {
    /// # Errors
    /// If the entry breaks a limit.
    pub(super) fn apply(&mut self, entry: Entry<'_>) -> Result<(), &'static str> {
        match entry {
            Entry::Set { key, value, version, expires_at } => {
                let value = format::value(value).ok_or("a value is longer than any may be")?;
                self.effect(key, Newest { version, value: Some((value, expires_at)) })?;
            }
            Entry::Delete { key, version } => self.effect(key, Newest { version, value: None })?,
            Entry::Confirm { key, version } => {
                self.confirms += 1;
                if let hash_map::Entry::Occupied(newest) = self.newest.entry(checked(key)?)
                    && newest.get().version == version
                {
                    newest.remove();
                }
            }
            Entry::Note(note) => {
                self.notes += 1;
                self.note = Some(Bytes::copy_from_slice(note));
            }
            Entry::Last(last) => self.last = self.last.max(Some(last)),
        }
        Ok(())
    }

    fn effect(&mut self, key: &[u8], effect: Newest) -> Result<(), &'static str> {
        self.effects += 1;
        self.last = self.last.max(Some(effect.version));
        match self.newest.entry(checked(key)?) {
            hash_map::Entry::Vacant(place) => {
                place.insert(effect);
            }
            // A checkpoint may be ahead of the segments that follow it.
            hash_map::Entry::Occupied(mut newest) => {
                if newest.get().version < effect.version {
                    newest.insert(effect);
                }
            }
        }
        Ok(())
    }

    pub(super) fn unconfirmed(&self) -> u64 {
        self.newest.len() as u64
    }

    /// In order of version.
    pub(super) fn into_effects(self) -> Vec<Effect> {
        let effects = self.newest.into_iter().map(|(key, Newest { version, value })| match value {
            Some((value, expires_at)) => Effect::Set(Record { key, value, version, expires_at }),
            None => Effect::Delete { key, version },
        });
        let mut effects: Vec<Effect> = effects.collect();
        effects.sort_unstable_by(|a, b| a.version().cmp(&b.version()).then_with(|| a.key().cmp(b.key())));
        effects
    }
}

fn checked(key: &[u8]) -> Result<Key, &'static str> {
    format::key(key).ok_or("a key is empty or longer than any may be")
}
