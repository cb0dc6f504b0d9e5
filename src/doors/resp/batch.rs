//! The commands of pipelined requests, which are asked together.

use std::collections::VecDeque;

use crate::command::Command;
use crate::protocol::redis::Shape;
use crate::record::Key;
use crate::service::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX};

/// What waits to be asked.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub commands: Vec<Command>,
    pub requests: VecDeque<Asked>,
    bytes: usize,
}

/// One request of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub shape: Shape,
    /// The client wants no answer.
    pub is_silent: bool,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The commands behind `from` are those of a request.
    pub fn push(&mut self, from: usize, asked: Asked) {
        let added = self.commands.get(from..).unwrap_or_default();
        self.bytes += added.iter().map(Command::size_bytes).sum::<usize>();
        self.requests.push_back(asked);
    }

    /// Whether it is time to ask.
    pub fn is_full(&self) -> bool {
        self.commands.len() >= BATCH_COMMANDS_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    /// Takes what a service takes at once.
    pub fn take(&mut self) -> Vec<Command> {
        if !self.is_full() {
            self.bytes = 0;
            return std::mem::take(&mut self.commands);
        }
        let (mut count, mut bytes) = (0, 0);
        for command in self.commands.iter().take(BATCH_COMMANDS_MAX) {
            bytes += command.size_bytes();
            if count > 0 && bytes > BATCH_BYTES_MAX {
                bytes -= command.size_bytes();
                break;
            }
            count += 1;
        }
        self.bytes -= bytes;
        let rest = self.commands.split_off(count);
        std::mem::replace(&mut self.commands, rest)
    }
}

/// What a command was about.
pub(super) struct Target {
    pub key: Option<Key>,
    is_write: bool,
}

pub(super) fn targets(commands: &[Command]) -> impl Iterator<Item = Target> {
    commands.iter().map(|command| Target { key: command.key().cloned(), is_write: command.is_write() })
}

/// Whether a command that was not done may not be done now: it is a write, or a read that would see a later write.
pub(super) fn is_overtaken(asked: &[Target], at: usize) -> bool {
    match asked.get(at..).and_then(<[_]>::split_first) {
        Some((target, later)) => target.is_write || later.iter().any(|other| other.is_write && other.key == target.key),
        None => true,
    }
}
