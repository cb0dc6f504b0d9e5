//! Exports and imports over shards in this process, with the tier in memory, and with services that are troubled as they are told.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod export;
mod import;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../shard/rig.rs"]
mod rig;
mod world;
