//! What must hold after every event, a file each. A check that finds something ends the run.

mod absent_is_in_the_tier;
mod answered_is_committed;
mod bounds;
mod one_owner;
mod one_token_commits;
mod rows_only_rise;
mod spilled_is_committed;
mod what_never_existed;
mod witness;

use crate::world::World;

pub use answered_is_committed::{answered_is_committed, refusal_fits};
pub use one_token_commits::one_token_commits;
pub use rows_only_rise::rows_only_rise;
pub use spilled_is_committed::spilled_is_committed;
pub use what_never_existed::what_never_existed_costs_no_sql;
pub use witness::Witness;

/// Those that can be looked at from outside at any time.
pub fn check_all(world: &World) {
    for key in 0..world.keys.len() {
        check_key(world, key);
    }
    bounds::bounds_hold(world);
    what_never_existed::note_filters(world);
}

/// Those about one key.
pub fn check_key(world: &World, key: usize) {
    if let Some(process) = one_owner::one_owner(world, key) {
        absent_is_in_the_tier::absent_is_in_the_tier(world, &process, key);
    }
}
