//! No reply before its commit: what is told to be stored is in memory or in the tier, in write-through in the tier.

use overspill::service::Error;
use overspill::shard::WriteMode;

use crate::history::{Answer, Ask};
use crate::world::{Process, World};

pub fn answered_is_committed(world: &World, process: &Process, key: usize, ask: Ask, answer: Answer) {
    let Answer::Stored(version) = answer else { return };
    let name = &world.keys[key];
    let in_tier = world.rows.row(name).map(|row| row.version);
    let in_memory = process.shard().store().explain(name).map(|seen| seen.version);
    let newest = if world.setup().mode == WriteMode::Through { in_tier } else { in_tier.max(in_memory) };
    let witness = world.witness.lock();
    let seen = witness.seen(key);
    let is_dead = seen.expires_at.is_some_and(|at| at <= world.clock_ms());
    let may_be_gone = ask.may_remove() || seen.may_be_gone || !seen.is_live || is_dead;
    drop(witness);
    if newest.is_none_or(|newest| newest < version) && !may_be_gone {
        world.fail(format!(
            "{process} has answered that {name} is stored at {version}; memory has {in_memory:?}, the tier {in_tier:?}"
        ));
    }
}

/// A client that did nothing wrong is not told that it did.
pub fn refusal_fits(world: &World, error: &Error) {
    if matches!(error, Error::Invalid(_) | Error::ReplyTooLarge) {
        world.fail(format!("a well-formed command was refused: {error}"));
    }
}
