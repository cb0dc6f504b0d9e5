//! Writes what leaves memory into the tier, under the shard's fence (R10, R11, R13, R20, R26).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::core::Core;
use super::fence::{Claim, FenceKeeper, Fenced, Lost};
use crate::backoff::{Backoff, Stopped};
use crate::cluster::FenceToken;
use crate::command::Effect;
use crate::record::{Key, Version};
use crate::replication::ReplicatedLog;
use crate::request::{self, Kind, Span};
use crate::slots::{Slot, SlotSet};
use crate::sync::Mutex;
use crate::tier::{DeadLetter, Lane, ROWS_MAX, SharedTier, TierError};

/// A flush is about this large at most, unless one record is larger: a quarter of what MariaDB takes in one packet (R9).
const FLUSH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// So many rows are worth a transaction at once. A transaction with one row costs the tier about as much as one with these.
const GATHERED_ROWS: usize = 256;
/// Fewer wait so long for others.
const GATHER_MAX: Duration = Duration::from_millis(20);
/// How often the tier is asked again to take what it had rejected.
const DEAD_LETTER_RETRY: Duration = Duration::from_secs(60);
/// A transaction that the tier asks to repeat is repeated at once this often; then with a pause.
const CONFLICTS_AT_ONCE: u32 = 3;

/// Records that the tier rejected. They stay in memory, where they are served, and in the dead-letter table.
#[derive(Debug, Default)]
pub(super) struct SetAside {
    /// Ordered, so that a simulation can be repeated.
    keys: Mutex<BTreeMap<Key, Aside>>,
}

#[derive(Debug, Clone, Copy)]
struct Aside {
    since: Instant,
    /// The version that the dead-letter table has.
    buried: Option<Version>,
}

impl SetAside {
    pub fn insert(&self, key: Key, buried: Option<Version>) {
        self.keys.lock().insert(key, Aside { since: Instant::now(), buried });
    }

    pub fn clear(&self) {
        self.keys.lock().clear();
    }

    pub fn keys(&self) -> Vec<Key> {
        self.keys.lock().keys().cloned().collect()
    }

    /// What is safe in the dead-letter table, of some slots.
    pub fn buried_in(&self, slots: &SlotSet) -> Vec<(Key, Version)> {
        let keys = self.keys.lock();
        let buried = keys.iter().filter(|(key, _)| slots.contains(Slot::of(key)));
        buried.filter_map(|(key, aside)| Some((key.clone(), aside.buried?))).collect()
    }

    fn contains(&self, key: &Key) -> bool {
        let keys = self.keys.lock();
        !keys.is_empty() && keys.contains_key(key)
    }

    pub fn remove(&self, key: &Key) {
        self.keys.lock().remove(key);
    }

    fn due(&self) -> Vec<Key> {
        let now = Instant::now();
        let mut keys = self.keys.lock();
        let due = keys.iter_mut().filter(|(_, aside)| now.duration_since(aside.since) >= DEAD_LETTER_RETRY);
        due.map(|(key, aside)| {
            aside.since = now;
            key.clone()
        })
        .collect()
    }
}

/// One of the tasks that spill, each in a lane of its own.
pub(super) struct Spiller<'a> {
    pub core: &'a Core,
    pub tier: &'a SharedTier,
    pub fence: &'a FenceKeeper,
    pub set_aside: &'a SetAside,
    pub turn: &'a SpillTurn,
    pub lane: Lane,
    pub stop: &'a CancellationToken,
}

/// Held by the lane that gathers and takes what it flushes next, and by one at a time: two would share what is worth one transaction.
#[derive(Debug, Default)]
pub(super) struct SpillTurn {
    /// Whether the last one left something, because it was more than a flush takes.
    has_rest: AsyncMutex<bool>,
}

/// What a lane flushes next.
struct Batch {
    effects: Vec<Effect>,
    claim: Claim,
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

impl From<Stopped> for GaveUp {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<Lost> for GaveUp {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Fenced => Self::Fenced,
            Lost::Stopped => Self::Stopped,
        }
    }
}

impl Spiller<'_> {
    /// Runs until stopped.
    pub async fn run(&self) {
        let mut retry = tokio::time::interval(DEAD_LETTER_RETRY);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = retry.tick() => self.hand_out_again().await, // before the other, which may always be ready
                () = self.core.spill.notified() => {}
            }
            match self.spill_all().await {
                // Whoever found the fence gone has told the steward.
                Ok(()) | Err(GaveUp::Fenced) => {}
                Err(GaveUp::Stopped) => return,
            }
        }
    }

    async fn spill_all(&self) -> Result<(), GaveUp> {
        while let Some(Batch { effects, claim }) = self.take().await? {
            let flushed = match self.core.log.harden().await {
                Ok(()) => self.flush(&effects, claim).await,
                Err(error) => {
                    warn!(%error, "nothing is spilled any more");
                    Err(GaveUp::Stopped)
                }
            };
            // Else they are forgotten, or will be, and the same keys may be in a flush of the next claim.
            if flushed.is_err() && self.fence.under(claim).is_ok() {
                self.core.store.unflushed(&effects);
            }
            flushed?;
        }
        Ok(())
    }

    /// Waits for its turn and takes what is to be flushed next; `None` if nothing is.
    async fn take(&self) -> Result<Option<Batch>, GaveUp> {
        let on_their_way = || self.core.store.stats().spilling;
        let mut has_rest = self.turn.has_rest.lock().await;
        while self.core.store.has_spill() {
            self.core.backlog.begin(on_their_way);
            if !*has_rest {
                self.gather().await?;
            }
            let claim = self.fence.claim()?; // while there is none, nothing is taken up
            let effects = self.core.store.take_spill(ROWS_MAX, FLUSH_BYTES_MAX);
            *has_rest = self.core.store.has_spill();
            if self.fence.claim() != Ok(claim) {
                self.core.store.unflushed(&effects);
                continue; // nobody knows of which claim they are
            }
            if *has_rest {
                self.core.spill.notify_one(); // another lane may be idle
            }
            if !effects.is_empty() {
                return Ok(Some(Batch { effects, claim }));
            } // else all of it was stale
        }
        if on_their_way() == 0 {
            self.core.backlog.end(); // what waits no more may have been set aside, and not confirmed
        }
        Ok(None)
    }

    /// Waits for more to write in the same transaction, unless somebody waits for its outcome.
    async fn gather(&self) -> Result<(), Stopped> {
        if self.core.is_write_through() || self.core.store.spill_len() >= GATHERED_ROWS {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stopped),
            () = self.core.hurry.notified() => Ok(()),
            () = sleep(GATHER_MAX) => Ok(()),
        }
    }

    /// Flushes until the tier has the effects, or has rejected them for good.
    fn flush<'b>(&'b self, effects: &'b [Effect], claim: Claim) -> BoxFuture<'b, Result<(), GaveUp>> {
        async move {
            let mut backoff = Backoff::new();
            let mut conflicts = 0;
            loop {
                let (shard, token) = self.fence.under(claim)?;
                let started = request::is_told().then(Instant::now);
                let mut span = Span::start("spill", Kind::Client, None);
                let flushed = self.tier.flush(&shard, self.lane, token, effects, self.core.log.last_lsn()).await;
                span.set_count("overspill.rows", effects.len());
                span.set_errors(flushed.is_err().into());
                span.end();
                if let Some(started) = started {
                    let (rows, micros) = (effects.len(), started.elapsed().as_micros() as u64);
                    tracing::debug!(target: request::TARGET, rows, micros, is_ok = flushed.is_ok(), "spilled");
                }
                self.core.note_tier(&flushed);
                let Err(error) = flushed else {
                    return self.confirm(effects, claim).await;
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
                    TierError::Fenced => self.mend_fence(token).await?,
                    TierError::Rejected(reason) => return self.bisect(effects, claim, reason).await,
                }
                backoff.wait(self.stop).await?;
            }
        }
        .boxed()
    }

    /// Another owner holds the fence, or this very process under another token, or a row of it is not what it was: writes all of them.
    async fn mend_fence(&self, refused: FenceToken) -> Result<(), Lost> {
        self.fence.recheck(self.tier, refused, self.stop).await?;
        if self.fence.current()?.1 == refused {
            warn!(token = refused.0, "a lane of the fence has another token, which nobody has claimed");
            self.fence.raise(self.tier, refused, self.stop).await?;
        }
        Ok(())
    }

    async fn confirm(&self, effects: &[Effect], claim: Claim) -> Result<(), GaveUp> {
        for effect in effects.iter().filter(|effect| self.set_aside.contains(effect.key())) {
            self.settle_letter(effect, claim).await?;
        }
        self.fence.under(claim)?;
        self.core.counters.spilled_rows.add(effects.len() as u64);
        self.core.counters.spilled_batches.add(1);
        for ticket in self.core.store.confirm(effects) {
            self.core.clean_waits.answer(ticket, (), 0);
        }
        self.core.backlog.done(effects.len() as u64);
        if let Some(journal) = self.core.log.journal() {
            journal.confirm(effects);
        }
        self.core.progress.notify_waiters();
        Ok(())
    }

    /// Removes the dead letter of a key that the tier has taken. Before anything counts as confirmed: a letter that
    /// outlives a deletion brings the key back at the next start.
    async fn settle_letter(&self, effect: &Effect, claim: Claim) -> Result<(), GaveUp> {
        let mut backoff = Backoff::new();
        while let Err(error) = self.tier.unbury(effect.key(), effect.version()).await {
            warn!(%error, "a dead letter that is settled can't be removed yet");
            backoff.wait(self.stop).await?;
            self.fence.under(claim)?;
        }
        self.fence.under(claim)?;
        info!(version = %effect.version(), "the tier has taken a record that it had rejected");
        self.set_aside.remove(effect.key());
        Ok(())
    }

    /// The tier rejects a batch for something in it: find it, set it aside, and let the rest through.
    async fn bisect(&self, effects: &[Effect], claim: Claim, reason: String) -> Result<(), GaveUp> {
        let [effect] = effects else {
            let (first, second) = effects.split_at(effects.len() / 2);
            self.flush(first, claim).await?;
            return self.flush(second, claim).await;
        };
        let letter = DeadLetter { effect: effect.clone(), reason };
        let buried = self.tier.bury(&self.fence.under(claim)?.0, &letter).await;
        self.fence.under(claim)?;
        self.core.counters.dead_letters.add(1);
        // First the note: who flushes something newer must find the letter.
        self.set_aside.insert(effect.key().clone(), buried.is_ok().then(|| effect.version()));
        self.core.store.set_aside(effect);
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
