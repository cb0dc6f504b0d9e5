//! Replies as Redis clients expect them.

use bytes::Bytes;

use super::gathered::Answer;
use crate::command::{Expiry, Moved, Reply};
use crate::number::parse_integer;
use crate::protocol::redis::Shape;
use crate::protocol::resp::Encoder;
use crate::record::Timestamp;

/// Longest value that Redis keeps beside its key; clients see only the word.
const EMBEDDED_BYTES_MAX: usize = 44;

const NO_FREQUENCY: &str = "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
                            switching between policies at runtime LRU and LFU data will take some time to adjust.";

/// Writes the answer to a request whose replies were gathered, or the error that is it.
pub(super) fn write(shape: Shape, answer: Result<Answer, String>, encoder: &mut Encoder<'_>) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(words) => return encoder.error(&words),
    };
    match shape {
        Shape::AllStored { .. } => encoder.simple("OK"),
        Shape::Sum { .. } => encoder.integer(answer.done),
        // Values: what is single is not gathered.
        _ => {
            encoder.array(answer.replies.len());
            answer.replies.iter().for_each(|reply| write_one(Shape::Value, reply, encoder));
        }
    }
}

/// Writes the answer to a request of a single reply.
pub(super) fn write_one(shape: Shape, reply: &Reply, encoder: &mut Encoder<'_>) {
    match (shape, reply) {
        (Shape::Value, Reply::Found(Some(found))) => encoder.bulk_value(found.value.bytes()),
        (Shape::Value, Reply::Found(None)) => encoder.null(),
        (Shape::Stored, Reply::Stored(_)) => encoder.simple("OK"),
        (Shape::Stored, Reply::Conflict(_)) => encoder.null(),
        (Shape::StoredFlag, Reply::Stored(_)) => encoder.integer(1),
        (Shape::StoredFlag, Reply::Conflict(_)) => encoder.integer(0),
        (Shape::Done, Reply::Done(done)) => encoder.integer((*done).into()),
        (Shape::Number, Reply::Number(number)) => encoder.integer(*number),
        (Shape::Count, Reply::Count(count)) => encoder.integer(int(*count)),
        (Shape::Length, Reply::Found(found)) => {
            encoder.integer(found.as_ref().map_or(0, |found| found.value.as_bytes().len() as i64));
        }
        (Shape::Range { start, end }, Reply::Found(found)) => {
            let part = found.as_ref().map(|found| range(found.value.bytes(), start, end));
            encoder.bulk_value(&part.unwrap_or_default());
        }
        (Shape::Type, Reply::Done(exists)) => encoder.simple(if *exists { "string" } else { "none" }),
        (Shape::TtlSeconds, Reply::Expiry(expiry)) => encoder.integer(ttl(*expiry, |millis| rounded(int(millis)))),
        (Shape::TtlMillis, Reply::Expiry(expiry)) => encoder.integer(ttl(*expiry, int)),
        (Shape::ExpiresAtSeconds | Shape::ExpiresAtMillis, Reply::Found(None)) => encoder.integer(-2),
        (Shape::ExpiresAtSeconds, Reply::Found(Some(found))) => {
            encoder.integer(found.expires_at.map_or(-1, |Timestamp(at)| rounded(int(at))));
        }
        (Shape::ExpiresAtMillis, Reply::Found(Some(found))) => {
            encoder.integer(found.expires_at.map_or(-1, |Timestamp(at)| int(at)));
        }
        (Shape::Renamed, Reply::Moved(Moved::Done)) => encoder.simple("OK"),
        (Shape::Renamed | Shape::RenamedFlag, Reply::Moved(Moved::Missing)) => encoder.error("ERR no such key"),
        (Shape::Renamed, Reply::Moved(Moved::Refused)) => encoder.null(),
        (Shape::RenamedFlag, Reply::Moved(moved)) => encoder.integer((*moved == Moved::Done).into()),
        (Shape::Copied, Reply::Moved(moved)) => encoder.integer((*moved == Moved::Done).into()),
        (Shape::Encoding | Shape::ReferenceCount | Shape::IdleTime | Shape::Frequency, Reply::Found(None)) => {
            encoder.null()
        }
        (Shape::Frequency, Reply::Found(Some(_))) => encoder.error(NO_FREQUENCY),
        (Shape::Encoding, Reply::Found(Some(found))) => encoder.bulk(encoding(found.value.as_bytes())),
        (Shape::ReferenceCount, Reply::Found(Some(_))) => encoder.integer(1),
        (Shape::IdleTime, Reply::Found(Some(_))) => encoder.integer(0),
        (Shape::MemoryUsage, Reply::Explained(explained)) => match explained.value_bytes {
            Some(bytes) => encoder.integer(int(bytes)),
            None => encoder.null(),
        },
        (_, other) => {
            tracing::error!(?shape, reply_bytes = other.size_bytes(), "an answer to something else");
            encoder.error("ERR outcome unknown: an answer to something else");
        }
    }
}

/// The bytes from one position to another, both counted from the end if negative.
fn range(value: &Bytes, start: i64, end: i64) -> Bytes {
    let len = value.len() as i64;
    if start < 0 && end < 0 && start > end {
        return Bytes::new();
    }
    let from_end = |at: i64| if at < 0 { (at.saturating_add(len)).max(0) } else { at };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    if start > end { Bytes::new() } else { value.slice(start as usize..=end as usize) }
}

fn ttl(expiry: Expiry, millis: impl Fn(u64) -> i64) -> i64 {
    match expiry {
        Expiry::Missing => -2,
        Expiry::Never => -1,
        Expiry::InMillis(left) => millis(left),
    }
}

/// Milliseconds in seconds.
fn rounded(millis: i64) -> i64 {
    millis.saturating_add(500) / 1000
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn encoding(value: &[u8]) -> &'static [u8] {
    match value {
        value if parse_integer(value).is_some() => b"int",
        value if value.len() <= EMBEDDED_BYTES_MAX => b"embstr",
        _ => b"raw",
    }
}
