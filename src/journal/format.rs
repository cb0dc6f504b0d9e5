//! The bytes of the files, as `docs/formats.md` draws them. No I/O.

use crate::command::Effect;
use crate::record::{JournalId, Key, Record, Timestamp, Value, Version};

/// The version of the format that this program writes and reads.
pub(super) const FORMAT_VERSION: u32 = 1;
pub(super) const FILE_HEADER_BYTES: usize = 48;
pub(super) const FRAME_HEADER_BYTES: usize = 40;
/// Frames begin at multiples of it.
pub(super) const ALIGNMENT: usize = 8;
/// Largest payload: four of the largest RPC batches.
pub(super) const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

const SEGMENT_MAGIC: [u8; 8] = *b"OVSP-SEG";
const CHECKPOINT_MAGIC: [u8; 8] = *b"OVSP-CHK";

const TAG_SET: u8 = 1;
const TAG_SET_EXPIRING: u8 = 2;
const TAG_DELETE: u8 = 3;
const TAG_CONFIRM: u8 = 4;
const TAG_NOTE: u8 = 5;
const TAG_LAST: u8 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileKind {
    Segment,
    Checkpoint,
}

impl FileKind {
    fn magic(self) -> [u8; 8] {
        match self {
            Self::Segment => SEGMENT_MAGIC,
            Self::Checkpoint => CHECKPOINT_MAGIC,
        }
    }
}

/// Which file: the crc of a frame covers it, so that a frame of another file or journal never counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    pub kind: FileKind,
    pub journal: JournalId,
    pub number: u64,
}

impl FileId {
    pub(super) fn name(self) -> String {
        match self.kind {
            FileKind::Segment => format!("segment-{:016x}.log", self.number),
            FileKind::Checkpoint => format!("checkpoint-{:016x}", self.number),
        }
    }

    fn seed(self, offset: u64) -> u32 {
        let crc = crc32c::crc32c(&self.kind.magic());
        let crc = crc32c::crc32c_append(crc, &self.journal.0.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &self.number.to_le_bytes());
        crc32c::crc32c_append(crc, &offset.to_le_bytes())
    }
}

/// What a name in the directory means; `None` for files that aren't ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Segment(u64),
    Checkpoint(u64),
    Unfinished(u64),
}

impl Name {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let number = |digits: &str| {
            let exact = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            u64::from_str_radix(digits, 16).ok().filter(|_| exact)
        };
        if let Some(rest) = name.strip_prefix("segment-") {
            return rest.strip_suffix(".log").and_then(number).map(Self::Segment);
        }
        let rest = name.strip_prefix("checkpoint-")?;
        match rest.strip_suffix(".tmp") {
            Some(digits) => number(digits).map(Self::Unfinished),
            None => number(rest).map(Self::Checkpoint),
        }
    }
}

/// The first bytes of a segment or checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub id: FileId,
    /// Of a segment: of its first group. Of a checkpoint: of the first group that is not in it.
    pub seq: u64,
    /// The highest group that was synced when the file was made.
    pub durable: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderFault {
    /// Not what was written; or never wholly written.
    Damaged,
    /// A later version of the format.
    Newer(u32),
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        let mut put = Put { bytes: &mut bytes };
        put.put(&self.id.kind.magic());
        put.put(&FORMAT_VERSION.to_le_bytes());
        put.put(&[0; 4]);
        put.put(&self.id.journal.0.to_le_bytes());
        put.put(&self.id.number.to_le_bytes());
        put.put(&self.seq.to_le_bytes());
        put.put(&self.durable.to_le_bytes());
        let crc = header_crc(&bytes);
        if let Some(place) = bytes.get_mut(12..16) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8], kind: FileKind) -> Result<Self, HeaderFault> {
        let mut take = Take { bytes };
        let fields = (|| {
            let (magic, version, crc) = (take.take(8)?, take.u32()?, take.u32()?);
            let (journal, number) = (JournalId(take.u64()?), take.u64()?);
            Some((magic, version, crc, FileId { kind, journal, number }, take.u64()?, take.u64()?))
        })();
        let Some((magic, version, crc, id, seq, durable)) = fields else { return Err(HeaderFault::Damaged) };
        if magic != kind.magic() {
            Err(HeaderFault::Damaged)
        } else if version > FORMAT_VERSION {
            Err(HeaderFault::Newer(version))
        } else if version != FORMAT_VERSION || crc != header_crc(bytes) {
            Err(HeaderFault::Damaged)
        } else {
            Ok(Self { id, seq, durable })
        }
    }
}

/// Of everything but the crc itself.
fn header_crc(bytes: &[u8]) -> u32 {
    let (before, after) = (bytes.get(..12), bytes.get(16..FILE_HEADER_BYTES));
    crc32c::crc32c_append(crc32c::crc32c(before.unwrap_or_default()), after.unwrap_or_default())
}

/// What a frame is. Numbers are never used again; those that are not named are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A group of entries.
    Entries = 1,
    /// Nothing but its `durable`.
    Mark = 2,
    /// The end of a checkpoint: how many frames and effects came before it.
    End = 3,
}

impl Kind {
    pub(super) fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Entries),
            2 => Some(Self::Mark),
            3 => Some(Self::End),
            _ => None,
        }
    }
}

/// The first bytes of a frame. The kind is as it stands there: a later program may know more of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub body_crc: u32,
    pub len: u32,
    /// 0; for journals that many raft groups share.
    pub group: u32,
    pub seq: u64,
    /// The highest group that was synced when this one was written.
    pub durable: u64,
    pub kind: u8,
}

impl FrameHeader {
    /// Whether what begins at `offset` of a file is the header of a frame.
    pub(super) fn decode(bytes: &[u8], file: FileId, offset: u64) -> Option<Self> {
        let mut take = Take { bytes };
        let head_crc = take.u32()?;
        let (body_crc, len, group) = (take.u32()?, take.u32()?, take.u32()?);
        let (seq, durable) = (take.u64()?, take.u64()?);
        let kind = take.take(1)?.first().copied()?;
        // The kind is never 0: most places that are no frame hold zeros.
        let covered = bytes.get(4..FRAME_HEADER_BYTES).filter(|_| kind != 0)?;
        (crc32c::crc32c_append(file.seed(offset), covered) == head_crc).then_some(Self {
            body_crc,
            len,
            group,
            seq,
            durable,
            kind,
        })
    }

    /// The bytes after the header, padding included.
    pub(super) fn body_bytes(&self) -> usize {
        padded(self.len as usize)
    }
}

pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

/// Where and as what a frame is to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub file: FileId,
    pub offset: u64,
    pub kind: Kind,
    pub seq: u64,
    pub durable: u64,
}

/// A frame under construction: room for the header, then the payload.
#[derive(Debug, Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    /// Empties it and keeps its memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn payload_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(FRAME_HEADER_BYTES)
    }

    /// What it takes in the file.
    pub(super) fn file_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + padded(self.payload_bytes())
    }

    fn put(&mut self, part: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.resize(FRAME_HEADER_BYTES, 0);
        }
        self.bytes.extend_from_slice(part);
    }

    pub(super) fn push_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Set(record) => self.push_set(record),
            Effect::Delete { key, version } => self.push_keyed(TAG_DELETE, key, *version),
        }
    }

    fn push_set(&mut self, record: &Record) {
        let (key, value) = (record.key.as_bytes(), record.value.as_bytes());
        self.put(&[if record.expires_at.is_some() { TAG_SET_EXPIRING } else { TAG_SET }]);
        self.put(&(key.len() as u16).to_le_bytes());
        self.put(&(value.len() as u32).to_le_bytes());
        self.push_version(record.version);
        if let Some(at) = record.expires_at {
            self.put(&at.0.to_le_bytes());
        }
        self.put(key);
        self.put(value);
    }

    pub(super) fn push_confirm(&mut self, effect: &Effect) {
        self.push_keyed(TAG_CONFIRM, effect.key(), effect.version());
    }

    fn push_keyed(&mut self, tag: u8, key: &Key, version: Version) {
        self.put(&[tag]);
        self.put(&(key.as_bytes().len() as u16).to_le_bytes());
        self.push_version(version);
        self.put(key.as_bytes());
    }

    pub(super) fn push_note(&mut self, note: &[u8]) {
        self.put(&[TAG_NOTE]);
        self.put(&(note.len() as u32).to_le_bytes());
        self.put(note);
    }

    pub(super) fn push_last(&mut self, last: Version) {
        self.put(&[TAG_LAST]);
        self.push_version(last);
    }

    pub(super) fn push_counts(&mut self, frames: u64, effects: u64) {
        self.put(&frames.to_le_bytes());
        self.put(&effects.to_le_bytes());
    }

    fn push_version(&mut self, version: Version) {
        self.put(&version.epoch.0.to_le_bytes());
        self.put(&version.lsn.0.to_le_bytes());
    }

    /// Fills the header in; gives the bytes to write.
    pub(super) fn seal(&mut self, place: Place) -> &[u8] {
        self.put(&[]);
        let len = self.payload_bytes();
        self.bytes.resize(FRAME_HEADER_BYTES + padded(len), 0);
        let body_crc = crc32c::crc32c(self.bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default());
        let mut header = [0; FRAME_HEADER_BYTES];
        let mut put = Put { bytes: &mut header };
        put.put(&[0; 4]);
        put.put(&body_crc.to_le_bytes());
        put.put(&(len as u32).to_le_bytes());
        put.put(&0_u32.to_le_bytes());
        put.put(&place.seq.to_le_bytes());
        put.put(&place.durable.to_le_bytes());
        put.put(&[place.kind as u8]);
        let covered = header.get(4..).unwrap_or_default();
        let head_crc = crc32c::crc32c_append(place.file.seed(place.offset), covered);
        Put { bytes: &mut header }.put(&head_crc.to_le_bytes());
        Put { bytes: &mut self.bytes }.put(&header);
        &self.bytes
    }
}

/// How many payload bytes an effect takes.
pub(super) fn effect_bytes(effect: &Effect) -> usize {
    match effect {
        Effect::Set(record) => 23 + if record.expires_at.is_some() { 8 } else { 0 } + effect.size_bytes(),
        Effect::Delete { .. } => confirm_bytes(effect),
    }
}

/// How many payload bytes the confirmation of an effect takes.
pub(super) fn confirm_bytes(effect: &Effect) -> usize {
    19 + effect.key().as_bytes().len()
}

/// An entry of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    Set {
        key: &'a [u8],
        value: &'a [u8],
        version: Version,
        expires_at: Option<Timestamp>,
    },
    Delete {
        key: &'a [u8],
        version: Version,
    },
    /// The tier has this version of the key.
    Confirm {
        key: &'a [u8],
        version: Version,
    },
    Note(&'a [u8]),
    /// At least the highest version so far.
    Last(Version),
}

/// Calls `each` with the entries of a payload, in order.
///
/// # Errors
/// What is wrong with the first that can't be read.
pub(super) fn read_entries<'a>(payload: &'a [u8], each: &mut dyn FnMut(Entry<'a>)) -> Result<(), &'static str> {
    let mut take = Take { bytes: payload };
    while !take.bytes.is_empty() {
        each(read_entry(&mut take)?);
    }
    Ok(())
}

fn read_entry<'a>(take: &mut Take<'a>) -> Result<Entry<'a>, &'static str> {
    const SHORT: &str = "an entry ends too early";
    let tag = take.take(1).and_then(<[u8]>::first).copied().ok_or(SHORT)?;
    match tag {
        TAG_SET | TAG_SET_EXPIRING => {
            let (key_len, value_len) = (take.u16().ok_or(SHORT)?, take.u32().ok_or(SHORT)?);
            let version = take.version().ok_or(SHORT)?;
            let expires_at = match tag {
                TAG_SET_EXPIRING => Some(Timestamp(take.u64().ok_or(SHORT)?)),
                _ => None,
            };
            let key = take.key(key_len)?;
            if value_len as usize > crate::record::VALUE_BYTES_MAX {
                return Err("a value is longer than any may be");
            }
            let value = take.take(value_len as usize).ok_or(SHORT)?;
            Ok(Entry::Set { key, value, version, expires_at })
        }
        TAG_DELETE | TAG_CONFIRM => {
            let key_len = take.u16().ok_or(SHORT)?;
            let version = take.version().ok_or(SHORT)?;
            let key = take.key(key_len)?;
            Ok(if tag == TAG_DELETE { Entry::Delete { key, version } } else { Entry::Confirm { key, version } })
        }
        TAG_NOTE => {
            let len = take.u32().ok_or(SHORT)?;
            Ok(Entry::Note(take.take(len as usize).ok_or(SHORT)?))
        }
        TAG_LAST => Ok(Entry::Last(take.version().ok_or(SHORT)?)),
        _ => Err("an entry of an unknown kind"),
    }
}

/// The frames and effects that the end of a checkpoint counts.
pub(super) fn read_counts(payload: &[u8]) -> Option<(u64, u64)> {
    let mut take = Take { bytes: payload };
    let counts = (take.u64()?, take.u64()?);
    take.bytes.is_empty().then_some(counts)
}

/// A key that was checked when it was read.
pub(super) fn key(bytes: &[u8]) -> Option<Key> {
    Key::copy_from(bytes).ok()
}

/// A value that was checked when it was read.
pub(super) fn value(bytes: &[u8]) -> Option<Value> {
    Value::new(bytes.to_vec()).ok()
}

struct Take<'a> {
    bytes: &'a [u8],
}

impl<'a> Take<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(part)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (part, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*part)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn version(&mut self) -> Option<Version> {
        Some(Version::new(self.u64()?, self.u64()?))
    }

    fn key(&mut self, len: u16) -> Result<&'a [u8], &'static str> {
        match usize::from(len) {
            0 => Err("a key is empty"),
            len @ 1..=crate::record::KEY_BYTES_MAX => self.take(len).ok_or("an entry ends too early"),
            _ => Err("a key is longer than any may be"),
        }
    }
}

/// Fills a buffer from its front.
struct Put<'a> {
    bytes: &'a mut [u8],
}

impl Put<'_> {
    fn put(&mut self, part: &[u8]) {
        let bytes = std::mem::take(&mut self.bytes);
        if let Some((place, rest)) = bytes.split_at_mut_checked(part.len()) {
            place.copy_from_slice(part);
            self.bytes = rest;
        }
    }
}
