//! What waits to be written, who waits for it, and the figures.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::format::Frame;
use super::writer::Traces;
use super::{JournalError, Usage};
use crate::gather::Turns;
use crate::sync::{Notify, OnceLock};

/// A group takes no more appends once its payload is this long.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// Confirms wait for a group of effects, until there are so many.
const CONFIRMS_BYTES: usize = 256 * 1024;
/// Emptied frames that are kept, and how large at most.
const SPARES: usize = 2;
const SPARE_BYTES: usize = 8 * 1024 * 1024;
/// A journal that is opened and killed over and over has a segment for each life.
const SEGMENTS_MAX: usize = 64;
/// As parts of `bytes_max`: above how much a checkpoint may be worth it, and what it must promise to gain then; and once
/// an append found no room.
const CROWDED: u64 = 2;
const GAIN: u64 = 16;
const GAIN_WHEN_FULL: u64 = 64;

/// How a group ended. Whoever waits for it is woken, and nobody else.
#[derive(Default)]
pub(super) struct Outcome {
    result: OnceLock<Result<(), JournalError>>,
    ended: Notify,
}

impl Outcome {
    pub(super) fn end(&self, result: Result<(), JournalError>) {
        // The first word counts.
        if self.result.set(result).is_ok() {
            self.ended.notify_waiters();
        }
    }

    pub(super) async fn wait(&self) -> Result<(), JournalError> {
        loop {
            let ended = self.ended.notified();
            if let Some(result) = self.result.get() {
                return result.clone();
            }
            ended.await;
        }
    }
}

/// Entries that are written together, as one frame.
#[derive(Default)]
pub(super) struct Group {
    pub frame: Frame,
    pub entries: u64,
    pub traces: Traces,
    /// Those that somebody waits for.
    pub appends: u64,
    /// What it counts for in the buffer.
    bytes: u64,
    pub outcome: Arc<Outcome>,
}

impl Drop for Group {
    /// A group that was not ended was lost in a panic.
    fn drop(&mut self) {
        self.outcome.end(Err(JournalError::Failed("the writing of the journal broke off".into())));
    }
}

impl Group {
    /// Whether somebody waits; confirms alone can.
    pub(super) fn is_awaited(&self) -> bool {
        self.appends > 0
    }
}

/// Held by the pendings of the appends between two checkpoints; tells when the last one is dropped.
#[derive(Default)]
pub(super) struct Era(CancellationToken);

impl Era {
    pub(super) fn over(&self) -> CancellationToken {
        self.0.clone()
    }
}

impl Drop for Era {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Used bytes of the files.
#[derive(Default)]
pub(super) struct Files {
    pub segments: BTreeMap<u64, u64>,
    /// Its number and bytes.
    pub checkpoint: Option<(u64, u64)>,
    /// Replaced by a checkpoint, and not removed yet.
    pub replaced: BTreeMap<String, u64>,
}

impl Files {
    pub(super) fn bytes(&self) -> u64 {
        self.since_checkpoint() + self.checkpoint_bytes() + self.replaced.values().sum::<u64>()
    }

    fn since_checkpoint(&self) -> u64 {
        self.segments.values().sum()
    }

    fn checkpoint_bytes(&self) -> u64 {
        self.checkpoint.map_or(0, |(_, bytes)| bytes)
    }
}

/// Everything but the files themselves. Guarded by a lock that is held for a few lines.
pub(super) struct State {
    queue: VecDeque<Group>,
    /// Emptied frames: one is written while the next is filled.
    spare: Vec<Frame>,
    buffered_bytes: u64,
    turns: Turns,
    pub files: Files,
    files_bytes: u64,
    pub era: Arc<Era>,
    /// Those before, whose pendings may still be held.
    earlier: Vec<CancellationToken>,
    /// What the writer has left to do, as of its last work.
    pub is_unsynced: bool,
    pub wants_mark: bool,
    pub failed: Option<String>,
    pub is_stopped: bool,
    pub is_checkpointing: bool,
    /// Since the last checkpoint: what confirms let go of, and whether an append found no room.
    confirmed_bytes: u64,
    was_full: bool,
    bytes_max: u64,
    segment_bytes: u64,
    pub counts: Usage,
}

impl State {
    pub(super) fn new(files: Files, bytes_max: u64, segment_bytes: u64) -> Self {
        let mut state = Self {
            queue: VecDeque::new(),
            spare: Vec::new(),
            buffered_bytes: 0,
            turns: Turns::default(),
            files,
            files_bytes: 0,
            era: Arc::default(),
            earlier: Vec::new(),
            is_unsynced: false,
            wants_mark: false,
            failed: None,
            is_stopped: false,
            is_checkpointing: false,
            confirmed_bytes: 0,
            was_full: false,
            bytes_max,
            segment_bytes,
            counts: Usage::default(),
        };
        state.measure();
        state
    }

    /// To be called when the files have changed.
    pub(super) fn measure(&mut self) {
        self.files_bytes = self.files.bytes();
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.files_bytes + self.buffered_bytes + bytes as u64 <= self.bytes_max
    }

    /// Notes that an append found no room.
    pub(super) fn full(&mut self) -> String {
        self.was_full = true;
        format!(
            "the journal is full: {} of {} bytes (--journal-max) are used, and the tier does not have what they hold",
            self.files_bytes + self.buffered_bytes,
            self.bytes_max
        )
    }

    /// Has `put` add to the group that takes `bytes` more, and counts them. Tells how that group will end.
    pub(super) fn put(&mut self, bytes: usize, put: impl FnOnce(&mut Group)) -> Arc<Outcome> {
        let is_open = |group: &Group| group.frame.payload_bytes() + bytes <= GROUP_BYTES;
        if !self.queue.back().is_some_and(is_open) {
            let mut group = Group::default();
            group.frame = self.spare.pop().unwrap_or_default();
            self.queue.push_back(group);
        }
        let Some(group) = self.queue.back_mut() else { return Group::default().outcome.clone() }; // there is one
        self.buffered_bytes += bytes as u64;
        group.bytes += bytes as u64;
        put(group);
        Arc::clone(&group.outcome)
    }

    pub(super) fn note_confirmed(&mut self, bytes: u64) {
        self.confirmed_bytes += bytes;
    }

    /// Whether a group should be written now, and not only when it is convenient.
    pub(super) fn is_due(&self) -> bool {
        self.queue.front().is_some_and(|group| group.is_awaited() || group.frame.payload_bytes() > CONFIRMS_BYTES)
            || self.queue.len() > 1
    }

    /// How many appends the next group has, as long as more are likely to come.
    pub(super) fn gathering(&self) -> Option<u64> {
        let is_open = self.queue.len() == 1 && self.failed.is_none() && !self.is_stopped;
        let appends = self.queue.front()?.appends;
        (is_open && appends < self.turns.usual()).then_some(appends)
    }

    pub(super) fn has_groups(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<Group> {
        self.queue.pop_front()
    }

    /// A group has been written or given up: `file` is where it went, and how long that is now.
    pub(super) fn done(&mut self, group: &mut Group, file: Option<(u64, u64)>) {
        self.buffered_bytes = self.buffered_bytes.saturating_sub(group.bytes);
        self.grown(file);
        if group.is_awaited() {
            self.turns.note(group.appends);
        }
        let mut frame = std::mem::take(&mut group.frame);
        if frame.capacity() <= SPARE_BYTES && self.spare.len() < SPARES {
            frame.clear();
            self.spare.push(frame);
        }
    }

    /// The segment that is being written, and how long it is now.
    pub(super) fn grown(&mut self, file: Option<(u64, u64)>) {
        if let Some((number, bytes)) = file {
            let before = self.files.segments.insert(number, bytes).unwrap_or(0);
            self.files_bytes += bytes.saturating_sub(before);
        }
    }

    /// Everything that waits, to be told that it failed.
    pub(super) fn give_up(&mut self) -> Vec<Group> {
        self.buffered_bytes = 0;
        self.queue.drain(..).collect()
    }

    /// Begins another era; gives the one that ends, and how to tell that all pendings up to here are gone.
    pub(super) fn next_era(&mut self) -> (Arc<Era>, Vec<CancellationToken>) {
        let era = std::mem::take(&mut self.era);
        self.earlier.retain(|over| !over.is_cancelled());
        self.earlier.push(era.over());
        (era, self.earlier.clone())
    }

    pub(super) fn checkpointed(&mut self) {
        self.confirmed_bytes = 0;
        self.was_full = false;
        self.counts.checkpoints += 1;
        self.measure();
    }

    pub(super) fn wants_checkpoint(&self) -> bool {
        let since = self.files.since_checkpoint();
        let gain = since + self.confirmed_bytes;
        let enough = if self.was_full { GAIN_WHEN_FULL } else { GAIN };
        !self.is_checkpointing
            && self.failed.is_none()
            && (since > self.segment_bytes.max(self.files.checkpoint_bytes())
                || (self.files_bytes > self.bytes_max / CROWDED && gain >= self.bytes_max / enough)
                || self.files.segments.len() > SEGMENTS_MAX)
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            bytes: self.files_bytes + self.buffered_bytes,
            buffered_bytes: self.buffered_bytes,
            bytes_max: self.bytes_max,
            checkpoint_bytes: self.files.checkpoint_bytes(),
            segments: self.files.segments.len() as u64,
            wants_checkpoint: self.wants_checkpoint(),
            is_failed: self.failed.is_some(),
            ..self.counts
        }
    }
}
