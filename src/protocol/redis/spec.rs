//! What is known of a command before its words are looked at.

use super::Translated;
use super::words::Words;
use crate::command::Command;

/// One command of the table.
#[derive(Debug)]
pub struct Spec {
    /// In lower case.
    pub name: &'static str,
    /// Its words after the name, as a person writes them.
    pub syntax: &'static str,
    pub summary: &'static str,
    pub group: Group,
    /// How many words it has with its name; at least so many if negative.
    pub arity: i32,
    pub flags: &'static [Flag],
    pub keys: Keys,
    pub(super) translate: fn(&mut Words<'_>, &mut Vec<Command>) -> Translated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    String,
    Generic,
    Connection,
    Server,
    Cluster,
    /// Known, and not served.
    Refused,
}

impl Group {
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Generic => "generic",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Cluster => "cluster",
            Self::Refused => "refused",
        }
    }
}

/// What clients like to know of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    Readonly,
    Write,
    Fast,
    Admin,
    /// May be asked before the password was given.
    NoAuth,
}

impl Flag {
    pub fn name(self) -> &'static str {
        match self {
            Self::Readonly => "readonly",
            Self::Write => "write",
            Self::Fast => "fast",
            Self::Admin => "admin",
            Self::NoAuth => "no_auth",
        }
    }
}

/// Which words are keys, counted from the name, which is 0; `last` is negative when counted from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    pub first: i32,
    pub last: i32,
    pub step: i32,
}

impl Keys {
    pub(super) const NONE: Self = Self { first: 0, last: 0, step: 0 };
    pub(super) const ONE: Self = Self { first: 1, last: 1, step: 1 };
    pub(super) const TWO: Self = Self { first: 1, last: 2, step: 1 };
    /// After a subcommand.
    pub(super) const SECOND: Self = Self { first: 2, last: 2, step: 1 };
    pub(super) const ALL: Self = Self { first: 1, last: -1, step: 1 };
    pub(super) const PAIRS: Self = Self { first: 1, last: -1, step: 2 };
}
