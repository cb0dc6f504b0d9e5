//! The HTTP door: its routes over a shard and over a cluster, and what abuse does to it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod abuse;
mod caller;
mod cluster;
mod connections;
mod fuzz;
mod keys;
mod node;
mod world;
