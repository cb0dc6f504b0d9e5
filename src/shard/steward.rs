//! Makes the shard what its primary wants it to be: lets slots go, claims the fence, takes slots over; and stops it cleanly
//! (R20, R22).

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::core::{Core, Serving};
use super::fence::{FenceKeeper, check_others};
use super::filter;
use super::ledger::Ledger;
use super::spiller::SetAside;
use crate::backoff::{Backoff, Stopped};
use crate::cluster::{Assignment, Fence, FenceToken, Holding, Incarnation, MemberState, ShardName};
use crate::mutants::{Rule, is_planted};
use crate::record::{Epoch, Key, Lsn};
use crate::replication::ReplicatedLog;
use crate::slots::SlotSet;
use crate::store::{Admission, ScanId};
use crate::tier::{DeadLetter, Prepared, SharedTier, TierError};

/// How often the wait for the tier to take what leaves looks, should it miss the call.
const LOOK: Duration = Duration::from_millis(50);
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(30);
/// More versions than a shard gives before the tier hears of one: those that died with it must not be given again, or a
/// compare-and-swap by a version that was read before the loss would hit a write that came after it.
const LSNS_LOST_MAX: u64 = 1 << 40;

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
    pub filter_scan: Mutex<FilterScan>,
}

/// The scan that fills the filter, or has filled it.
#[derive(Default)]
pub(super) struct FilterScan {
    slots: SlotSet,
    /// Ends it, when another one starts.
    stop: CancellationToken,
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
        if self.core.tier.is_some() && self.fence.current().is_err() {
            self.forget_everything().await;
        }
        if self.core.tier.is_none() {
            self.forget_other_list(&wanted.list).await;
        }
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
        self.check_strict(&self.prepare(tier).await?)?;
        self.claim(tier, wanted, &gained).await?;
        // Not only if something is gained or lost now: an attempt before this one may have got no further than letting go.
        if !gained.is_empty() || self.filter_scan.lock().slots != wanted.slots {
            let letters = self.dead_letters(tier, &gained).await?;
            // From here to the end without a wait: what is in memory is held, so that it will be let go in order.
            self.hold(wanted)?;
            let (scan, stop) = self.restart_filter(&wanted.slots);
            self.bring_back(letters, wanted.epoch, scan);
            let (core, tier, slots) = (Arc::clone(&self.core), tier.clone(), wanted.slots.clone());
            self.core.tasks.spawn("filter", async move { filter::fill(&core, &tier, &slots, scan, &stop).await });
        }
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
                () = stop.cancelled() => return Err(Stopped.into()),
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
    /// served from it any more, and nothing of it is being flushed: without a fence the spiller gives up at once.
    async fn forget_everything(&self) {
        let unspilled = self.core.store.stats().unspilled;
        if unspilled > 0 {
            error!(unspilled, "forgetting records that another owner of the fence kept out of the tier");
        }
        if self.ledger.lock().held.take().is_some() {
            self.refuse("another owner has taken over the fence of this shard").await;
        }
        self.core.store.forget(&SlotSet::all());
        self.set_aside.clear();
        let _ = self.fence.until_lost().now_or_never(); // it is known
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

    fn check_strict(&self, prepared: &Prepared) -> Result<(), Obstacle> {
        if self.core.options.strict && !prepared.warnings.is_empty() {
            return Err(Obstacle::Refuse(format!("--strict: {}", prepared.warnings.join("; "))));
        }
        Ok(())
    }

    /// Makes the fence row of the wanted name this process's own (R20), unless that would hide a loss (R22).
    async fn claim(&self, tier: &SharedTier, wanted: &Assignment, gained: &SlotSet) -> Result<(), Obstacle> {
        let is_own = self.fence.current().is_ok_and(|(shard, _)| shard == wanted.shard);
        let own_row = self.fence.row().filter(|_| is_own);
        if gained.is_empty() && own_row.is_some_and(|row| row.epoch == wanted.epoch && row.slots == wanted.slots) {
            self.core.log.begin(wanted.epoch, Lsn(0));
            return Ok(());
        }
        let rows = tier.fences().await?;
        check_others(&rows, wanted, gained).map_err(Obstacle::Wait)?;
        if is_own {
            self.write_fence(tier, wanted.shard.clone(), wanted, wanted.slots.clone()).await?;
            self.core.log.begin(wanted.epoch, Lsn(0));
        } else {
            let row = rows.into_iter().find(|row| row.shard == wanted.shard);
            let is_loss = row.as_ref().map_or(Ok(false), |row| self.check_loss(row, wanted))?;
            let lsn = row.as_ref().map_or(0, |row| row.lsn.0);
            self.core.log.begin(wanted.epoch, Lsn(lsn + if is_loss { LSNS_LOST_MAX } else { 0 }));
            let expected = row.as_ref().map(|row| row.token);
            let row = self.new_row(wanted.shard.clone(), expected, wanted, &wanted.slots);
            self.swap(tier, expected, row).await?;
        }
        // Once more, after the own row is written: of two that claim the same slots, one at least sees the other.
        let rows = tier.fences().await?;
        if let Some(own) = rows.iter().find(|row| row.shard == wanted.shard) {
            // The last owner's flush may have been committed after the row was read first, and before it was taken.
            self.core.log.begin(wanted.epoch, own.lsn);
        }
        check_others(&rows, wanted, gained).map_err(Obstacle::Wait)
    }

    /// Rewrites the own row with other slots.
    async fn write_fence(
        &self,
        tier: &SharedTier,
        shard: ShardName,
        wanted: &Assignment,
        slots: SlotSet,
    ) -> Result<(), Obstacle> {
        let Ok((_, token)) = self.fence.current() else {
            return Err(Obstacle::Wait("another owner has taken over the fence".to_owned()));
        };
        self.swap(tier, Some(token), self.new_row(shard, Some(token), wanted, &slots)).await
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
                let own = self.fence.current().ok().filter(|(shard, _)| *shard == row.shard);
                match (mine, own) {
                    (Some(mine), _) => self.fence.set(mine),
                    (None, Some((_, token))) => {
                        self.fence.forfeit(token); // `run` steps down
                        return Err(Obstacle::Refuse("another owner has taken over the fence".to_owned()));
                    }
                    (None, None) => {}
                }
                Err(Obstacle::Wait("the fence row has changed; reading it again".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// R22: the last owner of this name did not stop cleanly, and what it had not spilled died with it. Whether something may
    /// be lost, with leave.
    fn check_loss(&self, row: &Fence, wanted: &Assignment) -> Result<bool, Obstacle> {
        let is_whole = row.clean || row.slots.is_empty() || row.incarnation == self.incarnation;
        if is_whole || is_planted(Rule::R22Refusal) {
            return Ok(false);
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
        Ok(true)
    }

    /// Ends the scan that fills the filter, and begins another one.
    fn restart_filter(&self, slots: &SlotSet) -> (ScanId, CancellationToken) {
        let stop = self.stop.child_token();
        let next = FilterScan { slots: slots.clone(), stop: stop.clone() };
        std::mem::replace(&mut *self.filter_scan.lock(), next).stop.cancel();
        let scan = self.core.store.restart_filter();
        self.core.store.extend_filter(scan, &self.set_aside.keys());
        (scan, stop)
    }

    /// What the tier had rejected, but what newer rows have overtaken, with room for it.
    async fn dead_letters(&self, tier: &SharedTier, slots: &SlotSet) -> Result<Vec<(DeadLetter, Admission)>, Obstacle> {
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
                let room = self.core.room(letter.effect.size_bytes(), Instant::now() + DEAD_LETTER_TIMEOUT).await;
                found.push((letter, room.map_err(|error| Obstacle::Wait(error.to_string()))?));
            }
        }
        Ok(found)
    }

    /// Takes what the tier had rejected into memory.
    fn bring_back(&self, letters: Vec<(DeadLetter, Admission)>, epoch: Epoch, scan: ScanId) {
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
            self.core.apply_effect(&effect, admission);
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

    async fn take_over(&self, wanted: &Assignment) -> Result<(), Obstacle> {
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

    /// Stops serving, spills everything and marks the fence clean. Returns how many records it spilled.
    ///
    /// # Errors
    /// How many records are still unspilled, if the tier did not take them within the drain timeout.
    pub async fn stop_cleanly(&self) -> Result<u64, u64> {
        self.ledger.lock().state = MemberState::Draining;
        self.stop.cancel();
        let _halted = self.running.lock().await;
        let deadline = Instant::now() + self.core.options.drain_timeout;
        let unspilled = || self.core.store.stats().unspilled;
        if timeout_at(deadline, self.refuse("it is stopping")).await.is_err() {
            warn!("stopping although commands are still waiting");
            return Err(unspilled());
        }
        let Some(tier) = &self.core.tier else { return Ok(0) };
        if self.fence.current().is_err() {
            return if unspilled() == 0 { Ok(0) } else { Err(unspilled()) };
        }
        let spilled_before = self.core.counters.spilled_rows.get();
        info!(unspilled = unspilled(), "spilling what the tier does not have yet");
        self.core.store.vacate(&SlotSet::all());
        let never = CancellationToken::new();
        let is_drained = matches!(timeout_at(deadline, self.drain(&SlotSet::all(), &never)).await, Ok(Ok(())));
        if !is_drained && !is_planted(Rule::R22Clean) {
            return Err(unspilled());
        }
        match timeout_at(deadline, self.mark_clean(tier)).await {
            Ok(true) => Ok(self.core.counters.spilled_rows.get() - spilled_before),
            Ok(false) | Err(_) => Err(0),
        }
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
