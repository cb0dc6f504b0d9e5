//! What a command on one key means: from what the key is now to the reply and the outcome to log (R1). Pure.

mod many;
#[cfg(test)]
mod tests;
mod update;

use crate::command::{Command, Condition, Existence, Expiry, Found, Reply};
use crate::record::{Key, Timestamp, Ttl, Value, Version, is_expired};
use crate::replication::Mutation;
use crate::service::Error;

pub(super) use many::{evaluate_many, keys_of, looked_at};
pub(super) use update::value_bytes;

/// A command that has been evaluated.
pub(super) struct Outcome {
    pub reply: Answer,
    /// What changes; `None` if nothing does.
    pub mutation: Option<Mutation>,
}

/// What to answer once the mutation is committed.
pub(super) enum Answer {
    Reply(Reply),
    /// [`Reply::Stored`] with the version that the log gives.
    Stored,
    /// [`Reply::Found`] with the version that the log gives.
    StoredValue {
        value: Value,
        expires_at: Option<Timestamp>,
    },
    /// The command can't be done with what the key is.
    Refused(String),
}

impl Answer {
    /// `version`: of the mutation, if there is one.
    pub fn into_reply(self, version: Option<Version>) -> Result<Reply, Error> {
        let version = version.unwrap_or_default();
        match self {
            Self::Reply(reply) => Ok(reply),
            Self::Stored => Ok(Reply::Stored(version)),
            Self::StoredValue { value, expires_at } => Ok(Reply::Found(Some(Found { value, version, expires_at }))),
            Self::Refused(reason) => Err(Error::Invalid(reason)),
        }
    }

    /// About how many bytes the reply will take.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Reply(reply) => reply.size_bytes(),
            Self::StoredValue { value, .. } => value.as_bytes().len(),
            Self::Stored | Self::Refused(_) => 0,
        }
    }
}

/// Whether the command is a write whose reply may be large. If it is done, the reply must be given.
pub(super) fn answers_a_value(command: &Command) -> bool {
    match command {
        Command::Update { update, .. } => update::answers_a_value(update),
        Command::Get { .. }
        | Command::Put { .. }
        | Command::Delete { .. }
        | Command::Exists { .. }
        | Command::Ttl { .. }
        | Command::Expire { .. }
        | Command::Persist { .. }
        | Command::Scan { .. }
        | Command::Count
        | Command::Stats
        | Command::Explain { .. }
        | Command::Move { .. }
        | Command::PutAllAbsent { .. } => false,
    }
}

/// Whether the command has the same outcome whatever the key is now, so that it needs not be looked up.
pub(super) fn is_blind(command: &Command) -> bool {
    match command {
        Command::Put { condition, .. } => *condition == Condition::Always,
        Command::Update { update, .. } => update::is_blind(update),
        Command::Get { .. }
        | Command::Delete { .. }
        | Command::Exists { .. }
        | Command::Ttl { .. }
        | Command::Expire { .. }
        | Command::Persist { .. }
        | Command::Scan { .. }
        | Command::Count
        | Command::Stats
        | Command::Explain { .. }
        | Command::Move { .. }
        | Command::PutAllAbsent { .. } => false,
    }
}

/// What a read of one key answers if that is `current`. `None` for any other command.
pub(super) fn read(command: &Command, current: Option<Found>, now: Timestamp) -> Option<Reply> {
    let current = alive(current, now);
    match command {
        Command::Get { .. } => Some(Reply::Found(current)),
        Command::Exists { .. } => Some(Reply::Done(current.is_some())),
        Command::Ttl { .. } => Some(Reply::Expiry(expiry(current.as_ref(), now))),
        Command::Put { .. }
        | Command::Delete { .. }
        | Command::Expire { .. }
        | Command::Persist { .. }
        | Command::Update { .. }
        | Command::Scan { .. }
        | Command::Count
        | Command::Stats
        | Command::Explain { .. }
        | Command::Move { .. }
        | Command::PutAllAbsent { .. } => None,
    }
}

/// It may have died since it was looked up, while the command waited for room.
fn alive(current: Option<Found>, now: Timestamp) -> Option<Found> {
    current.filter(|found| !is_expired(found.expires_at, now))
}

/// Evaluates a command with one key against what that is `now`. `None` for commands that have none or several, or are not
/// about a record.
pub(super) fn evaluate(command: Command, current: Option<Found>, now: Timestamp) -> Option<Outcome> {
    let current = alive(current, now);
    let outcome = match command {
        Command::Get { .. } | Command::Exists { .. } | Command::Ttl { .. } => unchanged(read(&command, current, now)?),
        Command::Put { key, value, ttl, condition } => {
            let holds = match condition {
                Condition::Always => true,
                Condition::Absent => current.is_none(),
                Condition::Version(wanted) => current.as_ref().is_some_and(|found| found.version == wanted),
            };
            if !holds {
                return Some(unchanged(Reply::Conflict(current.map(|found| found.version))));
            }
            let expires_at = ttl.map(|ttl| now.after(ttl));
            Outcome { reply: Answer::Stored, mutation: Some(Mutation::Set { key, value, expires_at }) }
        }
        Command::Delete { key } => match current {
            Some(_) => changed(true, Mutation::Delete { key }),
            None => unchanged(Reply::Done(false)),
        },
        Command::Expire { key, ttl } => set_expiry(key, current, Some(ttl), now),
        Command::Persist { key } => match &current {
            Some(Found { expires_at: Some(_), .. }) => set_expiry(key, current, None, now),
            Some(Found { expires_at: None, .. }) | None => unchanged(Reply::Done(false)),
        },
        Command::Update { key, update } => update::evaluate(key, update, current, now),
        Command::Scan { .. }
        | Command::Count
        | Command::Stats
        | Command::Explain { .. }
        | Command::Move { .. }
        | Command::PutAllAbsent { .. } => return None,
    };
    Some(outcome)
}

fn holds(existence: Existence, exists: bool) -> bool {
    match existence {
        Existence::Any => true,
        Existence::Absent => !exists,
        Existence::Present => exists,
    }
}

fn set_expiry(key: Key, current: Option<Found>, ttl: Option<Ttl>, now: Timestamp) -> Outcome {
    match current {
        Some(found) => {
            let expires_at = ttl.map(|ttl| now.after(ttl));
            changed(true, Mutation::Set { key, value: found.value, expires_at })
        }
        None => unchanged(Reply::Done(false)),
    }
}

fn expiry(current: Option<&Found>, now: Timestamp) -> Expiry {
    match current.map(|found| found.expires_at) {
        None => Expiry::Missing,
        Some(None) => Expiry::Never,
        Some(Some(at)) => Expiry::InMillis((at.since(now).as_millis() as u64).max(1)),
    }
}

fn unchanged(reply: Reply) -> Outcome {
    Outcome { reply: Answer::Reply(reply), mutation: None }
}

fn changed(done: bool, mutation: Mutation) -> Outcome {
    Outcome { reply: Answer::Reply(Reply::Done(done)), mutation: Some(mutation) }
}
