//! Commands that make the new value of a key from its old one, in one step.

use serde::{Deserialize, Serialize};

use crate::record::{Timestamp, Ttl, Value};

/// What to make of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Update {
    /// Stores a value if the key exists, or not, as `existence` says. Answered by [`Reply::Stored`] or [`Reply::Conflict`],
    /// or, if `answer_old`, by [`Reply::Found`]: what the key was, whatever came of it.
    ///
    /// [`Reply::Stored`]: super::Reply::Stored
    /// [`Reply::Conflict`]: super::Reply::Conflict
    /// [`Reply::Found`]: super::Reply::Found
    Set { value: Value, expiry: NewExpiry, existence: Existence, answer_old: bool },
    /// Adds to the integer that the value is, or to 0. Answered by [`Reply::Number`](super::Reply::Number): the sum.
    Add { by: i64 },
    /// Adds to the decimal that the value is, or to 0. `by` is a decimal, too. Answered by [`Reply::Found`](super::Reply::Found):
    /// the sum.
    AddDecimal { by: Value },
    /// Answered by [`Reply::Number`](super::Reply::Number): the length of the value then.
    Append { tail: Value },
    /// Overwrites a part of the value, which grows with zeros if it is shorter. Answered as `Append`.
    Overwrite { offset: u32, part: Value },
    /// Answered by [`Reply::Found`](super::Reply::Found): what it was.
    Take,
    /// Answered by [`Reply::Found`](super::Reply::Found): what it was.
    GetAndExpire { expiry: NewExpiry },
    /// Answered by [`Reply::Done`](super::Reply::Done): whether the expiry was set.
    Expire { expiry: NewExpiry, when: ExpireWhen },
}

impl Update {
    /// Of the bytes that it carries.
    pub(super) fn size_bytes(&self) -> usize {
        match self {
            Self::Set { value, .. }
            | Self::AddDecimal { by: value }
            | Self::Append { tail: value }
            | Self::Overwrite { part: value, .. } => value.as_bytes().len(),
            Self::Add { .. } | Self::Take | Self::GetAndExpire { .. } | Self::Expire { .. } => 0,
        }
    }
}

/// When a key is to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewExpiry {
    Keep,
    Never,
    In(Ttl),
    /// If this is past, the key dies at once. If it is later than [`TTL_MAX`](crate::record::TTL_MAX) from now, that counts.
    At(Timestamp),
}

/// Whether a key must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existence {
    Any,
    Absent,
    Present,
}

/// Under which expiry that a key has it may be given another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireWhen {
    Always,
    /// It has none.
    None,
    Any,
    /// The new one is later; none is the latest of all.
    Later,
    Sooner,
    /// It has one, and the new one is sooner.
    AnySooner,
}
