//! The lines of an exported file, as `docs/formats.md` tells them: JSON, one thing a line.
//!
//! A checksum in a progress line or in the last one covers every byte before its line, so it speaks for all of them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::command::{Cursor, Found};
use crate::protocol::line::{format_cursor, parse_cursor};
use crate::record::{KEY_BYTES_MAX, Key, Record, VALUE_BYTES_MAX, Value};

pub(super) const FORMAT: &str = "overspill-export";
pub(super) const FORMAT_VERSION: u32 = 1;
/// Longest line: text takes at most twice its bytes, in `\n` and the like, and base64 less; the rest has room in 1 KiB.
pub(super) const LINE_BYTES_MAX: usize = 2 * (VALUE_BYTES_MAX + KEY_BYTES_MAX) + 1024;
/// A progress line comes before more than this follows the last one, unless a single record does.
pub(super) const BLOCK_BYTES: usize = 1024 * 1024;
/// Records between two progress lines.
pub(super) const BLOCK_RECORDS: usize = 1000;
/// What a reader takes between two progress lines: longer blocks are not ours.
pub(super) const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + 2 * LINE_BYTES_MAX;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub format: String,
    pub version: u32,
    /// When it was begun, in milliseconds since 1970 UTC.
    pub exported_at: u64,
    /// Address of the node.
    pub from: String,
}

/// A line after the first.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Record(Record),
    Mark { cursor: Cursor, sum: Sum },
    End(Sum),
}

/// What is told of all lines before this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub records: u64,
    pub crc32c: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkLine {
    cursor: String,
    records: u64,
    crc32c: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    end: bool,
    records: u64,
    crc32c: String,
}

#[derive(Serialize)]
struct RecordOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordIn {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    version: String,
    expires_at: Option<u64>,
}

/// A place between two lines, and what came before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Bytes.
    pub offset: u64,
    pub lines: u64,
    pub records: u64,
    /// Of all bytes.
    pub crc32c: u32,
}

impl Position {
    /// Goes past a line; its line feed is part of it.
    pub fn pass(&mut self, line: &[u8]) {
        self.offset += line.len() as u64;
        self.lines += 1;
        self.crc32c = crc32c::crc32c_append(self.crc32c, line);
    }

    pub fn sum(&self) -> Sum {
        Sum { records: self.records, crc32c: self.crc32c }
    }
}

/// Lines to be written, and where the file stands after them.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    pub position: Position,
    lines: Vec<u8>,
    /// Of `position`, behind the last progress line.
    block_bytes: usize,
    block_records: usize,
}

impl Encoder {
    /// Goes on behind a header or a progress line.
    pub fn at(position: Position) -> Self {
        Self { position, ..Self::default() }
    }

    pub fn header(&mut self, header: &Header) {
        self.line(header);
    }

    pub fn record(&mut self, key: &Key, found: &Found) {
        let (key, key_base64) = text_or_base64(key.as_bytes());
        let (value, value_base64) = text_or_base64(found.value.as_bytes());
        let (version, expires_at) = (found.version.to_string(), found.expires_at.map(|at| at.0));
        let bytes = self.line(&RecordOut { key, key_base64, value, value_base64, version, expires_at });
        self.position.records += 1;
        self.block_bytes += bytes;
        self.block_records += 1;
    }

    /// Whether a progress line is due.
    pub fn is_block_full(&self) -> bool {
        self.block_bytes >= BLOCK_BYTES || self.block_records >= BLOCK_RECORDS
    }

    pub fn has_unmarked(&self) -> bool {
        self.block_records > 0
    }

    pub fn mark(&mut self, cursor: &Cursor) {
        let Sum { records, crc32c } = self.position.sum();
        self.line(&MarkLine { cursor: format_cursor(cursor), records, crc32c: hex(crc32c) });
        (self.block_bytes, self.block_records) = (0, 0);
    }

    pub fn end(&mut self) {
        let Sum { records, crc32c } = self.position.sum();
        self.line(&EndLine { end: true, records, crc32c: hex(crc32c) });
    }

    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.lines)
    }

    /// Its bytes.
    fn line(&mut self, line: &impl Serialize) -> usize {
        let from = self.lines.len();
        // Strings, numbers and options into memory: nothing of that can fail.
        let _ = serde_json::to_writer(&mut self.lines, line);
        self.lines.push(b'\n');
        let written = self.lines.get(from..).unwrap_or_default();
        self.position.pass(written);
        written.len()
    }
}

/// Text for people is shown as it is. Bytes that are none, and text with control characters, which JSON makes six times
/// longer, go as base64.
fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    let is_shown = |text: &&str| !text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'));
    match std::str::from_utf8(bytes).ok().filter(is_shown) {
        Some(text) => (Some(text), None),
        None => (None, Some(BASE64_STANDARD.encode(bytes))),
    }
}

fn hex(crc32c: u32) -> String {
    format!("{crc32c:08x}")
}

/// # Errors
/// Why it is not the first line of a file that this program can read.
pub(super) fn parse_header(line: &[u8]) -> Result<Header, String> {
    let header: Header =
        serde_json::from_slice(line).map_err(|_| "this is no file that `kv export` wrote".to_owned())?;
    match &header {
        Header { format, .. } if format != FORMAT => Err(format!("its format is `{format}`, not `{FORMAT}`")),
        Header { version: 1..=FORMAT_VERSION, .. } => Ok(header),
        Header { version, .. } => {
            Err(format!("it has format version {version}, and this program knows up to {FORMAT_VERSION}"))
        }
    }
}

/// # Errors
/// What is wrong with it.
pub(super) fn parse_line(line: &[u8]) -> Result<Line, String> {
    let json = |error: serde_json::Error| {
        let (text, column) = (error.to_string(), error.column());
        // Its own number of the line is always 1.
        let text = text.split(" at line ").next().unwrap_or_default();
        format!("not a line of an export: {text} at column {column}")
    };
    if line.starts_with(br#"{"cursor""#) {
        let MarkLine { cursor, records, crc32c } = serde_json::from_slice(line).map_err(json)?;
        let cursor = parse_cursor(cursor.as_bytes()).map_err(|error| error.to_string())?;
        return Ok(Line::Mark { cursor, sum: Sum { records, crc32c: parse_hex(&crc32c)? } });
    }
    if line.starts_with(br#"{"end""#) {
        let EndLine { end, records, crc32c } = serde_json::from_slice(line).map_err(json)?;
        if !end {
            return Err("`end` is not true".to_owned());
        }
        return Ok(Line::End(Sum { records, crc32c: parse_hex(&crc32c)? }));
    }
    let read: RecordIn = serde_json::from_slice(line).map_err(json)?;
    let key = Key::new(bytes_of("key", read.key, read.key_base64)?).map_err(|error| error.to_string())?;
    let value = Value::new(bytes_of("value", read.value, read.value_base64)?).map_err(|error| error.to_string())?;
    let version = read.version.parse().map_err(|error: crate::record::VersionParseError| error.to_string())?;
    Ok(Line::Record(Record { key, value, version, expires_at: read.expires_at.map(Timestamp) }))
}

fn parse_hex(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 16).map_err(|_| format!("`{text}` is no checksum: expected eight hexadecimal digits"))
}

fn bytes_of(name: &str, text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => {
            BASE64_STANDARD.decode(base64).map_err(|error| format!("`{name}_base64` is not base64: {error}"))
        }
        (None, None) => Err(format!("`{name}` is missing")),
        (Some(_), Some(_)) => Err(format!("`{name}` and `{name}_base64` exclude each other")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Version;

    fn found(value: &[u8], expires_at: Option<u64>) -> Found {
        let value = Value::new(value.to_vec()).unwrap();
        Found { value, version: Version::new(3, 7), expires_at: expires_at.map(Timestamp) }
    }

    fn written(key: &[u8], found: &Found) -> String {
        let mut encoder = Encoder::default();
        encoder.record(&Key::new(key.to_vec()).unwrap(), found);
        String::from_utf8(encoder.take()).unwrap()
    }

    /// What `docs/formats.md` shows.
    #[test]
    fn lines_are_as_documented() {
        let mut encoder = Encoder::default();
        let header = Header {
            format: FORMAT.into(),
            version: FORMAT_VERSION,
            exported_at: 1_700_000_000_000,
            from: "localhost:8080".into(),
        };
        encoder.header(&header);
        encoder.record(&Key::new("bob").unwrap(), &found(b"bob@gmail.com", None));
        encoder.record(&Key::new(vec![0xff]).unwrap(), &found(&[0, 1], Some(1_700_000_060_000)));
        encoder.mark(&Cursor { slot: 5798, after: Some(Key::new("bob").unwrap()) });
        encoder.end();
        let expected = r#"{"format":"overspill-export","version":1,"exported_at":1700000000000,"from":"localhost:8080"}
{"key":"bob","value":"bob@gmail.com","version":"3.7"}
{"key_base64":"/w==","value_base64":"AAE=","version":"3.7","expires_at":1700000060000}
{"cursor":"5798:bob","records":2,"crc32c":"e78bb057"}
{"end":true,"records":2,"crc32c":"7299a501"}
"#;
        assert_eq!(String::from_utf8(encoder.take()).unwrap(), expected);
        assert_eq!(encoder.position.offset, expected.len() as u64);
        assert_eq!(parse_header(expected.lines().next().unwrap().as_bytes()), Ok(header));
    }

    #[test]
    fn text_is_text_and_the_rest_is_base64() {
        assert!(
            written("schlüssel".as_bytes(), &found(b"two\nlines\t\"quoted\"", None)).contains(r#""key":"schlüssel""#)
        );
        assert!(written(b"k", &found(b"", None)).contains(r#""value":"""#));
        assert!(written(b"k", &found(b"\x1b[2J", None)).contains("value_base64"));
        let longest = written(&[b'"'; KEY_BYTES_MAX], &found(&vec![b'"'; VALUE_BYTES_MAX], Some(u64::MAX)));
        assert!(longest.len() <= LINE_BYTES_MAX);
        let binary = written(&[0xff; KEY_BYTES_MAX], &found(&vec![0; VALUE_BYTES_MAX], Some(u64::MAX)));
        assert!(binary.len() <= LINE_BYTES_MAX);
    }

    #[test]
    fn what_is_no_line_is_refused_with_the_reason() {
        for (line, expected) in [
            ("", "not a line"),
            ("{}", "missing field `version`"),
            (r#"{"value":"v","version":"1.1"}"#, "`key` is missing"),
            (r#"{"key":"k","version":"1.1"}"#, "`value` is missing"),
            (r#"{"key":"k","key_base64":"aw==","value":"v","version":"1.1"}"#, "exclude each other"),
            (r#"{"key":"k","value_base64":"!","version":"1.1"}"#, "is not base64"),
            (r#"{"key":"k","value":"v","version":"1"}"#, "not a version"),
            (r#"{"key":"k","value":"v","version":"1.1","more":1}"#, "unknown field `more`"),
            (r#"{"key":"","value":"v","version":"1.1"}"#, "the key is empty"),
            (r#"{"cursor":"x","records":1,"crc32c":"0"}"#, "not a cursor"),
            (r#"{"cursor":"0","records":1,"crc32c":"x"}"#, "no checksum"),
            (r#"{"end":false,"records":1,"crc32c":"0"}"#, "not true"),
        ] {
            let said = parse_line(line.as_bytes()).unwrap_err();
            assert!(said.contains(expected), "`{line}`: {said}");
        }
        let newer = r#"{"format":"overspill-export","version":2,"exported_at":0,"from":""}"#;
        assert!(parse_header(newer.as_bytes()).unwrap_err().contains("knows up to 1"));
        assert!(parse_header(b"key,value").is_err());
    }

    proptest! {
        #[test]
        fn any_record_is_read_back(
            key in prop::collection::vec(any::<u8>(), 1..20),
            value in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), ".{0,20}".prop_map(String::into_bytes)],
            expires_at in proptest::option::of(any::<u64>()),
        ) {
            let found = found(&value, expires_at);
            let Found { value, version, expires_at } = found.clone();
            let record = Record { key: Key::new(key.clone()).unwrap(), value, version, expires_at };
            prop_assert_eq!(parse_line(written(&key, &found).as_bytes()), Ok(Line::Record(record)));
        }
    }
}
