//! The journal of a node: what has been acknowledged and is not yet in the tier, on a disk of its own.
//!
//! Append-only segments with group commit, recovery after a crash, and checkpoints that let old segments go. It knows
//! effects and opaque notes, and nothing of shards, of fences or of when to checkpoint. `docs/formats.md` draws the
//! files.

mod check;
mod checkpoint;
mod disk;
mod examine;
mod format;
mod groups;
mod handle;
pub mod memory;
mod open;
mod options;
mod replay;
mod scan;
#[cfg(test)]
mod tests;
mod writer;

use std::io;

use bytes::Bytes;

pub use check::{Problem, Report, check};
pub use checkpoint::Checkpoint;
pub use disk::{Directory, Disk, DiskFile};
pub use handle::{Journal, Pending};
pub use open::open;
pub use options::{Fsync, FsyncParseError, Options};

use crate::command::Effect;
use crate::record::{JournalId, Version};

/// How far [`open`] or [`check`] has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub bytes_read: u64,
    pub bytes: u64,
}

/// What a journal held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub id: JournalId,
    /// There was no journal in the directory.
    pub is_new: bool,
    /// The newest note.
    pub note: Option<Bytes>,
    /// The newest effect of each key that was not confirmed, in order of version.
    pub effects: Vec<Effect>,
    /// The highest version that was ever written; survives checkpoints.
    pub last: Option<Version>,
    /// What a crash left half written, and was cut off.
    pub torn_bytes: u64,
    pub bytes: u64,
    pub segments: usize,
}

/// Why a journal can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0}")]
    Locked(String),
    #[error("`{file}`: {error}")]
    Io { file: String, error: io::Error },
    /// What was durable is not what was written.
    #[error(
        "the journal is corrupt: `{file}` at byte {offset}: {what}; restore the directory from a copy or move it away and \
         accept the loss of what it held, `kv check` tells more"
    )]
    Corrupt { file: String, offset: u64, what: String },
    #[error("`{file}`: {what}: use a newer program")]
    Newer { file: String, what: String },
}

/// Why effects were not taken. None of them is in the journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// It may hold no more; a checkpoint or confirms make room.
    #[error("{0}")]
    Full(String),
    /// It can't be written any more (R23), or has been stopped.
    #[error("{0}")]
    Failed(String),
}

/// Why something is not durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Certainly not written, and never to be recovered.
    #[error("{0}")]
    Refused(String),
    /// Nobody knows (R23).
    #[error("{0}")]
    Failed(String),
}

/// The figures of a journal; counts since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Used bytes of all files, and what waits to be written.
    pub bytes: u64,
    pub buffered_bytes: u64,
    pub bytes_max: u64,
    pub checkpoint_bytes: u64,
    pub segments: u64,
    /// Groups written, and entries in them: effects, confirms and notes.
    pub groups: u64,
    pub entries: u64,
    pub syncs: u64,
    pub last_sync_us: u64,
    pub checkpoints: u64,
    pub wants_checkpoint: bool,
    pub is_failed: bool,
}

/// Keeps other processes out.
fn take_lock(disk: &dyn Disk) -> Result<Box<dyn Send + Sync>, OpenError> {
    disk.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked(error.to_string()),
        _ => OpenError::Io { file: "LOCK".into(), error },
    })
}

fn failed(done: &str, error: &io::Error) -> JournalError {
    JournalError::Failed(format!("the journal can't be {done}: {error}"))
}
