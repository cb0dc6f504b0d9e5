//! The shard as the primary that leads it sees it.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::Shard;
use crate::cluster::{
    Assignment, ControlError, Fence, Incarnation, MapView, Member, MemberState, MemberStatus, ShardName,
};
use crate::record::Epoch;
use crate::slots::SlotSet;

/// A primary that was not heard of for this long does not lead any more.
const LEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// One that has resigned leads no more after this, unless another with the same list is heard of.
const RESIGNED_TIMEOUT: Duration = Duration::from_millis(1500);

/// The list of secondaries of the primary, or the primaries, that lead this one.
#[derive(Debug)]
pub(super) struct Lead {
    list: Vec<ShardName>,
    /// It leads no more if it is not heard of until then.
    until: Instant,
}

impl Member for Shard {
    async fn status(&self) -> Result<MemberStatus, ControlError> {
        Ok(self.status_now())
    }

    async fn assign(&self, assignment: Assignment) -> Result<MemberStatus, ControlError> {
        self.accept_lead(&assignment.list)?;
        self.accept(assignment)?;
        Ok(self.status_now())
    }

    async fn fences(&self) -> Result<Vec<Fence>, ControlError> {
        let Some(tier) = self.core.tier.clone() else { return Ok(Vec::new()) };
        let steward = std::sync::Arc::clone(&self.steward);
        // R5: SQL runs in a task of ours.
        let asked = self.core.tasks.spawn_work(async move {
            steward.prepare(&tier).await?; // there may be no tables yet
            tier.fences().await
        });
        match asked.await {
            Ok(fences) => {
                self.core.note_tier(&fences);
                fences.map_err(|error| ControlError::Tier(error.to_string()))
            }
            Err(error) => Err(ControlError::Tier(error.to_string())),
        }
    }

    async fn retire(&self, expected: Fence, slots: SlotSet, epoch: Epoch) -> Result<bool, ControlError> {
        let Some(tier) = self.core.tier.clone() else { return Ok(true) };
        let row = Fence {
            shard: expected.shard.clone(),
            token: expected.token.next(),
            // Nobody's: the old owner would take the new token for its own (R20).
            incarnation: Incarnation::default(),
            // Should the owner come back with its journal, that is still the one with what the row keeps.
            journal: expected.journal,
            epoch,
            lsn: expected.lsn,
            // What was lost of the slots that it keeps is still to be accepted.
            clean: expected.clean || slots.is_empty(),
            slots,
        };
        let shard = expected.shard.clone();
        let swapped = self.core.tasks.spawn_work(async move { tier.swap_fence(Some(expected.token), &row).await });
        let swapped = swapped.await.map_err(|error| ControlError::Tier(error.to_string()))?;
        let swapped = swapped.map_err(|error| ControlError::Tier(error.to_string()))?;
        info!(%shard, swapped, "took slots from a shard that is gone");
        Ok(swapped)
    }

    async fn inform(&self, map: MapView) -> Result<(), ControlError> {
        *self.told.lock() = Some(map);
        Ok(())
    }

    async fn resign(&self, list: Vec<ShardName>) -> Result<(), ControlError> {
        if let Some(lead) = self.lead.lock().as_mut().filter(|lead| lead.list == list) {
            // Others may lead with the same list: they will be heard of in time.
            lead.until = lead.until.min(Instant::now() + RESIGNED_TIMEOUT);
        }
        Ok(())
    }
}

impl Shard {
    fn accept_lead(&self, list: &[ShardName]) -> Result<(), ControlError> {
        let mut lead = self.lead.lock();
        let other = lead.as_ref().filter(|lead| lead.list != list && lead.until > Instant::now());
        if let Some(other) = other {
            let names: Vec<&str> = other.list.iter().map(ShardName::as_str).collect();
            return Err(ControlError::OtherList(names.join(" ")));
        }
        *lead = Some(Lead { list: list.to_vec(), until: Instant::now() + LEAD_TIMEOUT });
        Ok(())
    }

    fn accept(&self, assignment: Assignment) -> Result<(), ControlError> {
        let mut ledger = self.steward.ledger.lock();
        if ledger.state == MemberState::Draining {
            return Ok(());
        }
        let newest = ledger.held.as_ref().map(|held| held.epoch).max(ledger.wanted.as_ref().map(|wanted| wanted.epoch));
        if let Some(newest) = newest.filter(|&newest| assignment.epoch < newest) {
            return Err(ControlError::StaleEpoch(newest));
        }
        if ledger.wanted.as_ref() == Some(&assignment)
            || (assignment.slots.is_empty() && ledger.is_foreign(&assignment))
        {
            return Ok(());
        }
        let is_known = self.core.tier.is_some() || ledger.list == assignment.list; // or a pure cache starts anew
        let is_done = ledger.state == MemberState::Serving && ledger.wants(&assignment) && is_known;
        ledger.wanted = Some(assignment);
        if !is_done {
            ledger.state = MemberState::Starting("a new assignment".to_owned());
            self.steward.wake.notify_one();
        }
        Ok(())
    }

    fn status_now(&self) -> MemberStatus {
        let ledger = self.steward.ledger.lock();
        MemberStatus {
            incarnation: self.steward.incarnation,
            tier_id: ledger.tier.as_ref().map(|prepared| prepared.id).or_else(|| self.steward.tenure.tier()),
            is_pure_cache: self.core.tier.is_none(),
            held: ledger.held.clone(),
            state: ledger.state.clone(),
            announced: self.address.announced(),
        }
    }
}
