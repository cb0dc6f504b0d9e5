//! The options of SET, GETEX and the EXPIRE family.

use super::Refusal;
use super::words::{Words, is, shown};
use crate::command::{Existence, ExpireWhen, NewExpiry};
use crate::number::parse_integer;
use crate::record::{Timestamp, Ttl};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    Now,
    Epoch,
}

/// What follows the value of a SET, or the key of a GETEX.
#[derive(Debug)]
pub(super) struct Options {
    pub existence: Existence,
    pub answer_old: bool,
    /// Says what GETEX does without one; SET takes any expiry away.
    pub expiry: Option<NewExpiry>,
}

/// Which command the options are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Set,
    GetEx,
}

pub(super) fn parse(words: &mut Words<'_>, of: Of) -> Result<Options, Refusal> {
    let mut options = Options { existence: Existence::Any, answer_old: false, expiry: None };
    let mut moment: Option<(&[u8], Unit, Base)> = None;
    while let Some(word) = words.option() {
        match of {
            // Said twice it means the same.
            Of::Set if is(word, "NX") && options.existence != Existence::Present => {
                options.existence = Existence::Absent;
            }
            Of::Set if is(word, "XX") && options.existence != Existence::Absent => {
                options.existence = Existence::Present;
            }
            Of::Set if is(word, "GET") => options.answer_old = true,
            Of::Set if is(word, "KEEPTTL") && moment.is_none() => options.expiry = Some(NewExpiry::Keep),
            Of::GetEx if is(word, "PERSIST") && moment.is_none() => options.expiry = Some(NewExpiry::Never),
            Of::Set | Of::GetEx => {
                let Some((unit, base)) = unit_of(word) else { return Err(Refusal::syntax()) };
                // Of the same kind, the last one counts.
                let is_other = moment.as_ref().is_some_and(|(_, unit2, base2)| (*unit2, *base2) != (unit, base));
                if is_other || options.expiry.is_some() {
                    return Err(Refusal::syntax());
                }
                moment = Some((words.operand()?, unit, base));
            }
        }
    }
    if let Some((amount, unit, base)) = moment {
        options.expiry = Some(future(words.name(), amount, unit, base)?);
    }
    Ok(options)
}

fn unit_of(word: &[u8]) -> Option<(Unit, Base)> {
    match word {
        word if is(word, "EX") => Some((Unit::Seconds, Base::Now)),
        word if is(word, "PX") => Some((Unit::Millis, Base::Now)),
        word if is(word, "EXAT") => Some((Unit::Seconds, Base::Epoch)),
        word if is(word, "PXAT") => Some((Unit::Millis, Base::Epoch)),
        _ => None,
    }
}

/// An expiry that must be positive.
pub(super) fn future(name: &str, amount: &[u8], unit: Unit, base: Base) -> Result<NewExpiry, Refusal> {
    let amount = parse_integer(amount).ok_or_else(Refusal::not_an_integer)?;
    if amount <= 0 {
        return Err(invalid(name));
    }
    moment(name, amount, unit, base)
}

/// An expiry that may be past.
pub(super) fn moment(name: &str, amount: i64, unit: Unit, base: Base) -> Result<NewExpiry, Refusal> {
    let millis = match unit {
        Unit::Seconds => amount.checked_mul(1000).ok_or_else(|| invalid(name))?,
        Unit::Millis => amount,
    };
    match (base, u64::try_from(millis)) {
        (Base::Epoch, Ok(millis)) => Ok(NewExpiry::At(Timestamp(millis))),
        (Base::Now, Ok(millis)) if millis > 0 => Ttl::from_millis(millis).map(NewExpiry::In).map_err(|_| invalid(name)),
        (Base::Now | Base::Epoch, _) => Ok(NewExpiry::At(Timestamp(0))),
    }
}

fn invalid(name: &str) -> Refusal {
    Refusal::err(format_args!("invalid expire time in '{name}' command"))
}

/// What follows the time of an EXPIRE.
pub(super) fn expire_when(words: &mut Words<'_>) -> Result<ExpireWhen, Refusal> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    while let Some(word) = words.option() {
        let flag = match word {
            word if is(word, "NX") => &mut nx,
            word if is(word, "XX") => &mut xx,
            word if is(word, "GT") => &mut gt,
            word if is(word, "LT") => &mut lt,
            word => return Err(Refusal::err(format_args!("Unsupported option {}", shown(word)))),
        };
        *flag = true;
    }
    match (nx, xx, gt, lt) {
        (true, true, _, _) | (true, _, true, _) | (true, _, _, true) => {
            Err(Refusal::err("NX and XX, GT or LT options at the same time are not compatible"))
        }
        (_, _, true, true) => Err(Refusal::err("GT and LT options at the same time are not compatible")),
        (true, false, false, false) => Ok(ExpireWhen::None),
        (false, _, true, false) => Ok(ExpireWhen::Later), // which nothing is than never
        (false, true, false, true) => Ok(ExpireWhen::AnySooner),
        (false, false, false, true) => Ok(ExpireWhen::Sooner),
        (false, true, false, false) => Ok(ExpireWhen::Any),
        (false, false, false, false) => Ok(ExpireWhen::Always),
    }
}
