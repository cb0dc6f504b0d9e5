//! Pages of keys from memory and tier, in order of slot and key.
//!
//! Memory is read before the tier: a key that is spilled in between is seen in memory, one that is loaded in between
//! still has its row, so a key that stays put is seen exactly once.

use std::collections::BTreeMap;

use super::core::{Core, Serving};
use crate::command::{Cursor, Reply};
use crate::record::{Key, is_expired};
use crate::service::{Error, PAGE_KEYS_MAX};
use crate::slots::{SLOTS, Slot};
use crate::tier::RowKey;

/// Slots looked at together; doubled while they hold few keys.
const CHUNK_SLOTS_MIN: u16 = 64;
const CHUNK_SLOTS_MAX: u16 = 4096;

/// One page, of the contiguous slots of this shard that the cursor stands in.
pub(super) async fn page(core: &Core, serving: &Serving, cursor: Cursor, limit: u32) -> Result<Reply, Error> {
    if core.tier.is_some() {
        core.check_rows()?;
    }
    let limit = (limit as usize).clamp(1, PAGE_KEYS_MAX);
    let first = Slot::try_from(cursor.slot).map_err(|error| Error::Invalid(error.to_string()))?;
    let range = serving.slots.ranges().iter().find(|(from, to)| (*from..=*to).contains(&first));
    let Some(&(_, last)) = range else {
        if serving.slots.is_empty() {
            return Err(Error::Unavailable(serving.reason.clone()));
        }
        let reason = format!("slot {first} is not served here: {}", serving.reason);
        return Err(Error::WrongShard { epoch: serving.epoch, reason });
    };
    let mut keys = Vec::new();
    let mut position = cursor;
    let mut chunk_slots = CHUNK_SLOTS_MIN;
    loop {
        let from = Slot::try_from(position.slot).map_err(|error| Error::Invalid(error.to_string()))?;
        let to = Slot::try_from(position.slot.saturating_add(chunk_slots - 1)).unwrap_or(Slot::LAST).min(last);
        let chunk = chunk(core, from, position.after.as_ref(), to, limit - keys.len()).await?;
        keys.extend(chunk.keys);
        let next = match chunk.stopped_at {
            Some(cursor) => Some(cursor),
            None => Some(to.get() + 1).filter(|&slot| slot < SLOTS).map(|slot| Cursor { slot, after: None }),
        };
        // A page ends with its range, so that whoever knows the map finds the next shard.
        match next {
            Some(next) if keys.len() < limit && next.slot <= last.get() => position = next,
            next => return Ok(Reply::Page { keys, next }),
        }
        chunk_slots = (chunk_slots * 2).min(CHUNK_SLOTS_MAX);
    }
}

struct Chunk {
    keys: Vec<Key>,
    /// Where to go on; `None` if all slots of the chunk were seen.
    stopped_at: Option<Cursor>,
}

async fn chunk(core: &Core, from: Slot, after: Option<&Key>, to: Slot, limit: usize) -> Result<Chunk, Error> {
    let now = core.clock.now();
    let mut seen: BTreeMap<(Slot, Key), bool> = BTreeMap::new();
    for slot in (from.get()..=to.get()).filter_map(|slot| Slot::try_from(slot).ok()) {
        let after = after.filter(|_| slot == from);
        seen.extend(core.store.keys_in(slot, after, now).into_iter().map(|(key, exists)| ((slot, key), exists)));
    }
    let mut rows = Vec::new();
    if let Some(tier) = &core.tier {
        let scanned = tier.scan(from, after, to, limit).await;
        core.note_tier(&scanned);
        rows = scanned.map_err(|error| Error::Unavailable(error.to_string()))?;
    }
    let is_full = rows.len() == limit;
    let horizon = rows.last().filter(|_| is_full).map(|row| (row.slot, row.key.clone()));
    for RowKey { slot, key, expires_at } in rows {
        seen.entry((slot, key)).or_insert(!is_expired(expires_at, now)); // memory knows better
    }
    Ok(cut(seen, horizon, limit))
}

/// The first `limit` existing keys up to the horizon, beyond which the tier was not read.
fn cut(seen: BTreeMap<(Slot, Key), bool>, horizon: Option<(Slot, Key)>, limit: usize) -> Chunk {
    let mut keys = Vec::new();
    for (place, exists) in seen {
        let is_beyond = horizon.as_ref().is_some_and(|horizon| place > *horizon);
        if is_beyond {
            break;
        }
        let (slot, key) = place;
        if exists {
            keys.push(key.clone());
            if keys.len() == limit {
                return Chunk { keys, stopped_at: Some(Cursor { slot: slot.get(), after: Some(key) }) };
            }
        }
    }
    let stopped_at = horizon.map(|(slot, key)| Cursor { slot: slot.get(), after: Some(key) });
    Chunk { keys, stopped_at }
}
