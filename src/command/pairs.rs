//! The bound on the keys and values that one command stores (R9): with it, every command fits a frame.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error as _, SeqAccess, Visitor};

use crate::record::{Key, VALUE_BYTES_MAX, Value};

/// Most keys that one command stores.
pub const PAIRS_MAX: usize = 4096;

type Pair = (Key, Value);

/// A command would store too much at once. The client's fault; trying again won't help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a command stores at most {PAIRS_MAX} keys, with {VALUE_BYTES_MAX} bytes of values together")]
pub struct TooManyPairs;

pub(super) fn check(first: &Pair, more: &[Pair]) -> Result<(), TooManyPairs> {
    let mut room = Room { pairs: PAIRS_MAX, bytes: VALUE_BYTES_MAX };
    std::iter::once(first).chain(more).try_for_each(|pair| room.take(pair))
}

/// What may still come.
struct Room {
    pairs: usize,
    bytes: usize,
}

impl Room {
    fn take(&mut self, (_, value): &Pair) -> Result<(), TooManyPairs> {
        self.pairs = self.pairs.checked_sub(1).ok_or(TooManyPairs)?;
        self.bytes = self.bytes.checked_sub(value.as_bytes().len()).ok_or(TooManyPairs)?;
        Ok(())
    }
}

/// All but the first pair: a pair may have three bytes on the wire and a hundred in memory.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Pair>, D::Error> {
    deserializer.deserialize_seq(PairsVisitor)
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Vec<Pair>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "less than {PAIRS_MAX} keys with values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Pair>, A::Error> {
        let mut room = Room { pairs: PAIRS_MAX - 1, bytes: VALUE_BYTES_MAX };
        let mut pairs = Vec::new();
        while let Some(pair) = seq.next_element()? {
            room.take(&pair).map_err(A::Error::custom)?;
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;

    fn command(pairs: usize, value_bytes: usize) -> Command {
        let pair = |i: usize| (Key::new(i.to_string()).unwrap(), Value::new(vec![0; value_bytes]).unwrap());
        Command::PutAllAbsent { first: pair(0), more: (1..pairs).map(pair).collect() }
    }

    #[test]
    fn the_bounds_hold_at_their_edges_and_on_the_wire() {
        for (pairs, value_bytes, holds) in [
            (1, VALUE_BYTES_MAX, true),
            (PAIRS_MAX, VALUE_BYTES_MAX / PAIRS_MAX, true),
            (PAIRS_MAX + 1, 0, false),
            (3, VALUE_BYTES_MAX / 2, false),
        ] {
            let command = command(pairs, value_bytes);
            assert_eq!(command.check().is_ok(), holds, "{pairs} of {value_bytes} bytes");
            let encoded = postcard::to_stdvec(&command).unwrap();
            // Of the first pair's value only the check knows.
            let is_read = postcard::from_bytes::<Command>(&encoded).is_ok();
            assert_eq!(is_read, holds || pairs == 3, "{pairs} of {value_bytes} bytes");
        }
    }
}
