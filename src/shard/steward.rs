//! Makes the shard what its primary wants it to be: lets slots go, claims the fence, takes slots over; and stops it cleanly
//! (R20, R22).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::core::{Core, Serving};
use super::fence::FenceKeeper;
use super::spiller::SetAside;
use crate::backoff::{Backoff, Stopped};
use crate::cluster::{Assignment, Fence, FenceToken, Holding, Incarnation, MemberState, ShardName, TierId};
use crate::record::{Key, Lsn};
use crate::replication::ReplicatedLog;
use crate::slots::{Slot, SlotSet};
use crate::tier::{SharedTier, TierError};

/// How often the wait for the tier to take what leaves looks, should it miss the call.
const LOOK: Duration = Duration::from_millis(50);
const FILTER_PAGE_ROWS: usize = 10_000;
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the shard is and what it shall be.
pub(super) struct Ledger {
    pub wanted: Option<Assignment>,
    pub held: Option<Holding>,
    pub state: MemberState,
    pub tier_id: Option<TierId>,
}

/// See the module.
pub(super) struct Steward {
    pub core: Arc<Core>,
    pub fence: Arc<FenceKeeper>,
    pub set_aside: Arc<SetAside>,
    pub ledger: Arc<Mutex<Ledger>>,
    /// `ledger.wanted` has changed.
    pub wake: Arc<Notify>,
    pub incarnation: Incarnation,
    /// Ends [`Steward::run`].
    pub stop: CancellationToken,
    /// Held while [`Steward::run`] runs.
    pub running: tokio::sync::Mutex<()>,
    /// Ends the scan that fills the filter, when another one starts.
    pub filter_scan: Arc<Mutex<CancellationToken>>,
}

/// Why an assignment is not carried out yet.
enum Obstacle {
    /// It will be tried again.
    Wait(String),
    /// A person must act.
    Refuse(String),
}

impl From<Stopped> for Obstacle {
    fn from(_: Stopped) -> Self {
        Self::Wait("stopping".to_owned())
    }
}

impl From<TierError> for Obstacle {
    fn from(error: TierError) -> Self {
        match error {
            TierError::Rejected(reason) => Self::Refuse(format!("the tier rejected the request: {reason}")),
            error => Self::Wait(error.to_string()),
        }
    }
}

impl Steward {
    /// Runs until stopped.
    pub async fn run(&self) {
        let _running = self.running.lock().await;
        let mut backoff = Backoff::new();
        loop {
            let (wanted, is_done) = {
                let ledger = self.ledger.lock();
                let is_done = matches!(ledger.state, MemberState::Serving | MemberState::Refusing(_));
                (ledger.wanted.clone(), is_done)
            };
            let Some(wanted) = wanted.filter(|_| !is_done) else {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.wake.notified() => {}
                    () = self.fence.until_lost() => self.step_down().await,
                }
                continue;
            };
            match self.pursue(&wanted).await {
                Ok(()) => {
                    backoff = Backoff::new();
                    self.settle(&wanted, MemberState::Serving);
                }
                Err(Obstacle::Refuse(reason)) => {
                    error!(shard = %wanted.shard, reason, "this secondary refuses to serve");
                    self.refuse(&reason).await;
                    self.settle(&wanted, MemberState::Refusing(reason));
                }
                Err(Obstacle::Wait(reason)) => {
                    self.settle(&wanted, MemberState::Starting(reason));
                    if backoff.wait(&self.stop).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Notes the outcome for `wanted`, unless something else is wanted by now.
    fn settle(&self, wanted: &Assignment, state: MemberState) {
        let mut ledger = self.ledger.lock();
        if ledger.state == MemberState::Draining {
            return;
        }
        let is_current = ledger.wanted.as_ref() == Some(wanted);
        ledger.state = if is_current { state } else { MemberState::Starting("a new assignment".to_owned()) };
    }

    async fn pursue(&self, wanted: &Assignment) -> Result<(), Obstacle> {
        let held = self.ledger.lock().held.clone();
        let (held, kept) = match held {
            Some(held) if held.shard == wanted.shard => {
                let kept = held.slots.intersection(&wanted.slots);
                (Some(held), kept)
            }
            other => (other, SlotSet::empty()),
        };
        let gained = wanted.slots.difference(&kept);
        if let Some(held) = held {
            self.let_go(&held, &kept, wanted).await?;
        }
        let Some(tier) = &self.core.tier else {
            self.core.log.begin(wanted.epoch, Lsn(0));
            return self.take_over(wanted).await;
        };
        self.prepare(tier).await?;
        self.claim(tier, wanted).await?;
        if !gained.is_empty() {
            self.restart_filter(tier, wanted.slots.clone());
            self.bring_back_dead_letters(tier, &gained).await?;
        }
        self.take_over(wanted).await
    }

    /// Stops serving what is not kept, and spills it.
    async fn let_go(&self, held: &Holding, kept: &SlotSet, wanted: &Assignment) -> Result<(), Obstacle> {
        let lost = held.slots.difference(kept);
        if lost.is_empty() {
            return Ok(());
        }
        let reason = format!("handed over under epoch {}", wanted.epoch);
        self.core.serve(Serving::new(Some(held.shard.clone()), held.epoch, kept.clone(), reason)).await;
        let spilled_before = self.core.counters.spilled_rows.get();
        self.core.store.vacate(&lost);
        self.drain(&lost, &self.stop).await?;
        if let Some(tier) = self.core.tier.as_ref().filter(|_| held.shard != wanted.shard) {
            self.write_fence(tier, held.shard.clone(), wanted, SlotSet::empty()).await?;
        }
        let mut ledger = self.ledger.lock();
        ledger.held = Some(Holding { slots: kept.clone(), ..held.clone() });
        let spilled = self.core.counters.spilled_rows.get() - spilled_before;
        info!(slots = lost.len(), spilled, epoch = wanted.epoch.0, "slots were spilled and let go");
        Ok(())
    }

    /// Waits until nothing of `slots` is in memory any more but what the tier rejects.
    async fn drain(&self, slots: &SlotSet, stop: &CancellationToken) -> Result<(), Obstacle> {
        let mut told = Instant::now();
        loop {
            let progress = self.core.progress.notified();
            self.core.spill.notify_one();
            let left = self.core.store.entries_in(slots);
            if left <= self.set_aside.len() {
                return Ok(());
            }
            {
                let mut ledger = self.ledger.lock();
                if ledger.state != MemberState::Draining {
                    ledger.state =
                        MemberState::Starting(format!("spilling {left} records of slots that it hands over"));
                }
            }
            if told.elapsed() >= Duration::from_secs(5) {
                told = Instant::now();
                info!(left, tier_is_up = self.core.tier_is_up(), "waiting for the tier to take what leaves memory");
            }
            tokio::select! {
                () = stop.cancelled() => return Err(Stopped.into()),
                () = self.fence.until_lost() => {
                    self.fence.lost().await;
                    return Err(Obstacle::Refuse("another owner has taken over the fence".to_owned()));
                }
                _ = timeout(LOOK, progress) => {}
            }
        }
    }

    async fn prepare(&self, tier: &SharedTier) -> Result<(), Obstacle> {
        if self.ledger.lock().tier_id.is_some() {
            return Ok(());
        }
        let prepared = tier.prepare().await;
        self.core.note_tier(&prepared);
        let prepared = prepared?;
        for warning in &prepared.warnings {
            warn!(tier = tier.describe(), "{warning}");
        }
        if self.core.options.strict && !prepared.warnings.is_empty() {
            return Err(Obstacle::Refuse(format!("--strict: {}", prepared.warnings.join("; "))));
        }
        self.ledger.lock().tier_id = Some(prepared.id);
        Ok(())
    }

    /// Makes the fence row of the wanted name this process's own (R20), unless that would hide a loss (R22).
    async fn claim(&self, tier: &SharedTier, wanted: &Assignment) -> Result<(), Obstacle> {
        let is_own = self.fence.current().is_ok_and(|(shard, _)| shard == wanted.shard);
        if !is_own {
            let row = tier.fences().await?.into_iter().find(|row| row.shard == wanted.shard);
            if let Some(row) = &row {
                self.check_loss(row, wanted)?;
            }
            self.core.log.begin(wanted.epoch, row.as_ref().map_or(Lsn(0), |row| row.lsn));
            let expected = row.as_ref().map(|row| row.token);
            return self
                .swap(tier, expected, self.new_row(wanted.shard.clone(), expected, wanted, &wanted.slots))
                .await;
        }
        let row = self.fence.row();
        let is_current = row.is_some_and(|row| row.epoch == wanted.epoch && row.slots == wanted.slots);
        if !is_current {
            self.write_fence(tier, wanted.shard.clone(), wanted, wanted.slots.clone()).await?;
        }
        self.core.log.begin(wanted.epoch, Lsn(0));
        Ok(())
    }

    /// Rewrites the own row with other slots.
    async fn write_fence(
        &self,
        tier: &SharedTier,
        shard: ShardName,
        wanted: &Assignment,
        slots: SlotSet,
    ) -> Result<(), Obstacle> {
        let expected = self.fence.current().ok().map(|(_, token)| token);
        self.swap(tier, expected, self.new_row(shard, expected, wanted, &slots)).await
    }

    fn new_row(&self, shard: ShardName, expected: Option<FenceToken>, wanted: &Assignment, slots: &SlotSet) -> Fence {
        Fence {
            shard,
            token: expected.unwrap_or_default().next(),
            incarnation: self.incarnation,
            epoch: wanted.epoch,
            slots: slots.clone(),
            lsn: self.core.log.last_lsn(),
            clean: slots.is_empty() || self.core.is_write_through(),
        }
    }

    async fn swap(&self, tier: &SharedTier, expected: Option<FenceToken>, row: Fence) -> Result<(), Obstacle> {
        match tier.swap_fence(expected, &row).await {
            Ok(true) => {
                self.fence.set(row);
                Ok(())
            }
            Ok(false) | Err(TierError::OutcomeUnknown(_)) => {
                // Whose row is it now? Perhaps ours, by an update whose answer was lost.
                let mine = tier
                    .fences()
                    .await?
                    .into_iter()
                    .find(|other| other.shard == row.shard && other.incarnation == self.incarnation);
                match mine {
                    Some(mine) => self.fence.set(mine),
                    None if self.fence.current().is_ok() => {
                        return Err(Obstacle::Refuse("another owner has taken over the fence".to_owned()));
                    }
                    None => {}
                }
                Err(Obstacle::Wait("the fence row has changed; reading it again".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// R22: the last owner of this name did not stop cleanly, and what it had not spilled died with it.
    fn check_loss(&self, row: &Fence, wanted: &Assignment) -> Result<(), Obstacle> {
        if row.clean || row.slots.is_empty() || row.incarnation == self.incarnation {
            return Ok(());
        }
        if !(wanted.accept_loss || self.core.options.accept_loss) {
            return Err(Obstacle::Refuse(format!(
                "the last secondary named {} did not stop cleanly: writes that it had acknowledged and not yet spilled \
                 are lost, and older rows of the same keys may be in the tier. If it still runs, stop it with SIGTERM; \
                 to serve what the tier has, start this secondary or the primary with --accept-loss",
                row.shard
            )));
        }
        self.core.counters.losses_accepted.add(1);
        warn!(shard = %row.shard, "--accept-loss: serving what the tier has; acknowledged writes of the last run may be lost");
        Ok(())
    }

    fn restart_filter(&self, tier: &SharedTier, slots: SlotSet) {
        let scan = self.stop.child_token();
        {
            // Under the lock, so that an older scan can't finish the filter in between.
            let mut current = self.filter_scan.lock();
            std::mem::replace(&mut *current, scan.clone()).cancel();
            self.core.store.restart_filter();
        }
        let (core, tier, current) = (Arc::clone(&self.core), tier.clone(), Arc::clone(&self.filter_scan));
        self.core.tasks.spawn("filter", async move {
            let started = Instant::now();
            let Ok(keys) = fill_filter(&core, &tier, &slots, &scan).await else { return };
            let is_finished = {
                let _current = current.lock();
                let is_current = !scan.is_cancelled();
                if is_current {
                    core.store.finish_filter();
                }
                is_current
            };
            if is_finished {
                info!(keys, millis = started.elapsed().as_millis() as u64, "the filter of spilled keys is complete");
            }
        });
    }

    /// Takes what the tier had rejected back into memory, but what newer rows have overtaken.
    async fn bring_back_dead_letters(&self, tier: &SharedTier, slots: &SlotSet) -> Result<(), Obstacle> {
        for &(first, last) in slots.ranges() {
            let letters = tier.buried(first, last).await?;
            for letter in letters {
                let key = letter.effect.key().clone();
                let rows = tier.load(std::slice::from_ref(&key)).await?;
                if rows.iter().any(|row| row.version >= letter.effect.version()) {
                    tier.unbury(&key, letter.effect.version()).await?;
                    continue;
                }
                warn!(version = %letter.effect.version(), reason = letter.reason, "a dead letter is back in memory");
                let room = self.core.room(letter.effect.size_bytes(), Instant::now() + DEAD_LETTER_TIMEOUT).await;
                let admission = room.map_err(|error| Obstacle::Wait(error.to_string()))?;
                self.core.apply_effect(&letter.effect, admission);
                self.set_aside.insert(key);
            }
        }
        Ok(())
    }

    async fn take_over(&self, wanted: &Assignment) -> Result<(), Obstacle> {
        let reason = format!("epoch {} gives them to another shard", wanted.epoch);
        let serving = Serving::new(Some(wanted.shard.clone()), wanted.epoch, wanted.slots.clone(), reason);
        self.core.serve(serving).await;
        let holding = Holding { shard: wanted.shard.clone(), epoch: wanted.epoch, slots: wanted.slots.clone() };
        info!(shard = %wanted.shard, epoch = wanted.epoch.0, slots = %wanted.slots, "serving");
        self.ledger.lock().held = Some(holding);
        Ok(())
    }

    async fn refuse(&self, reason: &str) {
        let before = self.core.serving();
        self.core.serve(Serving::new(before.name.clone(), before.epoch, SlotSet::empty(), reason)).await;
    }

    /// Another owner holds the fence: what is unspilled here can't reach the tier any more.
    async fn step_down(&self) {
        let unspilled = self.core.store.stats().unspilled;
        let reason = "another owner has taken over the fence of this shard; stop this process";
        error!(unspilled, "{reason}");
        self.refuse(reason).await;
        let mut ledger = self.ledger.lock();
        ledger.held = None;
        ledger.state = MemberState::Refusing(reason.to_owned());
    }

    /// Stops serving, spills everything and marks the fence clean. Returns how many records it spilled.
    ///
    /// # Errors
    /// How many records are still unspilled, if the tier did not take them within the drain timeout.
    pub async fn stop_cleanly(&self) -> Result<u64, u64> {
        self.ledger.lock().state = MemberState::Draining;
        self.stop.cancel();
        let _halted = self.running.lock().await;
        let held = self.ledger.lock().held.clone();
        self.refuse("it is stopping").await;
        let unspilled = self.core.store.stats().unspilled;
        let (Some(held), Some(tier)) = (held, &self.core.tier) else {
            return if unspilled == 0 { Ok(0) } else { Err(unspilled) };
        };
        let deadline = Instant::now() + self.core.options.drain_timeout;
        let spilled_before = self.core.counters.spilled_rows.get();
        info!(unspilled, "spilling what the tier does not have yet");
        self.core.store.vacate(&SlotSet::all());
        let never = CancellationToken::new();
        let is_drained = matches!(timeout_at(deadline, self.drain(&SlotSet::all(), &never)).await, Ok(Ok(())));
        if !is_drained {
            return Err(self.core.store.stats().unspilled);
        }
        match timeout_at(deadline, self.mark_clean(tier, &held)).await {
            Ok(true) => Ok(self.core.counters.spilled_rows.get() - spilled_before),
            Ok(false) | Err(_) => Err(0),
        }
    }

    async fn mark_clean(&self, tier: &SharedTier, held: &Holding) -> bool {
        let never = CancellationToken::new();
        let mut backoff = Backoff::new();
        loop {
            let Some(row) = self.fence.row() else { return false };
            let clean = Fence {
                token: row.token.next(),
                slots: held.slots.clone(),
                lsn: self.core.log.last_lsn(),
                clean: true,
                ..row.clone()
            };
            match tier.swap_fence(Some(row.token), &clean).await {
                Ok(true) => return true,
                Ok(false) | Err(TierError::OutcomeUnknown(_)) => {
                    if self.fence.recheck(tier, row.token, &never).await.is_err() {
                        return false;
                    }
                }
                Err(_) => {}
            }
            if backoff.wait(&never).await.is_err() {
                return false;
            }
        }
    }
}

/// Reads all keys with rows into the filter (R17). Returns how many there were.
async fn fill_filter(
    core: &Core,
    tier: &SharedTier,
    slots: &SlotSet,
    stop: &CancellationToken,
) -> Result<usize, Stopped> {
    let mut backoff = Backoff::new();
    let mut keys = 0;
    for &(first, last) in slots.ranges() {
        let mut position: (Slot, Option<Key>) = (first, None);
        loop {
            let page = tier.scan(position.0, position.1.as_ref(), last, FILTER_PAGE_ROWS).await;
            core.note_tier(&page);
            let Ok(page) = page else {
                backoff.wait(stop).await?;
                continue;
            };
            core.store.extend_filter(page.iter().map(|row| &row.key));
            keys += page.len();
            let is_last = page.len() < FILTER_PAGE_ROWS;
            match page.into_iter().last() {
                Some(_) if stop.is_cancelled() => return Err(Stopped),
                Some(row) if !is_last => position = (row.slot, Some(row.key)),
                Some(_) | None => break,
            }
        }
    }
    Ok(keys)
}
