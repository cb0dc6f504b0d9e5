//! How the steward gets hold of the shard's fence row: anew, again after a restart, and when it is in doubt (R20, R22).

use tracing::{error, warn};

use super::fence::check_others;
use super::steward::{Obstacle, Steward};
use crate::cluster::{Assignment, Fence, FenceToken, Holding, ShardName};
use crate::mutants::{Rule, is_planted};
use crate::record::{JournalId, Lsn};
use crate::replication::ReplicatedLog;
use crate::slots::SlotSet;
use crate::tier::{SharedTier, TierError};

/// How far versions jump over those that may have been lost: far more than a journal or a memory holds.
pub(super) const LSN_GAP: u64 = 1 << 32;
/// What is left out when records were lost. Lives that served from their journal alone have each left out [`LSN_GAP`], and the row
/// does not know how many there were.
const LOSS_GAP: u64 = 1 << 40;

impl Steward {
    /// Takes the fence again under which this secondary served in an earlier life, whose records it has from its journal. While
    /// the tier is away, serves without: nobody else can have taken these slots without the loss being accepted (R22).
    pub(super) async fn reclaim(&self, tier: &SharedTier, wanted: &Assignment) -> Result<(), Obstacle> {
        let Some(held) = self.ledger.lock().held.clone() else { return Ok(()) };
        let claimed = self.claim_again(tier, &held, wanted.accept_loss).await;
        if let Err(Obstacle::Wait(reason)) = &claimed
            && held.is(wanted)
            && !self.core.is_write_through()
        {
            if self.core.serving().slots != wanted.slots {
                self.core.log.begin(held.epoch, Lsn(0));
                self.take_over(wanted).await?;
            }
            return Err(Obstacle::Wait(format!("it serves what it has from its journal: {reason}")));
        }
        claimed
    }

    async fn claim_again(&self, tier: &SharedTier, held: &Holding, accept_loss: bool) -> Result<(), Obstacle> {
        let prepared = self.prepare(tier).await?;
        self.check_strict(&prepared)?;
        if !self.tenure.is_of_tier(prepared.id) {
            let unspilled = self.core.store.stats().unspilled;
            if !(accept_loss || self.core.options.accept_loss) {
                return Err(Obstacle::Refuse(format!(
                    "its journal holds {unspilled} records for another tier than this one. Start it with the tier that it \
                     had, or in another data directory; --accept-loss gives the records up"
                )));
            }
            self.core.counters.losses_accepted.add(1);
            warn!(unspilled, "--accept-loss: giving up the records that the journal holds for another tier");
            return self.forget_everything().await;
        }
        let rows = tier.fences().await?;
        let row = rows.into_iter().find(|row| row.shard == held.shard).filter(|row| self.tenure.owns(row));
        let Some(row) = row else { return self.forget_everything().await };
        let slots = held.slots.intersection(&row.slots);
        let given_up = held.slots.difference(&slots);
        if !given_up.is_empty() {
            error!(slots = %given_up, "another primary has given these slots up and to others: forgetting what the journal has of them");
            self.core.store.forget(&given_up);
            self.tenure.keep(&slots).await?;
        }
        self.core.log.begin(row.epoch, row.lsn);
        // First the letters, while nothing can be flushed: a flush of something newer has to settle them, or they would bring back
        // what it has overtaken. There is room for them as there was in the life before.
        let letters = self.dead_letters(tier, &slots, true).await?;
        let (scan, stop) = self.restart_filter(&slots);
        self.bring_back(letters, row.epoch, scan);
        self.tenure.announce(self.incarnation).await?;
        let (seen, epoch) = (row.token, row.epoch);
        let row = Fence {
            token: seen.next(),
            incarnation: self.incarnation,
            clean: false,
            lsn: self.core.log.last_lsn(),
            slots: slots.clone(),
            ..row
        };
        let swapped = self.swap(tier, Some(seen), row).await;
        if self.fence.current().is_err() {
            return swapped;
        }
        // It is ours, perhaps by an update whose answer was lost: the letters have been read, and must not be read again beside the
        // flushes. The filter not before: a flush of the life before may have been committed until now.
        self.fill_filter(tier, &slots, scan, stop);
        let mut ledger = self.ledger.lock();
        ledger.unread = SlotSet::empty();
        ledger.held = Some(Holding { epoch, slots, ..held.clone() });
        ledger.is_unclaimed = false;
        self.core.spill.notify_one();
        swapped
    }

    /// Makes the fence row of the wanted name this process's own (R20), unless that would hide a loss (R22).
    pub(super) async fn claim(&self, tier: &SharedTier, wanted: &Assignment, gained: &SlotSet) -> Result<(), Obstacle> {
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
            // What was lost had versions too, and they must not be given out again.
            let lsn = row.as_ref().map_or(0, |row| row.lsn.0) + if is_loss { LOSS_GAP } else { 0 };
            self.core.log.begin(wanted.epoch, Lsn(lsn));
            self.tenure.announce(self.incarnation).await?;
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
    pub(super) async fn write_fence(
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
            journal: self.tenure.journal_id(),
            clean: slots.is_empty() || (self.core.is_write_through() && !self.tenure.has_inherited()),
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

    /// R22: the last owner of this name did not stop cleanly, and what it had not spilled died with it, or is in a journal that is
    /// not this one. Answers whether a loss was accepted.
    fn check_loss(&self, row: &Fence, wanted: &Assignment) -> Result<bool, Obstacle> {
        let is_whole =
            row.clean || row.slots.is_empty() || row.incarnation == self.incarnation || self.tenure.owns(row);
        if is_whole || is_planted(Rule::R22Refusal) {
            return Ok(false);
        }
        if !(wanted.accept_loss || self.core.options.accept_loss) {
            let (shard, mine) = (&row.shard, self.tenure.journal_id());
            let where_they_are = match (row.journal, mine) {
                (JournalId(0), _) => "are lost".to_owned(),
                (theirs, JournalId(0)) => format!("are in its journal {theirs}, and this secondary has none"),
                (theirs, mine) if theirs == mine => format!(
                    "are in a newer state of this journal ({mine}) than the data directory holds: it is an old copy"
                ),
                (theirs, mine) => {
                    format!(
                        "are in its journal {theirs}, and the data directory of this secondary holds another one, {mine}"
                    )
                }
            };
            return Err(Obstacle::Refuse(format!(
                "the last secondary named {shard} did not stop cleanly: writes that it had acknowledged and not yet spilled \
                 {where_they_are}; older rows of the same keys may be in the tier. If it still runs, stop it with SIGTERM; if \
                 its data directory still exists, start this secondary with that; to give those writes up and serve what the \
                 tier has, start this secondary or the primary with --accept-loss"
            )));
        }
        self.core.counters.losses_accepted.add(1);
        warn!(shard = %row.shard, "--accept-loss: serving what the tier has; acknowledged writes of the last run may be lost");
        Ok(true)
    }
}
