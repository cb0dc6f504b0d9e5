//! What a primary does about its list of secondaries: a pure function from what it sees to what it orders and routes.
//!
//! It is run again and again; each run takes the next safe steps. A slot goes to its new shard only when nobody else holds
//! unspilled records of it: an old holder that lives is told to let go first, one that is gone must have stopped cleanly,
//! or the loss be accepted (R22).

use std::collections::BTreeMap;

use super::{Assignment, ControlError, Fence, Holding, MemberState, MemberStatus, ShardName};
use crate::record::Epoch;
use crate::slots::SlotSet;

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
    /// Whether it took the last order, so that it follows this primary; `Err` if it refused.
    pub obeyed: Result<bool, ControlError>,
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
    /// It can't be reached, or is another process by now: what its fence says is left.
    Gone(Fence),
    /// It is there and follows another primary.
    Disobedient(String),
}

/// Works out the next steps.
pub fn plan(view: &View<'_>) -> Plan {
    let shares: BTreeMap<&ShardName, SlotSet> = view.list.iter().zip(SlotSet::shares(view.list.len())).collect();
    if let Some(reason) = mixed_tiers(view) {
        return Plan {
            epoch: view.epoch.unwrap_or_default(),
            orders: Vec::new(),
            retirements: Vec::new(),
            routes: vec![Route { slots: SlotSet::all(), to: Err(reason) }],
        };
    }
    let holders = holders(view);
    let is_blind = view.fences.is_err() && !is_settled(&shares, &holders);
    let epoch = if is_blind { view.epoch.unwrap_or_default() } else { target_epoch(view, &shares, &holders) };
    let mut plan = Plan { epoch, orders: Vec::new(), retirements: Vec::new(), routes: Vec::new() };
    for (name, share) in &shares {
        plan_member(view, &mut plan, name, share, &holders, is_blind);
    }
    for former in holders.iter().filter(|holder| !shares.contains_key(&holder.name)) {
        if matches!(former.presence, Presence::Here) && !is_blind {
            plan.orders.push(assignment(view, &former.name, epoch, SlotSet::empty()));
        }
    }
    if !is_blind {
        plan.retirements = retirements(view, &shares, &holders);
    }
    plan
}

fn assignment(view: &View<'_>, name: &ShardName, epoch: Epoch, slots: SlotSet) -> Assignment {
    Assignment { shard: name.clone(), epoch, slots, list: view.list.to_vec(), accept_loss: view.accept_loss }
}

/// Orders and routes for one listed secondary.
fn plan_member(
    view: &View<'_>,
    plan: &mut Plan,
    name: &ShardName,
    share: &SlotSet,
    holders: &[Holder],
    is_blind: bool,
) {
    let seen = view.members.get(name);
    let held = seen.and_then(|seen| live_holding(name, seen));
    let mut open = share.clone();
    if is_blind {
        // Nobody can tell who else holds what: everybody stays what it is.
        let reason = view.fences.err().unwrap_or_default();
        open = held.map_or_else(SlotSet::empty, |held| held.slots.intersection(share));
        route(plan, share.difference(&open), Err(format!("nobody can tell who served these slots before: {reason}")));
    } else {
        for holder in holders.iter().filter(|holder| holder.name != *name) {
            let already_here = held.filter(|held| held.epoch > holder.epoch).map(|held| &held.slots);
            let mut overlap = holder.slots.intersection(&open);
            if let Some(here) = already_here {
                overlap = overlap.difference(here);
            }
            if !overlap.is_empty() {
                open = open.difference(&overlap);
                route(plan, overlap, Err(blocked_reason(view, holder)));
            }
        }
    }
    if seen.is_some_and(|seen| seen.status.is_ok()) {
        match held {
            Some(held) if is_blind => plan.orders.push(assignment(view, name, held.epoch, held.slots.clone())),
            None if is_blind => {}
            Some(_) | None => plan.orders.push(assignment(view, name, plan.epoch, open.clone())),
        }
    }
    // Another primary may lead it: nothing goes to it before it has taken an order.
    let follows = seen.is_some_and(|seen| seen.obeyed == Ok(true));
    let served = held.filter(|_| follows).map_or_else(SlotSet::empty, |held| held.slots.intersection(&open));
    if let Some(held) = held {
        route(plan, served.clone(), Ok((name.clone(), held.epoch)));
    }
    route(plan, open.difference(&served), Err(unserved_reason(name, seen)));
}

fn route(plan: &mut Plan, slots: SlotSet, to: Result<(ShardName, Epoch), String>) {
    if !slots.is_empty() {
        plan.routes.push(Route { slots, to });
    }
}

fn live_holding<'a>(name: &ShardName, seen: &'a Seen) -> Option<&'a Holding> {
    let held = seen.status.as_ref().ok()?.held.as_ref()?;
    (held.shard == *name).then_some(held)
}

fn holders(view: &View<'_>) -> Vec<Holder> {
    let mut holders: Vec<Holder> = Vec::new();
    for (name, seen) in view.members {
        if let Some(held) = live_holding(name, seen) {
            let presence = match &seen.obeyed {
                Err(ControlError::OtherList(list)) => Presence::Disobedient(list.clone()),
                Ok(_) | Err(_) => Presence::Here,
            };
            holders.push(Holder { name: name.clone(), epoch: held.epoch, slots: held.slots.clone(), presence });
        }
    }
    for fence in view.fences.unwrap_or_default() {
        if !holders.iter().any(|holder| holder.name == fence.shard) {
            let presence = Presence::Gone(fence.clone());
            let (name, slots) = (fence.shard.clone(), fence.slots.clone());
            holders.push(Holder { name, epoch: fence.epoch, slots, presence });
        }
    }
    holders.retain(|holder| !holder.slots.is_empty());
    holders
}

/// Every listed secondary is there and holds its share under one epoch: then no other can hold anything newer.
fn is_settled(shares: &BTreeMap<&ShardName, SlotSet>, holders: &[Holder]) -> bool {
    let newest = holders.iter().map(|holder| holder.epoch).max();
    shares.iter().all(|(name, share)| {
        holders.iter().any(|holder| {
            holder.name == **name && holder.slots == *share && Some(holder.epoch) == newest && holder.is_here()
        })
    })
}

impl Holder {
    fn is_here(&self) -> bool {
        matches!(self.presence, Presence::Here)
    }
}

/// The epoch of the map that this list makes: a new one if the newest holdings are not part of it.
fn target_epoch(view: &View<'_>, shares: &BTreeMap<&ShardName, SlotSet>, holders: &[Holder]) -> Epoch {
    let fences = view.fences.unwrap_or_default().iter().map(|fence| fence.epoch);
    let Some(newest) = holders.iter().map(|holder| holder.epoch).chain(fences).chain(view.epoch).max() else {
        return Epoch(1);
    };
    let fits =
        |holder: &Holder| shares.get(&holder.name).is_some_and(|share| holder.slots.difference(share).is_empty());
    // So a slot that changes hands always comes from a lower epoch than it goes to (R42).
    let has_misfit = holders.iter().any(|holder| holder.epoch == newest && !fits(holder));
    if has_misfit { newest.next() } else { Epoch(newest.0.max(1)) }
}

fn blocked_reason(view: &View<'_>, holder: &Holder) -> String {
    let name = &holder.name;
    match &holder.presence {
        Presence::Here => format!("{name} is spilling these slots before they move"),
        Presence::Disobedient(list) => {
            format!("{name} serves these slots for another primary, whose secondaries are: {list}; stop one of the two")
        }
        Presence::Gone(fence) if fence.clean || view.accept_loss => format!("taking these slots over from {name}"),
        Presence::Gone(_) => format!(
            "{name} served these slots and did not stop cleanly: it may hold records that are not in the tier. Put it back \
             into the list or start it again, so that it can spill them; or start the primary with --accept-loss to go \
             on with what the tier has"
        ),
    }
}

fn unserved_reason(name: &ShardName, seen: Option<&Seen>) -> String {
    let Some(seen) = seen else { return format!("{name} has not been asked yet") };
    if let Err(refusal) = &seen.obeyed {
        return format!("{name}: {refusal}");
    }
    match &seen.status {
        Err(error) => format!("{name}: {error}"),
        Ok(status) => match &status.state {
            MemberState::Unassigned => format!("{name} is being told its slots"),
            MemberState::Starting(reason) => format!("{name} is starting: {reason}"),
            MemberState::Serving => format!("{name} is taking these slots over"),
            MemberState::Refusing(reason) => format!("{name} refuses to serve: {reason}"),
            MemberState::Draining => format!("{name} is stopping"),
        },
    }
}

/// The fences of those who are gone, without what others are to serve now.
fn retirements(view: &View<'_>, shares: &BTreeMap<&ShardName, SlotSet>, holders: &[Holder]) -> Vec<Retirement> {
    let mut retirements = Vec::new();
    for holder in holders {
        let Presence::Gone(fence) = &holder.presence else { continue };
        let keeps = shares.get(&holder.name).map_or_else(SlotSet::empty, |share| share.intersection(&holder.slots));
        let may = fence.clean || view.accept_loss;
        let is_waited_for = view
            .members
            .get(&holder.name)
            .is_some_and(|seen| !matches!(seen.status, Ok(_) | Err(ControlError::Unreachable(_))));
        // A former member is asked first whether it still lives.
        let was_asked = view.members.contains_key(&holder.name);
        if may && was_asked && !is_waited_for && keeps != holder.slots {
            retirements.push(Retirement { fence: fence.clone(), slots: keeps });
        }
    }
    retirements
}

fn mixed_tiers(view: &View<'_>) -> Option<String> {
    let statuses = || {
        let listed = view.list.iter().filter_map(|name| Some((name, view.members.get(name)?)));
        listed.filter_map(|(name, seen)| Some((name, seen.status.as_ref().ok()?)))
    };
    let (first, one) = statuses().next()?;
    let (other, _) = statuses().find(|(_, status)| {
        let are_different = matches!((status.tier_id, one.tier_id), (Some(a), Some(b)) if a != b);
        status.is_pure_cache != one.is_pure_cache || are_different
    })?;
    Some(format!("{first} and {other} have different tiers: all secondaries of a primary must share one"))
}
