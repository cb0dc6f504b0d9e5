//! Redis's wire protocol, versions 2 and 3: bytes to requests, replies to bytes, without I/O.
//!
//! A [`Parser`] takes requests off the front of a buffer that grows as bytes arrive. An [`Encoder`] writes replies
//! into an [`Output`], which is a [`bytes::Buf`] for vectored writes. What a request means is not known here.
//!
//! Written after the specification (<https://redis.io/docs/latest/develop/reference/protocol-spec/>) and after what
//! Redis does where that is silent. Stricter than Redis: a length line ends in `\r\n` and a bulk is followed by it,
//! where Redis skips two bytes unseen. A NUL in an inline request is a byte like any other.

mod args;
mod encode;
mod inline;
mod number;
mod output;
mod parse;

pub use args::Args;
pub use encode::{Encoder, Proto};
pub use output::{CHUNK_BYTES_MIN, Output};
pub use parse::{LINE_BYTES_MAX, Limits, Parser, ProtocolError, READ_BYTES_MAX, Request};

#[cfg(test)]
mod tests;
