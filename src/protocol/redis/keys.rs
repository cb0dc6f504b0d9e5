//! Commands on keys, whatever their value, and on all of them.

use bytes::Bytes;

use super::options::{self, Base, Unit};
use super::words::{Words, is, shown};
use super::{Action, Keyspace, Refusal, Shape, Translated};
use crate::command::{Command, Existence, Update};
use crate::number::parse_integer;
use crate::record::Key;

/// Keys of a page if a SCAN does not say how many.
const PAGE_KEYS: u32 = 10;

fn data(command: Command, shape: Shape, batch: &mut Vec<Command>) -> Translated {
    batch.push(command);
    Ok(Action::Data(shape))
}

/// One command a key, whose successes are counted.
fn counted(words: &mut Words<'_>, command: fn(Key) -> Command, batch: &mut Vec<Command>) -> Translated {
    let count = words.len();
    while !words.is_empty() {
        batch.push(command(words.key()?));
    }
    Ok(Action::Data(Shape::Sum { count }))
}

pub(super) fn del(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    counted(words, |key| Command::Delete { key }, batch)
}

pub(super) fn exists(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    counted(words, |key| Command::Exists { key }, batch)
}

pub(super) fn key_type(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    data(Command::Exists { key: words.key()? }, Shape::Type, batch)
}

pub(super) fn expire(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    set_expiry(words, Unit::Seconds, Base::Now, batch)
}

pub(super) fn pexpire(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    set_expiry(words, Unit::Millis, Base::Now, batch)
}

pub(super) fn expireat(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    set_expiry(words, Unit::Seconds, Base::Epoch, batch)
}

pub(super) fn pexpireat(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    set_expiry(words, Unit::Millis, Base::Epoch, batch)
}

fn set_expiry(words: &mut Words<'_>, unit: Unit, base: Base, batch: &mut Vec<Command>) -> Translated {
    let (key, amount) = (words.key()?, words.next()?);
    let when = options::expire_when(words)?;
    let amount = parse_integer(amount).ok_or_else(Refusal::not_an_integer)?;
    let expiry = options::moment(words.name(), amount, unit, base)?;
    data(Command::Update { key, update: Update::Expire { expiry, when } }, Shape::Done, batch)
}

pub(super) fn ttl(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    data(Command::Ttl { key: words.key()? }, Shape::TtlSeconds, batch)
}

pub(super) fn pttl(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    data(Command::Ttl { key: words.key()? }, Shape::TtlMillis, batch)
}

pub(super) fn expiretime(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    data(Command::Get { key: words.key()? }, Shape::ExpiresAtSeconds, batch)
}

pub(super) fn pexpiretime(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    data(Command::Get { key: words.key()? }, Shape::ExpiresAtMillis, batch)
}

pub(super) fn persist(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    data(Command::Persist { key: words.key()? }, Shape::Done, batch)
}

pub(super) fn rename(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let (from, to) = (words.key()?, words.key()?);
    data(Command::Move { from, to, is_copy: false, existence: Existence::Any }, Shape::Renamed, batch)
}

pub(super) fn renamenx(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let (from, to) = (words.key()?, words.key()?);
    data(Command::Move { from, to, is_copy: false, existence: Existence::Absent }, Shape::RenamedFlag, batch)
}

pub(super) fn copy(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let (from, to) = (words.key()?, words.key()?);
    let mut existence = Existence::Absent;
    while let Some(word) = words.option() {
        if is(word, "REPLACE") {
            existence = Existence::Any;
        } else if is(word, "DB") {
            match parse_integer(words.operand()?) {
                Some(0) => {}
                Some(_) => return Err(Refusal::err("DB index is out of range")),
                None => return Err(Refusal::not_an_integer()),
            }
        } else {
            return Err(Refusal::syntax());
        }
    }
    if from == to {
        return Err(Refusal::err("source and destination objects are the same"));
    }
    data(Command::Move { from, to, is_copy: true, existence }, Shape::Copied, batch)
}

pub(super) fn object(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let what = words.next()?;
    let shape = match what {
        what if is(what, "ENCODING") => Shape::Encoding,
        what if is(what, "REFCOUNT") => Shape::ReferenceCount,
        what if is(what, "IDLETIME") => Shape::IdleTime,
        what if is(what, "FREQ") => Shape::Frequency,
        what => {
            return Err(Refusal::err(format_args!("unknown subcommand '{}'. Try OBJECT HELP.", shown(what))));
        }
    };
    if words.len() != 1 {
        return Err(Refusal::arity(&format!("object|{}", shown(what).to_ascii_lowercase())));
    }
    data(Command::Get { key: words.key()? }, shape, batch)
}

pub(super) fn dbsize(_: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    data(Command::Count, Shape::Count, batch)
}

pub(super) fn scan(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    let cursor = std::str::from_utf8(words.next()?).ok().and_then(|cursor| cursor.parse().ok());
    let cursor = cursor.ok_or_else(|| Refusal::err("invalid cursor"))?;
    let (mut pattern, mut count, mut has_type) = (None, PAGE_KEYS, true);
    while let Some(word) = words.option() {
        let operand = words.operand()?;
        if is(word, "MATCH") {
            pattern = Some(Bytes::copy_from_slice(operand));
        } else if is(word, "COUNT") {
            let wanted = parse_integer(operand).ok_or_else(Refusal::not_an_integer)?;
            if wanted < 1 {
                return Err(Refusal::syntax());
            }
            count = u32::try_from(wanted).unwrap_or(u32::MAX);
        } else if is(word, "TYPE") {
            has_type = is(operand, "STRING");
        } else {
            return Err(Refusal::syntax());
        }
    }
    Ok(Action::Keyspace(Box::new(Keyspace::Scan { cursor, pattern, count, has_type })))
}

pub(super) fn keys(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    Ok(Action::Keyspace(Box::new(Keyspace::Keys { pattern: words.bytes()? })))
}

pub(super) fn randomkey(_: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    Ok(Action::Keyspace(Box::new(Keyspace::RandomKey)))
}

pub(super) fn flush(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    match words.option() {
        None => {}
        Some(mode) if (is(mode, "ASYNC") || is(mode, "SYNC")) && words.is_empty() => {}
        Some(_) => return Err(Refusal::syntax()),
    }
    Ok(Action::Keyspace(Box::new(Keyspace::Flush)))
}
