//! The shard as the primary that leads it sees it.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::Shard;
use crate::cluster::{Assignment, ControlError, Fence, Incarnation, Member, MemberState, MemberStatus, ShardName};
use crate::record::Epoch;
use crate::slots::SlotSet;

/// A primary that was not heard of for this long does not lead any more.
const LEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// After a primary has resigned: another one with the same list may lead too, and is heard of within this time.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(1);

/// The list of secondaries of the primary that leads this one, and when it was last heard of.
#[derive(Debug)]
pub(super) struct Lead {
    list: Vec<ShardName>,
    /// It leads until then, unless it is heard of again.
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
            if steward.ledger.lock().tier_id.is_none() {
                let prepared = tier.prepare().await?; // there may be no tables yet
                steward.ledger.lock().tier_id = Some(prepared.id);
            }
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
        let clean = expected.clean || slots.is_empty(); // what was lost of the slots it keeps is still to be accepted
        // Nobody's incarnation: should the shard still live, it must not take the new token for its own (R20).
        let incarnation = Incarnation::default();
        let row = Fence { token: expected.token.next(), incarnation, slots, epoch, clean, ..expected.clone() };
        let shard = expected.shard.clone();
        let swapped = self.core.tasks.spawn_work(async move { tier.swap_fence(Some(expected.token), &row).await });
        let swapped = swapped.await.map_err(|error| ControlError::Tier(error.to_string()))?;
        let swapped = swapped.map_err(|error| ControlError::Tier(error.to_string()))?;
        info!(%shard, swapped, "took slots from a shard that is gone");
        Ok(swapped)
    }

    async fn resign(&self, list: Vec<ShardName>) -> Result<(), ControlError> {
        let mut lead = self.lead.lock();
        if let Some(lead) = lead.as_mut().filter(|lead| lead.list == list) {
            lead.until = lead.until.min(Instant::now() + RESIGN_TIMEOUT);
        }
        Ok(())
    }
}

impl Shard {
    fn accept_lead(&self, list: &[ShardName]) -> Result<(), ControlError> {
        let mut lead = self.lead.lock();
        let now = Instant::now();
        if let Some(other) = lead.as_ref().filter(|lead| lead.list != list && now < lead.until) {
            let names: Vec<&str> = other.list.iter().map(ShardName::as_str).collect();
            return Err(ControlError::OtherList(names.join(" ")));
        }
        *lead = Some(Lead { list: list.to_vec(), until: now + LEAD_TIMEOUT });
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
        let is_done = ledger.state == MemberState::Serving && ledger.wants(&assignment);
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
            tier_id: ledger.tier_id,
            is_pure_cache: self.core.tier.is_none(),
            held: ledger.held.clone(),
            state: ledger.state.clone(),
        }
    }
}
