//! Overspill: a sharded key-value cache whose shards spill what they evict to MySQL and read it back.
//!
//! The modules stand in layers (see `ARCHITECTURE.md`); a module imports only from layers below its own, and the
//! modules of one layer don't know each other. `tests/layering.rs` enforces it.
#![forbid(unsafe_code)]

// Layer 0: the outside world as passed-in things.
pub mod backoff;
pub mod clock;
pub mod gather;
pub mod metrics;
pub mod mutants;
pub mod net;
pub mod progress;
pub mod request;
pub mod secret;
mod sync;
pub mod task;
// Layer 1: what is stored.
pub mod number;
pub mod record;
// Layer 2: what can be asked, where it belongs, what goes first.
pub mod command;
pub mod policy;
pub mod slots;
// Layer 3: state machines and seams; the journal's I/O goes through its `Disk`.
pub mod cluster;
pub mod journal;
pub mod protocol;
pub mod service;
pub mod store;
// Layer 4: what the shards stand on.
pub mod replication;
pub mod rpc;
pub mod tier;
// Layer 5: the two engines, each a `Service`.
pub mod router;
pub mod shard;
// Layer 6: the ways in, and tools.
pub mod bench;
pub mod check;
pub mod doors;
pub mod shell;
pub mod transfer;
// Layer 7: whole nodes.
pub mod node;
// Layer 8: the command line.
pub mod config;
