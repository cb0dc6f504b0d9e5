//! What a command on several keys makes of them, all or none. Pure.

use std::collections::BTreeMap;

use super::{Answer, holds};
use crate::command::{Command, Existence, Found, Moved, Reply};
use crate::record::{Key, Timestamp, Value, is_expired};
use crate::replication::Mutation;

/// The keys of a command, each once and in order, so that nobody waits in a circle for them.
pub(in crate::shard) fn keys_of(command: &Command) -> Vec<Key> {
    let mut keys: Vec<Key> = command.keys().into_iter().cloned().collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Those of a command's keys that its outcome depends on.
pub(in crate::shard) fn looked_at(command: &Command) -> Vec<Key> {
    match command {
        Command::Move { from, existence: Existence::Any, .. } => vec![from.clone()],
        _ => keys_of(command),
    }
}

/// Evaluates a command on several keys against what they are `now`. Answers at most one mutation a key; deletions come first:
/// who reads a key that is gone while its latch is held waits, and so never sees some of it done and some not. `None` for
/// commands on one key or none.
pub(in crate::shard) fn evaluate_many(
    command: &Command,
    find: impl Fn(&Key) -> Option<Found>,
    now: Timestamp,
) -> Option<(Answer, Vec<Mutation>)> {
    let find = |key: &Key| find(key).filter(|found| !is_expired(found.expires_at, now));
    let (reply, mutations) = match command {
        Command::Move { from, to, is_copy, existence } => {
            let Some(found) = find(from) else { return Some((moved(Moved::Missing), Vec::new())) };
            if !holds(*existence, from == to || find(to).is_some()) {
                return Some((moved(Moved::Refused), Vec::new()));
            }
            let mut mutations = Vec::new();
            if from != to {
                mutations.extend((!is_copy).then(|| Mutation::Delete { key: from.clone() }));
                mutations.push(Mutation::Set { key: to.clone(), value: found.value, expires_at: found.expires_at });
            }
            (moved(Moved::Done), mutations)
        }
        Command::PutAllAbsent { first, more } => {
            let pairs = || std::iter::once(first).chain(more);
            if pairs().any(|(key, _)| find(key).is_some()) {
                return Some((Answer::Reply(Reply::Done(false)), Vec::new()));
            }
            // Of a key that comes twice, the last value counts.
            let newest: BTreeMap<&Key, &Value> = pairs().map(|(key, value)| (key, value)).collect();
            let set = |(key, value): (&Key, &Value)| Mutation::Set {
                key: key.clone(),
                value: value.clone(),
                expires_at: None,
            };
            (Answer::Reply(Reply::Done(true)), newest.into_iter().map(set).collect())
        }
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
        | Command::Update { .. } => return None,
    };
    Some((reply, mutations))
}

fn moved(moved: Moved) -> Answer {
    Answer::Reply(Reply::Moved(moved))
}
