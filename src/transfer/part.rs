//! The file that an export writes: `FILE.part` until it is complete, then `FILE`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::command::Cursor;

use super::blocks::{BUFFER_BYTES, Blocks, FileError, Piece};
use super::format::{Header, Position};
use super::{Failure, beside, sync_directory_of};

/// An unfinished file, which no other process writes.
pub(super) struct Part {
    path: PathBuf,
    part: PathBuf,
    force: bool,
    file: File,
}

/// What an earlier run has left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub position: Position,
    pub next: Next,
    /// What came after the last progress line, and is gone.
    pub cut_bytes: u64,
}

/// What is to come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Keys(Cursor),
    /// Only its name.
    Nothing,
}

impl Part {
    /// # Errors
    /// [`Failure::Refused`] if the complete file is there, unless `force`.
    pub fn check_absent(path: &Path, force: bool) -> Result<(), Failure> {
        if !force && path.try_exists().map_err(Failure::io(path))? {
            let file = path.display();
            return Err(Failure::Refused(format!("`{file}` exists: --force overwrites it")));
        }
        Ok(())
    }

    /// Opens it; and unless it is to be begun anew, finds out how far it is, and cuts off what follows the last progress line.
    /// Blocks.
    pub fn open(path: &Path, from: &str, force: bool, restart: bool) -> Result<(Self, Option<Left>), Failure> {
        let part = beside(path, ".part");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let mut file = opened.map_err(Failure::io(&part))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let part = part.display();
                return Err(Failure::Refused(format!("another process is writing `{part}`")));
            }
            Err(TryLockError::Error(error)) => return Err(Failure::io(&part)(error)),
        }
        // Another export may have come to its end meanwhile.
        Self::check_absent(path, force)?;
        let left = if restart { None } else { look(&file, &part, from)? };
        let offset = left.as_ref().map_or(0, |left| left.position.offset);
        file.set_len(offset).and_then(|()| file.seek(SeekFrom::Start(offset))).map_err(Failure::io(&part))?;
        Ok((Self { path: path.to_owned(), part, force, file }, left))
    }

    pub fn name(&self) -> String {
        self.part.display().to_string()
    }

    /// For the one who writes.
    pub fn file(&self) -> Result<File, Failure> {
        self.file.try_clone().map_err(Failure::io(&self.part))
    }

    /// Makes what was written durable. Blocks.
    pub fn sync(&self) -> Result<(), Failure> {
        self.file.sync_all().and_then(|()| sync_directory_of(&self.part)).map_err(Failure::io(&self.part))
    }

    /// Makes it durable and gives it its name. Blocks.
    pub fn finish(self) -> Result<(), Failure> {
        self.sync()?;
        Self::check_absent(&self.path, self.force)?;
        let renamed = std::fs::rename(&self.part, &self.path).and_then(|()| sync_directory_of(&self.path));
        renamed.map_err(Failure::io(&self.path))
    }
}

/// `None` if nothing was left.
fn look(file: &File, part: &Path, from: &str) -> Result<Option<Left>, Failure> {
    let name = part.display().to_string();
    let len = file.metadata().map_err(Failure::io(part))?.len();
    let copy = file.try_clone().map_err(Failure::io(part))?;
    let (mut blocks, header) = match Blocks::open(BufReader::with_capacity(BUFFER_BYTES, copy), name.clone(), true) {
        Ok(opened) => opened,
        // A crash came before the first line was out.
        Err(FileError::Cut { .. }) => return Ok(None),
        Err(error @ FileError::Io { .. }) => return Err(error.into()),
        Err(error @ FileError::Line { .. }) => {
            return Err(Failure::Refused(format!("{error}: remove it, or begin anew with --restart")));
        }
    };
    let Header { from: earlier, .. } = header;
    if earlier != from {
        return Err(Failure::Refused(format!(
            "`{name}` is an unfinished export from {earlier}: finish that, or begin anew with --restart"
        )));
    }
    let (mut position, mut next) = (blocks.position(), Next::Keys(Cursor::START));
    loop {
        match blocks.next_piece() {
            Ok(Some(Piece::Block(block))) => {
                position = block.end;
                next = block.cursor.map_or(Next::Nothing, Next::Keys);
            }
            Err(error @ FileError::Io { .. }) => return Err(error.into()),
            // What a crash left behind the last good progress line; a loss of power may leave anything.
            Ok(Some(Piece::Cut { .. }) | None) | Err(FileError::Line { .. } | FileError::Cut { .. }) => break,
        }
    }
    Ok(Some(Left { position, next, cut_bytes: len.saturating_sub(position.offset) }))
}
