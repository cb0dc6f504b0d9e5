//! What a shard tells about itself and about a key.

use super::core::Serving;
use super::{Shard, WriteMode};
use crate::command::{Explanation, Place, Reply, ShardStats};
use crate::journal::Journal;
use crate::record::Key;
use crate::service::Error;
use crate::slots::Slot;

impl Shard {
    pub(super) fn count(&self) -> Result<Reply, Error> {
        let count = self.core.store.count();
        count
            .map(Reply::Count)
            .ok_or_else(|| Error::Unavailable("the keys in the tier are still being counted".to_owned()))
    }

    pub(super) async fn explain(&self, serving: &Serving, key: &Key) -> Result<Reply, Error> {
        let mut explanation = Explanation {
            slot: Slot::of(key).get(),
            shard: serving.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            place: Place::Nowhere,
            version: None,
            expires_at: None,
            value_bytes: None,
            rank: None,
            policy: self.core.options.policy.to_string(),
        };
        if let Some(seen) = self.core.store.explain(key) {
            explanation.place = seen.place;
            explanation.version = Some(seen.version);
            explanation.expires_at = seen.expires_at;
            explanation.value_bytes = Some(seen.value_bytes);
            explanation.rank = seen.rank;
        } else if let Some(tier) = &self.core.tier {
            // Straight from the tier: an explanation must not bring the key into memory.
            let rows = tier.load(std::slice::from_ref(key)).await;
            self.core.note_tier(&rows);
            if let Some(row) = rows.map_err(|error| Error::Unavailable(error.to_string()))?.into_iter().next() {
                explanation.place = Place::Tier;
                explanation.version = Some(row.version);
                explanation.expires_at = row.expires_at;
                explanation.value_bytes = Some(row.value.as_bytes().len() as u64);
            }
        }
        Ok(Reply::Explained(Box::new(explanation)))
    }

    pub(super) fn stats(&self, serving: &Serving) -> ShardStats {
        let (core, store) = (&self.core, self.core.store.stats());
        let counters = &core.counters;
        let journal = core.log.journal().map(Journal::usage).unwrap_or_default();
        let connections = core.tier.as_ref().map(|tier| tier.connections()).unwrap_or_default();
        let write_mode = match core.options.write_mode {
            WriteMode::Spill => "spill",
            WriteMode::Behind => "behind",
            WriteMode::Through => "through",
        };
        ShardStats {
            shard: serving.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            epoch: serving.epoch.0,
            slots: serving.slots.len() as u64,
            policy: core.options.policy.to_string(),
            write_mode: if core.tier.is_some() { write_mode.to_owned() } else { "none".to_owned() },
            tier: core.tier.as_ref().map_or_else(|| "none".to_owned(), |tier| tier.describe()),
            tier_up: core.tier_is_up(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            records: store.live,
            records_max: core.options.capacity as u64,
            records_spilling: store.leaving,
            unspilled: store.unspilled,
            tombstones: store.tombstones,
            tier_records: if store.filter_is_complete { store.tier_records } else { 0 },
            filter_ready: store.filter_is_complete,
            memory_bytes: store.bytes,
            memory_bytes_max: store.bytes_max,
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            puts: counters.puts.get(),
            deletes: counters.deletes.get(),
            expired: counters.expired.get(),
            evicted: store.evicted,
            dropped: store.dropped,
            spilled_rows: counters.spilled_rows.get(),
            spilled_batches: counters.spilled_batches.get(),
            spill_errors: counters.spill_errors.get(),
            loaded_rows: counters.loaded_rows.get(),
            load_batches: counters.load_batches.get(),
            load_errors: counters.load_errors.get(),
            loads_avoided: counters.loads_avoided.get(),
            loads_joined: counters.loads_joined.get(),
            busy: counters.busy.get(),
            dead_letters: counters.dead_letters.get(),
            losses_accepted: counters.losses_accepted.get(),
            journal_bytes: journal.bytes,
            journal_bytes_max: journal.bytes_max,
            journal_groups: journal.groups,
            journal_syncs: journal.syncs,
            journal_sync_us: journal.last_sync_us,
            unspilled_bytes: store.bytes_unspilled,
            spill_queue: store.spilling,
            spill_queue_age_ms: core.backlog.age().as_millis() as u64,
            tier_pool_used: connections.used.into(),
            tier_pool_max: connections.max.into(),
        }
    }
}
