//! Writes what leaves memory into the tier, under the shard's fence (R10, R11, R13, R20, R26).

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::RandomState;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::core::Core;
use super::fence::{FenceKeeper, Fenced};
use crate::backoff::Backoff;
use crate::command::Effect;
use crate::record::Key;
use crate::replication::ReplicatedLog;
use crate::slots::{Slot, SlotSet};
use crate::tier::{DeadLetter, ROWS_MAX, SharedTier, TierError};

/// A flush is about this large at most, unless one record is larger: a quarter of what MariaDB takes in one packet (R9).
const FLUSH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How often the tier is asked again to take what it had rejected.
const DEAD_LETTER_RETRY: Duration = Duration::from_secs(60);
/// A transaction that the tier asks to repeat is repeated at once this often; then with a pause.
const CONFLICTS_AT_ONCE: u32 = 3;

/// Records that the tier rejected. They stay in memory, where they are served, and in the dead-letter table.
#[derive(Debug, Default)]
pub(super) struct SetAside {
    letters: Mutex<HashMap<Key, Letter, RandomState>>,
}

#[derive(Debug, Clone, Copy)]
struct Letter {
    tried: Instant,
    /// The dead-letter table has it: then memory is not its only place.
    is_buried: bool,
}

impl SetAside {
    pub fn insert(&self, key: Key, is_buried: bool) {
        self.letters.lock().insert(key, Letter { tried: Instant::now(), is_buried });
    }

    /// How many records of these slots live in memory only.
    pub fn unburied_in(&self, slots: &SlotSet) -> usize {
        let letters = self.letters.lock();
        letters.iter().filter(|(key, letter)| !letter.is_buried && slots.contains(Slot::of(key))).count()
    }

    /// The slots have been handed over, and their dead letters with them.
    pub fn forget(&self, slots: &SlotSet) {
        self.letters.lock().retain(|key, _| !slots.contains(Slot::of(key)));
    }

    fn remove(&self, key: &Key) -> bool {
        let mut letters = self.letters.lock();
        !letters.is_empty() && letters.remove(key).is_some()
    }

    fn due(&self) -> Vec<Key> {
        let now = Instant::now();
        let mut letters = self.letters.lock();
        let due = letters.iter_mut().filter(|(_, letter)| now.duration_since(letter.tried) >= DEAD_LETTER_RETRY);
        due.map(|(key, letter)| {
            letter.tried = now;
            key.clone()
        })
        .collect()
    }
}

/// The task that spills.
pub(super) struct Spiller<'a> {
    pub core: &'a Core,
    pub tier: &'a SharedTier,
    pub fence: &'a FenceKeeper,
    pub set_aside: &'a SetAside,
    pub stop: &'a CancellationToken,
}

/// Why a flush was given up.
enum GaveUp {
    /// Another owner holds the fence: nothing of this shard may reach the tier any more.
    Fenced,
    Stopped,
}

impl From<Fenced> for GaveUp {
    fn from(_: Fenced) -> Self {
        Self::Fenced
    }
}

impl Spiller<'_> {
    /// Runs until stopped or fenced.
    pub async fn run(&self) {
        let mut retry = tokio::time::interval(DEAD_LETTER_RETRY);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.core.spill.notified() => {}
                _ = retry.tick() => self.hand_out_again().await,
            }
            match self.spill_all().await {
                Ok(()) => {}
                Err(GaveUp::Fenced) => self.fence.lost().await,
                Err(GaveUp::Stopped) => return,
            }
        }
    }

    async fn spill_all(&self) -> Result<(), GaveUp> {
        loop {
            let mut effects = self.core.store.take_spill(ROWS_MAX, FLUSH_BYTES_MAX);
            if effects.is_empty() {
                return Ok(());
            }
            effects.sort_unstable_by(|a, b| a.key().cmp(b.key())); // one order for all: fewer deadlocks
            if let Err(gave_up) = self.flush(&effects).await {
                self.core.store.unflushed(&effects);
                return Err(gave_up);
            }
        }
    }

    /// Flushes until the tier has the effects, or has rejected them for good.
    fn flush<'b>(&'b self, effects: &'b [Effect]) -> BoxFuture<'b, Result<(), GaveUp>> {
        async move {
            let mut backoff = Backoff::new();
            let mut conflicts = 0;
            loop {
                let (shard, token) = self.fence.current()?;
                let flushed = self.tier.flush(&shard, token, effects, self.core.log.last_lsn()).await;
                self.core.note_tier(&flushed);
                let Err(error) = flushed else {
                    self.confirm(effects).await;
                    return Ok(());
                };
                self.core.counters.spill_errors.add(1);
                match error {
                    TierError::Conflict(_) if conflicts < CONFLICTS_AT_ONCE => {
                        conflicts += 1;
                        continue;
                    }
                    TierError::Conflict(_) | TierError::Unavailable(_) => {}
                    // R26: the statement may still be running; a new token outdates it.
                    TierError::OutcomeUnknown(_) => self.fence.raise(self.tier, token, self.stop).await?,
                    TierError::Fenced => self.fence.recheck(self.tier, token, self.stop).await?,
                    TierError::Rejected(reason) => return self.bisect(effects, reason).await,
                }
                backoff.wait(self.stop).await.map_err(|_| GaveUp::Stopped)?;
            }
        }
        .boxed()
    }

    async fn confirm(&self, effects: &[Effect]) {
        self.core.counters.spilled_rows.add(effects.len() as u64);
        self.core.counters.spilled_batches.add(1);
        for ticket in self.core.store.confirm(effects) {
            self.core.clean_waits.answer(ticket, ());
        }
        self.core.progress.notify_waiters();
        for effect in effects {
            if self.set_aside.remove(effect.key()) {
                info!(version = %effect.version(), "the tier has taken a record that it had rejected");
                if let Err(error) = self.tier.unbury(effect.key(), effect.version()).await {
                    warn!(%error, "a dead letter that is settled could not be removed");
                }
            }
        }
    }

    /// The tier rejects a batch for something in it: find it, set it aside, and let the rest through.
    async fn bisect(&self, effects: &[Effect], reason: String) -> Result<(), GaveUp> {
        let [effect] = effects else {
            let (first, second) = effects.split_at(effects.len() / 2);
            self.flush(first).await?;
            return self.flush(second).await;
        };
        let letter = DeadLetter { effect: effect.clone(), reason };
        let buried = self.tier.bury(&self.fence.current()?.0, &letter).await;
        self.core.counters.dead_letters.add(1);
        self.core.store.set_aside(effect);
        self.set_aside.insert(effect.key().clone(), buried.is_ok());
        match buried {
            Ok(()) => error!(version = %effect.version(), bytes = effect.size_bytes(), reason = letter.reason,
                "the tier rejects a record: it stays in memory, with a copy in the table dead_letters"),
            Err(error) => {
                error!(version = %effect.version(), bytes = effect.size_bytes(), reason = letter.reason, %error,
                "the tier rejects a record, and as a dead letter too: it stays in memory only")
            }
        }
        Ok(())
    }

    async fn hand_out_again(&self) {
        for key in self.set_aside.due() {
            if !self.core.store.hand_out_again(&key) {
                self.set_aside.remove(&key);
            }
        }
    }
}
