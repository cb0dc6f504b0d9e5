//! What an [`Update`] makes of a key. Pure.

use super::{Answer, Outcome, changed, unchanged};
use crate::command::{Existence, ExpireWhen, Found, NewExpiry, Reply, Update};
use crate::number::{DECIMAL_BYTES_MAX, Decimal, parse_integer};
use crate::record::{Key, TTL_MAX, Timestamp, VALUE_BYTES_MAX, Value, is_expired};
use crate::replication::Mutation;

const NOT_AN_INTEGER: &str = "value is not an integer or out of range";
const OVERFLOW: &str = "increment or decrement would overflow";
const NOT_A_DECIMAL: &str = "value is not a valid float";
const NOT_FINITE: &str = "increment would produce NaN or Infinity";
const TOO_LONG: &str = "string exceeds maximum allowed size (proto-max-bulk-len)";

/// Whether the reply holds what the key was.
pub(super) fn answers_a_value(update: &Update) -> bool {
    match update {
        Update::Set { answer_old, .. } => *answer_old,
        Update::Take | Update::GetAndExpire { .. } => true,
        Update::Add { .. }
        | Update::AddDecimal { .. }
        | Update::Append { .. }
        | Update::Overwrite { .. }
        | Update::Expire { .. } => false,
    }
}

/// Whether the outcome is the same whatever the key is now.
pub(super) fn is_blind(update: &Update) -> bool {
    match update {
        Update::Set { expiry, existence, answer_old, .. } => {
            // What dies at once is deleted, and that takes knowing it.
            matches!(expiry, NewExpiry::Never | NewExpiry::In(_)) && *existence == Existence::Any && !answer_old
        }
        Update::Add { .. }
        | Update::AddDecimal { .. }
        | Update::Append { .. }
        | Update::Overwrite { .. }
        | Update::Take
        | Update::GetAndExpire { .. }
        | Update::Expire { .. } => false,
    }
}

/// At least how long the value is that an update of a key leaves behind.
pub(in crate::shard) fn value_bytes(update: &Update, current: Option<&Found>) -> usize {
    /// Longest text of an integer.
    const INTEGER_BYTES: usize = 20;
    let old = current.map_or(0, |found| found.value.as_bytes().len());
    match update {
        Update::Set { value, .. } => value.as_bytes().len(),
        Update::Add { .. } => INTEGER_BYTES,
        Update::AddDecimal { .. } => DECIMAL_BYTES_MAX,
        Update::Append { tail } => old.saturating_add(tail.as_bytes().len()),
        Update::Overwrite { offset, part } => old.max((*offset as usize).saturating_add(part.as_bytes().len())),
        Update::Take => 0,
        Update::GetAndExpire { .. } | Update::Expire { .. } => old,
    }
    .min(VALUE_BYTES_MAX)
}

/// `current` is alive `now`.
pub(super) fn evaluate(key: Key, update: Update, current: Option<Found>, now: Timestamp) -> Outcome {
    match update {
        Update::Set { value, expiry, existence, answer_old } => {
            let holds = super::holds(existence, current.is_some());
            let expires_at = expiry.of(current.as_ref(), now);
            let mutation = || match is_expired(expires_at, now) {
                true => Mutation::Delete { key },
                false => Mutation::Set { key, value, expires_at },
            };
            match (holds, answer_old) {
                (false, false) => unchanged(Reply::Conflict(current.map(|found| found.version))),
                (false, true) => unchanged(Reply::Found(current)),
                (true, false) => Outcome { reply: Answer::Stored, mutation: Some(mutation()) },
                (true, true) => {
                    let mutation = Some(mutation());
                    Outcome { reply: Answer::Reply(Reply::Found(current)), mutation }
                }
            }
        }
        Update::Add { by } => {
            let old = current.as_ref().map_or(Some(0), |found| parse_integer(found.value.as_bytes()));
            let Some(old) = old else { return refused(NOT_AN_INTEGER) };
            let Some(sum) = old.checked_add(by) else { return refused(OVERFLOW) };
            let reply = Answer::Reply(Reply::Number(sum));
            stored(key, sum.to_string().into_bytes(), current.as_ref(), |_| reply)
        }
        Update::AddDecimal { by } => {
            let old = current.as_ref().map_or(b"0".as_slice(), |found| found.value.as_bytes());
            let (Some(old), Some(by)) = (Decimal::parse(old), Decimal::parse(by.as_bytes())) else {
                return refused(NOT_A_DECIMAL);
            };
            let Some(sum) = old.checked_add(by) else { return refused(NOT_FINITE) };
            let expires_at = current.as_ref().and_then(|found| found.expires_at);
            stored(key, sum.to_string().into_bytes(), current.as_ref(), |value| Answer::StoredValue {
                value,
                expires_at,
            })
        }
        Update::Append { tail } => {
            if let Some(found) = &current
                && tail.as_bytes().is_empty()
            {
                return unchanged(length(&found.value));
            }
            let old = current.as_ref().map_or(&[][..], |found| found.value.as_bytes());
            stored(key, [old, tail.as_bytes()].concat(), current.as_ref(), |value| Answer::Reply(length(&value)))
        }
        Update::Overwrite { offset, part } => overwrite(key, offset as usize, &part, current.as_ref()),
        Update::Take => match current {
            Some(found) => {
                let mutation = Some(Mutation::Delete { key });
                Outcome { reply: Answer::Reply(Reply::Found(Some(found))), mutation }
            }
            None => unchanged(Reply::Found(None)),
        },
        Update::GetAndExpire { expiry } => {
            let Some(found) = current else { return unchanged(Reply::Found(None)) };
            let mutation = expire(key, &found, expiry, now);
            Outcome { reply: Answer::Reply(Reply::Found(Some(found))), mutation }
        }
        Update::Expire { expiry, when } => {
            let Some(found) = current else { return unchanged(Reply::Done(false)) };
            if !allows(when, found.expires_at, expiry.of(Some(&found), now)) {
                return unchanged(Reply::Done(false));
            }
            match expire(key, &found, expiry, now) {
                Some(mutation) => changed(true, mutation),
                None => unchanged(Reply::Done(true)),
            }
        }
    }
}

fn overwrite(key: Key, offset: usize, part: &Value, current: Option<&Found>) -> Outcome {
    let old = current.map_or(&[][..], |found| found.value.as_bytes());
    let part = part.as_bytes();
    if part.is_empty() {
        return unchanged(Reply::Number(old.len() as i64));
    }
    let end = offset.saturating_add(part.len());
    if end > VALUE_BYTES_MAX {
        return refused(TOO_LONG); // before it is made
    }
    let mut value = Vec::with_capacity(old.len().max(end));
    value.extend_from_slice(old.get(..offset).unwrap_or(old));
    value.resize(offset, 0);
    value.extend_from_slice(part);
    value.extend_from_slice(old.get(end..).unwrap_or_default());
    stored(key, value, current, |value| Answer::Reply(length(&value)))
}

/// A new value that keeps its expiry.
fn stored(key: Key, value: Vec<u8>, current: Option<&Found>, reply: impl FnOnce(Value) -> Answer) -> Outcome {
    let Ok(value) = Value::new(value) else { return refused(TOO_LONG) };
    let expires_at = current.and_then(|found| found.expires_at);
    Outcome { reply: reply(value.clone()), mutation: Some(Mutation::Set { key, value, expires_at }) }
}

/// What gives a key another expiry; `None` if it has it already.
fn expire(key: Key, found: &Found, expiry: NewExpiry, now: Timestamp) -> Option<Mutation> {
    let expires_at = expiry.of(Some(found), now);
    if is_expired(expires_at, now) {
        return Some(Mutation::Delete { key });
    }
    (expires_at != found.expires_at).then(|| Mutation::Set { key, value: found.value.clone(), expires_at })
}

fn allows(when: ExpireWhen, old: Option<Timestamp>, new: Option<Timestamp>) -> bool {
    let is_sooner = match (old, new) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(old), Some(new)) => new < old,
    };
    match when {
        ExpireWhen::Always => true,
        ExpireWhen::None => old.is_none(),
        ExpireWhen::Any => old.is_some(),
        ExpireWhen::Later => old.is_some_and(|old| new.is_none_or(|new| new > old)),
        ExpireWhen::Sooner => is_sooner,
        ExpireWhen::AnySooner => old.is_some() && is_sooner,
    }
}

fn length(value: &Value) -> Reply {
    Reply::Number(value.as_bytes().len() as i64)
}

fn refused(reason: &str) -> Outcome {
    Outcome { reply: Answer::Refused(reason.to_owned()), mutation: None }
}

impl NewExpiry {
    /// The expiry of a key that is given this.
    fn of(self, current: Option<&Found>, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Keep => current.and_then(|found| found.expires_at),
            Self::Never => None,
            Self::In(ttl) => Some(now.after(ttl)),
            Self::At(at) => Some(at.min(Timestamp(now.0.saturating_add(TTL_MAX.as_millis() as u64)))),
        }
    }
}
