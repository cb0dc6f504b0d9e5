//! R19: the version of a row only rises, and its value changes with it and not otherwise.

use overspill::command::Effect;
use overspill::record::Record;

use crate::world::World;

pub fn rows_only_rise(world: &World, effects: &[Effect], before: &[Option<Record>]) {
    for (effect, before) in effects.iter().zip(before) {
        let after = world.rows.row(effect.key());
        let is_right = match (before, &after) {
            (Some(before), Some(after)) => after == before || after.version > before.version,
            (Some(before), None) => matches!(effect, Effect::Delete { version, .. } if *version >= before.version),
            (None, _) => true,
        };
        let is_taken = match (effect, &after) {
            (Effect::Set(record), Some(after)) => after == record || after.version > record.version,
            (Effect::Delete { version, .. }, after) => after.as_ref().is_none_or(|after| after.version > *version),
            (Effect::Set(_), None) => false,
        };
        if !is_right || !is_taken {
            world.fail(format!("{effect:?} was flushed onto {before:?}, and the row is {after:?} (R19)"));
        }
    }
}
