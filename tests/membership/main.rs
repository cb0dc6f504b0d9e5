//! Lists of secondaries that change: real shards and real primaries in one process, over a tier in memory; and a few whole
//! nodes over real sockets. Nothing acknowledged may be lost or hidden, and what can be served is.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

mod away;
mod load;
mod losses;
mod moves;
mod nodes;
mod primaries;
mod pure;
mod world;
