//! A checkpoint: the effects that the tier does not have, in one file, in place of the segments before it.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::format::{FILE_HEADER_BYTES, FileHeader, FileId, FileKind, Frame, Kind, Place, effect_bytes};
use super::handle::Shared;
use super::writer::{Begun, Traces, is_space};
use super::{JournalError, failed};
use crate::command::Effect;

const FRAME_BYTES: usize = 1024 * 1024;

/// The right to make a checkpoint; one at a time.
pub(super) struct Permit(pub Arc<Shared>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.end_checkpoint();
    }
}

/// A checkpoint that is being written: aside, until it is whole. Dropped before, it leaves nothing.
pub struct Checkpoint {
    permit: Permit,
    /// `None` once it must not be removed any more.
    file: Option<Box<dyn DiskFile>>,
    id: FileId,
    position: u64,
    frame: Frame,
    frames: u64,
    effects: u64,
}

impl Checkpoint {
    pub(super) fn begin(permit: Permit, begun: Begun, traces: Traces) -> io::Result<Self> {
        let disk = permit.0.disk().clone();
        let id = FileId { kind: FileKind::Checkpoint, journal: permit.0.id(), number: begun.number };
        let mut file = disk.create(&aside(id), 0)?;
        let header = FileHeader { id, seq: begun.seq, durable: begun.seq - 1 };
        if let Err(error) = file.write_at(&header.encode(), 0) {
            drop(file);
            disk.remove(&aside(id))?;
            return Err(error);
        }
        let mut frame = Frame::default();
        traces.last.into_iter().for_each(|last| frame.push_last(last));
        traces.note.into_iter().for_each(|note| frame.push_note(&note));
        let position = FILE_HEADER_BYTES as u64;
        Ok(Self { permit, file: Some(file), id, position, frame, frames: 0, effects: 0 })
    }

    /// Adds effects that the tier does not have. Blocks.
    pub fn write(&mut self, effects: &[Effect]) -> io::Result<()> {
        for effect in effects {
            if self.frame.payload_bytes() > 0 && self.frame.payload_bytes() + effect_bytes(effect) > FRAME_BYTES {
                self.flush(Kind::Entries)?;
            }
            self.frame.push_effect(effect);
        }
        self.effects += effects.len() as u64;
        Ok(())
    }

    fn flush(&mut self, kind: Kind) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let seq = self.frames + 1;
        let bytes = self.frame.seal(Place { file: self.id, offset: self.position, kind, seq, durable: 0 });
        file.write_at(bytes, self.position)?;
        self.position += bytes.len() as u64;
        self.frames += 1;
        self.frame.clear();
        Ok(())
    }

    /// Puts it in place of everything before the segment that began with it: it is durable first, then the old files go.
    /// Blocks.
    ///
    /// # Errors
    /// If it is not in place; then nothing is lost. A failed sync poisons the journal (R23). Also if it is in place and an
    /// old file could not be removed: the next checkpoint tries again.
    pub fn finish(mut self) -> io::Result<()> {
        let shared = self.permit.0.clone();
        if let Some(reason) = shared.failure() {
            return Err(io::Error::other(reason));
        }
        if self.frame.payload_bytes() > 0 {
            self.flush(Kind::Entries)?;
        }
        self.frame.push_counts(self.frames, self.effects);
        self.flush(Kind::End)?;
        let disk = shared.disk();
        let synced = self.file.as_mut().map_or(Ok(()), |file| file.sync_data());
        synced.map_err(|error| if is_space(&error) { error } else { poison(&shared, error) })?;
        disk.rename(&aside(self.id), &self.id.name())?;
        self.file = None;
        disk.sync_dir().map_err(|error| poison(&shared, error))?;
        shared.checkpointed(self.id.number, self.position);
        shared.remove_replaced()
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // If it stays, the next start removes it.
            let _ = self.permit.0.disk().remove(&aside(self.id));
        }
    }
}

fn poison(shared: &Shared, error: io::Error) -> io::Error {
    if let JournalError::Failed(reason) = failed("synced", &error) {
        shared.poison(&reason);
    }
    error
}

fn aside(id: FileId) -> String {
    format!("{}.tmp", id.name())
}

/// Removes what a checkpoint replaced; the files that stay are left in `names`.
pub(super) fn remove(disk: &dyn Disk, names: &mut Vec<(String, u64)>) -> io::Result<()> {
    let mut result = Ok(());
    names.retain(|(name, _)| match disk.remove(name) {
        Ok(()) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            result = Err(error);
            true
        }
    });
    result
}
