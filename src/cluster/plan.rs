//! What a primary does about its list of secondaries: a pure function from what it sees to what it orders and routes.
//!
//! It is run again and again; each run takes the next safe steps. A slot goes to its new shard only when nobody else holds
//! unspilled records of it: an old holder that lives is told to let go first, one that is gone must have stopped cleanly,
//! or the loss be accepted (R22).
//!
//! **Invariant (R42):** a slot that changes hands goes from a lower to a higher epoch. **Invariant:** where the fences can't
//! be read, everybody stays what it is.

use std::collections::{BTreeMap, BTreeSet};

use super::{Assignment, ControlError, Fence, Holding, MemberState, MemberStatus, ShardName};
use crate::record::Epoch;
use crate::slots::SlotSet;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// A former secondary counts as gone for good, for [`View::accept_loss`], after so many questions in a row without an answer:
/// one that only hesitates would lose what it could still spill.
pub const MISSES_MIN: u32 = 3;

/// What the primary sees.
#[derive(Debug)]
pub struct View<'a> {
    /// The secondaries it was started with, in order.
    pub list: &'a [ShardName],
    /// Those that it asked: the listed ones, and former ones that still hold slots.
    pub members: &'a BTreeMap<ShardName, Seen>,
    /// The fences in the tier (none for pure caches), or why nobody could read them.
    pub fences: Result<&'a [Fence], &'a str>,
    /// The highest epoch that it has ordered or heard of.
    pub epoch: Option<Epoch>,
    pub accept_loss: bool,
}

/// What a secondary answered last.
#[derive(Debug, Clone)]
pub struct Seen {
    pub status: Result<MemberStatus, ControlError>,
    pub order: OrderAnswer,
    /// How many questions in a row it did not answer.
    pub misses: u32,
}

/// What became of the order that a secondary was sent last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderAnswer {
    /// It was sent none.
    None,
    Accepted,
    Refused(ControlError),
}

/// The next steps.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    pub epoch: Epoch,
    /// To be sent to the secondaries that they name.
    pub orders: Vec<Assignment>,
    /// To be carried out by any secondary.
    pub retirements: Vec<Retirement>,
    /// Every slot, exactly once.
    pub routes: Vec<Route>,
}

/// Take slots from a shard that is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Retirement {
    /// Its row as it was seen.
    pub fence: Fence,
    /// What the row keeps.
    pub slots: SlotSet,
}

/// Where some slots are served, or why they are not.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    pub slots: SlotSet,
    pub to: Result<(ShardName, Epoch), String>,
}

/// Who holds which slots, by its own word or by its fence.
#[derive(Debug)]
struct Holder {
    name: ShardName,
    epoch: Epoch,
    slots: SlotSet,
    presence: Presence,
}

#[derive(Debug)]
enum Presence {
    /// It says so itself.
    Here,
    /// It lives, and the list has another name for it: an order under that name makes it let go first.
    Renamed(ShardName),
    /// It can't be reached, or is another process by now: what its fence says is left.
    Gone(Fence),
    /// It is there and follows another primary.
    Disobedient(String),
}

/// Works out the next steps.
pub fn plan(view: &View<'_>) -> Plan {
    Planner::new(view).plan()
}

/// The names of the listed secondaries that can be asked, those that hold slots first: where tiers are mixed up, theirs is
/// the right one.
pub fn readers<'a>(list: &'a [ShardName], members: &BTreeMap<ShardName, Seen>) -> Vec<&'a ShardName> {
    let status = |name: &ShardName| members.get(name).and_then(|seen| seen.status.as_ref().ok());
    let mut readers: Vec<&ShardName> = list.iter().filter(|name| status(name).is_some()).collect();
    readers.sort_by_key(|name| !status(name).is_some_and(holds_slots));
    readers
}

/// The view, and what follows from it.
struct Planner<'a> {
    view: &'a View<'a>,
    shares: BTreeMap<&'a ShardName, SlotSet>,
    holders: Vec<Holder>,
    /// Nobody can tell who else holds what, and why.
    blind: Option<&'a str>,
    epoch: Epoch,
}

impl<'a> Planner<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let shares = view.list.iter().zip(SlotSet::shares(view.list.len())).collect();
        let holders = holders(view);
        let epoch = view.epoch.unwrap_or_default();
        let mut planner = Self { view, shares, holders, blind: None, epoch };
        planner.blind = view.fences.err().filter(|_| !planner.is_settled());
        if planner.blind.is_none() {
            planner.epoch = planner.target_epoch();
        }
        planner
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan { epoch: self.epoch, orders: Vec::new(), retirements: Vec::new(), routes: Vec::new() };
        for (name, share) in &self.shares {
            let open = self.open(&mut plan, name, share);
            plan.orders.extend(self.order(name, &open));
            let served = self.served(name, &open);
            if let Some((slots, epoch)) = &served {
                route(&mut plan, slots.clone(), Ok(((*name).clone(), *epoch)));
            }
            let unserved = served.map_or_else(|| open.clone(), |(slots, _)| open.difference(&slots));
            route(&mut plan, unserved, Err(self.unserved_reason(name)));
        }
        if self.blind.is_none() {
            plan.orders.extend(self.farewells());
            plan.retirements = self.retirements();
        }
        plan
    }

    fn seen(&self, name: &ShardName) -> Option<&'a Seen> {
        self.view.members.get(name)
    }

    fn status(&self, name: &ShardName) -> Option<&'a MemberStatus> {
        self.seen(name)?.status.as_ref().ok()
    }

    /// What a secondary holds under its own name.
    fn held(&self, name: &ShardName) -> Option<&'a Holding> {
        self.status(name)?.held.as_ref().filter(|held| held.shard == *name)
    }

    /// The part of its share that a listed secondary may have now. Says of the rest why not.
    fn open(&self, plan: &mut Plan, name: &ShardName, share: &SlotSet) -> SlotSet {
        let held = self.held(name);
        if let Some(reason) = self.blind {
            let open = held.map_or_else(SlotSet::empty, |held| held.slots.intersection(share));
            let mut reason = format!("nobody can tell who served these slots before: {reason}");
            if self.status(name).is_none() {
                reason = format!("{}; {reason}", self.unserved_reason(name));
            }
            route(plan, share.difference(&open), Err(reason));
            return open;
        }
        let mut open = share.clone();
        for holder in self.holders.iter().filter(|holder| !holder.lives_as(name)) {
            let mut overlap = holder.slots.intersection(&open);
            // Who got them later has them: the other one just does not know it yet.
            if let Some(held) = held.filter(|held| held.epoch > holder.epoch) {
                overlap = overlap.difference(&held.slots);
            }
            open = open.difference(&overlap);
            route(plan, overlap, Err(self.blocked_reason(holder)));
        }
        open
    }

    fn order(&self, name: &ShardName, open: &SlotSet) -> Option<Assignment> {
        let status = self.status(name)?;
        let held = self.held(name);
        if self.blind.is_some() {
            // The same again: it keeps the primary in the lead. Never less: a smaller share needs a higher epoch.
            return held.map(|held| self.assignment(name, held.epoch, held.slots.clone()));
        }
        if self.tier_conflict(name).is_some() {
            return held.map(|held| self.assignment(name, held.epoch, held.slots.clone()));
        }
        let slots = if knows_its_tier(status) { open.clone() } else { SlotSet::empty() };
        Some(self.assignment(name, self.epoch, slots))
    }

    /// What a listed secondary serves of what it may have, and under which epoch.
    fn served(&self, name: &ShardName, open: &SlotSet) -> Option<(SlotSet, Epoch)> {
        let held = self.held(name)?;
        let follows = match &self.seen(name)?.order {
            OrderAnswer::None => false, // it may turn out that it follows another primary
            OrderAnswer::Accepted | OrderAnswer::Refused(ControlError::StaleEpoch(_)) => true,
            OrderAnswer::Refused(_) => false,
        };
        let serves = match &self.status(name)?.state {
            MemberState::Serving | MemberState::Starting(_) => true,
            MemberState::Unassigned | MemberState::Refusing(_) | MemberState::Draining => false,
        };
        let may = follows && serves && self.tier_conflict(name).is_none();
        may.then(|| (held.slots.intersection(open), held.epoch))
    }

    /// Tells former members that are still there to let go.
    fn farewells(&self) -> impl Iterator<Item = Assignment> {
        let former = self.holders.iter().filter(|holder| !self.shares.contains_key(&holder.name));
        let here = former.filter(|holder| matches!(holder.presence, Presence::Here | Presence::Disobedient(_)));
        let names: BTreeSet<&ShardName> = here.map(|holder| &holder.name).collect();
        names.into_iter().map(|name| self.assignment(name, self.epoch, SlotSet::empty()))
    }

    fn assignment(&self, name: &ShardName, epoch: Epoch, slots: SlotSet) -> Assignment {
        let View { list, accept_loss, .. } = *self.view;
        Assignment { shard: name.clone(), epoch, slots, list: list.to_vec(), accept_loss }
    }

    /// Every listed secondary is there and holds its share under one epoch: then no other can hold anything newer.
    fn is_settled(&self) -> bool {
        let newest = self.holders.iter().map(|holder| holder.epoch).max();
        self.shares
            .iter()
            .all(|(name, share)| self.held(name).is_some_and(|held| held.slots == *share && Some(held.epoch) == newest))
    }

    /// The epoch of the map that this list makes: a new one if the newest holdings are not part of it.
    fn target_epoch(&self) -> Epoch {
        let fences = self.view.fences.unwrap_or_default().iter().map(|fence| fence.epoch);
        let Some(newest) = self.holders.iter().map(|holder| holder.epoch).chain(fences).chain(self.view.epoch).max()
        else {
            return Epoch(1);
        };
        let fits = |holder: &Holder| self.shares.get(&holder.name).is_some_and(|share| holder.slots.is_subset(share));
        // So a slot that changes hands always comes from a lower epoch than it goes to (R42).
        let has_misfit = self.holders.iter().any(|holder| holder.epoch == newest && !fits(holder));
        if has_misfit { newest.next() } else { Epoch(newest.0.max(1)) }
    }

    /// The fences of those who are gone, without what others are to serve now.
    fn retirements(&self) -> Vec<Retirement> {
        let mut retirements = Vec::new();
        if self.view.list.iter().any(|name| self.tier_conflict(name).is_some()) {
            return retirements; // whose fences are these?
        }
        for holder in &self.holders {
            let Presence::Gone(fence) = &holder.presence else { continue };
            // A former member is asked first whether it still lives.
            let Some(seen) = self.seen(&holder.name) else { continue };
            let is_waited_for = seen.status.is_err() && seen.misses < MISSES_MIN;
            let may = fence.clean || (self.view.accept_loss && !is_waited_for);
            let share = self.shares.get(&holder.name);
            let keeps = share.map_or_else(SlotSet::empty, |share| share.intersection(&holder.slots));
            if may && keeps != holder.slots {
                retirements.push(Retirement { fence: fence.clone(), slots: keeps });
            }
        }
        retirements
    }

    /// Why a listed secondary must not serve: its tier is not that of those who hold slots, or nobody holds any and they
    /// differ.
    fn tier_conflict(&self, name: &ShardName) -> Option<String> {
        let status = self.status(name)?;
        let others = self.view.list.iter().filter_map(|other| Some((other, self.status(other)?)));
        let mut rivals = others.filter(|(_, other)| holds_slots(other) || !holds_slots(status));
        let (other, _) = rivals.find(|(_, other)| {
            let are_different = matches!((other.tier_id, status.tier_id), (Some(a), Some(b)) if a != b);
            other.is_pure_cache != status.is_pure_cache || are_different
        })?;
        Some(format!("{name} and {other} have different tiers: all secondaries of a primary must share one"))
    }

    fn blocked_reason(&self, holder: &Holder) -> String {
        let name = &holder.name;
        match &holder.presence {
            Presence::Here => format!("{name} is spilling these slots before they move"),
            Presence::Renamed(now) => format!("{now}, formerly {name}, is spilling these slots before they move"),
            Presence::Disobedient(list) => {
                format!(
                    "{name} serves these slots for another primary, whose secondaries are: {list}; stop one of the two"
                )
            }
            Presence::Gone(fence) if fence.clean || self.view.accept_loss => {
                format!("taking these slots over from {name}")
            }
            Presence::Gone(_) => format!(
                "{name} served these slots and did not stop cleanly: it may hold records that are not in the tier. If it \
                 still runs, let this primary reach it under that name, and it will spill them; or start this primary \
                 with --accept-loss, to go on with what the tier has"
            ),
        }
    }

    fn unserved_reason(&self, name: &ShardName) -> String {
        let Some(seen) = self.seen(name) else { return format!("{name} has not been asked yet") };
        if let OrderAnswer::Refused(refusal) = &seen.order {
            return format!("{name}: {refusal}");
        }
        let status = match &seen.status {
            Err(error) => return format!("{name}: {error}"),
            Ok(status) => status,
        };
        if let Some(conflict) = self.tier_conflict(name) {
            return conflict;
        }
        match &status.state {
            _ if !knows_its_tier(status) => format!("{name} has not reached its tier yet"),
            MemberState::Unassigned => format!("{name} is being told its slots"),
            MemberState::Starting(reason) => format!("{name} is starting: {reason}"),
            MemberState::Serving => format!("{name} is taking these slots over"),
            MemberState::Refusing(reason) => format!("{name} refuses to serve: {reason}"),
            MemberState::Draining => format!("{name} is stopping"),
        }
    }
}

impl Holder {
    /// Whether a listed secondary is this holder.
    fn lives_as(&self, name: &ShardName) -> bool {
        self.name == *name || matches!(&self.presence, Presence::Renamed(now) if now == name)
    }
}

/// Everybody who holds slots. Who is about to take some over, and has written so into its fence, is there twice.
fn holders(view: &View<'_>) -> Vec<Holder> {
    let mut holders: Vec<Holder> = Vec::new();
    let mut add = |name: &ShardName, epoch: Epoch, slots: &SlotSet, presence: Presence| {
        let is_known = |holder: &Holder| {
            let is_claim = matches!(presence, Presence::Here | Presence::Disobedient(_));
            holder.name == *name && (!is_claim || (holder.epoch, &holder.slots) == (epoch, slots))
        };
        if !holders.iter().any(is_known) {
            holders.push(Holder { name: name.clone(), epoch, slots: slots.clone(), presence });
        }
    };
    let status = |name: &ShardName| view.members.get(name)?.status.as_ref().ok();
    let held = |name: &ShardName| status(name)?.held.as_ref();
    for name in view.list {
        if let Some(held) = held(name).filter(|held| !view.list.contains(&held.shard)) {
            add(&held.shard, held.epoch, &held.slots, Presence::Renamed(name.clone()));
        }
    }
    for (name, seen) in view.members {
        if let Some(held) = held(name).filter(|held| held.shard == *name) {
            add(name, held.epoch, &held.slots, presence(seen));
        }
    }
    for fence in view.fences.unwrap_or_default() {
        let owner = view.members.get(&fence.shard);
        let is_own = status(&fence.shard).is_some_and(|status| status.incarnation == fence.incarnation);
        let presence = owner.filter(|_| is_own).map_or_else(|| Presence::Gone(fence.clone()), presence);
        add(&fence.shard, fence.epoch, &fence.slots, presence);
    }
    holders.retain(|holder| !holder.slots.is_empty());
    holders
}

fn presence(seen: &Seen) -> Presence {
    match &seen.order {
        OrderAnswer::Refused(ControlError::OtherList(list)) => Presence::Disobedient(list.clone()),
        OrderAnswer::None | OrderAnswer::Accepted | OrderAnswer::Refused(_) => Presence::Here,
    }
}

fn holds_slots(status: &MemberStatus) -> bool {
    status.held.as_ref().is_some_and(|held| !held.slots.is_empty())
}

fn knows_its_tier(status: &MemberStatus) -> bool {
    status.is_pure_cache || status.tier_id.is_some()
}

fn route(plan: &mut Plan, slots: SlotSet, to: Result<(ShardName, Epoch), String>) {
    if !slots.is_empty() {
        plan.routes.push(Route { slots, to });
    }
}
