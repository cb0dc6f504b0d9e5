//! Turns "the deadline has passed" into deletions (R27): in memory soon after, in the tier on a slow walk over the slots.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::core::Core;
use crate::command::Place;
use crate::mutants::{Rule, is_planted};
use crate::record::{Key, is_expired};
use crate::replication::{Mutation, ReplicatedLog};
use crate::service::Error;
use crate::slots::{SLOTS, Slot};
use crate::tier::SharedTier;

const TICK: Duration = Duration::from_millis(100);
/// Most expired records deleted a tick and partition.
const KEYS_MAX: usize = 1000;
const PAGE_ROWS: usize = 1000;
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until `stop`.
pub(super) async fn run(core: &Core, stop: &CancellationToken) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut walk = Walk { next: 0, due: 0.0 };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let (serving, _in_flight) = core.enter();
        // What is being handed over is the next owner's to delete: here nothing new may come on its way to the tier.
        let mut expired = core.store.expired(core.clock.now(), KEYS_MAX);
        expired.retain(|key| serving.slots.contains(Slot::of(key)));
        delete_resident(core, expired).await;
        if let Some(tier) = &core.tier {
            walk.go_on(core, tier).await;
        }
    }
}

/// Deletes what has expired in memory, with one commit. What is being written now, or has no room, is left for the next tick.
async fn delete_resident(core: &Core, keys: Vec<Key>) {
    let (mut latches, mut effects, mut admissions) = (Vec::new(), Vec::new(), Vec::new());
    let now = core.clock.now();
    for key in keys {
        let Some(latch) = core.latches.try_acquire(&key) else { continue };
        let seen = core.store.explain(&key);
        let is_due = seen.is_some_and(|seen| seen.place != Place::Deleting && is_expired(seen.expires_at, now));
        if let Some(admission) = is_due.then(|| core.store.admit(key.as_bytes().len())).flatten() {
            effects.push(core.log.propose(Mutation::Delete { key }));
            admissions.push(admission);
            latches.push(latch);
        }
    }
    if effects.is_empty() {
        return;
    }
    let appended = core.log.append(&effects);
    match core.commit_all(&effects, admissions, appended, Instant::now() + COMMIT_TIMEOUT).await {
        Ok(()) => core.counters.expired.add(effects.len() as u64),
        Err(error) => debug!(%error, "expired records are not deleted yet"),
    }
}

/// A walk over all slots in the tier, spread over the sweep interval.
struct Walk {
    next: u16,
    /// Slots to visit, with what is left of the last tick's share.
    due: f64,
}

impl Walk {
    async fn go_on(&mut self, core: &Core, tier: &SharedTier) {
        let interval = core.options.sweep_interval.max(TICK);
        self.due += f64::from(SLOTS) * TICK.as_secs_f64() / interval.as_secs_f64();
        while self.due >= 1.0 {
            self.due -= 1.0;
            let slot = Slot::try_from(self.next).unwrap_or(Slot::FIRST);
            self.next = (self.next + 1) % SLOTS;
            if core.serving().slots.contains(slot) && core.tier_is_up() {
                sweep(core, tier, slot).await;
            }
        }
    }
}

async fn sweep(core: &Core, tier: &SharedTier, slot: Slot) {
    let mut after: Option<Key> = None;
    loop {
        let rows = match tier.scan(slot, after.as_ref(), slot, PAGE_ROWS).await {
            Ok(rows) => rows,
            Err(error) => {
                debug!(%slot, %error, "the sweep for expired rows skips a slot");
                return;
            }
        };
        let now = core.clock.now();
        for row in rows.iter().filter(|row| is_expired(row.expires_at, now)) {
            if delete_row(core, &row.key).await.is_err() {
                return; // the tier is away: the next round will see to it
            }
        }
        let is_last = rows.len() < PAGE_ROWS;
        after = rows.into_iter().last().map(|row| row.key);
        if is_last || after.is_none() {
            return;
        }
    }
}

/// Deletes an expired row, if under the key's latch it still is the newest that the key has.
async fn delete_row(core: &Core, key: &Key) -> Result<(), Error> {
    let _latch = core.latches.acquire(key).await;
    if is_planted(Rule::R27Sweep)
        && let Some(admission) = core.store.admit(key.as_bytes().len())
    {
        core.commit(Mutation::Delete { key: key.clone() }, admission, Instant::now() + COMMIT_TIMEOUT).await?;
        return Ok(());
    }
    if core.store.explain(key).is_some() {
        return Ok(()); // memory knows better, and `delete_resident` looks after it
    }
    core.check_rows()?;
    let known = core.loader.load(core, key, core.clock.now(), Instant::now() + LOAD_TIMEOUT).await?;
    if known.found.is_none()
        && let Some(admission) = core.store.admit(key.as_bytes().len())
    {
        core.commit(Mutation::Delete { key: key.clone() }, admission, Instant::now() + COMMIT_TIMEOUT).await?;
        core.counters.expired.add(1);
    }
    Ok(())
}
