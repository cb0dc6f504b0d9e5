//! Opening a journal: what a crash may leave is repaired, anything else is refused.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::examine::{Examined, Part, examine};
use super::format::FILE_HEADER_BYTES;
use super::groups::{Files, State};
use super::handle::Journal;
use super::writer::{Begun, Traces, Writer};
use super::{OpenError, Options, Progress, Recovered, take_lock};
use crate::record::JournalId;

const COPY_BYTES: usize = 1024 * 1024;
/// Below it a segment would be little but header.
const SEGMENT_BYTES_MIN: u64 = 4096;

/// Opens the journal of a directory, or makes one with `new_id`: reads everything, cuts a torn tail off, refuses corruption
/// (R24). Blocks.
///
/// # Errors
/// [`OpenError`]; then nothing was changed, unless a disk failed in the middle, after which it can be tried again.
pub fn open(
    disk: Arc<dyn Disk>,
    options: Options,
    new_id: JournalId,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Journal, Recovered), OpenError> {
    let lock = take_lock(&*disk)?;
    let mut examined = examine(&*disk, progress)?;
    if let Some((file, what)) = examined.newer.take() {
        return Err(OpenError::Newer { file, what });
    }
    if let Some(problem) = examined.problems.drain(..).next() {
        return Err(OpenError::Corrupt { file: problem.file, offset: problem.offset, what: problem.what });
    }
    repair(&*disk, &examined)?;

    let is_new = examined.id.is_none();
    let id = examined.id.unwrap_or(new_id);
    let segment_bytes = options.segment_bytes.min((options.bytes_max / 8).max(SEGMENT_BYTES_MIN));
    let number = examined.segments.last().map_or(1, |part| part.number + 1);
    let next = Begun { number, seq: examined.next_seq };
    let traces = Traces { last: examined.replay.last, note: examined.replay.note.clone() };
    let mut writer = Writer::new(disk.clone(), id, segment_bytes, next, traces);
    let mut files = Files {
        segments: examined.segments.iter().map(|part| (part.number, part.bytes)).collect(),
        checkpoint: examined.checkpoint.as_ref().map(|part| (part.number, part.bytes)),
        ..Files::default()
    };
    if is_new {
        // The id is durable before anybody hears of it.
        let made = writer.begin_segment(0);
        made.map_err(|error| io_error("the first segment", io::Error::other(error)))?;
        files.segments.extend(writer.current());
    }
    let recovered = Recovered {
        id,
        is_new,
        note: examined.replay.note.clone(),
        last: examined.replay.last,
        torn_bytes: examined.torn.as_ref().map_or(0, |(_, damage)| damage.end - damage.offset),
        bytes: files.bytes(),
        segments: files.segments.len(),
        effects: examined.replay.into_effects(),
    };
    let state = State::new(files, options.bytes_max, segment_bytes);
    Ok((Journal::new(disk, id, options.fsync, writer, state, lock), recovered))
}

/// Makes durable what was read, and nothing else.
fn repair(disk: &dyn Disk, examined: &Examined) -> Result<(), OpenError> {
    // Half made: it goes before its number is used again.
    if let Some(name) = &examined.unmade {
        disk.remove(name).map_err(|error| io_error(name, error))?;
    }
    if let Some(part) = examined.segments.last() {
        settle(disk, part, examined.uncovered).map_err(|error| io_error(&part.name, error))?;
    }
    // A process that was killed may have left names that are not durable.
    disk.sync_dir().map_err(|error| io_error(".", error))?;
    for name in &examined.leftovers {
        disk.remove(name).map_err(|error| io_error(name, error))?;
    }
    Ok(())
}

fn io_error(file: &str, error: io::Error) -> OpenError {
    OpenError::Io { file: file.to_owned(), error }
}

/// Cuts the last segment behind its last good frame, so that what a crash left behind it can never count again, and makes
/// the rest durable. The header, and what no later frame says to be durable, is written once more: after a sync that failed, the page cache
/// shows bytes that never reached the disk, and another sync would not say so (R23). No life appends to a segment of an
/// earlier one.
fn settle(disk: &dyn Disk, part: &Part, uncovered: Option<u64>) -> io::Result<()> {
    let mut file = disk.open(&part.name)?;
    write_again(&mut *file, 0, part.bytes.min(FILE_HEADER_BYTES as u64))?;
    write_again(&mut *file, uncovered.unwrap_or(part.bytes), part.bytes)?;
    file.truncate(part.bytes)?;
    file.sync_data()
}

/// Has the file hold what it holds, from `offset` to `end`.
fn write_again(file: &mut dyn DiskFile, mut offset: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES.min(end.saturating_sub(offset) as usize)];
    while offset < end {
        let want = buffer.len().min((end - offset) as usize);
        let read = file.read_at(buffer.get_mut(..want).unwrap_or_default(), offset)?;
        let bytes = buffer.get(..read).filter(|bytes| !bytes.is_empty()).ok_or(io::ErrorKind::UnexpectedEof)?;
        file.write_at(bytes, offset)?;
        offset += read as u64;
    }
    Ok(())
}
