//! Real processes that die at random moments under load: `kill -9` of secondaries, primary and database, and a file system
//! that loses power. Afterwards every acknowledged write must be there, and no deleted or expired key.
//!
//! `CRASH_ROUNDS` says how many rounds (`make crash ROUNDS=200`), `CRASH_SEED` with which random numbers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod full;
mod kills;
mod power;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use more of it")]
mod support;
mod volume;
mod work;
