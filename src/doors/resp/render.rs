//! Replies as Redis clients expect them.

use bytes::Bytes;

use crate::command::{Expiry, Moved, Reply};
use crate::number::parse_integer;
use crate::protocol::redis::Shape;
use crate::protocol::resp::Encoder;
use crate::record::Timestamp;
use crate::service::Error;

/// Longest value that Redis keeps beside its key; clients see only the word.
const EMBEDDED_BYTES_MAX: usize = 44;

type Answer = Result<Reply, Error>;

/// Writes the answer to one request. `words` says how an error is told.
pub(super) fn write(
    shape: Shape,
    replies: &mut impl Iterator<Item = Answer>,
    encoder: &mut Encoder<'_>,
    words: impl FnOnce(&Error) -> String,
) {
    let written = match shape {
        Shape::Values { count } => values(count, replies, encoder),
        Shape::AllStored { count } => all(count, replies).map(|_| encoder.simple("OK")),
        Shape::Sum { count } => all(count, replies).map(|sum| encoder.integer(sum)),
        single => match replies.next() {
            Some(Ok(reply)) => write_one(single, reply, encoder),
            Some(Err(error)) => Err(error),
            None => Err(Error::Unknown("there was no answer".to_owned())),
        },
    };
    if let Err(error) = written {
        encoder.error(&words(&error));
    }
}

fn write_one(shape: Shape, reply: Reply, encoder: &mut Encoder<'_>) -> Result<(), Error> {
    match (shape, reply) {
        (Shape::Value, Reply::Found(Some(found))) => encoder.bulk_value(found.value.into()),
        (Shape::Value, Reply::Found(None)) => encoder.null(),
        (Shape::Stored, Reply::Stored(_)) => encoder.simple("OK"),
        (Shape::Stored, Reply::Conflict(_)) => encoder.null(),
        (Shape::StoredFlag, Reply::Stored(_)) => encoder.integer(1),
        (Shape::StoredFlag, Reply::Conflict(_)) => encoder.integer(0),
        (Shape::Done, Reply::Done(done)) => encoder.integer(done.into()),
        (Shape::Number, Reply::Number(number)) => encoder.integer(number),
        (Shape::Count, Reply::Count(count)) => encoder.integer(int(count)),
        (Shape::Length, Reply::Found(found)) => {
            encoder.integer(found.map_or(0, |found| found.value.as_bytes().len() as i64));
        }
        (Shape::Range { start, end }, Reply::Found(found)) => {
            let value = found.map(|found| Bytes::from(found.value)).unwrap_or_default();
            encoder.bulk_value(range(&value, start, end));
        }
        (Shape::Type, Reply::Done(exists)) => encoder.simple(if exists { "string" } else { "none" }),
        (Shape::TtlSeconds, Reply::Expiry(expiry)) => encoder.integer(ttl(expiry, |millis| rounded(int(millis)))),
        (Shape::TtlMillis, Reply::Expiry(expiry)) => encoder.integer(ttl(expiry, int)),
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
        (Shape::RenamedFlag, Reply::Moved(moved)) => encoder.integer((moved == Moved::Done).into()),
        (Shape::Copied, Reply::Moved(moved)) => encoder.integer((moved == Moved::Done).into()),
        (Shape::Encoding | Shape::ReferenceCount | Shape::IdleTime, Reply::Found(None)) => encoder.null(),
        (Shape::Encoding, Reply::Found(Some(found))) => encoder.bulk(encoding(found.value.as_bytes())),
        (Shape::ReferenceCount, Reply::Found(Some(_))) => encoder.integer(1),
        (Shape::IdleTime, Reply::Found(Some(_))) => encoder.integer(0),
        (Shape::MemoryUsage, Reply::Explained(explained)) => match explained.value_bytes {
            Some(bytes) => encoder.integer(int(bytes)),
            None => encoder.null(),
        },
        (_, other) => return Err(Error::Unknown(format!("an answer to something else: {other:?}"))),
    }
    Ok(())
}

fn values(count: usize, replies: &mut impl Iterator<Item = Answer>, encoder: &mut Encoder<'_>) -> Result<(), Error> {
    // All of them, or an error: a key that could not be read is not a missing one.
    let replies: Vec<Reply> = take(count, replies)?;
    encoder.array(replies.len());
    for reply in replies {
        write_one(Shape::Value, reply, encoder)?;
    }
    Ok(())
}

/// How many were done, if none failed.
fn all(count: usize, replies: &mut impl Iterator<Item = Answer>) -> Result<i64, Error> {
    let replies = take(count, replies)?;
    Ok(replies.iter().filter(|reply| matches!(reply, Reply::Done(true))).count() as i64)
}

/// Takes the replies of the request, also of one that failed; answers its first error.
fn take(count: usize, replies: &mut impl Iterator<Item = Answer>) -> Result<Vec<Reply>, Error> {
    let (mut taken, mut failed) = (Vec::with_capacity(count), None);
    for reply in replies.take(count) {
        match reply {
            Ok(reply) => taken.push(reply),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(taken), Err)
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
