//! Replies as bytes, without I/O: typed and quoted for people, raw for pipes and files.
//!
//! A [`Renderer`] takes the outcomes of one request in order, so that large answers are shown while they come.

use std::io::Write as _;

use crate::command::{Command, Cursor, Expiry, Reply};
use crate::protocol::line::{Show, format_cursor, quoted};
use crate::record::{Key, Version};
use crate::service::Error;

use super::Status;
use super::failures::Failures;
use super::figures;

/// For whom a reply is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For people: `"quoted"`, `(nil)`, `(integer) 3`, numbered lists, tables. Safe to show on a terminal.
    Typed,
    /// For programs: the bytes as they are, each reply on its line.
    Raw,
}

/// Shows the outcomes of one request's commands.
pub(super) struct Renderer {
    show: Show,
    style: Style,
    /// How many outcomes there will be.
    total: usize,
    shown: usize,
    /// How many commands found what they act on.
    found: usize,
    failures: Failures,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub status: Status,
    /// One line each.
    pub errors: Vec<String>,
}

impl Renderer {
    pub fn new(show: Show, style: Style, total: usize) -> Self {
        Self { show, style, total, shown: 0, found: 0, failures: Failures::default() }
    }

    /// Takes the next outcome; appends what can be shown of it already.
    pub fn push(&mut self, command: &Command, outcome: Result<Reply, Error>, out: &mut Vec<u8>) {
        self.shown += 1;
        let error = match outcome {
            Ok(reply) => match self.reply(reply, out) {
                Ok(found) => {
                    self.found += usize::from(found);
                    return;
                }
                Err(Unexpected) => Error::Invalid("the answer does not fit the question".to_owned()),
            },
            Err(error) => error,
        };
        if self.show == Show::Values {
            match self.style {
                // An empty line keeps the lines of the other values where they belong.
                Style::Raw => out.push(b'\n'),
                Style::Typed => self.numbered("(error)", out),
            }
        }
        self.failures.add(command.key(), &error);
    }

    /// Appends what could only be said at the end.
    pub fn finish(self, out: &mut Vec<u8>) -> Outcome {
        let failed = self.failures.count();
        match self.show {
            Show::Found if failed < self.total => integer(self.style, self.found, out),
            Show::AllStored if failed == 0 => match self.style {
                Style::Raw => line("OK", out),
                Style::Typed if self.total == 1 => line("OK (1 value)", out),
                Style::Typed => line(&format!("OK ({} values)", self.total), out),
            },
            Show::AllStored if self.style == Style::Typed => {
                line(&format!("stored {} of {} values", self.total - failed, self.total), out);
            }
            Show::Found | Show::AllStored => {}
            Show::Value { .. }
            | Show::Values
            | Show::Stored
            | Show::Swapped
            | Show::Changed
            | Show::Ttl
            | Show::Version
            | Show::Page
            | Show::Count
            | Show::Stats
            | Show::Explained => {}
        }
        let status = match (failed, self.found) {
            (0, 0) => Status::NotFound,
            (0, _) => Status::Ok,
            (_, _) => Status::Failed,
        };
        Outcome { status, errors: self.failures.lines(self.total) }
    }

    /// Whether the command found what it acts on.
    fn reply(&self, reply: Reply, out: &mut Vec<u8>) -> Result<bool, Unexpected> {
        let style = self.style;
        match (&self.show, reply) {
            (Show::Value { default }, Reply::Found(found)) => {
                let value = found.as_ref().map(|found| found.value.as_bytes()).or(default.as_deref());
                self::value(style, value, out);
                Ok(value.is_some())
            }
            (Show::Values, Reply::Found(found)) => {
                if style == Style::Typed {
                    self.numbered("", out);
                }
                self::value(style, found.as_ref().map(|found| found.value.as_bytes()), out);
                Ok(found.is_some())
            }
            (Show::Version, Reply::Found(found)) => {
                let text = match (style, &found) {
                    (_, Some(found)) => found.version.to_string(),
                    (Style::Raw, None) => ABSENT.to_owned(),
                    (Style::Typed, None) => "(nil)".to_owned(),
                };
                line(&text, out);
                Ok(found.is_some())
            }
            (Show::Stored | Show::Swapped, Reply::Stored(version)) => {
                match (style, &self.show) {
                    (Style::Typed, _) => line(&format!("OK (version {version})"), out),
                    (Style::Raw, Show::Swapped) => line(&format!("OK {version}"), out),
                    (Style::Raw, _) => line("OK", out),
                }
                Ok(true)
            }
            (Show::Stored | Show::Swapped, Reply::Conflict(version)) => {
                conflict(style, version, out);
                Ok(false)
            }
            (Show::AllStored, Reply::Stored(_)) => Ok(true),
            (Show::Found, Reply::Done(done)) => Ok(done),
            (Show::Changed, Reply::Done(done)) => {
                integer(style, u8::from(done), out);
                Ok(done)
            }
            (Show::Ttl, Reply::Expiry(expiry)) => {
                self::expiry(style, expiry, out);
                Ok(expiry != Expiry::Missing)
            }
            (Show::Page, Reply::Page { keys, next }) => {
                page(style, &keys, next.as_ref(), out);
                Ok(true)
            }
            (Show::Count, Reply::Count(count)) => {
                integer(style, count, out);
                Ok(true)
            }
            (Show::Stats, Reply::Stats(shards)) => {
                figures::stats(style, &shards, out);
                Ok(true)
            }
            (Show::Explained, Reply::Explained(explanation)) => Ok(figures::explanation(style, &explanation, out)),
            _ => Err(Unexpected),
        }
    }

    fn numbered(&self, text: &str, out: &mut Vec<u8>) {
        number(self.shown as u64, self.total.to_string().len(), out);
        if !text.is_empty() {
            line(text, out);
        }
    }
}

/// A reply of the wrong kind.
struct Unexpected;

/// Where a version is written, this stands for a key that does not exist, as CAS takes it.
const ABSENT: &str = "0";

/// Keys, one a line; in the typed style they are numbered, after `shown` others.
pub(super) fn keys(style: Style, keys: &[Key], shown: u64, out: &mut Vec<u8>) {
    let last = shown + keys.len() as u64;
    for (n, key) in (shown + 1..).zip(keys) {
        if style == Style::Typed {
            number(n, last.to_string().len(), out);
        }
        value(style, Some(key.as_bytes()), out);
    }
}

fn page(style: Style, keys: &[Key], next: Option<&Cursor>, out: &mut Vec<u8>) {
    let cursor = format_cursor(next.unwrap_or(&Cursor::START));
    match (style, next) {
        (Style::Raw, _) => {
            line(&cursor, out);
            self::keys(style, keys, 0, out);
        }
        (Style::Typed, Some(_)) => {
            self::keys(style, keys, 0, out);
            line(&format!("(more) SCAN {cursor}"), out);
        }
        (Style::Typed, None) => {
            self::keys(style, keys, 0, out);
            line("(end)", out);
        }
    }
}

fn value(style: Style, value: Option<&[u8]>, out: &mut Vec<u8>) {
    match (style, value) {
        (Style::Raw, value) => out.extend_from_slice(value.unwrap_or_default()),
        (Style::Typed, Some(value)) => out.extend_from_slice(quoted(value).as_bytes()),
        (Style::Typed, None) => out.extend_from_slice(b"(nil)"),
    }
    out.push(b'\n');
}

fn conflict(style: Style, version: Option<Version>, out: &mut Vec<u8>) {
    let text = match (style, version) {
        (Style::Typed, Some(version)) => format!("(conflict) the key has version {version}"),
        (Style::Typed, None) => "(conflict) the key does not exist".to_owned(),
        (Style::Raw, Some(version)) => format!("CONFLICT {version}"),
        (Style::Raw, None) => format!("CONFLICT {ABSENT}"),
    };
    line(&text, out);
}

/// Seconds rounded up, so that a key that is there never has 0 left.
fn expiry(style: Style, expiry: Expiry, out: &mut Vec<u8>) {
    match (style, expiry) {
        (_, Expiry::InMillis(ms)) => integer(style, ms.div_ceil(1000), out),
        (Style::Raw, Expiry::Never) => line("-1", out),
        (Style::Raw, Expiry::Missing) => line("-2", out),
        (Style::Typed, Expiry::Never) => line("(never expires)", out),
        (Style::Typed, Expiry::Missing) => line("(nil)", out),
    }
}

fn integer(style: Style, n: impl std::fmt::Display, out: &mut Vec<u8>) {
    match style {
        Style::Raw => line(&n.to_string(), out),
        Style::Typed => line(&format!("(integer) {n}"), out),
    }
}

fn number(n: u64, width: usize, out: &mut Vec<u8>) {
    let _ = write!(out, "{n:>width$}) "); // Writing to a Vec does not fail.
}

pub(super) fn line(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
