//! `kv check`: reads a journal and tells all that is to be said of it, corruption included.

use std::io;

use bytes::Bytes;

use super::examine::examine;
use super::{Disk, OpenError, Progress, take_lock};
use crate::record::{JournalId, Version};

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    pub offset: u64,
    pub what: String,
}

/// What [`check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// `None` if there is no journal.
    pub id: Option<JournalId>,
    /// The file, and the effects in it.
    pub checkpoint: Option<(String, u64)>,
    pub segments: Vec<String>,
    pub bytes: u64,
    pub groups: u64,
    /// Effects, confirms and notes, those of the checkpoint included.
    pub effects: u64,
    pub confirms: u64,
    pub notes: u64,
    /// The newest note.
    pub note: Option<Bytes>,
    /// Keys whose newest effect is not confirmed.
    pub unconfirmed: u64,
    pub last: Option<Version>,
    /// A tail that a crash left half written: where it would be cut, and its bytes. No fault.
    pub torn: Option<(Problem, u64)>,
    /// Corruption. Empty if the journal can be opened.
    pub problems: Vec<Problem>,
}

/// Reads a journal that no process has open, and changes nothing but the lock. Blocks.
///
/// # Errors
/// If the directory can't be listed, or a process has it open. Whatever is wrong with the files is in the report.
pub fn check(disk: &dyn Disk, progress: &mut dyn FnMut(Progress)) -> Result<Report, OpenError> {
    let _lock = match take_lock(disk) {
        Ok(lock) => Some(lock),
        // A copy, or another user's: nothing can be locked there.
        Err(OpenError::Io { error, .. }) if is_read_only(&error) => None,
        Err(error) => return Err(error),
    };
    let mut examined = examine(disk, progress)?;
    if let Some((file, what)) = examined.newer.take() {
        examined.problems.push(Problem { file, offset: 0, what: format!("{what}: use a newer program") });
    }
    let parts = examined.checkpoint.iter().chain(&examined.segments);
    let bytes = parts.map(|part| part.bytes).sum();
    let torn = examined.torn.map(|(file, damage)| {
        let problem = Problem { file, offset: damage.offset, what: damage.what.to_owned() };
        (problem, damage.end - damage.offset)
    });
    Ok(Report {
        id: examined.id,
        checkpoint: examined.checkpoint.map(|part| (part.name, examined.checkpoint_effects)),
        segments: examined.segments.into_iter().map(|part| part.name).collect(),
        bytes,
        groups: examined.groups,
        effects: examined.replay.effects,
        confirms: examined.replay.confirms,
        notes: examined.replay.notes,
        note: examined.replay.note.clone(),
        unconfirmed: examined.replay.unconfirmed(),
        last: examined.replay.last,
        torn,
        problems: examined.problems,
    })
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}
