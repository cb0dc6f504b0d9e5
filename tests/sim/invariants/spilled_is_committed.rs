//! R10, R11: what is handed to the tier is what memory holds, or held; and memory keeps the key until the tier has answered.

use overspill::command::Effect;

use crate::world::{Process, World};

pub fn spilled_is_committed(world: &World, process: &Process, effects: &[Effect]) {
    for effect in effects {
        let seen = process.shard().store().explain(effect.key()).map(|seen| seen.version);
        if seen.is_none_or(|seen| seen < effect.version()) && !process.is_dead() {
            world.fail(format!("{process} spills {effect:?}, and its memory has {seen:?} (R10, R13)"));
        }
    }
}
