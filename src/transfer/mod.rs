//! Moving a whole data set, hot and cold, between nodes and a file: what `kv export` and `kv import` do.
//!
//! It knows commands and replies, the lines of a file, and how to begin again where it stopped. What answers is any
//! [`Service`](crate::service::Service). One batch is on its way at a time, and a block of the file (about 1 MiB, or one large
//! record) is read ahead, so that memory is bounded whatever the size of the data set. Files and pipes have threads of their own.

mod blocks;
mod caller;
mod export;
mod format;
mod import;
mod part;
mod state;
mod threads;
mod verify;

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::progress::Progress;

pub use self::blocks::FileError;
pub use self::export::{ExportOptions, Exported, export};
pub use self::import::{ImportOptions, Imported, import};
pub use self::verify::Verified;

/// A file of the data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Standard output or input: `-`.
    Stdio,
    File(PathBuf),
}

impl FromStr for Place {
    type Err = Infallible;

    fn from_str(s: &str) -> Result<Self, Infallible> {
        Ok(if s == "-" { Self::Stdio } else { Self::File(s.into()) })
    }
}

/// What a transfer needs beside the service.
pub struct Context {
    pub clock: Arc<dyn Clock>,
    /// Cancelled when it shall end; what is done by then can be gone on from.
    pub stop: CancellationToken,
    pub progress: Progress,
    /// How long to wait for the answer to one batch.
    pub timeout: Duration,
    /// How long to try again while nothing succeeds.
    pub patience: Duration,
}

/// How it went: the program's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Done = 0,
    /// The same command goes on, or an import found other values than it had written.
    Unfinished = 1,
    /// Refused, or a file or terminal failed: the same command will fail again.
    Failed = 2,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// Why a transfer did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Interrupted, or nobody answered for too long. The same command goes on.
    #[error("{0}")]
    Unfinished(String),
    /// It makes no sense to try that again.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("`{file}`: {error}")]
    Io { file: String, error: io::Error },
}

impl Failure {
    pub fn status(&self) -> Status {
        match self {
            Self::Unfinished(_) => Status::Unfinished,
            Self::Refused(_) | Self::File(_) | Self::Io { .. } => Status::Failed,
        }
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let file = path.display().to_string();
        move |error| Self::Io { file, error }
    }

    /// Tells how to go on, where that is possible.
    fn with_hint(self, hint: impl FnOnce() -> String) -> Self {
        match self {
            Self::Unfinished(reason) => Self::Unfinished(format!("{reason}; {}", hint())),
            Self::Refused(_) | Self::File(_) | Self::Io { .. } => self,
        }
    }
}

/// `path` with more at its end: `FILE` → `FILE.part`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the names in the directory of `path` durable.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}
