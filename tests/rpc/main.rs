//! The hop between nodes, over real sockets: the client against the door, and each against peers that misbehave.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod client;
mod door;
mod support;
mod trip;
