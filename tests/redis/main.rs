//! The RESP door: compared with a real Redis, abused, and used by real clients.
//!
//! `REDIS_SEED` replays the random commands of a run; each run prints its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod abuse;
mod bench;
mod clients;
mod cluster;
mod deaf;
mod differential;
mod document;
mod generate;
mod pipelines;
mod sessions;
mod spilled;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use more of it")]
mod support;
mod wire;
mod world;
