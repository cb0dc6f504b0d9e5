//! R13: what is absent from a shard's memory is in the tier, in its newest committed version or a newer one, or does not
//! exist. And versions of a key only rise (R1).

use overspill::cluster::MemberState;
use overspill::command::Place;
use overspill::shard::WriteMode;

use crate::world::{Process, World};

pub fn absent_is_in_the_tier(world: &World, process: &Process, key: usize) {
    let name = &world.keys[key];
    let sighting = process.shard().store().explain(name);
    let witness = &mut *world.witness.lock();
    let seen = witness.seen(key).clone();
    if let Some(sighting) = sighting {
        if sighting.version < seen.version {
            return world
                .fail(format!("{process} has {name} at {}, and {} was seen before", sighting.version, seen.version));
        }
        if world.setup().mode == WriteMode::Through && sighting.place != (Place::Memory { clean: true }) {
            return; // nobody was told yet: it may die with its process
        }
        let is_live = sighting.place != Place::Deleting;
        return witness.saw(key, sighting.version, is_live, sighting.expires_at.map(|at| at.0));
    }
    if process.status().state != MemberState::Serving {
        return; // it does not ask the tier yet, and says so
    }
    let row = world.rows.row(name);
    match row {
        Some(row) if row.version < seen.version && !seen.may_be_gone && !is_dead(world, seen.expires_at) => {
            world.fail(format!(
                "{name} is absent from the memory of {process}, the tier has {}, and {} was seen before (R13)",
                row.version, seen.version
            ));
        }
        Some(row) if row.version >= seen.version => {
            witness.saw(key, row.version, true, row.expires_at.map(|at| at.0));
        }
        None if seen.is_live && !seen.may_be_gone && !is_dead(world, seen.expires_at) => {
            world.fail(format!(
                "{name} is absent from the memory of {process} and from the tier, and {} was seen before (R13)",
                seen.version
            ));
        }
        Some(_) | None => {}
    }
}

fn is_dead(world: &World, expires_at: Option<u64>) -> bool {
    expires_at.is_some_and(|at| at <= world.clock_ms())
}
