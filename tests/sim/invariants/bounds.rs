//! Memory stays within its bounds (R15).

use std::sync::atomic::Ordering;

use crate::world::World;

pub fn bounds_hold(world: &World) {
    let capacity = world.setup().capacity as u64;
    for name in 0..world.names.len() {
        let Some(process) = world.up(name) else { continue };
        let stats = process.shard().store().stats();
        let is_bounded = stats.live - stats.leaving <= capacity
            && stats.live + stats.tombstones <= stats.records_bound
            && stats.bytes <= stats.bytes_max;
        // Relaxed: one thread.
        if is_bounded {
            process.was_within.store(true, Ordering::Relaxed);
        }
        if !is_bounded && process.was_within.load(Ordering::Relaxed) {
            world.fail(format!("{process} has more in memory than it may: {stats:?}"));
        }
    }
}
