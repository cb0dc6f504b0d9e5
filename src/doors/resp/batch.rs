//! The commands of pipelined requests, which are asked together.

use std::collections::VecDeque;

use crate::command::{Command, Update};
use crate::protocol::redis::Shape;
use crate::record::Key;
use crate::service::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX};

/// Room is taken for so many commands before they come, if as many came before.
const PIPELINE_COMMANDS: usize = 64;

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

    /// What waits, if it is one request that reads one key.
    pub fn lone_read(&self) -> Option<&Command> {
        let [read @ (Command::Get { .. } | Command::Exists { .. } | Command::Ttl { .. })] = self.commands.as_slice()
        else {
            return None;
        };
        let is_lone = self.requests.len() == 1 && self.requests.front().is_some_and(|asked| asked.shape.is_single());
        Some(read).filter(|_| is_lone)
    }

    /// The commands have been answered.
    pub fn forget_commands(&mut self) {
        self.commands.clear();
        self.commands.shrink_to(PIPELINE_COMMANDS);
        self.bytes = 0;
    }

    /// Whether it is time to ask.
    pub fn is_full(&self) -> bool {
        self.commands.len() >= BATCH_COMMANDS_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    /// Takes what a service takes at once.
    pub fn take(&mut self) -> Vec<Command> {
        if !self.is_full() {
            self.bytes = 0;
            let next = Vec::with_capacity(self.commands.len().min(PIPELINE_COMMANDS)); // most likely as many
            return std::mem::replace(&mut self.commands, next);
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
    pub is_write: bool,
    /// What was asked of the key, if the answer may be large.
    again: Option<Again>,
}

enum Again {
    Get,
    Update(Box<Update>),
}

pub(super) fn targets(commands: &[Command]) -> impl Iterator<Item = Target> {
    commands.iter().map(|command| match command {
        Command::Get { key } => Target { key: Some(key.clone()), is_write: false, again: Some(Again::Get) },
        Command::Update { key, update } => Target { key: Some(key.clone()), is_write: true, again: Again::of(update) },
        _ => Target { key: command.key().cloned(), is_write: command.is_write(), again: None },
    })
}

impl Again {
    fn of(update: &Update) -> Option<Self> {
        match update {
            Update::Take | Update::GetAndExpire { .. } | Update::Set { answer_old: true, .. } => {
                Some(Self::Update(Box::new(update.clone())))
            }
            _ => None,
        }
    }

    fn command(&self, key: Key) -> Command {
        match self {
            Self::Get => Command::Get { key },
            Self::Update(update) => Command::Update { key, update: (**update).clone() },
        }
    }
}

/// A command that was not done for its large answer, if it may still be done: no later command of the batch has written its
/// key, or, if it writes itself, has asked for it.
pub(super) fn again(asked: &[Target], at: usize) -> Option<Command> {
    let (target, later) = asked.get(at..)?.split_first()?;
    let is_overtaken = later.iter().any(|other| other.key == target.key && (other.is_write || target.is_write));
    let again = target.again.as_ref().filter(|_| !is_overtaken)?;
    Some(again.command(target.key.clone()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Value;

    #[test]
    fn what_was_overtaken_is_not_asked_again() {
        let get = |key: &'static str| Command::Get { key: Key::new(key).unwrap() };
        let take = |key: &'static str| Command::Update { key: Key::new(key).unwrap(), update: Update::Take };
        let append = |key: &'static str| {
            let update = Update::Append { tail: Value::new("x").unwrap() };
            Command::Update { key: Key::new(key).unwrap(), update }
        };
        for (commands, expected) in [
            (vec![get("a")], true),
            (vec![get("a"), get("a"), take("b")], true),
            (vec![get("a"), take("a")], false),
            (vec![take("a"), get("b")], true),
            (vec![take("a"), get("a")], false),
            (vec![append("a")], false), // never too large
        ] {
            let asked: Vec<Target> = targets(&commands).collect();
            let first = again(&asked, 0);
            assert_eq!(first, Some(commands[0].clone()).filter(|_| expected), "{commands:?}");
        }
    }
}
