//! A line's words: where they begin and end, what quotes and escapes mean, and how any bytes are written as one word.
//!
//! The rules are those of redis-cli (`sdssplitargs`): a word may turn into a quoted one at any point, and a closing
//! quote ends it. Beyond them, `\xNN` also counts outside quotes, and an escape that nobody knows is an error instead
//! of a guess.

use std::fmt::Write as _;

use bytes::Bytes;

/// Most words of one line. A line of single letters would otherwise take sixteen times its size in memory.
pub const WORDS_MAX: usize = 1 << 20;

/// Why a line can't be split into words. Columns count bytes from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    #[error("unbalanced quotes: the {quote} in column {column} is never closed")]
    Unbalanced { quote: char, column: usize },
    #[error("a closing quote must be followed by a space (column {column})")]
    AfterQuote { column: usize },
    #[error(r#"unknown escape `{escape}` in column {column}: double quotes know \xNN \n \r \t \\ and \""#)]
    Escape { escape: String, column: usize },
    #[error("the line has more than {WORDS_MAX} words")]
    TooManyWords,
}

/// Splits a line into its words, which may be any bytes.
///
/// - Words are separated by spaces, tabs and line ends.
/// - `"…"` may hold anything, with the escapes `\xNN`, `\n`, `\r`, `\t`, `\\` and `\"`.
/// - `'…'` may hold anything, with the one escape `\'`.
/// - Outside quotes, `\xNN` is the byte NN, and any other backslash is itself.
///
/// # Errors
/// [`SplitError`], which says where.
pub fn split(line: &[u8]) -> Result<Vec<Bytes>, SplitError> {
    let mut scanner = Scanner { line, at: 0 };
    let mut words = Vec::new();
    while let Some(word) = scanner.word()? {
        if words.len() == WORDS_MAX {
            return Err(SplitError::TooManyWords);
        }
        words.push(word);
    }
    Ok(words)
}

/// One word that [`split`] reads back as these bytes: as it is where that is possible, else in double quotes.
pub fn quote(bytes: &[u8]) -> String {
    let plain = |&b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\');
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && !text.starts_with('#') && bytes.iter().all(plain) => text.to_owned(),
        _ => quoted(bytes),
    }
}

/// The bytes in double quotes, such that [`split`] reads them back and a terminal can show them: what is neither
/// printable ASCII nor printable UTF-8 is escaped.
pub fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    escape_into(&mut text, bytes, true);
    text.push('"');
    text
}

/// At most about `bytes_max` bytes of a word for use in a message, safe to show on a terminal.
pub fn printable(bytes: &[u8], bytes_max: usize) -> String {
    let mut text = String::new();
    escape_into(&mut text, bytes.get(..bytes_max).unwrap_or(bytes), false);
    if bytes.len() > bytes_max {
        text.push('…');
    }
    text
}

fn escape_into(text: &mut String, bytes: &[u8], quotes: bool) {
    // `str::escape_debug` treats a string's first character in a special way; the `-` takes that place.
    let mut probe = String::from("-");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' if quotes => text.extend(['\\', c]),
                '"' | '\\' | '\'' | ' '..='~' => text.push(c),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                _ => {
                    probe.truncate(1);
                    probe.push(c);
                    if probe.escape_debug().count() == 2 {
                        text.push(c);
                    } else {
                        escape_bytes(text, probe.as_bytes().get(1..).unwrap_or_default());
                    }
                }
            }
        }
        escape_bytes(text, chunk.invalid());
    }
}

fn escape_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "\\x{byte:02x}"); // Writing to a String does not fail.
    }
}

struct Scanner<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// The bytes up to the first for which `stop` holds.
    fn run(&mut self, stop: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.line.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&b| stop(b)).unwrap_or(rest.len());
        self.at += len;
        rest.get(..len).unwrap_or_default()
    }

    fn word(&mut self) -> Result<Option<Bytes>, SplitError> {
        self.run(|b| !b.is_ascii_whitespace());
        if self.peek().is_none() {
            return Ok(None);
        }
        let mut word = Vec::new();
        loop {
            word.extend_from_slice(self.run(|b| b.is_ascii_whitespace() || matches!(b, b'"' | b'\'' | b'\\')));
            match self.peek() {
                Some(b'"') => {
                    self.double_quoted(&mut word)?;
                    break;
                }
                Some(b'\'') => {
                    self.single_quoted(&mut word)?;
                    break;
                }
                Some(b'\\') => {
                    self.at += 1;
                    word.push(self.hex_escape().unwrap_or(b'\\'));
                }
                Some(_) | None => break,
            }
        }
        Ok(Some(word.into()))
    }

    fn double_quoted(&mut self, word: &mut Vec<u8>) -> Result<(), SplitError> {
        self.at += 1;
        let unbalanced = SplitError::Unbalanced { quote: '"', column: self.at };
        loop {
            word.extend_from_slice(self.run(|b| matches!(b, b'"' | b'\\')));
            match self.take() {
                None => return Err(unbalanced),
                Some(b'"') => return self.end_of_quotes(),
                Some(_) if self.peek().is_none() => return Err(unbalanced),
                Some(_) => word.push(self.escape()?),
            }
        }
    }

    fn single_quoted(&mut self, word: &mut Vec<u8>) -> Result<(), SplitError> {
        self.at += 1;
        let unbalanced = SplitError::Unbalanced { quote: '\'', column: self.at };
        loop {
            word.extend_from_slice(self.run(|b| matches!(b, b'\'' | b'\\')));
            match self.take() {
                None => return Err(unbalanced),
                Some(b'\'') => return self.end_of_quotes(),
                Some(_) if self.peek() == Some(b'\'') => {
                    self.at += 1;
                    word.push(b'\'');
                }
                Some(_) => word.push(b'\\'),
            }
        }
    }

    fn end_of_quotes(&self) -> Result<(), SplitError> {
        match self.peek() {
            Some(b) if !b.is_ascii_whitespace() => Err(SplitError::AfterQuote { column: self.at + 1 }),
            Some(_) | None => Ok(()),
        }
    }

    /// The byte that the escape after a backslash inside double quotes means.
    fn escape(&mut self) -> Result<u8, SplitError> {
        if let Some(byte) = self.hex_escape() {
            return Ok(byte);
        }
        let column = self.at;
        match self.take() {
            Some(b'n') => Ok(b'\n'),
            Some(b'r') => Ok(b'\r'),
            Some(b't') => Ok(b'\t'),
            Some(byte @ (b'\\' | b'"')) => Ok(byte),
            other => {
                let escape = format!("\\{}", other.map(|b| b.escape_ascii().to_string()).unwrap_or_default());
                Err(SplitError::Escape { escape, column })
            }
        }
    }

    /// Takes `xNN`; takes nothing if that is not what comes.
    fn hex_escape(&mut self) -> Option<u8> {
        let &[b'x', high, low] = self.line.get(self.at..self.at + 3)? else { return None };
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let byte = digit(high)? << 4 | digit(low)?;
        self.at += 3;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_split_into_words() {
        let table: &[(&[u8], &[&[u8]])] = &[
            (b"", &[]),
            (b" \t\r\n", &[]),
            (b"GET bob", &[b"GET", b"bob"]),
            (b"  GET\t bob \r\n", &[b"GET", b"bob"]),
            (b"GET bob \"\"", &[b"GET", b"bob", b""]),
            (b"''", &[b""]),
            (b"PUT alice \"two words\"", &[b"PUT", b"alice", b"two words"]),
            (b"'two words'", &[b"two words"]),
            (b"key=\"a b\"", &[b"key=a b"]),
            (br#""a'b" 'a"b'"#, &[b"a'b", b"a\"b"]),
            (br#""\n\r\t\\\"""#, &[b"\n\r\t\\\""]),
            (br#""\x00\xfF\x41""#, &[b"\x00\xffA"]),
            (br"\x00\xff-\x20", &[b"\x00\xff- "]),
            (br"\x5cx41", &[br"\x41"]),
            (br"C:\new \x \xg1 \x1", &[br"C:\new", br"\x", br"\xg1", br"\x1"]),
            (br"'\n\'\\ '", &[br"\n'\\ "]),
            (b"\xff\xfe \x00", &[b"\xff\xfe", b"\x00"]),
            ("ключ \"два слова\"".as_bytes(), &["ключ".as_bytes(), "два слова".as_bytes()]),
            (b"a#b #", &[b"a#b", b"#"]),
        ];
        for (line, words) in table {
            let split = split(line).unwrap_or_else(|e| panic!("{}: {e}", line.escape_ascii()));
            assert_eq!(split, *words, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said_with_its_place() {
        let table: &[(&[u8], &str)] = &[
            (b"PUT a \"b c", "unbalanced quotes: the \" in column 7 is never closed"),
            (b"\"", "unbalanced quotes: the \" in column 1 is never closed"),
            (br#""a\"#, "unbalanced quotes: the \" in column 1 is never closed"),
            (br#""a\""#, "unbalanced quotes: the \" in column 1 is never closed"),
            (b"don't", "unbalanced quotes: the ' in column 4 is never closed"),
            (br"'a\'", "unbalanced quotes: the ' in column 1 is never closed"),
            (b"'a'b", "a closing quote must be followed by a space (column 4)"),
            (b"{\"a\":1}", "a closing quote must be followed by a space (column 5)"),
            (br#""a\q""#, r#"unknown escape `\q` in column 3: double quotes know \xNN \n \r \t \\ and \""#),
            (br#""\xg0""#, r#"unknown escape `\x` in column 2: double quotes know \xNN \n \r \t \\ and \""#),
            (b"\"\\\xff\"", r#"unknown escape `\\xff` in column 2: double quotes know \xNN \n \r \t \\ and \""#),
        ];
        for (line, message) in table {
            assert_eq!(split(line).unwrap_err().to_string(), *message, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn number_of_words_is_bounded_and_their_length_is_not() {
        assert_eq!(split(&b"a ".repeat(WORDS_MAX)).unwrap().len(), WORDS_MAX);
        assert_eq!(split(&b"a ".repeat(WORDS_MAX + 1)), Err(SplitError::TooManyWords));
        assert_eq!(split(&[b'a'; 100_000]).unwrap(), [vec![b'a'; 100_000]]);
    }

    #[test]
    fn words_are_quoted_only_where_they_must() {
        let table: &[(&[u8], &str)] = &[
            (b"bob@gmail.com", "bob@gmail.com"),
            (b"", "\"\""),
            (b"#1", "\"#1\""),
            (b"two words", "\"two words\""),
            (b"a\"b\\c", r#""a\"b\\c""#),
            (b"\x00\xff\n\r\t\x1b", r#""\x00\xff\n\r\t\x1b""#),
            ("grüße हिन्दी".as_bytes(), "\"grüße हिन्दी\""),
            ("\u{202e}\u{85}".as_bytes(), r#""\xe2\x80\xae\xc2\x85""#),
        ];
        for (bytes, word) in table {
            assert_eq!(quote(bytes), *word);
        }
        assert_eq!(printable(b"a\"\x1b\\bcd", 4), "a\"\\x1b\\…");
    }

    proptest! {
        #[test]
        fn any_bytes_survive_quoting_and_splitting(words in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let line: Vec<String> = words.iter().map(|word| quote(word)).collect();
            prop_assert_eq!(split(line.join(" ").as_bytes()).unwrap(), words.clone());
            let line: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            prop_assert_eq!(split(line.join("\t").as_bytes()).unwrap(), words);
        }

        #[test]
        fn any_text_survives_quoting_and_splitting(text in any::<String>()) {
            prop_assert_eq!(split(quote(text.as_bytes()).as_bytes()).unwrap(), [text.into_bytes()]);
        }

        #[test]
        fn no_line_makes_splitting_panic(line in any::<Vec<u8>>(), quotes in r#"[ "'\\xnf0]{0,24}"#) {
            let _ = split(&line);
            let _ = split(quotes.as_bytes());
        }
    }
}
