//! How a journal is kept.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// When what was written is synced, and so when a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before it is acknowledged: nothing acknowledged is lost, even when power is.
    Always,
    /// At most this long after it was written. A crash of the process loses nothing, a loss of power the last moments.
    Interval(Duration),
    /// When the operating system likes.
    Never,
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Interval(interval) => write!(f, "interval:{}", interval.as_millis()),
            Self::Never => f.write_str("never"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no way to sync: expected `always`, `never` or `interval:MS` with 1 to 60000 milliseconds, as in `interval:200`"
)]
pub struct FsyncParseError(String);

impl FromStr for Fsync {
    type Err = FsyncParseError;

    fn from_str(s: &str) -> Result<Self, FsyncParseError> {
        match (s, s.strip_prefix("interval:").and_then(|ms| ms.parse().ok())) {
            ("always", _) => Ok(Self::Always),
            ("never", _) => Ok(Self::Never),
            (_, Some(ms @ 1..=60_000)) => Ok(Self::Interval(Duration::from_millis(ms))),
            _ => Err(FsyncParseError(s.to_owned())),
        }
    }
}

/// How a journal is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub fsync: Fsync,
    /// Of all files. A checkpoint, a note and the space that a segment reserves may pass it.
    pub bytes_max: u64,
    /// How long a segment may get; at most an eighth of `bytes_max` is used.
    pub segment_bytes: u64,
}

impl Options {
    pub fn new(fsync: Fsync, bytes_max: u64) -> Self {
        Self { fsync, bytes_max, segment_bytes: SEGMENT_BYTES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_sync_are_read_as_they_are_shown() {
        for text in ["always", "never", "interval:1", "interval:60000"] {
            assert_eq!(text.parse::<Fsync>().unwrap().to_string(), text);
        }
        for text in
            ["", "Always", "interval", "interval:", "interval:0", "interval:60001", "interval:-1", "interval:1s"]
        {
            let error = text.parse::<Fsync>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is no way to sync: expected")), "{error}");
        }
    }
}
