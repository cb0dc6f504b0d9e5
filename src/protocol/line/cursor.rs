//! A scan's cursor as text: `0` at the start, `SLOT`, or `SLOT:KEY` with the key percent-encoded.
//!
//! Percent signs, because neither this shell nor the user's own one gives them a meaning: the text needs no quotes.

use std::fmt::Write as _;

use crate::command::Cursor;
use crate::record::Key;
use crate::slots::Slot;

use super::words::printable;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a cursor: expected 0 or what SCAN gave, as in `5798:bob`")]
pub struct CursorParseError(String);

/// One printable word without quotes, spaces or backslashes, which [`parse_cursor`] reads back.
pub fn format_cursor(cursor: &Cursor) -> String {
    let mut text = cursor.slot.to_string();
    let Some(key) = &cursor.after else { return text };
    text.push(':');
    for &byte in key.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.:/@+,=".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}"); // Writing to a String does not fail.
        }
    }
    text
}

/// # Errors
/// [`CursorParseError`] for anything that [`format_cursor`] does not write.
pub fn parse_cursor(word: &[u8]) -> Result<Cursor, CursorParseError> {
    parse(word).ok_or_else(|| CursorParseError(printable(word, 64)))
}

fn parse(word: &[u8]) -> Option<Cursor> {
    let mut parts = word.splitn(2, |&b| b == b':');
    let slot: u16 = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let after = match parts.next() {
        Some(key) => Some(Key::new(percent_decode(key)?).ok()?),
        None => None,
    };
    Some(Cursor { slot: Slot::try_from(slot).ok()?.get(), after })
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|&b| char::from(b).to_digit(16));
            bytes.push(u8::try_from(digit()? << 4 | digit()?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::line::split;

    #[test]
    fn cursors_are_one_readable_word() {
        let at = |slot, key: &'static [u8]| Cursor { slot, after: Some(Key::new(key).unwrap()) };
        assert_eq!(format_cursor(&Cursor::START), "0");
        assert_eq!(format_cursor(&at(5798, b"bob")), "5798:bob");
        assert_eq!(format_cursor(&at(1, b"a:b 100%\xff")), "1:a:b%20100%25%FF");
        assert_eq!(parse_cursor(b"0"), Ok(Cursor::START));
        for bad in ["", "x", "16384", "-1", "5:", "5:%", "5:%4", "5:%zz", ":a", "70000"] {
            assert!(parse_cursor(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(
            parse_cursor(b"x y").unwrap_err().to_string(),
            "`x y` is not a cursor: expected 0 or what SCAN gave, as in `5798:bob`"
        );
    }

    proptest! {
        #[test]
        fn any_cursor_is_read_back_even_through_a_line(slot in 0u16..16384, key in prop::collection::vec(any::<u8>(), 0..40)) {
            let cursor = Cursor { slot, after: Key::new(key).ok() };
            let text = format_cursor(&cursor);
            prop_assert_eq!(parse_cursor(text.as_bytes()), Ok(cursor));
            prop_assert_eq!(split(text.as_bytes()).unwrap(), [text.into_bytes()]);
        }
    }
}
