//! Commands on the value of a key, and on those of several.

use super::options::{self, Base, Of, Unit};
use super::words::Words;
use super::{Action, Refusal, Shape, Translated};
use crate::command::{Command, Condition, Existence, NewExpiry, Update};
use crate::number::Decimal;
use crate::record::{Key, VALUE_BYTES_MAX, Value};

fn update(key: Key, update: Update, shape: Shape, batch: &mut Vec<Command>) -> Translated {
    batch.push(Command::Update { key, update });
    Ok(Action::Data(shape))
}

pub(super) fn get(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    batch.push(Command::Get { key: words.key()? });
    Ok(Action::Data(Shape::Value))
}

pub(super) fn set(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let (key, value) = (words.key()?, words.value()?);
    if words.is_empty() {
        batch.push(Command::Put { key, value, ttl: None, condition: Condition::Always });
        return Ok(Action::Data(Shape::Stored));
    }
    let options = options::parse(words, Of::Set)?;
    let (existence, answer_old) = (options.existence, options.answer_old);
    let expiry = options.expiry.unwrap_or(NewExpiry::Never);
    let shape = if answer_old { Shape::Value } else { Shape::Stored };
    update(key, Update::Set { value, expiry, existence, answer_old }, shape, batch)
}

pub(super) fn setnx(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    batch.push(Command::Put { key: words.key()?, value: words.value()?, ttl: None, condition: Condition::Absent });
    Ok(Action::Data(Shape::StoredFlag))
}

pub(super) fn setex(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    set_expiring(words, Unit::Seconds, batch)
}

pub(super) fn psetex(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    set_expiring(words, Unit::Millis, batch)
}

fn set_expiring(words: &mut Words<'_>, unit: Unit, batch: &mut Vec<Command>) -> Translated {
    let (key, amount, value) = (words.key()?, words.next()?, words.value()?);
    let expiry = options::future(words.name(), amount, unit, Base::Now)?;
    let set = Update::Set { value, expiry, existence: Existence::Any, answer_old: false };
    update(key, set, Shape::Stored, batch)
}

pub(super) fn getset(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let (key, value) = (words.key()?, words.value()?);
    let set = Update::Set { value, expiry: NewExpiry::Never, existence: Existence::Any, answer_old: true };
    update(key, set, Shape::Value, batch)
}

pub(super) fn getdel(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    update(words.key()?, Update::Take, Shape::Value, batch)
}

pub(super) fn getex(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let key = words.key()?;
    match options::parse(words, Of::GetEx)?.expiry {
        Some(expiry) => update(key, Update::GetAndExpire { expiry }, Shape::Value, batch),
        None => {
            batch.push(Command::Get { key });
            Ok(Action::Data(Shape::Value))
        }
    }
}

pub(super) fn append(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    update(words.key()?, Update::Append { tail: words.value()? }, Shape::Number, batch)
}

pub(super) fn strlen(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    batch.push(Command::Get { key: words.key()? });
    Ok(Action::Data(Shape::Length))
}

pub(super) fn getrange(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let (key, start, end) = (words.key()?, words.integer()?, words.integer()?);
    batch.push(Command::Get { key });
    Ok(Action::Data(Shape::Range { start, end }))
}

pub(super) fn setrange(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let (key, offset, part) = (words.key()?, words.integer()?, words.value()?);
    if offset < 0 {
        return Err(Refusal::err("offset is out of range"));
    }
    // Beyond what a value may have, which only an empty part can't reach.
    let offset = u32::try_from(offset).unwrap_or(u32::MAX).min(VALUE_BYTES_MAX as u32);
    update(key, Update::Overwrite { offset, part }, Shape::Number, batch)
}

pub(super) fn incr(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    update(words.key()?, Update::Add { by: 1 }, Shape::Number, batch)
}

pub(super) fn decr(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    update(words.key()?, Update::Add { by: -1 }, Shape::Number, batch)
}

pub(super) fn incrby(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    update(words.key()?, Update::Add { by: words.integer()? }, Shape::Number, batch)
}

pub(super) fn decrby(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let (key, by) = (words.key()?, words.integer()?);
    let by = by.checked_neg().ok_or_else(|| Refusal::err("decrement would overflow"))?;
    update(key, Update::Add { by }, Shape::Number, batch)
}

pub(super) fn incrbyfloat(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let (key, by) = (words.key()?, words.value()?);
    if Decimal::parse(by.as_bytes()).is_none() {
        return Err(Refusal::err("value is not a valid float"));
    }
    update(key, Update::AddDecimal { by }, Shape::Value, batch)
}

pub(super) fn mget(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let count = words.len();
    while !words.is_empty() {
        batch.push(Command::Get { key: words.key()? });
    }
    Ok(Action::Data(Shape::Values { count }))
}

pub(super) fn mset(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let pairs = pairs(words)?;
    let count = pairs.len();
    let put = |(key, value)| Command::Put { key, value, ttl: None, condition: Condition::Always };
    batch.extend(pairs.into_iter().map(put));
    Ok(Action::Data(Shape::AllStored { count }))
}

pub(super) fn msetnx(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let mut pairs = pairs(words)?.into_iter();
    let first = pairs.next().ok_or_else(|| Refusal::arity(words.name()))?;
    let command = Command::PutAllAbsent { first, more: pairs.collect() };
    command.check().map_err(Refusal::err)?;
    batch.push(command);
    Ok(Action::Data(Shape::Done))
}

fn pairs(words: &mut Words<'_>) -> Result<Vec<(Key, Value)>, Refusal> {
    if !words.len().is_multiple_of(2) {
        return Err(Refusal::arity(words.name()));
    }
    let mut pairs = Vec::new();
    while !words.is_empty() {
        pairs.push((words.key()?, words.value()?));
    }
    Ok(pairs)
}
