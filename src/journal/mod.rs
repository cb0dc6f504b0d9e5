//! The journal of a node: what has been acknowledged and is not yet in the tier, on a disk of its own.
//!
//! Append-only segments with group commit, recovery after a crash, and checkpoints that let old segments go. It knows
//! effects and opaque notes, and nothing of shards, of fences or of when to checkpoint. `docs/formats.md` draws the
//! files.

mod check;
mod checkpoint;
mod disk;
pub mod memory;
mod options;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

pub use check::{Problem, Report, check};
pub use checkpoint::Checkpoint;
pub use disk::{Directory, Disk, DiskFile};
pub use options::{Fsync, FsyncParseError, Options};

use crate::command::Effect;
use crate::record::{JournalId, Version};
use crate::task::Blocking;

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

/// Opens the journal of a directory, or makes one with `new_id`: reads everything, cuts a torn tail off, refuses corruption
/// (R24). Blocks.
pub fn open(
    disk: Arc<dyn Disk>,
    options: Options,
    new_id: JournalId,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Journal, Recovered), OpenError> {
    let _ = (disk, options, new_id, progress);
    Err(OpenError::Locked("not yet".into()))
}

/// An open journal; clones share it.
#[derive(Debug, Clone)]
pub struct Journal {
    id: JournalId,
}

impl Journal {
    pub fn id(&self) -> JournalId {
        self.id
    }

    /// Puts effects into the buffer of the next group: all or none. Never waits.
    pub fn append(&self, effects: &[Effect]) -> Result<Pending, AppendError> {
        let _ = effects;
        Err(AppendError::Failed("not yet".into()))
    }

    /// Puts bytes that the journal does not look into there; the newest note replaces the former and survives checkpoints.
    pub fn append_note(&self, note: &[u8]) -> Result<Pending, AppendError> {
        let _ = note;
        Err(AppendError::Failed("not yet".into()))
    }

    /// A hint that the tier has these effects. Not waited for, and dropped where it is inconvenient; keeps recovery small.
    pub fn confirm(&self, effects: &[Effect]) {
        let _ = effects;
    }

    /// The work in the background: group commit, interval syncs, idle marks. Runs until `stop`, then writes and syncs what is
    /// buffered.
    pub async fn run(&self, blocking: &dyn Blocking, stop: &CancellationToken) {
        let _ = blocking;
        stop.cancelled().await;
    }

    /// Resolves once the journal can't be written any more, with the reason (R23).
    pub async fn failed(&self) -> String {
        std::future::pending().await
    }

    pub fn usage(&self) -> Usage {
        Usage::default()
    }

    pub fn wants_checkpoint(&self) -> bool {
        false
    }

    pub async fn until_checkpoint_wanted(&self) {
        std::future::pending().await
    }

    /// Begins a new segment, waits until everything appended before has been applied (its [`Pending`]s are dropped), and
    /// gives the place to write the unspilled effects to.
    pub async fn begin_checkpoint(&self, blocking: &dyn Blocking) -> Result<Checkpoint, JournalError> {
        let _ = blocking;
        Err(JournalError::Refused("not yet".into()))
    }
}

/// An append that is under way. To be held until its effects are applied: a checkpoint waits for its drop.
#[must_use]
#[derive(Debug)]
pub struct Pending;

impl Pending {
    /// Waits until it is durable at the journal's level.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting only.
    pub async fn durable(&self) -> Result<(), JournalError> {
        std::future::pending().await
    }
}
