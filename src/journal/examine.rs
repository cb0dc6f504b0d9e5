//! Reading all files of a journal and judging what is wrong with them. Changes nothing; [`super::open`] repairs what a
//! crash may leave, `kv check` tells.

use std::collections::VecDeque;
use std::io;

use super::check::Problem;
use super::disk::Disk;
use super::format::{self, Entry, FILE_HEADER_BYTES, FileHeader, FileKind, HeaderFault, Kind, Name, read_entries};
use super::replay::Replay;
use super::scan::{Damage, Scanned, Seen, Window, scan};
use super::{OpenError, Progress};
use crate::mutants::{Rule, is_planted};
use crate::record::JournalId;

const PROGRESS_BYTES: u64 = 8 * 1024 * 1024;

/// A file that is part of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub number: u64,
    pub name: String,
    /// Up to the end of its last good frame.
    pub bytes: u64,
}

/// All that the files say.
#[derive(Default)]
pub(super) struct Examined {
    pub id: Option<JournalId>,
    pub checkpoint: Option<Part>,
    /// Effects in the checkpoint.
    pub checkpoint_effects: u64,
    pub segments: Vec<Part>,
    pub next_seq: u64,
    pub groups: u64,
    /// Where the frames of the last segment begin that no later frame says to be durable.
    pub uncovered: Option<u64>,
    pub torn: Option<(String, Damage)>,
    /// The last segment, if a crash came before it was made.
    pub unmade: Option<String>,
    /// What an earlier checkpoint replaced, or a later one left half written.
    pub leftovers: Vec<String>,
    pub replay: Replay,
    pub problems: Vec<Problem>,
    /// Something that a later program wrote.
    pub newer: Option<(String, String)>,
}

/// The names of a directory, sorted by what they are.
#[derive(Default)]
struct Inventory {
    checkpoint: Option<(u64, String)>,
    segments: Vec<(u64, String)>,
    leftovers: Vec<String>,
}

pub(super) fn examine(disk: &dyn Disk, progress: &mut dyn FnMut(Progress)) -> Result<Examined, OpenError> {
    let listed = disk.list().map_err(|error| OpenError::Io { file: ".".into(), error })?;
    let inventory = Inventory::of(listed);
    let mut reader = Reader {
        disk,
        examined: Examined { next_seq: 1, leftovers: inventory.leftovers, ..Examined::default() },
        read: Reading { done: 0, total: 0, told: 0, progress },
        numbers_from: 1,
    };
    reader.measure(inventory.checkpoint.iter().chain(&inventory.segments).map(|(_, name)| name.as_str()));
    if let Some((number, name)) = inventory.checkpoint {
        reader.checkpoint(number, name);
    }
    reader.segments(&inventory.segments);
    reader.read.tell(true);
    Ok(reader.examined)
}

impl Inventory {
    fn of(listed: Vec<String>) -> Self {
        let mut inventory = Self::default();
        let mut checkpoints = Vec::new();
        for name in listed {
            match Name::parse(&name) {
                Some(Name::Segment(number)) => inventory.segments.push((number, name)),
                Some(Name::Checkpoint(number)) => checkpoints.push((number, name)),
                Some(Name::Unfinished(_)) => inventory.leftovers.push(name),
                None => {}
            }
        }
        checkpoints.sort();
        inventory.segments.sort();
        inventory.checkpoint = checkpoints.pop();
        let from = inventory.checkpoint.as_ref().map_or(0, |(number, _)| *number);
        let replaced = inventory.segments.partition_point(|(number, _)| *number < from);
        let segments = inventory.segments.drain(..replaced);
        inventory.leftovers.extend(segments.chain(checkpoints).map(|(_, name)| name));
        inventory.leftovers.sort();
        inventory
    }
}

struct Reading<'a> {
    done: u64,
    total: u64,
    told: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Reading<'_> {
    fn tell(&mut self, now: bool) {
        if now || self.done >= self.told + PROGRESS_BYTES {
            self.told = self.done;
            (self.progress)(Progress { bytes_read: self.done, bytes: self.total });
        }
    }
}

struct Reader<'a> {
    disk: &'a dyn Disk,
    examined: Examined,
    read: Reading<'a>,
    /// The number that the first segment must have.
    numbers_from: u64,
}

/// How the header of a file was found.
enum Found {
    Header(FileHeader),
    /// Not as it was written. `is_bare`: and nothing but zeros follows.
    Damaged {
        is_bare: bool,
    },
    Unusable,
}

impl Reader<'_> {
    /// Finds how much there is to read; what can't be opened is told of later.
    fn measure<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        let sizes = names.filter_map(|name| self.disk.open(name).and_then(|file| file.len()).ok());
        self.read.total = sizes.sum();
    }

    fn problem(&mut self, file: &str, offset: u64, what: impl Into<String>) {
        self.examined.problems.push(Problem { file: file.to_owned(), offset, what: what.into() });
    }

    fn unreadable(&mut self, file: &str, error: &io::Error) {
        self.problem(file, 0, format!("it can't be read: {error}"));
    }

    /// Reads a header and checks that it is of this journal and place.
    fn header(&mut self, window: &mut Window<'_>, kind: FileKind, number: u64, name: &str) -> io::Result<Found> {
        let bytes = window.get(0, FILE_HEADER_BYTES)?.map(<[u8]>::to_vec).unwrap_or_default();
        let header = match FileHeader::decode(&bytes, kind) {
            Ok(header) => header,
            Err(HeaderFault::Newer(version)) => {
                let known = format::FORMAT_VERSION;
                let what = format!("it has format version {version}, and this program knows up to {known}");
                self.examined.newer.get_or_insert((name.to_owned(), what));
                return Ok(Found::Unusable);
            }
            Err(HeaderFault::Damaged) => {
                let is_bare = window.first_nonzero(FILE_HEADER_BYTES as u64)?.is_none();
                return Ok(Found::Damaged { is_bare });
            }
        };
        let id = *self.examined.id.get_or_insert(header.id.journal);
        if header.id.journal != id {
            self.problem(name, 0, format!("it belongs to journal {}, the others to {id}", header.id.journal));
            Ok(Found::Unusable)
        } else if header.id.number != number {
            self.problem(name, 0, format!("its header has number {:016x}: it was renamed", header.id.number));
            Ok(Found::Unusable)
        } else {
            Ok(Found::Header(header))
        }
    }

    fn checkpoint(&mut self, number: u64, name: String) {
        self.numbers_from = number;
        match self.read_checkpoint(number, &name) {
            Ok(bytes) => self.examined.checkpoint = Some(Part { number, name, bytes }),
            Err(error) => self.unreadable(&name, &error),
        }
    }

    fn read_checkpoint(&mut self, number: u64, name: &str) -> io::Result<u64> {
        let file = self.disk.open(name)?;
        let mut window = Window::new(&*file)?;
        let header = match self.header(&mut window, FileKind::Checkpoint, number, name)? {
            Found::Header(header) => header,
            Found::Damaged { .. } => {
                self.problem(name, 0, "its header is damaged");
                return Ok(window.len());
            }
            Found::Unusable => return Ok(window.len()),
        };
        self.examined.next_seq = header.seq;
        let (mut frames, mut counts) = (0, None);
        let (replay, read, newer) = (&mut self.examined.replay, &mut self.read, &mut self.examined.newer);
        let scanned = scan(&mut window, header.id, 1, &mut |seen| {
            read.done += seen.payload.len() as u64;
            read.tell(false);
            if counts.is_some() {
                return Err("something follows the end");
            }
            match Kind::from_u8(seen.header.kind) {
                Some(Kind::End) => counts = Some(format::read_counts(seen.payload)),
                Some(Kind::Entries) => {
                    frames += 1;
                    apply(seen.payload, replay)?;
                }
                Some(Kind::Mark) => return Err("a mark has no place in a checkpoint"),
                None => return Err(unknown(&seen, name, newer)),
            }
            Ok(())
        })?;
        // It was synced before it got its name: nothing in it may be torn.
        for damage in &scanned.damages {
            self.problem(name, damage.offset, damage.what);
        }
        let effects = self.examined.replay.effects;
        self.examined.checkpoint_effects = effects;
        if scanned.damages.is_empty() && counts != Some(Some((frames, effects))) {
            let what = if counts.is_none() { "its end is missing" } else { "its end counts other frames or effects" };
            self.problem(name, scanned.good_end, what);
        }
        Ok(window.len())
    }

    fn segments(&mut self, segments: &[(u64, String)]) {
        let mut expected = self.numbers_from;
        let has_checkpoint = self.examined.checkpoint.is_some();
        for (i, (number, name)) in segments.iter().enumerate() {
            if *number != expected {
                let what = format!("segments {expected:016x} to {:016x} are missing", number.saturating_sub(1));
                self.problem(name, 0, what);
            }
            expected = number.saturating_add(1);
            let may_be_unmade = i + 1 == segments.len() && !(has_checkpoint && *number == self.numbers_from);
            let next = segments.get(i + 1);
            let next = next.and_then(|(number, name)| self.first_seq(*number, name));
            if let Err(error) = self.segment(*number, name, next, may_be_unmade) {
                self.unreadable(name, &error);
            }
        }
        if segments.is_empty() && has_checkpoint {
            let what = format!("segment {:016x}, which begins after it, is missing", self.numbers_from);
            let name = self.examined.checkpoint.as_ref().map(|part| part.name.clone()).unwrap_or_default();
            self.problem(&name, 0, what);
        }
    }

    /// The first group of a segment, if its header tells.
    fn first_seq(&self, number: u64, name: &str) -> Option<u64> {
        let mut bytes = [0; FILE_HEADER_BYTES];
        let read = self.disk.open(name).and_then(|file| file.read_at(&mut bytes, 0)).ok()?;
        let header = FileHeader::decode(bytes.get(..read)?, FileKind::Segment).ok()?;
        (header.id.number == number).then_some(header.seq)
    }

    /// `next`: the first group of the next segment, before which this one was synced.
    fn segment(&mut self, number: u64, name: &str, next: Option<u64>, may_be_unmade: bool) -> io::Result<()> {
        let file = self.disk.open(name)?;
        let mut window = Window::new(&*file)?;
        let header = match self.header(&mut window, FileKind::Segment, number, name)? {
            Found::Header(header) => header,
            // Groups are written only after the header has been synced.
            Found::Damaged { is_bare: true } if may_be_unmade => {
                self.examined.unmade = Some(name.to_owned());
                return Ok(());
            }
            Found::Damaged { .. } => {
                self.problem(name, 0, "its header is damaged");
                return Ok(());
            }
            Found::Unusable => return Ok(()),
        };
        if header.seq != self.examined.next_seq {
            let what = format!("it begins with group {}, and {} is the next", header.seq, self.examined.next_seq);
            self.problem(name, 0, what);
        }
        let scanned = self.read_segment(&mut window, header, name)?;
        match next {
            Some(next) => self.judge_full(name, &scanned, next),
            None => self.judge_last(name, &scanned),
        }
        self.examined.next_seq = next.unwrap_or(scanned.next_seq);
        self.examined.segments.push(Part { number, name: name.to_owned(), bytes: scanned.good_end });
        Ok(())
    }

    fn read_segment(&mut self, window: &mut Window<'_>, header: FileHeader, name: &str) -> io::Result<Scanned> {
        let (replay, read, groups) = (&mut self.examined.replay, &mut self.read, &mut self.examined.groups);
        let (newer, problems) = (&mut self.examined.newer, &mut self.examined.problems);
        let mut uncovered: VecDeque<(u64, u64)> = VecDeque::new();
        let scanned = scan(window, header.id, header.seq, &mut |seen| {
            read.done += seen.payload.len() as u64;
            read.tell(false);
            while uncovered.front().is_some_and(|(seq, _)| *seq <= seen.header.durable) {
                uncovered.pop_front();
            }
            if seen.is_behind_damage {
                return Ok(());
            }
            uncovered.push_back((seen.header.seq, seen.offset));
            *groups += 1;
            let applied = match Kind::from_u8(seen.header.kind) {
                Some(Kind::Entries) if seen.header.group == 0 => apply(seen.payload, replay),
                Some(Kind::Mark) => Ok(()),
                Some(Kind::End) => Err("the end of a checkpoint has no place in a segment"),
                Some(Kind::Entries) | None => Err(unknown(&seen, name, newer)),
            };
            if let Err(what) = applied {
                // Its checksum is right: no crash leaves that.
                problems.push(Problem { file: name.to_owned(), offset: seen.offset, what: what.to_owned() });
            }
            Ok(())
        })?;
        self.examined.uncovered = uncovered.front().map(|(_, offset)| *offset);
        Ok(scanned)
    }

    /// A segment before another was synced before that was made: all groups must be there. What a refused group left behind
    /// them does not matter.
    fn judge_full(&mut self, name: &str, scanned: &Scanned, next: u64) {
        if scanned.next_seq == next {
            return;
        }
        let missing = scanned.damages.iter().filter(|damage| damage.seq < next);
        let missing: Vec<Problem> = missing
            .map(|damage| Problem { file: name.to_owned(), offset: damage.offset, what: damage.what.to_owned() })
            .collect();
        if missing.is_empty() {
            let what = format!(
                "it should reach to group {}, and group {} is missing",
                next.saturating_sub(1),
                scanned.next_seq
            );
            self.problem(name, scanned.good_end, what);
        }
        self.examined.problems.extend(missing);
    }

    /// R24: what some later group says was durable is corrupt; else a crash tore it.
    fn judge_last(&mut self, name: &str, scanned: &Scanned) {
        for damage in &scanned.damages {
            if damage.seq <= scanned.durable && !is_planted(Rule::R24Corrupt) {
                let what = format!("{}, and a later group says that it was durable", damage.what);
                self.problem(name, damage.offset, what);
            } else if self.examined.torn.is_none() {
                let end = scanned.damages.last().map_or(damage.end, |last| last.end);
                self.examined.torn = Some((name.to_owned(), Damage { end, ..damage.clone() }));
            }
        }
    }
}

fn apply(payload: &[u8], replay: &mut Replay) -> Result<(), &'static str> {
    let mut applied = Ok(());
    read_entries(payload, &mut |entry: Entry<'_>| {
        if applied.is_ok() {
            applied = replay.apply(entry);
        }
    })?;
    applied
}

fn unknown(seen: &Seen<'_>, name: &str, newer: &mut Option<(String, String)>) -> &'static str {
    let what = format!("the group at byte {} is of a kind that this program does not know", seen.offset);
    newer.get_or_insert((name.to_owned(), what));
    "a group of an unknown kind"
}
