//! The end of a run: everything is healed, has to come to rest in bounded time, and then everything is read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use overspill::cluster::MemberState;
use overspill::command::{Command, Cursor, Reply};
use overspill::service::{Batch, Service};
use overspill::slots::Slot;
use tokio::time::{Instant, sleep};

use crate::clients;
use crate::history::Answer;
use crate::world::{CONVERGE_MAX, World};

/// Statements that are still on their way arrive within this.
const STRAGGLERS: Duration = Duration::from_secs(30);

pub async fn converge(world: &Arc<World>) {
    world.trace.note(format_args!("everything is healed"));
    world.weather.heal();
    world.disks.lock().iter().for_each(|of_name| of_name.disk.heal());
    world.clock.set_rate(1.0);
    sleep(STRAGGLERS).await;
    for key in &world.keys {
        world.rows.cure(key);
    }
    if !until(world, "all shards serve", || is_served(world)).await
        || !until(world, "what leaves memory has reached the tier", || is_at_rest(world)).await
    {
        return;
    }
    world.clock.set_rate(0.0); // nothing expires any more: what is read twice is the same
    sleep(Duration::from_secs(1)).await; // what has expired by now is deleted
    world.check_all();
    let mut live = BTreeSet::new();
    for key in 0..world.keys.len() {
        match clients::read(world, key).await {
            Some(Answer::Missing) => {}
            Some(_) => drop(live.insert(key)),
            None => return world.fail(format!("k{key} can't be read although everything is healed")),
        }
    }
    scan_and_count(world, &live).await;
    stop_all(world, &live).await;
}

/// Waits, in virtual time that is bounded, for what must come.
async fn until(world: &Arc<World>, what: &str, holds: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + CONVERGE_MAX;
    while !holds() {
        if Instant::now() > deadline {
            let states: Vec<String> = (0..world.names.len())
                .filter_map(|name| world.up(name))
                .map(|process| format!("{process}: {:?} {:?}", process.status(), process.shard().store().stats()))
                .collect();
            world.fail(format!(
                "never came true, {} s after everything was healed: {what}; {states:?}",
                CONVERGE_MAX.as_secs()
            ));
            return false;
        }
        for name in 0..world.names.len() {
            match world.newest(name) {
                Some(process) if process.is_dead() => world.start(name),
                Some(process) => process.set_cut_off(false),
                None => {}
            }
        }
        sleep(Duration::from_millis(250)).await;
    }
    true
}

fn is_served(world: &World) -> bool {
    let epoch = world.primary.lock().epoch;
    (0..world.names.len()).filter(|&name| has_slots(world, name)).all(|name| {
        world.up(name).is_some_and(|process| {
            let status = process.status();
            status.state == MemberState::Serving && status.held.is_some_and(|held| held.epoch.0 == epoch)
        })
    })
}

fn is_at_rest(world: &World) -> bool {
    (0..world.names.len()).filter(|&name| has_slots(world, name)).all(|name| {
        world.up(name).is_some_and(|process| {
            let stats = process.shard().store().stats();
            stats.leaving + stats.tombstones == 0 && stats.filter_is_complete
        })
    })
}

/// A process that starts with nothing to serve stays as it is.
fn has_slots(world: &World, name: usize) -> bool {
    !world.primary.lock().slots[name].is_empty()
}

async fn ask(world: &World, name: usize, command: Command) -> Option<Reply> {
    let process = world.up(name)?;
    let batch = Batch { commands: vec![command], epoch: None, timeout: Duration::from_secs(5) };
    process.shard().execute(batch).await.into_iter().next()?.ok()
}

async fn scan_and_count(world: &Arc<World>, live: &BTreeSet<usize>) {
    let mut found = Vec::new();
    let mut count = 0;
    for name in (0..world.names.len()).filter(|&name| has_slots(world, name)) {
        let slots = world.primary.lock().slots[name].clone();
        for &(first, last) in slots.ranges() {
            let mut next = Some(Cursor { slot: first.get(), after: None });
            while let Some(cursor) = next.filter(|cursor| cursor.slot <= last.get()) {
                let limit = 1 + (world.plan.seed % 4) as u32;
                let Some(Reply::Page { keys, next: after }) = ask(world, name, Command::Scan { cursor, limit }).await
                else {
                    return world.fail(format!("{name} can't be scanned although everything is healed"));
                };
                found.extend(keys);
                next = after;
            }
        }
        match ask(world, name, Command::Count).await {
            Some(Reply::Count(n)) => count += n,
            other => return world.fail(format!("keys can't be counted although everything is healed: {other:?}")),
        }
    }
    let mut expected: Vec<_> = live.iter().map(|&key| world.keys[key].clone()).collect();
    expected.sort();
    found.sort();
    if found != expected {
        world.fail(format!("a scan found {found:?}, and what can be read is {expected:?}"));
    }
    // Rows that have expired count until that is noticed.
    let expired =
        world.rows.rows().iter().filter(|row| row.is_expired(overspill::clock::Timestamp(world.clock_ms()))).count();
    let range = live.len() as u64..=(live.len() + expired) as u64;
    if !range.contains(&count) {
        world.fail(format!("{count} keys are counted, and {range:?} exist"));
    }
}

/// After a clean stop of all, the rows are all there is.
async fn stop_all(world: &Arc<World>, live: &BTreeSet<usize>) {
    for name in (0..world.names.len()).filter(|&name| has_slots(world, name)) {
        let Some(process) = world.up(name) else { continue };
        let stopped = process.shard().shutdown().await;
        world.trace.note(format_args!("{process} has stopped: {stopped:?}"));
        if stopped.is_err() || stopped.is_ok_and(|stopped| stopped.journaled > 0) {
            return world.fail(format!("{process} does not stop cleanly although everything is healed: {stopped:?}"));
        }
        world.kill(&process, "by its own end");
        if world.fence(&world.names[name]).is_none_or(|fence| !fence.clean) {
            world.fail(format!("{process} has stopped cleanly, and its fence does not say so"));
        }
    }
    let now = overspill::clock::Timestamp(world.clock_ms());
    for (i, key) in world.keys.iter().enumerate() {
        let row = world.rows.row(key).filter(|row| !row.is_expired(now));
        if row.is_some() != live.contains(&i) {
            let slot = Slot::of(key);
            world.fail(format!("{key} (slot {slot}) could be read: {}; its row is {row:?}", live.contains(&i)));
        }
    }
}
