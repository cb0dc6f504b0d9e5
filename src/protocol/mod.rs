//! Bytes to commands and replies to bytes, one module a protocol, without sockets and without I/O.
//!
//! Parsing is pure and never allocates by a length that it was told. Nothing here knows of services, stores or
//! clusters.

pub mod line;
pub mod redis;
pub mod resp;
