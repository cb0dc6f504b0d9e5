//! What a shard is and what its primary wants it to be; shared by those who ask and the steward who acts.

use crate::cluster::{Assignment, Holding, MemberState, ShardName};
use crate::slots::SlotSet;
use crate::tier::Prepared;

/// What the shard is and what it shall be.
pub(super) struct Ledger {
    pub wanted: Option<Assignment>,
    pub held: Option<Holding>,
    /// The list of secondaries under which it was given what it holds.
    pub list: Vec<ShardName>,
    pub state: MemberState,
    /// Once it was reached.
    pub tier: Option<Prepared>,
    /// What is held is known from the journal; the fence has not been taken again since.
    pub is_unclaimed: bool,
    /// Slots whose rows and dead letters have not been looked at since the start.
    pub unread: SlotSet,
}

impl Ledger {
    /// Of a process that serves nothing yet, but for what its journal says that it holds.
    pub fn new(held: Option<Holding>) -> Self {
        let unread = held.as_ref().map_or_else(SlotSet::empty, |held| held.slots.clone());
        let (wanted, list, state, tier) = (None, Vec::new(), MemberState::Unassigned, None);
        Self { wanted, is_unclaimed: held.is_some(), held, list, state, tier, unread }
    }

    /// Whether an assignment has the same goal as the one that is carried out.
    pub fn wants(&self, assignment: &Assignment) -> bool {
        let goal = |assignment: &Assignment| (assignment.shard.clone(), assignment.epoch, assignment.slots.clone());
        self.wanted.as_ref().map(goal) == Some(goal(assignment))
    }

    /// Whether an assignment is for a name that this process does not bear, while the list still has the one it does.
    pub fn is_foreign(&self, assignment: &Assignment) -> bool {
        let held = self.held.as_ref().map(|held| &held.shard);
        let name = held.or(self.wanted.as_ref().map(|wanted| &wanted.shard));
        name.is_none_or(|name| *name != assignment.shard && assignment.list.contains(name))
    }
}
