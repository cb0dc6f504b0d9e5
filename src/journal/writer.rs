//! Writing segments: one group after the other, synced when told. Belongs to one thread at a time, and blocks.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::format::{FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, FileId, FileKind, Frame, Kind, Place};
use super::{JournalError, failed};
use crate::mutants::{Rule, is_planted};
use crate::record::{JournalId, Version};

/// What a group leaves behind when it has been written.
#[derive(Debug, Clone, Default)]
pub(super) struct Traces {
    pub last: Option<Version>,
    pub note: Option<Bytes>,
}

impl Traces {
    pub(super) fn add(&mut self, later: Self) {
        self.last = self.last.max(later.last);
        self.note = later.note.or(self.note.take());
    }
}

pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    id: JournalId,
    segment_bytes: u64,
    current: Option<Segment>,
    /// Of the segment to be made next.
    next_number: u64,
    next_seq: u64,
    /// The highest group that is synced.
    synced: u64,
    /// The highest `durable` that stands in a group.
    covered: u64,
    /// The highest group that somebody was told of.
    told: u64,
    /// Of everything written so far.
    pub traces: Traces,
}

struct Segment {
    file: Box<dyn DiskFile>,
    id: FileId,
    position: u64,
    reserved: u64,
}

/// Where a new segment begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begun {
    pub number: u64,
    pub seq: u64,
}

impl Writer {
    /// A writer whose first group opens a segment of its own.
    pub(super) fn new(disk: Arc<dyn Disk>, id: JournalId, segment_bytes: u64, next: Begun, traces: Traces) -> Self {
        let written = next.seq.saturating_sub(1);
        let (next_number, next_seq) = (next.number, next.seq);
        let (synced, covered, told) = (written, written, 0);
        Self { disk, id, segment_bytes, current: None, next_number, next_seq, synced, covered, told, traces }
    }

    /// Whether something that was written is not synced.
    pub(super) fn is_unsynced(&self) -> bool {
        self.synced + 1 < self.next_seq
    }

    /// Whether a mark would make it known that something is durable that somebody was told of. It is not worth a segment.
    pub(super) fn wants_mark(&self) -> bool {
        self.told.min(self.synced) > self.covered && self.fits(FRAME_HEADER_BYTES)
    }

    /// The segment that is being written, and how far.
    pub(super) fn current(&self) -> Option<(u64, u64)> {
        self.current.as_ref().map(|segment| (segment.id.number, segment.position))
    }

    /// Whether a frame fits without a new segment.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.current.as_ref().is_some_and(|segment| segment.position + bytes as u64 <= segment.reserved)
    }

    /// Writes a frame, in a new segment if need be.
    ///
    /// # Errors
    /// [`JournalError::Refused`]: nothing of it will ever be recovered. After [`JournalError::Failed`], nothing may be written
    /// any more (R23).
    pub(super) fn write(&mut self, frame: &mut Frame, kind: Kind) -> Result<(), JournalError> {
        if !self.fits(frame.file_bytes()) {
            self.begin_segment(frame.file_bytes() as u64)?;
        }
        let (seq, durable) = (self.next_seq, self.synced);
        let Some(segment) = &mut self.current else { return Err(JournalError::Failed("there is no segment".into())) };
        let offset = segment.position;
        let bytes = frame.seal(Place { file: segment.id, offset, kind, seq, durable });
        let len = bytes.len() as u64;
        if let Err(error) = segment.file.write_at(bytes, offset) {
            return Err(self.undo(offset, &error));
        }
        segment.position += len;
        self.next_seq += 1;
        self.covered = self.covered.max(durable);
        Ok(())
    }

    /// After a write that may have written a part. For want of space it is taken back: without its header nothing of it is
    /// a frame. That must be certain, so it is synced.
    fn undo(&mut self, offset: u64, error: &io::Error) -> JournalError {
        if !is_space(error) {
            return failed("written", error);
        }
        let Some(segment) = &mut self.current else { return failed("written", error) };
        let erased = segment.file.write_at(&[0; FRAME_HEADER_BYTES], offset);
        match erased.and_then(|()| segment.file.sync_data()) {
            Ok(()) => {
                self.synced = self.next_seq - 1;
                refused(error)
            }
            Err(error) => failed("written", &error),
        }
    }

    /// Makes everything durable that was written.
    ///
    /// # Errors
    /// [`JournalError::Failed`], always: what a failed sync left on the disk, nobody knows (R23).
    pub(super) fn sync(&mut self) -> Result<(), JournalError> {
        if let Some(segment) = self.current.as_mut().filter(|_| self.synced + 1 < self.next_seq) {
            let synced = if is_planted(Rule::R10Sync) { Ok(()) } else { segment.file.sync_data() };
            if !is_planted(Rule::R23Sync) {
                synced.map_err(|error| failed("synced", &error))?;
            }
        }
        self.synced = self.next_seq - 1;
        Ok(())
    }

    /// Somebody is told that everything written so far is.
    pub(super) fn tell(&mut self) {
        self.told = self.next_seq - 1;
    }

    /// Makes the next segment, with room for `bytes`. All of the one before is synced first, in every mode: that is how a
    /// reader knows that a segment which is not the last is whole.
    pub(super) fn begin_segment(&mut self, bytes: u64) -> Result<Begun, JournalError> {
        self.sync()?;
        let number = self.next_number;
        let id = FileId { kind: FileKind::Segment, journal: self.id, number };
        let header = FileHeader { id, seq: self.next_seq, durable: self.synced };
        let least = FILE_HEADER_BYTES as u64 + bytes;
        let usual = self.segment_bytes.max(least);
        let made = make_segment(&*self.disk, &header, usual);
        // A disk that is almost full may have room for a short one.
        let short = least + self.segment_bytes / 16;
        let (made, reserved) = match made {
            Err(Broken::Space(_)) if short < usual => (make_segment(&*self.disk, &header, short), short),
            made => (made, usual),
        };
        let file = made.map_err(|broken| match broken {
            Broken::Space(error) => refused(&error),
            Broken::Other(error) => failed("given a new segment", &error),
        })?;
        let begun = Segment { file, id, position: FILE_HEADER_BYTES as u64, reserved };
        if let Some(mut full) = self.current.replace(begun) {
            // Only gives back the space that it did not use.
            let _ = full.file.truncate(full.position);
        }
        self.next_number += 1;
        Ok(Begun { number, seq: self.next_seq })
    }
}

/// Why there is no new file. [`Broken::Space`]: for want of space, and nothing of it is left.
enum Broken {
    Space(io::Error),
    Other(io::Error),
}

/// Makes a segment durable, its name included, before anything is written into it.
fn make_segment(disk: &dyn Disk, header: &FileHeader, reserve_bytes: u64) -> Result<Box<dyn DiskFile>, Broken> {
    let name = header.id.name();
    let broken = |error: io::Error| if is_space(&error) { Broken::Space(error) } else { Broken::Other(error) };
    let mut file = disk.create(&name, reserve_bytes).map_err(broken)?;
    let written = file.write_at(&header.encode(), 0);
    let made = written.and_then(|()| file.sync_data()).and_then(|()| disk.sync_dir());
    match made {
        Ok(()) => Ok(file),
        Err(error) => {
            drop(file);
            disk.remove(&name).map_err(Broken::Other)?;
            Err(broken(error))
        }
    }
}

/// Whether the disk, or what one may use of it, is full.
pub(super) fn is_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) fn refused(error: &io::Error) -> JournalError {
    JournalError::Refused(format!("the disk of the journal is full: {error}"))
}
