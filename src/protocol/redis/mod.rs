//! The commands of Redis that a string cache has: their words become [`Command`](crate::command::Command)s, or requests to the
//! connection, the node or the cluster; a [`Shape`] says what is to become of the replies.

pub mod glob;
mod keys;
mod options;
mod shape;
mod spec;
mod strings;
mod system;
pub mod table;
mod words;

pub use shape::Shape;
pub use spec::{Flag, Group, Keys, Spec};
pub use system::{ClientReply, Hello, System};
pub use table::{find, spec_of};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Commands that have been put at the end of the batch; what to make of their replies.
    Data(Shape),
    /// All keys.
    Keyspace(Box<Keyspace>),
    /// The connection, the node or the cluster.
    System(Box<System>),
}

/// What is asked of all keys at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keyspace {
    /// A page of keys. `has_type` is false if keys of another type than strings are asked for.
    Scan {
        cursor: u64,
        pattern: Option<bytes::Bytes>,
        count: u32,
        has_type: bool,
    },
    Keys {
        pattern: bytes::Bytes,
    },
    RandomKey,
    Flush,
}

/// What to answer instead: an error with its code, as in `ERR syntax error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

impl Refusal {
    pub fn err(words: impl std::fmt::Display) -> Self {
        Self(format!("ERR {words}"))
    }

    pub(in crate::protocol::redis) fn syntax() -> Self {
        Self::err("syntax error")
    }

    pub(in crate::protocol::redis) fn not_an_integer() -> Self {
        Self::err("value is not an integer or out of range")
    }

    pub(in crate::protocol::redis) fn arity(name: &str) -> Self {
        Self::err(format_args!("wrong number of arguments for '{name}' command"))
    }
}

impl From<crate::record::LimitError> for Refusal {
    fn from(error: crate::record::LimitError) -> Self {
        Self::err(error)
    }
}

type Translated = Result<Action, Refusal>;
