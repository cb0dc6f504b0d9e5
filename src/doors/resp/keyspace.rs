//! What is asked of all keys: pages of them, one of them, none of them left.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::cluster::Topology;
use crate::command::{Command, Cursor, Reply};
use crate::protocol::redis::glob;
use crate::record::Key;
use crate::rpc::Role;
use crate::service::{Batch, Error, PAGE_KEYS_MAX, Service};
use crate::slots::{SLOTS, Slot};
use crate::sync::Mutex;

use super::TIMEOUT;
use crate::doors::Door;

/// Cursors within a slot that a node remembers; the oldest goes first, and a scan that comes back with it sees the keys of one
/// slot again.
const CURSORS_MAX: usize = 4096;
/// Most bytes of keys that KEYS answers.
const KEYS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// One of so many keys is a random key.
const RANDOM_KEYS: u32 = 64;
/// Deleted in one batch: also of the longest keys, it has less bytes than a batch may have.
const DELETED_KEYS: usize = 512;
/// Bits of a cursor on the wire that tell the slot.
const SLOT_BITS: u32 = 14;

/// Cursors as clients know them: numbers. 0 is both the beginning and the end. Below are [`SLOT_BITS`] of the slot, above the name
/// of a place within it, or 0 for its beginning.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    last_name: u32,
    places: HashMap<u32, Key>,
    in_order: VecDeque<u32>,
}

impl Cursors {
    fn number(&self, next: Option<Cursor>) -> u64 {
        let Some(Cursor { slot, after }) = next else { return 0 };
        let name = after.map_or(0, |key| self.remember(key));
        (u64::from(name) << SLOT_BITS) | u64::from(slot)
    }

    fn remember(&self, key: Key) -> u32 {
        let mut known = self.known.lock();
        let name = known.last_name.checked_add(1).unwrap_or(1);
        known.last_name = name;
        known.places.insert(name, key);
        known.in_order.push_back(name);
        if known.in_order.len() > CURSORS_MAX
            && let Some(oldest) = known.in_order.pop_front()
        {
            known.places.remove(&oldest);
        }
        name
    }

    /// Any number is a place: one that was forgotten, or given out by another node, is the beginning of its slot.
    fn find(&self, number: u64) -> Cursor {
        let slot = (number & ((1 << SLOT_BITS) - 1)) as u16;
        let name = u32::try_from(number >> SLOT_BITS).unwrap_or(0);
        let after = self.known.lock().places.get(&name).filter(|key| Slot::of(key).get() == slot).cloned();
        Cursor { slot, after }
    }
}

/// All keys that a node knows the way to.
pub(super) struct AllKeys<'a, S> {
    service: &'a S,
    topology: &'a dyn Topology,
    cursors: &'a Cursors,
    /// A secondary tells of its own slots only.
    is_member: bool,
}

impl<'a, S: Service> AllKeys<'a, S> {
    pub fn of<M>(door: &'a Door<S, M>) -> Self {
        Self {
            service: &door.service,
            topology: &*door.topology,
            cursors: &door.redis.cursors,
            is_member: door.options.role == Role::Secondary,
        }
    }

    /// # Errors
    /// As the shards say.
    pub async fn scan(&self, cursor: u64, pattern: Option<&Bytes>, count: u32) -> Result<(u64, Vec<Key>), Error> {
        let (keys, next) = self.page(self.cursors.find(cursor), count).await?;
        let matches = |key: &Key| pattern.is_none_or(|pattern| glob::matches(pattern, key.as_bytes()));
        Ok((self.cursors.number(next), keys.into_iter().filter(matches).collect()))
    }

    /// # Errors
    /// As the shards say, or if there are too many keys.
    pub async fn matching(&self, pattern: &[u8]) -> Result<Vec<Key>, Error> {
        let (mut found, mut bytes, mut cursor) = (Vec::new(), 0, Some(Cursor::START));
        while let Some(here) = cursor {
            let (keys, next) = self.page(here, PAGE_KEYS_MAX as u32).await?;
            found.extend(keys.into_iter().filter(|key| glob::matches(pattern, key.as_bytes())).inspect(|key| {
                bytes += key.as_bytes().len() + size_of::<Key>();
            }));
            if bytes > KEYS_BYTES_MAX {
                return Err(Error::Invalid("too many keys match: use SCAN".to_owned()));
            }
            cursor = next;
        }
        Ok(found)
    }

    /// Some key of the first page behind a random slot, or before it.
    ///
    /// # Errors
    /// As the shards say.
    pub async fn random(&self) -> Result<Option<Key>, Error> {
        let start = Cursor { slot: rand::random_range(0..SLOTS), after: None };
        for mut cursor in [Some(start), Some(Cursor::START)] {
            while let Some(here) = cursor {
                let (mut keys, next) = self.page(here, RANDOM_KEYS).await?;
                if !keys.is_empty() {
                    return Ok(Some(keys.swap_remove(rand::random_range(0..keys.len()))));
                }
                cursor = next;
            }
        }
        Ok(None)
    }

    /// Deletes all keys, page by page: what comes meanwhile may stay.
    ///
    /// # Errors
    /// As the shards say; then some keys are left.
    pub async fn delete_all(&self) -> Result<(), Error> {
        let mut cursor = Some(Cursor::START);
        while let Some(here) = cursor {
            let (keys, next) = self.page(here, PAGE_KEYS_MAX as u32).await?;
            for keys in keys.chunks(DELETED_KEYS) {
                let commands = keys.iter().map(|key| Command::Delete { key: key.clone() }).collect();
                for reply in self.service.execute(Batch { commands, epoch: None, timeout: TIMEOUT }).await {
                    reply?;
                }
            }
            cursor = next;
        }
        Ok(())
    }

    /// How many keys a slot has.
    ///
    /// # Errors
    /// As the shards say.
    pub async fn count_of_slot(&self, slot: Slot) -> Result<usize, Error> {
        let (mut count, mut cursor) = (0, Some(Cursor { slot: slot.get(), after: None }));
        while let Some(here) = cursor.filter(|cursor| cursor.slot == slot.get()) {
            let (keys, next) = self.page(here, PAGE_KEYS_MAX as u32).await?;
            count += keys.iter().take_while(|key| Slot::of(key) == slot).count();
            cursor = next;
        }
        Ok(count)
    }

    /// At most so many keys of one slot.
    ///
    /// # Errors
    /// As the shards say.
    pub async fn of_slot(&self, slot: Slot, count: usize) -> Result<Vec<Key>, Error> {
        let (mut found, mut cursor) = (Vec::new(), Some(Cursor { slot: slot.get(), after: None }));
        while let Some(here) = cursor.filter(|cursor| cursor.slot == slot.get() && found.len() < count) {
            let wanted = (count - found.len()).min(PAGE_KEYS_MAX);
            let (keys, next) = self.page(here, wanted as u32).await?;
            found.extend(keys.into_iter().take_while(|key| Slot::of(key) == slot));
            cursor = next;
        }
        Ok(found)
    }

    async fn page(&self, cursor: Cursor, limit: u32) -> Result<(Vec<Key>, Option<Cursor>), Error> {
        let Some(cursor) = self.on_own_ground(cursor) else { return Ok((Vec::new(), None)) };
        let commands = vec![Command::Scan { cursor, limit: limit.min(PAGE_KEYS_MAX as u32) }];
        let mut replies = self.service.execute(Batch { commands, epoch: None, timeout: TIMEOUT }).await;
        match replies.pop() {
            Some(Ok(Reply::Page { keys, next })) => Ok((keys, next.and_then(|next| self.on_own_ground(next)))),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => Err(Error::Unknown("a page was asked for and not given".to_owned())),
        }
    }

    /// At a secondary, the same place or the beginning of the next slots that it serves.
    fn on_own_ground(&self, cursor: Cursor) -> Option<Cursor> {
        if !self.is_member {
            return Some(cursor);
        }
        let map = self.topology.map();
        let served = &map.me()?.served;
        let slot = Slot::try_from(cursor.slot).ok()?;
        if served.contains(slot) {
            return Some(cursor);
        }
        let next = served.ranges().iter().map(|(from, _)| *from).find(|from| *from > slot)?;
        Some(Cursor { slot: next.get(), after: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: usize) -> Key {
        Key::new(format!("{{a}}{i}")).unwrap()
    }

    #[test]
    fn numbers_come_back_as_the_places_that_they_were_made_of() {
        let cursors = Cursors::default();
        let slot = Slot::of(&key(0)).get();
        let within = Cursor { slot, after: Some(key(1)) };
        let begin = Cursor { slot: 7, after: None };
        for cursor in [within, begin] {
            let number = cursors.number(Some(cursor.clone()));
            assert_ne!(number, 0);
            assert_eq!(cursors.find(number), cursor);
        }
        assert_eq!(cursors.number(None), 0);
        assert_eq!(cursors.find(0), Cursor::START);
    }

    #[test]
    fn what_is_forgotten_or_made_up_is_the_beginning_of_a_slot() {
        let cursors = Cursors::default();
        let slot = Slot::of(&key(0)).get();
        let first = cursors.number(Some(Cursor { slot, after: Some(key(0)) }));
        for i in 0..CURSORS_MAX {
            cursors.number(Some(Cursor { slot, after: Some(key(i)) }));
        }
        assert_eq!(cursors.find(first), Cursor { slot, after: None });
        assert_eq!(cursors.known.lock().places.len(), CURSORS_MAX);
        assert_eq!(cursors.find(u64::MAX), Cursor { slot: SLOTS - 1, after: None });
    }
}
