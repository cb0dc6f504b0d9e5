//! At most one process that anybody hears serves a slot.

use std::sync::Arc;

use overspill::slots::Slot;

use crate::world::{Process, World};

/// The one that serves the key, if any. More than one fail the run.
pub fn one_owner(world: &World, key: usize) -> Option<Arc<Process>> {
    world.server(Slot::of(&world.keys[key]))
}
