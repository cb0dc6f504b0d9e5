//! Nodes talking to nodes: tarpc over TCP with postcard, in frames of our own (see `docs/formats.md`).
//!
//! [`Client`] is the near end, a [`Service`](crate::service::Service) and a [`Member`](crate::cluster::Member) whose
//! work is done elsewhere; the far end is the RPC door. tarpc is named here and in that door, nowhere else.

pub mod answers;
pub mod client;
pub mod codec;
pub mod frames;
pub mod hello;
pub mod wire;

mod driver;
mod queue;

pub use client::{Client, Options};
pub use hello::{Me, Role};
