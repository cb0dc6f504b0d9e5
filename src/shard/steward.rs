//! Makes the shard what its primary wants it to be: lets slots go, claims the fence, takes slots over; and stops it cleanly
//! (R20, R22).

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, SetOnce};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::core::{Core, Serving};
use super::fence::FenceKeeper;
use super::filter;
use super::ledger::Ledger;
use super::spiller::SetAside;
use super::tenure::TenureKeeper;
use super::{Stopped, UncleanStop};
use crate::backoff::{self, Backoff};
use crate::cluster::{Assignment, Fence, Holding, Incarnation, MemberState, ShardName};
use crate::mutants::{Rule, is_planted};
use crate::record::{Epoch, Key, Lsn};
use crate::replication::{LogError, ReplicatedLog};
use crate::slots::SlotSet;
use crate::store::{Admission, ScanId};
use crate::sync::Mutex;
use crate::tier::{DeadLetter, Prepared, SharedTier, TierError};

/// How often the wait for the tier to take what leaves looks, should it miss the call.
const LOOK: Duration = Duration::from_millis(50);
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Steward {
    pub core: Arc<Core>,
    pub fence: Arc<FenceKeeper>,
    pub tenure: TenureKeeper,
    pub set_aside: Arc<SetAside>,
    pub ledger: Arc<Mutex<Ledger>>,
    /// `ledger.wanted` has changed.
    pub wake: Arc<Notify>,
    pub incarnation: Incarnation,
    /// Ends [`Steward::run`].
    pub stop: CancellationToken,
    /// Held while [`Steward::run`] runs.
    pub running: tokio::sync::Mutex<()>,
    pub filter_scan: Mutex<FilterScan>,
    /// Why nothing is served any more (R23), once that has been seen to.
    pub failed: SetOnce<String>,
}

/// The scan that fills the filter, or has filled it.
#[derive(Default)]
pub(super) struct FilterScan {
    slots: SlotSet,
    /// Ends it, when another one starts.
    stop: CancellationToken,
}

/// Why an assignment is not carried out yet.
pub(super) enum Obstacle {
    /// It will be tried again.
    Wait(String),
    /// A person must act.
    Refuse(String),
}

impl From<backoff::Stopped> for Obstacle {
    fn from(_: backoff::Stopped) -> Self {
        Self::Wait("stopping".to_owned())
    }
}

impl From<LogError> for Obstacle {
    fn from(error: LogError) -> Self {
        Self::Wait(format!("the journal: {error}"))
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
        while !self.stop.is_cancelled() {
            let (wanted, is_done) = {
                let ledger = self.ledger.lock();
                let is_done = matches!(ledger.state, MemberState::Serving | MemberState::Refusing(_));
                (ledger.wanted.clone(), is_done)
            };
            let Some(wanted) = wanted.filter(|_| !is_done) else {
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return,
                    () = self.fence.until_lost() => self.step_down().await,
                    () = self.wake.notified() => {}
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
        ledger.state = if ledger.wants(wanted) { state } else { MemberState::Starting("a new assignment".to_owned()) };
    }

    async fn pursue(&self, wanted: &Assignment) -> Result<(), Obstacle> {
        if let Some(tier) = &self.core.tier
            && self.fence.current().is_err()
        {
            if self.ledger.lock().is_unclaimed {
                self.reclaim(tier, wanted).await?;
            } else {
                self.forget_everything().await?;
            }
        }
        if self.core.tier.is_none() {
            self.forget_other_list(&wanted.list).await;
        }
        let held = self.ledger.lock().held.clone();
        let (held, kept) = match held {
            Some(held) if held.shard == wanted.shard => {
                let kept = self.tenure.still_held(&held.slots.intersection(&wanted.slots));
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
        let prepared = self.prepare(tier).await?;
        self.check_strict(&prepared)?;
        self.claim(tier, wanted, &gained).await?;
        self.tenure.hold(prepared.id, wanted, &kept, self.core.log.last_lsn(), self.incarnation).await?;
        let unread = self.ledger.lock().unread.intersection(&wanted.slots).union(&gained);
        // Not only if something is gained or lost now: an attempt before this one may have got no further than letting go.
        if !unread.is_empty() || self.filter_scan.lock().slots != wanted.slots {
            let letters = self.dead_letters(tier, &unread, false).await?;
            // From here to the end without a wait: what is in memory is held, so that it will be let go in order.
            self.hold(wanted)?;
            let (scan, stop) = self.restart_filter(&wanted.slots);
            self.bring_back(letters, wanted.epoch, scan);
            self.fill_filter(tier, &wanted.slots, scan, stop);
            self.ledger.lock().unread = SlotSet::empty();
        }
        self.core.set_rows_count(true);
        self.take_over(wanted).await
    }

    /// Stops serving what is not kept, spills it, and says so in the fence row: only then may another shard have it (R41).
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
        if let Some(tier) = &self.core.tier {
            // First the journal: should this process end in between, it must not serve what another one may have by then.
            self.tenure.keep(kept).await?;
            self.write_fence(tier, held.shard.clone(), wanted, kept.clone()).await?;
        }
        // Whoever gets the slots brings the dead letters back.
        for (key, _) in self.set_aside.buried_in(&lost) {
            self.set_aside.remove(&key);
        }
        self.core.store.forget(&lost);
        let mut ledger = self.ledger.lock();
        ledger.held = Some(Holding { slots: kept.clone(), ..held.clone() });
        let spilled = self.core.counters.spilled_rows.get() - spilled_before;
        info!(slots = %lost, spilled, epoch = wanted.epoch.0, "slots were spilled and let go");
        Ok(())
    }

    /// Waits until nothing of `slots` is in memory any more but what the tier rejects.
    async fn drain(&self, slots: &SlotSet, stop: &CancellationToken) -> Result<(), Obstacle> {
        let mut told = Instant::now();
        loop {
            let progress = self.core.progress.notified();
            self.core.spill.notify_one();
            self.core.hurry.notify_one();
            let left = self.core.store.entries_in(slots);
            // What was buried is tried once more as it leaves: a flush under way must not outlive the shard's hold on the slots.
            if left == 0 || (self.core.store.on_their_way(slots) == 0 && left == self.buried_in(slots)) {
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
                biased;
                () = stop.cancelled() => return Err(backoff::Stopped.into()),
                () = self.fence.until_lost() => {
                    self.fence.tell_again();
                    return Err(Obstacle::Refuse("another owner has taken over the fence".to_owned()));
                }
                _ = timeout(LOOK, progress) => {}
            }
        }
    }

    /// How many records of `slots` are in memory and, in this very version, in the dead-letter table.
    fn buried_in(&self, slots: &SlotSet) -> usize {
        let is_newest = |key: &Key, version| self.core.store.explain(key).is_some_and(|seen| seen.version == version);
        self.set_aside.buried_in(slots).iter().filter(|(key, version)| is_newest(key, *version)).count()
    }

    /// Forgets what was in memory when the fence was lost: since then, others may have written those keys. Nothing is
    /// served from it any more, and what is being flushed of it can't be committed, nor is it reported: its claim is over.
    pub(super) async fn forget_everything(&self) -> Result<(), Obstacle> {
        let unspilled = self.core.store.stats().unspilled;
        if unspilled > 0 {
            error!(unspilled, "forgetting records that another owner of the fence kept out of the tier");
        }
        let had = {
            let mut ledger = self.ledger.lock();
            ledger.is_unclaimed = false;
            ledger.held.take().is_some()
        };
        if had {
            self.refuse("another owner has taken over the fence of this shard").await;
        }
        self.core.store.forget(&SlotSet::all());
        self.set_aside.clear();
        let _ = self.fence.until_lost().now_or_never(); // it is known
        self.tenure.keep(&SlotSet::empty()).await?;
        Ok(())
    }

    /// A pure cache that follows another list starts anew: it has no fence to tell who has had its slots, and written to them,
    /// since it was led last.
    async fn forget_other_list(&self, list: &[ShardName]) {
        let held = {
            let mut ledger = self.ledger.lock();
            if ledger.list == list { None } else { ledger.held.take() }
        };
        if held.is_some() {
            self.refuse("it is being emptied for another list of secondaries").await;
            info!(records = self.core.store.stats().live, "another list of secondaries: forgetting what is in memory");
            self.core.store.forget(&SlotSet::all());
        }
    }

    /// Makes the tier ready for use, once.
    pub async fn prepare(&self, tier: &SharedTier) -> Result<Prepared, TierError> {
        if let Some(prepared) = self.ledger.lock().tier.clone() {
            return Ok(prepared);
        }
        let prepared = tier.prepare().await;
        self.core.note_tier(&prepared);
        let prepared = prepared?;
        for warning in &prepared.warnings {
            warn!(tier = tier.describe(), "{warning}");
        }
        self.ledger.lock().tier = Some(prepared.clone());
        Ok(prepared)
    }

    pub(super) fn check_strict(&self, prepared: &Prepared) -> Result<(), Obstacle> {
        if self.core.options.strict && !prepared.warnings.is_empty() {
            return Err(Obstacle::Refuse(format!("--strict: {}", prepared.warnings.join("; "))));
        }
        Ok(())
    }

    /// Ends the scan that fills the filter, and begins another one.
    pub(super) fn restart_filter(&self, slots: &SlotSet) -> (ScanId, CancellationToken) {
        let stop = self.stop.child_token();
        let next = FilterScan { slots: slots.clone(), stop: stop.clone() };
        std::mem::replace(&mut *self.filter_scan.lock(), next).stop.cancel();
        let scan = self.core.store.restart_filter();
        self.core.store.extend_filter(scan, &self.set_aside.keys());
        (scan, stop)
    }

    pub(super) fn fill_filter(&self, tier: &SharedTier, slots: &SlotSet, scan: ScanId, stop: CancellationToken) {
        let (core, tier, slots) = (Arc::clone(&self.core), tier.clone(), slots.clone());
        self.core.tasks.spawn("filter", async move { filter::fill(&core, &tier, &slots, scan, &stop).await });
    }

    /// What the tier had rejected, but what newer rows have overtaken, with room for it; `anyway` also where there is none.
    pub(super) async fn dead_letters(
        &self,
        tier: &SharedTier,
        slots: &SlotSet,
        anyway: bool,
    ) -> Result<Vec<(DeadLetter, Admission)>, Obstacle> {
        let mut found = Vec::new();
        for &(first, last) in slots.ranges() {
            let letters = tier.buried(first, last).await?;
            for letter in letters {
                let key = letter.effect.key().clone();
                let rows = tier.load(std::slice::from_ref(&key)).await?;
                if rows.iter().any(|row| row.version >= letter.effect.version()) {
                    tier.unbury(&key, letter.effect.version()).await?;
                    continue;
                }
                let bytes = letter.effect.size_bytes();
                let room = match anyway {
                    true => Ok(self.core.store.admit_anyway(bytes)),
                    false => self.core.room(bytes, Instant::now() + DEAD_LETTER_TIMEOUT).await,
                };
                found.push((letter, room.map_err(|error| Obstacle::Wait(error.to_string()))?));
            }
        }
        Ok(found)
    }

    /// Takes what the tier had rejected into memory, and notes what is newer there: its flush settles the letter.
    pub(super) fn bring_back(&self, letters: Vec<(DeadLetter, Admission)>, epoch: Epoch, scan: ScanId) {
        for (DeadLetter { effect, reason }, admission) in letters {
            let (key, version) = (effect.key().clone(), effect.version());
            warn!(%version, reason, "a dead letter is back in memory");
            // No flush has told the fence row of its lsn: without this it would be given to a second write. Versions of
            // older epochs, perhaps of another shard, are older anyhow.
            if version.epoch == epoch {
                self.core.log.begin(epoch, version.lsn);
            }
            // As if it had a row: its deletion must go by way of the tier, where the letter is.
            self.core.store.extend_filter(scan, [&key]);
            self.core.apply(&effect, admission);
            self.set_aside.insert(key, Some(version));
        }
    }

    /// Notes that the wanted slots are held, unless something else is wanted by now.
    fn hold(&self, wanted: &Assignment) -> Result<(), Obstacle> {
        let mut ledger = self.ledger.lock();
        if !ledger.wants(wanted) {
            return Err(Obstacle::Wait("a new assignment".to_owned()));
        }
        let (shard, slots) = (wanted.shard.clone(), wanted.slots.clone());
        ledger.held = Some(Holding { shard, epoch: wanted.epoch, slots });
        ledger.list.clone_from(&wanted.list);
        Ok(())
    }

    pub(super) async fn take_over(&self, wanted: &Assignment) -> Result<(), Obstacle> {
        let reason = format!("epoch {} gives them to another shard", wanted.epoch);
        let serving = Serving::new(Some(wanted.shard.clone()), wanted.epoch, wanted.slots.clone(), reason);
        // Whoever is told that nothing is held here must be able to rely on it: first the word, then the deed.
        self.hold(wanted)?;
        self.core.serve(serving).await;
        info!(shard = %wanted.shard, epoch = wanted.epoch.0, slots = %wanted.slots, "serving");
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

    /// The journal can't be written any more: nothing is acknowledged from now on, and nothing is to be told that may be lost.
    pub fn fail(&self, reason: &str) {
        error!(reason, "the journal can't be written any more: stopping to serve; start again to recover");
        self.stop.cancel();
        self.ledger.lock().state = MemberState::Refusing(reason.to_owned());
        let before = self.core.serving();
        drop(self.core.swap_serving(Serving::new(before.name.clone(), before.epoch, SlotSet::empty(), reason)));
        let _ = self.failed.set(reason.to_owned()); // one journal fails once
    }

    /// Stops serving, spills everything and marks the fence clean. What the tier does not take within the drain timeout stays in
    /// the journal.
    ///
    /// # Errors
    /// How many records are lost, if there is no journal.
    pub async fn stop_cleanly(&self) -> Result<Stopped, UncleanStop> {
        self.ledger.lock().state = MemberState::Draining;
        self.stop.cancel();
        let _halted = self.running.lock().await;
        let deadline = Instant::now() + self.core.options.drain_timeout;
        let spilled_before = self.core.counters.spilled_rows.get();
        let stopped = |is_clean: bool| {
            let unspilled = self.core.store.stats().unspilled;
            let spilled = self.core.counters.spilled_rows.get() - spilled_before;
            match self.core.log.journal() {
                _ if is_clean => Ok(Stopped { spilled, journaled: 0 }),
                Some(_) => Ok(Stopped { spilled, journaled: unspilled }),
                None => Err(UncleanStop { unspilled }),
            }
        };
        if timeout_at(deadline, self.refuse("it is stopping")).await.is_err() {
            warn!("stopping although commands are still waiting");
            return stopped(false);
        }
        let Some(tier) = &self.core.tier else { return stopped(true) };
        if self.fence.current().is_err() {
            return stopped(self.core.store.stats().unspilled == 0);
        }
        info!(unspilled = self.core.store.stats().unspilled, "spilling what the tier does not have yet");
        self.core.store.vacate(&SlotSet::all());
        let never = CancellationToken::new();
        let is_drained = matches!(timeout_at(deadline, self.drain(&SlotSet::all(), &never)).await, Ok(Ok(())));
        if !is_drained && !is_planted(Rule::R22Clean) {
            return stopped(false);
        }
        // First the journal: a clean fence may be taken over by anybody.
        if self.tenure.keep(&SlotSet::empty()).await.is_err() {
            return stopped(false);
        }
        stopped(timeout_at(deadline, self.mark_clean(tier)).await.unwrap_or(false))
    }

    async fn mark_clean(&self, tier: &SharedTier) -> bool {
        let never = CancellationToken::new();
        let mut backoff = Backoff::new();
        loop {
            let Some(row) = self.fence.row() else { return false };
            let clean = Fence { token: row.token.next(), lsn: self.core.log.last_lsn(), clean: true, ..row.clone() };
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
