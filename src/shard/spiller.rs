//! Writes what leaves memory into the tier, under the shard's fence (R10, R11, R13, R20, R26).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
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
use crate::task::go_last;
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

/// Takes up what is to be spilled, for all lanes: two that did would share what is worth one transaction. Each batch is then a task of
/// its own, which holds a lane while the tier has something to do for it.
pub(super) struct Spiller {
    pub core: Arc<Core>,
    pub tier: SharedTier,
    pub fence: Arc<FenceKeeper>,
    pub set_aside: Arc<SetAside>,
    pub stop: CancellationToken,
}

/// What is flushed at once.
struct Batch {
    effects: Vec<Effect>,
    claim: Claim,
}

/// A lane that is somebody's until this is dropped.
struct Leased {
    lane: Lane,
    idle: UnboundedSender<Lane>,
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.idle.send(self.lane).ok(); // or the spiller has ended
    }
}

/// The lanes that no flush is in.
struct Lanes {
    idle: UnboundedReceiver<Lane>,
    back: UnboundedSender<Lane>,
}

impl Lanes {
    fn new(count: u8) -> Self {
        let (back, idle) = unbounded_channel();
        for lane in 0..count {
            back.send(Lane(lane)).ok();
        }
        Self { idle, back }
    }

    async fn lease(&mut self, stop: &CancellationToken) -> Result<Leased, Stopped> {
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Stopped),
            Some(lane) = self.idle.recv() => Ok(Leased { lane, idle: self.back.clone() }),
        }
    }
}

/// What the tier says to a flush.
enum Verdict {
    Taken,
    Rejected(String),
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

impl Spiller {
    /// Runs until stopped.
    pub async fn run(self: Arc<Self>) {
        join(self.take_up(), self.retry_letters()).await;
    }

    async fn take_up(self: &Arc<Self>) {
        let mut lanes = Lanes::new(self.tier.lanes());
        while self.stop.run_until_cancelled(self.core.spill.notified()).await.is_some() {
            match self.spill_all(&mut lanes).await {
                // Whoever found the fence gone has told the steward.
                Ok(()) | Err(GaveUp::Fenced) => {}
                Err(GaveUp::Stopped) => return,
            }
            if self.on_their_way() == 0 {
                self.core.backlog.end(); // what waits no more may have been set aside or forgotten, and not confirmed
            }
        }
    }

    async fn spill_all(self: &Arc<Self>, lanes: &mut Lanes) -> Result<(), GaveUp> {
        let mut has_rest = false;
        while self.core.store.has_spill() {
            self.core.backlog.begin(|| self.on_their_way());
            if !has_rest {
                self.gather().await?;
            }
            // Only about what fills a transaction is taken before a lane is free for it: the rest may grow until then.
            let is_full = self.core.store.spill_len() >= ROWS_MAX;
            let lane = if is_full { None } else { Some(lanes.lease(&self.stop).await?) };
            let Some(batch) = self.take()? else { continue };
            has_rest = self.core.store.has_spill();
            match self.make_ready(lane, lanes).await {
                Ok(lane) => {
                    let spiller = Arc::clone(self);
                    self.core.tasks.spawn("flush", async move { spiller.spill(batch, lane).await });
                }
                Err(Stopped) => {
                    self.give_back(&batch.effects, batch.claim);
                    return Err(GaveUp::Stopped);
                }
            }
        }
        Ok(())
    }

    /// Waits until what was taken is safe in the journal, and until there is a lane for it.
    async fn make_ready(&self, lane: Option<Leased>, lanes: &mut Lanes) -> Result<Leased, Stopped> {
        if let Err(error) = self.core.log.harden().await {
            warn!(%error, "nothing is spilled any more");
            return Err(Stopped);
        }
        match lane {
            Some(lane) => Ok(lane),
            None => lanes.lease(&self.stop).await,
        }
    }

    fn on_their_way(&self) -> u64 {
        self.core.store.stats().spilling
    }

    /// What is to be flushed next; `None` if all of it was stale, or nobody knows of which claim it is.
    fn take(&self) -> Result<Option<Batch>, Fenced> {
        let claim = self.fence.claim()?; // while there is none, nothing is taken up
        let effects = self.core.store.take_spill(ROWS_MAX, FLUSH_BYTES_MAX);
        if self.fence.claim() != Ok(claim) {
            self.core.store.unflushed(&effects);
            return Ok(None);
        }
        Ok((!effects.is_empty()).then_some(Batch { effects, claim }))
    }

    /// Hands out again what was not flushed, unless it is forgotten, or will be: then the same keys may be in a flush of the next claim.
    fn give_back(&self, effects: &[Effect], claim: Claim) {
        if self.fence.under(claim).is_ok() {
            self.core.store.unflushed(effects);
        }
    }

    /// Brings a batch into the tier. If this panics, nobody knows what became of it here, and its keys stay as being flushed. The tier
    /// does not.
    async fn spill(&self, batch: Batch, lane: Leased) {
        let mut parts = vec![batch.effects.as_slice()];
        if self.settle(&mut parts, batch.claim, lane).await.is_err() {
            parts.iter().for_each(|part| self.give_back(part, batch.claim));
        }
        self.core.spill.notify_one(); // perhaps nothing waits any more
    }

    /// Until the tier has all parts, or has rejected what is left of them for good: a part that it rejects is cut in halves, to find out
    /// for which row.
    async fn settle(&self, parts: &mut Vec<&[Effect]>, claim: Claim, lane: Leased) -> Result<(), GaveUp> {
        let mut lane = Some(lane);
        while let (Some(&part), Some(leased)) = (parts.last(), &lane) {
            match (self.flush(part, claim, leased.lane).await?, part) {
                (Verdict::Taken, _) => {
                    if parts.len() == 1 {
                        lane = None;
                        go_last().await; // first whatever waits for the lane
                    }
                    self.confirm(part, claim).await?;
                    parts.pop();
                }
                (Verdict::Rejected(reason), [effect]) => {
                    self.bury(effect, claim, reason).await?;
                    parts.pop();
                }
                (Verdict::Rejected(_), _) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.pop();
                    parts.extend([second, first]);
                }
            }
        }
        Ok(())
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

    /// Flushes until the tier has taken the effects, or has rejected something of them.
    async fn flush(&self, effects: &[Effect], claim: Claim, lane: Lane) -> Result<Verdict, GaveUp> {
        let mut backoff = Backoff::new();
        let mut conflicts = 0;
        loop {
            let (shard, token) = self.fence.under(claim)?;
            let started = request::is_told().then(Instant::now);
            let mut span = Span::start("spill", Kind::Client, None);
            let flushed = self.tier.flush(&shard, lane, token, effects, self.core.log.last_lsn()).await;
            span.set_count("overspill.rows", effects.len());
            span.set_errors(flushed.is_err().into());
            span.end();
            if let Some(started) = started {
                let (rows, micros) = (effects.len(), started.elapsed().as_micros() as u64);
                tracing::debug!(target: request::TARGET, rows, micros, is_ok = flushed.is_ok(), "spilled");
            }
            self.core.note_tier(&flushed);
            let Err(error) = flushed else { return Ok(Verdict::Taken) };
            self.core.counters.spill_errors.add(1);
            match error {
                TierError::Conflict(_) if conflicts < CONFLICTS_AT_ONCE => {
                    conflicts += 1;
                    continue;
                }
                TierError::Conflict(_) | TierError::Unavailable(_) => {}
                // R26: the statement may still be running; a new token outdates it.
                TierError::OutcomeUnknown(_) => self.fence.raise(&self.tier, token, &self.stop).await?,
                TierError::Fenced => self.mend_fence(token).await?,
                TierError::Rejected(reason) => return Ok(Verdict::Rejected(reason)),
            }
            backoff.wait(&self.stop).await?;
        }
    }

    /// Another owner holds the fence, or this very process under another token, or a row of it is not what it was: writes all of them.
    async fn mend_fence(&self, refused: FenceToken) -> Result<(), Lost> {
        self.fence.recheck(&self.tier, refused, &self.stop).await?;
        if self.fence.current()?.1 == refused {
            warn!(token = refused.0, "a lane of the fence has another token, which nobody has claimed");
            self.fence.raise(&self.tier, refused, &self.stop).await?;
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
        self.core.spill.notify_one(); // some may have been written again meanwhile
        Ok(())
    }

    /// Removes the dead letter of a key that the tier has taken. Before anything counts as confirmed: a letter that
    /// outlives a deletion brings the key back at the next start.
    async fn settle_letter(&self, effect: &Effect, claim: Claim) -> Result<(), GaveUp> {
        let mut backoff = Backoff::new();
        while let Err(error) = self.tier.unbury(effect.key(), effect.version()).await {
            warn!(%error, "a dead letter that is settled can't be removed yet");
            backoff.wait(&self.stop).await?;
            self.fence.under(claim)?;
        }
        self.fence.under(claim)?;
        info!(version = %effect.version(), "the tier has taken a record that it had rejected");
        self.set_aside.remove(effect.key());
        Ok(())
    }

    /// Sets aside what the tier rejects.
    async fn bury(&self, effect: &Effect, claim: Claim, reason: String) -> Result<(), GaveUp> {
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

    /// Has the tier asked again, now and then, to take what it had rejected.
    async fn retry_letters(&self) {
        let mut retry = tokio::time::interval(DEAD_LETTER_RETRY);
        while self.stop.run_until_cancelled(retry.tick()).await.is_some() {
            for key in self.set_aside.due() {
                if !self.core.store.hand_out_again(&key) {
                    self.set_aside.remove(&key);
                }
            }
            self.core.spill.notify_one();
        }
    }
}
