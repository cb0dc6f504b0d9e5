//! Reading a file frame by frame, past what is damaged, and judging the damage (R24). Reads nothing whole: memory is
//! bounded by a window and by the largest frame that is really there.

use std::io;

use super::disk::DiskFile;
use super::format::{ALIGNMENT, FILE_HEADER_BYTES, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FileId, FrameHeader};

const WINDOW_BYTES: usize = 1024 * 1024;
const BLOCK_BYTES: usize = 512;

/// A file through a window that moves forward.
pub(super) struct Window<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn DiskFile) -> io::Result<Self> {
        Ok(Self { file, len: file.len()?, start: 0, bytes: Vec::new() })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// `count` bytes at `offset`, or `None` if the file is shorter.
    pub(super) fn get(&mut self, offset: u64, count: usize) -> io::Result<Option<&[u8]>> {
        let Some(end) = offset.checked_add(count as u64).filter(|end| *end <= self.len) else { return Ok(None) };
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            self.fill(offset, count)?;
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.get(from..from + count))
    }

    fn fill(&mut self, offset: u64, count: usize) -> io::Result<()> {
        let want = (count.max(WINDOW_BYTES) as u64).min(self.len - offset) as usize;
        self.bytes.resize(want, 0);
        self.bytes.shrink_to(WINDOW_BYTES);
        self.start = offset;
        let mut filled = 0;
        while let Some(rest) = self.bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file got shorter")),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The first byte that is not zero, from an aligned `offset` on.
    pub(super) fn first_nonzero(&mut self, mut offset: u64) -> io::Result<Option<u64>> {
        while offset < self.len {
            let count = ((self.len - offset) as usize).min(WINDOW_BYTES / 2);
            let part = self.get(offset, count)?.unwrap_or_default();
            // By blocks that are looked at as a whole: there may be a whole segment of zeros.
            let blocks = part.chunks(BLOCK_BYTES);
            let zeros =
                blocks.take_while(|block| block.iter().fold(0, |all, byte| all | byte) == 0).count() * BLOCK_BYTES;
            let rest = part.get(zeros..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|byte| *byte != 0) {
                return Ok(Some(offset + (zeros + at) as u64));
            }
            offset += count as u64;
        }
        Ok(None)
    }
}

/// A place where a frame should be and is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub offset: u64,
    /// The frame that should be there.
    pub seq: u64,
    /// The last byte behind it that is not zero, plus one.
    pub end: u64,
    pub what: &'static str,
}

/// What a file holds, but for the payloads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Behind the last good frame before the first damage.
    pub good_end: u64,
    /// The frame that would come at `good_end`.
    pub next_seq: u64,
    pub damages: Vec<Damage>,
    /// The highest `durable` of any frame, those behind the damage included.
    pub durable: u64,
}

/// A whole frame.
pub(super) struct Seen<'a> {
    pub header: FrameHeader,
    pub offset: u64,
    pub payload: &'a [u8],
    /// Something before it in this file is damaged.
    pub is_behind_damage: bool,
}

/// Gives every good frame of a file to `each`, which says what is wrong with its payload, if it can't be read.
pub(super) fn scan(
    window: &mut Window<'_>,
    file: FileId,
    first_seq: u64,
    each: &mut dyn FnMut(Seen<'_>) -> Result<(), &'static str>,
) -> io::Result<Scanned> {
    let start = FILE_HEADER_BYTES as u64;
    let mut scanned = Scanned { good_end: start, next_seq: first_seq, ..Scanned::default() };
    let (mut offset, mut seq) = (start, first_seq);
    loop {
        let what = match frame_at(window, file, offset, seq, &mut scanned, each)? {
            Ok(next) => {
                (offset, seq) = (next, seq.saturating_add(1));
                if scanned.damages.is_empty() {
                    (scanned.good_end, scanned.next_seq) = (offset, seq);
                }
                continue;
            }
            Err(what) => what,
        };
        let Some(nonzero) = window.first_nonzero(offset)? else { return Ok(scanned) };
        let found = next_header(window, file, offset + ALIGNMENT as u64, seq)?;
        let end = found.map_or(nonzero + 1, |(at, _)| at);
        scanned.damages.push(Damage { offset, seq, end, what });
        let Some((at, header)) = found else {
            set_end(window, &mut scanned)?;
            return Ok(scanned);
        };
        (offset, seq) = (at, header.seq);
    }
}

/// Where the next frame begins, or what is wrong with this one.
fn frame_at(
    window: &mut Window<'_>,
    file: FileId,
    offset: u64,
    seq: u64,
    scanned: &mut Scanned,
    each: &mut dyn FnMut(Seen<'_>) -> Result<(), &'static str>,
) -> io::Result<Result<u64, &'static str>> {
    let bytes = window.get(offset, FRAME_HEADER_BYTES)?;
    let Some(header) = bytes.and_then(|bytes| FrameHeader::decode(bytes, file, offset)) else {
        return Ok(Err("no group of this journal is there"));
    };
    scanned.durable = scanned.durable.max(header.durable);
    if header.seq != seq {
        return Ok(Err("a group is missing"));
    }
    if header.len as usize > FRAME_BYTES_MAX {
        return Ok(Err("a group is longer than any may be"));
    }
    let body = offset + FRAME_HEADER_BYTES as u64;
    let Some(padded) = window.get(body, header.body_bytes())? else {
        return Ok(Err("the file ends in the middle of a group"));
    };
    if crc32c::crc32c(padded) != header.body_crc {
        return Ok(Err("the checksum of a group does not match"));
    }
    let payload = padded.get(..header.len as usize).unwrap_or_default();
    let is_behind_damage = !scanned.damages.is_empty();
    let next = body + padded.len() as u64;
    Ok(each(Seen { header, offset, payload, is_behind_damage }).map(|()| next))
}

/// The next place that has the header of a later frame. It has a checksum of its own, salted with the journal's id, so no
/// value that a client stores looks like one.
fn next_header(
    window: &mut Window<'_>,
    file: FileId,
    mut offset: u64,
    after: u64,
) -> io::Result<Option<(u64, FrameHeader)>> {
    while let Some(bytes) = window.get(offset, FRAME_HEADER_BYTES)? {
        if let Some(header) = FrameHeader::decode(bytes, file, offset).filter(|header| header.seq > after) {
            return Ok(Some((offset, header)));
        }
        offset += ALIGNMENT as u64;
    }
    Ok(None)
}

/// Finds where the last damage ends.
fn set_end(window: &mut Window<'_>, scanned: &mut Scanned) -> io::Result<()> {
    let Some(damage) = scanned.damages.last_mut() else { return Ok(()) };
    let mut offset = damage.end.next_multiple_of(ALIGNMENT as u64);
    while let Some(at) = window.first_nonzero(offset)? {
        damage.end = at + 1;
        offset = damage.end.next_multiple_of(ALIGNMENT as u64);
    }
    Ok(())
}
