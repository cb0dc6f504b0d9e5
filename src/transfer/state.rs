//! How far an import is: `FILE.import`, beside the file, for as long as it is not finished.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::record::{Key, Version};
use crate::slots::Slot;

use super::format::Position;
use super::{Failure, beside};

const FORMAT: &str = "overspill-import";
const FORMAT_VERSION: u32 = 1;

/// What has been done of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format: String,
    version: u32,
    /// The node's address.
    pub target: String,
    /// All up to here is done.
    pub position: Position,
    pub counts: Counts,
    pub written: Written,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    pub stored: u64,
    /// Their keys existed, and were to be left as they are.
    pub kept: u64,
    /// They were dead already.
    pub expired: u64,
}

/// The highest version that was written in each slot. Versions rise within a slot, so a higher one is somebody else's and later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Written(BTreeMap<u16, Version>);

impl Written {
    pub fn note(&mut self, key: &Key, version: Version) {
        let highest = self.0.entry(Slot::of(key).get()).or_default();
        *highest = version.max(*highest);
    }

    /// Whether this version was written by somebody else, after everything that was written here in its slot.
    pub fn is_later(&self, key: &Key, version: Version) -> bool {
        self.0.get(&Slot::of(key).get()).is_some_and(|highest| version > *highest)
    }
}

impl State {
    pub fn new(target: &str) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: FORMAT_VERSION,
            target: target.to_owned(),
            position: Position::default(),
            counts: Counts::default(),
            written: Written::default(),
        }
    }

    /// Of the import of `file`.
    pub fn path(file: &Path) -> PathBuf {
        beside(file, ".import")
    }

    /// What an earlier run has left. Blocks.
    pub fn load(path: &Path, target: &str) -> Result<Option<Self>, Failure> {
        let shown = path.display();
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(path)(error)),
        };
        let restart = "remove it, or begin anew with --restart";
        match serde_json::from_slice::<Self>(&text) {
            Ok(state) if state.format != FORMAT || state.version != FORMAT_VERSION => {
                let (format, version) = (state.format, state.version);
                Err(Failure::Refused(format!("`{shown}` is of another program: {format} {version}: {restart}")))
            }
            Ok(state) if state.target != target => Err(Failure::Refused(format!(
                "`{shown}` is of an unfinished import into {}: finish that, or begin anew with --restart",
                state.target
            ))),
            Ok(state) => Ok(Some(state)),
            Err(error) => Err(Failure::Refused(format!("`{shown}` is no state of an import ({error}): {restart}"))),
        }
    }

    /// Durable when it returns. Blocks.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let new = beside(path, ".new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_data()?;
            std::fs::rename(&new, path)
        };
        write().map_err(Failure::io(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_back_and_a_strange_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = State::path(&directory.path().join("f"));
        assert_eq!(path.file_name().unwrap(), "f.import");
        assert_eq!(State::load(&path, "a:1").unwrap(), None);
        let mut state = State::new("a:1");
        let (key, other) = (Key::new("k").unwrap(), Key::new("other").unwrap());
        for lsn in [3, 5, 4] {
            state.written.note(&key, Version::new(2, lsn));
        }
        state.position.offset = 77;
        state.save(&path).unwrap();
        let loaded = State::load(&path, "a:1").unwrap().unwrap();
        assert_eq!(loaded, state);
        assert!(
            !loaded.written.is_later(&key, Version::new(2, 5)) && loaded.written.is_later(&key, Version::new(2, 6))
        );
        assert!(!loaded.written.is_later(&other, Version::new(9, 9)), "nothing is known of this slot");
        assert!(State::load(&path, "b:1").unwrap_err().to_string().contains("into a:1"));
        std::fs::write(&path, "{}").unwrap();
        assert!(State::load(&path, "a:1").unwrap_err().to_string().contains("--restart"));
    }
}
