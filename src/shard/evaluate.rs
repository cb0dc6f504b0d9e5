//! What a command on one key means: from what the key is now to the reply and the outcome to log (R1). Pure.

use crate::command::{Command, Condition, Expiry, Found, Reply};
use crate::record::{Key, Timestamp, Ttl, is_expired};
use crate::replication::Mutation;

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
}

/// Whether the command has the same outcome whatever the key is now, so that it needs not be looked up.
pub(super) fn is_blind(command: &Command) -> bool {
    matches!(command, Command::Put { condition: Condition::Always, .. })
}

/// Evaluates a command with a key against what the key is `now`. `None` for commands that have no key or are not about a
/// record.
pub(super) fn evaluate(command: Command, current: Option<Found>, now: Timestamp) -> Option<Outcome> {
    // It may have died since it was looked up, while the command waited for room.
    let current = current.filter(|found| !is_expired(found.expires_at, now));
    let outcome = match command {
        Command::Get { .. } => unchanged(Reply::Found(current)),
        Command::Exists { .. } => unchanged(Reply::Done(current.is_some())),
        Command::Ttl { .. } => unchanged(Reply::Expiry(expiry(current.as_ref(), now))),
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
        Command::Scan { .. } | Command::Count | Command::Stats | Command::Explain { .. } => return None,
    };
    Some(outcome)
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
