//! The primary, as far as a shard sees one: it says again and again who shall serve what; and the person who accepts a loss.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use overspill::cluster::{Assignment, Member, MemberState};
use overspill::record::{Epoch, Key};
use overspill::slots::{Slot, SlotSet};
use tokio::time::{Instant, sleep, timeout};

use crate::plan::Setup;
use crate::world::{Process, World};

const HEARTBEAT: Duration = Duration::from_millis(400);
const RETIRE_MAX: Duration = Duration::from_secs(30);

/// Who shall serve what.
pub struct Primary {
    pub epoch: u64,
    pub slots: Vec<SlotSet>,
    accepts: Vec<bool>,
    accept_at: Vec<Option<Instant>>,
    is_retiring: Vec<bool>,
}

impl Primary {
    pub fn new(setup: &Setup, keys: &[Key]) -> Self {
        let mut slots = vec![SlotSet::empty(); setup.shards];
        slots[0] = World::all_slots(setup, keys);
        let mut primary = Self {
            epoch: 0,
            accepts: vec![false; setup.shards],
            accept_at: vec![None; setup.shards],
            is_retiring: vec![false; setup.shards],
            slots,
        };
        primary.divide(50, keys);
        primary
    }

    /// Gives the slots below some key to the first shard and the rest to the second, under a new epoch.
    pub fn divide(&mut self, share_percent: u32, keys: &[Key]) {
        self.epoch += 1;
        let [first, second] = self.slots.as_mut_slice() else { return };
        let mut slots: Vec<Slot> = keys.iter().map(Slot::of).collect();
        slots.sort_unstable();
        let at = slots.len() * share_percent as usize / 100;
        let border = slots.get(at).map_or(u16::MAX, |slot| slot.get());
        let all = first.union(second);
        *first = all.iter().filter(|slot| slot.get() < border).collect();
        *second = all.difference(first);
    }

    pub fn accepts_loss(&self, name: usize) -> bool {
        self.accepts[name]
    }

    /// From then on a loss of this name is accepted, should its next process ask for it.
    pub fn accept_loss_from(&mut self, name: usize, at: Instant) {
        self.accept_at[name] = Some(at);
    }
}

/// Leads for ever.
pub async fn lead(world: Arc<World>) {
    loop {
        for name in 0..world.names.len() {
            if let Some(process) = world.up(name) {
                assign(&world, &process);
                retire(&world, &process);
            }
        }
        world.check_all();
        sleep(HEARTBEAT).await;
    }
}

fn assign(world: &World, process: &Process) {
    let name = process.name;
    let assignment = {
        let primary = world.primary.lock();
        Assignment {
            shard: world.names[name].clone(),
            epoch: Epoch(primary.epoch),
            slots: primary.slots[name].clone(),
            list: world.names.clone(),
            accept_loss: primary.accepts[name],
        }
    };
    let assigned = process.shard().assign(assignment).now_or_never();
    let status = match assigned {
        Some(Ok(status)) => status,
        other => return world.fail(format!("{process} does not take its assignment: {other:?}")),
    };
    match status.state {
        MemberState::Serving => world.primary.lock().accepts[name] = false,
        MemberState::Refusing(reason) => refused(world, process, &reason),
        MemberState::Unassigned | MemberState::Starting(_) | MemberState::Draining => {}
    }
}

/// A process that starts with nothing to serve does not take its name: then its row, which still names slots, is rewritten by
/// the other one.
fn retire(world: &Arc<World>, process: &Process) {
    let name = process.name;
    let Some(row) = world.fence(&world.names[name]).filter(|row| !row.slots.is_empty()) else { return };
    let Some(other) = (0..world.names.len()).filter(|&other| other != name).find_map(|other| world.up(other)) else {
        return;
    };
    let mut primary = world.primary.lock();
    if !primary.slots[name].is_empty() || process.status().state != MemberState::Unassigned {
        return;
    }
    let may = row.clean || primary.accept_at[name].is_none_or(|at| at <= Instant::now());
    if !may || primary.is_retiring[name] {
        return;
    }
    primary.accepts[name] = !row.clean;
    primary.is_retiring[name] = true;
    let epoch = Epoch(primary.epoch);
    drop(primary);
    let world = Arc::clone(world);
    tokio::spawn(async move {
        // It may die or be cut off in the middle.
        let retired = timeout(RETIRE_MAX, other.shard().retire(row, SlotSet::empty(), epoch)).await;
        world.trace.note(format_args!("{other} retired the last of {name}: {retired:?}"));
        world.primary.lock().is_retiring[name] = false;
    });
}

/// R22: a person reads the reason, and accepts the loss after a while.
fn refused(world: &World, process: &Process, reason: &str) {
    let fence = world.fence(&world.names[process.name]);
    if reason.contains("did not stop cleanly") {
        let mut primary = world.primary.lock();
        if primary.accept_at[process.name].is_none_or(|at| at <= Instant::now()) && !primary.accepts[process.name] {
            primary.accepts[process.name] = true;
            world.trace.note(format_args!("the loss of {process}'s name is accepted"));
        }
        return;
    }
    if fence.is_some_and(|fence| fence.incarnation.0 == process.life) {
        world.fail(format!("{process} refuses although the fence is its own: {reason}"));
    }
}
