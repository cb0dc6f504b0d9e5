//! From words to a [`Request`]: what to run and how its replies are meant to be shown.

use bytes::Bytes;

use crate::command::{Command, Condition, Cursor};
use crate::record::{Key, LimitError, Ttl, Value, Version, VersionParseError};

use super::cursor::{CursorParseError, parse_cursor};
use super::spec::Spec;
use super::words::{SplitError, printable, split};

/// Keys in a page of SCAN when nothing is said.
pub const SCAN_LIMIT_DEFAULT: u32 = 100;
/// Most keys in a page: with the longest keys, 4 MiB, which fits a frame.
pub const SCAN_LIMIT_MAX: u32 = 4096;

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run the commands, and show their replies together. There is at least one.
    Run {
        commands: Vec<Command>,
        show: Show,
    },
    /// Every key: [`Command::Scan`] from [`Cursor::START`] to the end.
    Keys,
    /// Explain one command, or list them all.
    Help(Option<&'static Spec>),
    Exit,
}

/// What the replies to a request's commands mean to the one who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Show {
    /// One value; what to show instead if there is none.
    Value {
        default: Option<Bytes>,
    },
    /// A value for each key.
    Values,
    /// Whether a value was stored.
    Stored,
    /// Whether a value was swapped for another, and the version in either case.
    Swapped,
    /// Whether all values were stored.
    AllStored,
    /// How many commands found what they act on.
    Found,
    /// Whether the one command found what it acts on.
    Changed,
    Ttl,
    Version,
    Page,
    Count,
    Stats,
    Explained,
}

/// Why a line is not a request. The text is one line and says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(transparent)]
    Split(#[from] SplitError),
    #[error("unknown command `{name}`{} (HELP lists the commands)", suggestion(nearest))]
    Unknown { name: String, nearest: Option<&'static str> },
    #[error("{}", explain(problem, spec))]
    Arguments { problem: Problem, spec: &'static Spec },
}

/// What is wrong with a command's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Too few or too many.
    Usage,
    /// A word where no such word can stand.
    Unexpected(String),
    /// Not a whole number of these.
    Number {
        word: String,
        of: &'static str,
    },
    ScanLimit,
    Limit(LimitError),
    Version(VersionParseError),
    Cursor(CursorParseError),
    /// HELP for a command that does not exist.
    Unknown {
        name: String,
        nearest: Option<&'static str>,
    },
}

fn suggestion(nearest: &Option<&str>) -> String {
    nearest.map(|name| format!(": did you mean {name}?")).unwrap_or_default()
}

fn explain(problem: &Problem, spec: &Spec) -> String {
    let usage = spec.usage();
    match problem {
        Problem::Usage => format!("usage: {usage}"),
        Problem::Unexpected(word) => {
            format!("unexpected `{word}` (a value with spaces needs quotes); usage: {usage}")
        }
        Problem::Number { word, of } => format!("`{word}` is not a whole number of {of}; usage: {usage}"),
        Problem::ScanLimit => format!("the limit must be between 1 and {SCAN_LIMIT_MAX}"),
        Problem::Limit(error) => error.to_string(),
        Problem::Version(error) => format!("{error}, or 0 for a key that must not exist"),
        Problem::Cursor(error) => error.to_string(),
        Problem::Unknown { name, nearest } => ParseError::Unknown { name: name.clone(), nearest: *nearest }.to_string(),
    }
}

impl From<LimitError> for Problem {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}

/// Parses one line; `None` if it is blank or a comment, which begins with `#`.
///
/// # Errors
/// [`ParseError`] if the line can't be split into words or if these make no request.
pub fn parse_line(line: &[u8]) -> Result<Option<Request>, ParseError> {
    match line.trim_ascii_start().first() {
        None | Some(b'#') => Ok(None),
        Some(_) => parse_words(&split(line)?),
    }
}

/// Parses words that are split already, as a program's arguments are; `None` if there are none.
///
/// # Errors
/// [`ParseError`] if they make no request.
pub fn parse_words(words: &[Bytes]) -> Result<Option<Request>, ParseError> {
    let Some((name, arguments)) = words.split_first() else { return Ok(None) };
    let Some(spec) = Spec::find(name) else {
        return Err(ParseError::Unknown { name: shown(name), nearest: Spec::nearest(name) });
    };
    let (least, most) = spec.arity;
    let request = if arguments.len() < least {
        Err(Problem::Usage)
    } else if arguments.len() <= most {
        (spec.build)(arguments)
    } else {
        // The parser may know which of the words is the one too many.
        let unexpected = (spec.build)(arguments).err().filter(|p| matches!(p, Problem::Unexpected(_)));
        Err(unexpected.unwrap_or(Problem::Usage))
    };
    request.map(Some).map_err(|problem| ParseError::Arguments { problem, spec })
}

pub(super) fn get(words: &[Bytes]) -> Result<Request, Problem> {
    let (key, default) = match words {
        [key] => (key, None),
        [key, default] => (key, Some(default.clone())),
        [_, _, extra, ..] => return Err(unexpected(extra)),
        [] => return Err(Problem::Usage),
    };
    one(Command::Get { key: self::key(key)? }, Show::Value { default })
}

pub(super) fn put(words: &[Bytes]) -> Result<Request, Problem> {
    let [key, value, options @ ..] = words else { return Err(Problem::Usage) };
    let options = put_options(options)?;
    let condition = if options.absent { Condition::Absent } else { Condition::Always };
    one(store(key, value, options.ttl, condition)?, Show::Stored)
}

pub(super) fn cas(words: &[Bytes]) -> Result<Request, Problem> {
    let [key, version, value, options @ ..] = words else { return Err(Problem::Usage) };
    let condition = condition(version)?;
    let options = put_options(options)?;
    if options.absent {
        return Err(Problem::Unexpected("NX".to_owned()));
    }
    one(store(key, value, options.ttl, condition)?, Show::Swapped)
}

pub(super) fn mput(words: &[Bytes]) -> Result<Request, Problem> {
    let pairs = words.chunks(2).map(|pair| match pair {
        [key, value] => store(key, value, None, Condition::Always),
        _ => Err(Problem::Usage),
    });
    Ok(Request::Run { commands: pairs.collect::<Result<_, _>>()?, show: Show::AllStored })
}

pub(super) fn del(words: &[Bytes]) -> Result<Request, Problem> {
    each(words, |key| Command::Delete { key }, Show::Found)
}

pub(super) fn exists(words: &[Bytes]) -> Result<Request, Problem> {
    each(words, |key| Command::Exists { key }, Show::Found)
}

pub(super) fn mget(words: &[Bytes]) -> Result<Request, Problem> {
    each(words, |key| Command::Get { key }, Show::Values)
}

pub(super) fn ttl(words: &[Bytes]) -> Result<Request, Problem> {
    each(words, |key| Command::Ttl { key }, Show::Ttl)
}

pub(super) fn persist(words: &[Bytes]) -> Result<Request, Problem> {
    each(words, |key| Command::Persist { key }, Show::Changed)
}

pub(super) fn version(words: &[Bytes]) -> Result<Request, Problem> {
    each(words, |key| Command::Get { key }, Show::Version)
}

pub(super) fn explain_key(words: &[Bytes]) -> Result<Request, Problem> {
    each(words, |key| Command::Explain { key }, Show::Explained)
}

pub(super) fn expire(words: &[Bytes]) -> Result<Request, Problem> {
    let [key, seconds] = words else { return Err(Problem::Usage) };
    one(Command::Expire { key: self::key(key)?, ttl: ttl_of(seconds, 1000, "seconds")? }, Show::Changed)
}

pub(super) fn scan(words: &[Bytes]) -> Result<Request, Problem> {
    let (cursor, options) = match words {
        [first, rest @ ..] if !first.eq_ignore_ascii_case(b"LIMIT") => {
            (parse_cursor(first).map_err(Problem::Cursor)?, rest)
        }
        options => (Cursor::START, options),
    };
    let limit = match options {
        [] => SCAN_LIMIT_DEFAULT,
        [name, count] if name.eq_ignore_ascii_case(b"LIMIT") => {
            let limit = u32::try_from(number(count, "keys")?).map_err(|_| Problem::ScanLimit)?;
            Some(limit).filter(|limit| (1..=SCAN_LIMIT_MAX).contains(limit)).ok_or(Problem::ScanLimit)?
        }
        [name] if name.eq_ignore_ascii_case(b"LIMIT") => return Err(Problem::Usage),
        [extra, ..] => return Err(unexpected(extra)),
    };
    one(Command::Scan { cursor, limit }, Show::Page)
}

pub(super) fn count(_: &[Bytes]) -> Result<Request, Problem> {
    one(Command::Count, Show::Count)
}

pub(super) fn stats(_: &[Bytes]) -> Result<Request, Problem> {
    one(Command::Stats, Show::Stats)
}

pub(super) fn help(words: &[Bytes]) -> Result<Request, Problem> {
    let Some(name) = words.first() else { return Ok(Request::Help(None)) };
    let unknown = || Problem::Unknown { name: shown(name), nearest: Spec::nearest(name) };
    Ok(Request::Help(Some(Spec::find(name).ok_or_else(unknown)?)))
}

fn one(command: Command, show: Show) -> Result<Request, Problem> {
    Ok(Request::Run { commands: vec![command], show })
}

fn each(words: &[Bytes], command: fn(Key) -> Command, show: Show) -> Result<Request, Problem> {
    let commands = words.iter().map(|word| Ok(command(key(word)?))).collect::<Result<_, Problem>>()?;
    Ok(Request::Run { commands, show })
}

fn store(key: &Bytes, value: &Bytes, ttl: Option<Ttl>, condition: Condition) -> Result<Command, Problem> {
    Ok(Command::Put { key: self::key(key)?, value: Value::new(value.clone())?, ttl, condition })
}

fn key(word: &Bytes) -> Result<Key, Problem> {
    Ok(Key::new(word.clone())?)
}

#[derive(Default)]
struct PutOptions {
    ttl: Option<Ttl>,
    absent: bool,
}

fn put_options(mut words: &[Bytes]) -> Result<PutOptions, Problem> {
    let mut options = PutOptions::default();
    while let [name, rest @ ..] = words {
        let unit = match () {
            () if name.eq_ignore_ascii_case(b"EX") => Some((1000, "seconds")),
            () if name.eq_ignore_ascii_case(b"PX") => Some((1, "milliseconds")),
            () if name.eq_ignore_ascii_case(b"NX") => None,
            () => return Err(unexpected(name)),
        };
        words = match (unit, rest) {
            (Some((unit_ms, of)), [amount, rest @ ..]) if options.ttl.is_none() => {
                options.ttl = Some(ttl_of(amount, unit_ms, of)?);
                rest
            }
            (None, rest) if !options.absent => {
                options.absent = true;
                rest
            }
            _ => return Err(Problem::Usage),
        };
    }
    Ok(options)
}

fn condition(word: &Bytes) -> Result<Condition, Problem> {
    if **word == *b"0" {
        return Ok(Condition::Absent);
    }
    let version: Result<Version, _> = printable(word, 64).parse();
    version.map(Condition::Version).map_err(Problem::Version)
}

fn ttl_of(word: &Bytes, unit_ms: u64, of: &'static str) -> Result<Ttl, Problem> {
    Ok(Ttl::from_millis(number(word, of)?.saturating_mul(unit_ms))?)
}

/// A number that is too large to be held becomes the largest that can, which every limit refuses.
fn number(word: &Bytes, of: &'static str) -> Result<u64, Problem> {
    if word.is_empty() || !word.iter().all(u8::is_ascii_digit) {
        return Err(Problem::Number { word: shown(word), of });
    }
    Ok(std::str::from_utf8(word).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX))
}

fn unexpected(word: &[u8]) -> Problem {
    Problem::Unexpected(shown(word))
}

fn shown(word: &[u8]) -> String {
    printable(word, 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

    fn key(key: &'static str) -> Key {
        Key::new(key).unwrap()
    }

    fn put(name: &'static str, value: &'static str, ttl_ms: Option<u64>, condition: Condition) -> Command {
        let ttl = ttl_ms.map(|ms| Ttl::from_millis(ms).unwrap());
        Command::Put { key: key(name), value: Value::new(value).unwrap(), ttl, condition }
    }

    fn run(commands: Vec<Command>, show: Show) -> Request {
        Request::Run { commands, show }
    }

    fn parsed(line: &str) -> Request {
        parse_line(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}")).unwrap()
    }

    #[test]
    fn lines_become_requests() {
        let get = |name| Command::Get { key: key(name) };
        let scan = |cursor, limit| run(vec![Command::Scan { cursor, limit }], Show::Page);
        let at_bob = Cursor { slot: 5798, after: Some(key("bob")) };
        let plain = |name, value| put(name, value, None, Condition::Always);
        let swap = |ttl, condition| run(vec![put("a", "v", ttl, condition)], Show::Swapped);
        let table = [
            ("GET bob", run(vec![get("bob")], Show::Value { default: None })),
            ("gEt bob \"\"", run(vec![get("bob")], Show::Value { default: Some(Bytes::new()) })),
            ("PUT a v", run(vec![plain("a", "v")], Show::Stored)),
            ("set a \"\"", run(vec![plain("a", "")], Show::Stored)),
            ("PUT a v EX 60", run(vec![put("a", "v", Some(60_000), Condition::Always)], Show::Stored)),
            ("PUT a v nx px 60", run(vec![put("a", "v", Some(60), Condition::Absent)], Show::Stored)),
            ("PUT a v PX 60 NX", run(vec![put("a", "v", Some(60), Condition::Absent)], Show::Stored)),
            ("PUT NX EX", run(vec![plain("NX", "EX")], Show::Stored)),
            ("DEL a", run(vec![Command::Delete { key: key("a") }], Show::Found)),
            ("MDEL a b", run(vec![Command::Delete { key: key("a") }, Command::Delete { key: key("b") }], Show::Found)),
            ("EXISTS a", run(vec![Command::Exists { key: key("a") }], Show::Found)),
            ("MGET a b", run(vec![get("a"), get("b")], Show::Values)),
            ("MPUT a 1 b 2", run(vec![plain("a", "1"), plain("b", "2")], Show::AllStored)),
            ("TTL a", run(vec![Command::Ttl { key: key("a") }], Show::Ttl)),
            (
                "EXPIRE a 2",
                run(vec![Command::Expire { key: key("a"), ttl: Ttl::from_millis(2000).unwrap() }], Show::Changed),
            ),
            ("PERSIST a", run(vec![Command::Persist { key: key("a") }], Show::Changed)),
            ("CAS a 0 v", swap(None, Condition::Absent)),
            ("CAS a 1.42 v EX 1", swap(Some(1000), Condition::Version(Version::new(1, 42)))),
            ("VERSION a", run(vec![get("a")], Show::Version)),
            ("SCAN", scan(Cursor::START, SCAN_LIMIT_DEFAULT)),
            ("SCAN 0", scan(Cursor::START, SCAN_LIMIT_DEFAULT)),
            ("SCAN limit 4096", scan(Cursor::START, SCAN_LIMIT_MAX)),
            ("SCAN 5798:bob LIMIT 1", scan(at_bob, 1)),
            ("KEYS", Request::Keys),
            ("COUNT", run(vec![Command::Count], Show::Count)),
            ("STATS", run(vec![Command::Stats], Show::Stats)),
            ("EXPLAIN a", run(vec![Command::Explain { key: key("a") }], Show::Explained)),
            ("HELP", Request::Help(None)),
            ("help set", Request::Help(Spec::find(b"PUT"))),
            ("exit", Request::Exit),
            ("QUIT", Request::Exit),
        ];
        for (line, request) in table {
            assert_eq!(parsed(line), request, "{line}");
        }
    }

    #[test]
    fn blank_lines_and_comments_ask_for_nothing() {
        for line in ["", "  \t\r\n", "# GET bob", "  #GET \"bob"] {
            assert_eq!(parse_line(line.as_bytes()), Ok(None), "{line}");
        }
        assert_eq!(parse_words(&[]), Ok(None));
    }

    #[test]
    fn wrong_lines_are_told_what_would_be_right() {
        const PUT: &str = "PUT key value [EX seconds | PX millis] [NX]";
        const CAS: &str = "CAS key version value [EX seconds | PX millis]";
        let extra =
            |word: &str, usage: &str| format!("unexpected `{word}` (a value with spaces needs quotes); usage: {usage}");
        let usage = |usage: &str| format!("usage: {usage}");
        let out_of_range = || "the time to live must be between 1 ms and 100 years".to_owned();
        let table = [
            ("GTE bob", "unknown command `GTE`: did you mean GET? (HELP lists the commands)".to_owned()),
            ("frobnicate", "unknown command `frobnicate` (HELP lists the commands)".to_owned()),
            ("\"\" a", "unknown command `` (HELP lists the commands)".to_owned()),
            ("GET", usage("GET key [default]")),
            ("GET a b c", extra("c", "GET key [default]")),
            ("GET \"\"", "the key is empty: a key has 1 to 1024 bytes".to_owned()),
            ("PUT a", usage(PUT)),
            ("PUT alice two words", extra("words", PUT)),
            ("PUT a b c d e f g h", extra("c", PUT)),
            ("PUT a v EX", usage(PUT)),
            ("PUT a v EX 1 PX 1", usage(PUT)),
            ("PUT a v NX NX", usage(PUT)),
            ("PUT a v EX 1.5", format!("`1.5` is not a whole number of seconds; usage: {PUT}")),
            ("PUT a v PX -1", format!("`-1` is not a whole number of milliseconds; usage: {PUT}")),
            ("PUT a v EX 0", out_of_range()),
            ("PUT a v EX 99999999999999999999999", out_of_range()),
            ("DEL", usage("DEL key...")),
            ("MDEL", usage("DEL key...")),
            ("EXISTS", usage("EXISTS key...")),
            ("MGET", usage("MGET key...")),
            ("MPUT a", usage("MPUT key value [key value]...")),
            ("MPUT a 1 b", usage("MPUT key value [key value]...")),
            ("TTL", usage("TTL key")),
            ("TTL a b", usage("TTL key")),
            ("EXPIRE a", usage("EXPIRE key seconds")),
            ("EXPIRE a soon", "`soon` is not a whole number of seconds; usage: EXPIRE key seconds".to_owned()),
            ("PERSIST", usage("PERSIST key")),
            ("CAS a 1.42", usage(CAS)),
            (
                "CAS a 42 v",
                "`42` is not a version: expected EPOCH.LSN, as in `1.42`, or 0 for a key that must not exist"
                    .to_owned(),
            ),
            ("CAS a 0 v NX", extra("NX", CAS)),
            ("VERSION", usage("VERSION key")),
            ("SCAN x", "`x` is not a cursor: expected 0 or what SCAN gave, as in `5798:bob`".to_owned()),
            ("SCAN 0 LIMIT", usage("SCAN [cursor] [LIMIT count]")),
            ("SCAN 0 10", extra("10", "SCAN [cursor] [LIMIT count]")),
            ("SCAN LIMIT 0", "the limit must be between 1 and 4096".to_owned()),
            ("SCAN LIMIT 99999999999", "the limit must be between 1 and 4096".to_owned()),
            ("KEYS *", usage("KEYS")),
            ("COUNT x", usage("COUNT")),
            ("STATS x", usage("STATS")),
            ("EXPLAIN", usage("EXPLAIN key")),
            ("HELP GTE", "unknown command `GTE`: did you mean GET? (HELP lists the commands)".to_owned()),
            ("HELP a b", usage("HELP [command]")),
            ("EXIT now", usage("EXIT")),
            ("GET \"bob", "unbalanced quotes: the \" in column 5 is never closed".to_owned()),
        ];
        for (line, message) in table {
            assert_eq!(parse_line(line.as_bytes()).unwrap_err().to_string(), message, "{line}");
        }
    }

    #[test]
    fn words_beyond_the_limits_are_refused_by_size_and_messages_stay_short() {
        let message = |line: String| parse_line(line.as_bytes()).unwrap_err().to_string();
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        assert_eq!(message(format!("GET {long}")), "the key has 1025 bytes: at most 1024 are allowed");
        assert_eq!(message(format!("MGET a {long}")), "the key has 1025 bytes: at most 1024 are allowed");
        let large = "v".repeat(VALUE_BYTES_MAX + 1);
        assert_eq!(message(format!("PUT a {large}")), "the value has 8388609 bytes: at most 8388608 are allowed");
        assert!(message(large.clone()).len() < 200);
        assert!(message(format!("PUT a v {large}")).len() < 200);
        assert!(message(format!("CAS a {large} v")).len() < 200);
        assert!(message(format!("SCAN {large}")).len() < 200);
    }
}
