//! Inline requests: a line of words, as a person types it. The rules are those of Redis's `sdssplitargs`.

use bytes::Bytes;

use super::args::{Args, Span, Spans};

/// The words of a line, unquoted; none for a blank line.
///
/// - `"…"` knows `\n`, `\r`, `\t`, `\b`, `\a` and `\xNN`; any other escaped byte is itself.
/// - `'…'` knows `\'`.
/// - A quote may begin inside a word; its end is the end of the word.
///
/// `None` if a quote is not closed, or if something other than a space follows its end.
pub(super) fn split(line: &[u8]) -> Option<Args<'static>> {
    let mut spans = Spans::default();
    let mut rest = trim(line);
    // Unquoting only shortens.
    let mut text = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let start = text.len();
        rest = trim(word(rest, &mut text)?);
        spans.push(Span::new(start, text.len() - start)?);
    }
    Some(Args::taken(Bytes::from(text), spans))
}

/// Appends the word that `rest` begins with, and returns what follows it.
fn word<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return Some(rest),
            // Unlike between words, neither \v nor \f ends one.
            [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some(rest),
            [b'"', after @ ..] => return double_quoted(after, text),
            [b'\'', after @ ..] => return single_quoted(after, text),
            [byte, after @ ..] => push(text, *byte, after),
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return None,
            [b'"', after @ ..] => return closed(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                push(text, hex_digit(*high) << 4 | hex_digit(*low), after)
            }
            [b'\\', escaped, after @ ..] => push(text, unescape(*escaped), after),
            [byte, after @ ..] => push(text, *byte, after),
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return None,
            [b'\'', after @ ..] => return closed(after),
            [b'\\', b'\'', after @ ..] => push(text, b'\'', after),
            [byte, after @ ..] => push(text, *byte, after),
        }
    }
}

/// What follows a closing quote: a space or nothing.
fn closed(after: &[u8]) -> Option<&[u8]> {
    after.first().is_none_or(|byte| is_space(*byte)).then_some(after)
}

fn push<'a>(text: &mut Vec<u8>, byte: u8, after: &'a [u8]) -> &'a [u8] {
    text.push(byte);
    after
}

fn trim(line: &[u8]) -> &[u8] {
    let spaces = line.iter().take_while(|byte| is_space(**byte)).count();
    line.get(spaces..).unwrap_or_default()
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

/// The value of a byte that is known to be a hexadecimal digit.
fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => (byte | 0x20).wrapping_sub(b'a' - 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_and_unquoted_as_redis_does() {
        let cases: &[(&[u8], &[&[u8]])] = &[
            (b"", &[]),
            (b" \t \x0b\x0c\r", &[]),
            (b"PING", &[b"PING"]),
            (b"  set  key\tvalue ", &[b"set", b"key", b"value"]),
            (b"a\rb\rc", &[b"a", b"b", b"c"]),
            (b"a\x0bb \x0bc", &[b"a\x0bb", b"c"]),
            (br#""" '' a"#, &[b"", b"", b"a"]),
            (br#""two words" 'two words'"#, &[b"two words", b"two words"]),
            (br#"pre"fix" pre'fix'"#, &[b"prefix", b"prefix"]),
            (br#""\n\r\t\b\a\\\"\q\'""#, &[b"\n\r\t\x08\x07\\\"q'"]),
            (br#""\x00\xfF\xAg\x1\x""#, &[b"\x00\xffxAgx1x"]),
            (br#"'\'\n\\"'"#, &[br#"'\n\\""#]),
            (br#"a\x41\"b c" d"#, &[br#"a\x41\b c"#, b"d"]),
            (b"\"a\"\x0bb", &[b"a", b"b"]),
            (b"nul\0nul \0 \"\0\\\0\"", &[b"nul\0nul", b"\0", b"\0\0"]),
            (b"\xff\xfe", &[b"\xff\xfe"]),
        ];
        for (line, words) in cases {
            let args = split(line).unwrap();
            assert_eq!(args.iter().collect::<Vec<_>>(), *words, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn quotes_that_do_not_end_a_word_are_refused() {
        for line in
            [r#"""#, "'", r#""a"#, "'a", r#""a"b"#, "'a'b", r#""a"'b'"#, r#"x "a\""#, r"'a\'", r#""\x4"#, r#""\"#]
        {
            assert!(split(line.as_bytes()).is_none(), "{line}");
        }
    }
}
