//! R17: a read of a key that never existed costs no SQL, once the filter is complete.

use std::time::Duration;

use overspill::record::Key;
use tokio::time::Instant;

use crate::world::{Process, World};

/// A load may have waited for so long since it was queued.
const QUEUED_MAX: Duration = Duration::from_secs(60);

pub fn note_filters(world: &World) {
    for name in 0..world.names.len() {
        let Some(process) = world.up(name) else { continue };
        let is_complete = process.shard().store().stats().filter_is_complete;
        let filters = &mut world.witness.lock().filters;
        let known = filters.iter().position(|(life, _)| *life == process.life);
        match (known, is_complete) {
            (None, true) => filters.push((process.life, Instant::now())),
            (Some(at), false) => drop(filters.swap_remove(at)),
            (None, false) | (Some(_), true) => {}
        }
    }
}

pub fn what_never_existed_costs_no_sql(world: &World, process: &Process, keys: &[Key]) {
    if !process.shard().store().stats().filter_is_complete {
        return;
    }
    let witness = world.witness.lock();
    let since = witness.filters.iter().find(|(life, _)| *life == process.life).map(|(_, since)| *since);
    if since.is_none_or(|since| since.elapsed() < QUEUED_MAX) {
        return;
    }
    for key in keys {
        let index = world.keys.iter().position(|other| other == key);
        if index.is_some_and(|index| !witness.seen(index).was_flushed) {
            drop(witness);
            return world.fail(format!("{process} asks the tier for {key}, which never was there (R17)"));
        }
    }
}
