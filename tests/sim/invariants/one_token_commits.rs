//! R20: only the token that the fence row holds can commit.

use overspill::cluster::{Fence, FenceToken};

use crate::world::World;

pub fn one_token_commits(world: &World, fence: Option<&Fence>, token: FenceToken) {
    if fence.is_none_or(|fence| fence.token != token) {
        world.fail(format!("a flush under token {} was committed, and the fence row was {fence:?} (R20)", token.0));
    }
}
