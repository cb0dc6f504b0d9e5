//! `kv check`: tells a person what is in a journal's directory, and whether it is sound.
//!
//! It changes nothing and locks nothing, so it may run beside the secondary that has the directory open: what looks wrong then is
//! looked at again, since that may only have been half written when it was read.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use crate::journal::{self, Directory, Disk, DiskFile, OpenError, Problem, Progress, Report};
use crate::shard::Tenure;

/// How often a journal that is being written is read, if something looks wrong: damage stays, a write under way does not.
const READS_MAX: u32 = 4;
const READ_PAUSE: Duration = Duration::from_millis(300);

const TELL_INTERVAL: Duration = Duration::from_secs(2);

/// What was found: the program's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// A secondary will open it.
    Sound = 0,
    Damaged = 1,
    /// There is no journal, or it can't be read.
    Unreadable = 2,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        Self::from(verdict as u8)
    }
}

/// Reads the journal in a directory, and says what there is to say. Blocks.
pub fn check(path: &Path, progress: &mut dyn FnMut(Progress)) -> (Verdict, String) {
    let shown = path.display();
    match examine(path, progress) {
        Ok((report, _)) if report.id.is_none() && report.problems.is_empty() => {
            let text = format!(
                "there is no journal in `{shown}`: a secondary's is in its --data-dir, by default ./overspill-data/PORT\n"
            );
            (Verdict::Unreadable, text)
        }
        Ok((report, holder)) => {
            let verdict = if report.problems.is_empty() { Verdict::Sound } else { Verdict::Damaged };
            (verdict, render(path, &report, holder.as_deref()))
        }
        Err(error) => (Verdict::Unreadable, format!("`{shown}` can't be read: {error}\n")),
    }
}

/// Tells on standard error how far the reading is, if it takes long.
pub fn tell_on_stderr() -> impl FnMut(Progress) {
    let mut told = Instant::now();
    move |Progress { bytes_read, bytes }| {
        if told.elapsed() >= TELL_INTERVAL {
            told = Instant::now();
            eprintln!("read {} of {}", ByteSize(bytes_read), ByteSize(bytes));
        }
    }
}

fn examine(path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<(Report, Option<String>), OpenError> {
    let io = |error| OpenError::Io { file: path.display().to_string(), error };
    let directory = Directory::open(path).map_err(io)?;
    let mut staying: Option<Vec<Problem>> = None;
    let mut reads = 0;
    loop {
        // Both before and after: it may begin or end while this reads.
        let before = directory.holder().map_err(io)?;
        let mut report = journal::check(&ReadOnly(directory.clone()), progress)?;
        let holder = before.or(directory.holder().map_err(io)?);
        reads += 1;
        if let (Some(staying), true) = (&staying, holder.is_some()) {
            report.problems.retain(|problem| staying.contains(problem));
        }
        if holder.is_none() || report.problems.is_empty() || reads == READS_MAX {
            return Ok((report, holder));
        }
        staying = Some(report.problems);
        std::thread::sleep(READ_PAUSE);
    }
}

fn render(path: &Path, report: &Report, holder: Option<&str>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, what: String| {
        let _ = writeln!(text, "{name:<12} {what}"); // Writing to a String does not fail.
    };
    let id = report.id.map_or_else(|| "of unknown id".to_owned(), |id| id.to_string());
    line("journal", format!("{id} in `{}`", path.display()));
    if let Some(holder) = holder {
        line("in use", format!("by {holder}: this shows it at some moment, and what is half written looks torn"));
    }
    match Tenure::decode(report.note.as_deref()) {
        Ok(tenure) => belonging(&tenure, &mut line),
        Err(error) => line("note", format!("can't be read ({error}): a newer program wrote it")),
    }
    line(
        "checkpoint",
        match &report.checkpoint {
            Some((file, effects)) => format!("`{file}` with {effects} effects"),
            None => "none".to_owned(),
        },
    );
    line(
        "segments",
        match report.segments.as_slice() {
            [] => "none".to_owned(),
            [only] => format!("`{only}`"),
            [first, .., last] => format!("{} from `{first}` to `{last}`", report.segments.len()),
        },
    );
    line("size", format!("{} in {} groups", ByteSize(report.bytes), report.groups));
    line("written", format!("{} effects, {} confirms, {} notes", report.effects, report.confirms, report.notes));
    line(
        "unconfirmed",
        match report.unconfirmed {
            0 => "0 keys: the database has everything".to_owned(),
            keys => format!("{keys} keys whose newest write the database may not have yet"),
        },
    );
    line(
        "version",
        report.last.map_or_else(|| "nothing was written yet".to_owned(), |last| format!("{last} is the highest")),
    );
    if let Some((Problem { file, offset, what }, bytes)) = &report.torn {
        line("torn tail", format!("`{file}` at byte {offset}: {what}; {bytes} bytes, never acknowledged as durable"));
    }
    for Problem { file, offset, what } in &report.problems {
        line("damage", format!("`{file}` at byte {offset}: {what}"));
    }
    text.push('\n');
    text.push_str(&meaning(report));
    text
}

/// Whose records they are.
fn belonging(tenure: &Tenure, line: &mut impl FnMut(&str, String)) {
    match &tenure.shard {
        Some(shard) => line("shard", format!("{shard}, epoch {}", tenure.epoch)),
        None => line("shard", "none: it was never assigned slots".to_owned()),
    }
    if let Some(tier) = tenure.tier {
        line("database", format!("{} (`tier_id` in its table `overspill`)", tier.0));
    }
    for (since, slots) in &tenure.shares {
        line("slots", format!("{slots} since epoch {since}, {} slots", slots.len()));
    }
    if tenure.shard.is_some() && tenure.shares.is_empty() {
        line("slots", "none: all were given up".to_owned());
    }
}

/// What it comes to, and what to do.
fn meaning(report: &Report) -> String {
    let is_torn = report.torn.is_some();
    match report.problems.len() {
        0 if is_torn => "Sound. A crash left the last write half done; the next start cuts it off.\n".to_owned(),
        0 => "Sound.\n".to_owned(),
        n => format!(
            "Damaged in {n} {}: what was acknowledged is not what can be read. A secondary refuses to start with this journal, so \
             that no write is lost in silence. The figures above count what can be read; writes at and behind the first damage \
             may be missing from them.\n\
             Restore the directory from a copy of the disk. If there is none: move it away and start the secondary with \
             --accept-loss, which gives up the keys that the database does not have yet.\n",
            if n == 1 { "place" } else { "places" }
        ),
    }
}

/// A directory that is only looked at.
struct ReadOnly(Directory);

struct ReadOnlyFile(Box<dyn DiskFile>);

fn read_only<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a check changes nothing"))
}

impl Disk for ReadOnly {
    fn create(&self, _: &str, _: u64) -> io::Result<Box<dyn DiskFile>> {
        read_only()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(ReadOnlyFile(self.0.open(name)?)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        read_only()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        read_only()
    }

    fn sync_dir(&self) -> io::Result<()> {
        read_only()
    }

    /// A running secondary keeps its lock, and a stopped one may start meanwhile.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }
}

impl DiskFile for ReadOnlyFile {
    fn write_at(&mut self, _: &[u8], _: u64) -> io::Result<()> {
        read_only()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn sync_data(&mut self) -> io::Result<()> {
        read_only()
    }

    fn truncate(&mut self, _: u64) -> io::Result<()> {
        read_only()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{JournalId, Version};

    fn problem(what: &str) -> Problem {
        Problem { file: "segment".to_owned(), offset: 4096, what: what.to_owned() }
    }

    #[test]
    fn a_report_is_told_with_every_figure_and_what_it_means() {
        let mut report = Report {
            id: Some(JournalId(0xabc)),
            checkpoint: Some(("checkpoint".to_owned(), 17)),
            segments: vec!["one".to_owned(), "two".to_owned(), "three".to_owned()],
            bytes: 3 * 1024 * 1024,
            groups: 41,
            effects: 42,
            confirms: 43,
            notes: 44,
            note: None,
            unconfirmed: 45,
            last: Some(Version::new(3, 46)),
            torn: Some((problem("it ends early"), 47)),
            problems: Vec::new(),
        };
        let text = render(Path::new("dir"), &report, Some("process 48"));
        for expected in [
            "0000000000000abc in `dir`",
            "by process 48",
            "`checkpoint` with 17 effects",
            "3 from `one` to `three`",
            "3.0 MiB in 41 groups",
            "42 effects, 43 confirms, 44 notes",
            "45 keys",
            "3.46 is the highest",
            "`segment` at byte 4096: it ends early; 47 bytes",
            "Sound. A crash",
        ] {
            assert!(text.contains(expected), "`{expected}` is not in:\n{text}");
        }
        report.problems = vec![problem("the checksum does not fit"), problem("a group is missing")];
        let text = render(Path::new("dir"), &report, None);
        for expected in ["damage       `segment` at byte 4096: the checksum", "Damaged in 2 places", "--accept-loss"] {
            assert!(text.contains(expected), "`{expected}` is not in:\n{text}");
        }
    }

    #[test]
    fn what_is_no_journal_is_unreadable_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (verdict, text) = check(directory.path(), &mut |_| ());
        assert_eq!(verdict, Verdict::Unreadable);
        assert!(text.contains("there is no journal"), "{text}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "not even a lock");
        let (verdict, text) = check(&directory.path().join("nowhere"), &mut |_| ());
        assert_eq!(verdict, Verdict::Unreadable);
        assert!(text.contains("nowhere"), "{text}");
    }

    #[test]
    fn who_has_it_open_is_told_and_keeps_it() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();
        assert_eq!(directory.holder().unwrap(), None);
        let lock = directory.lock().unwrap();
        assert_eq!(directory.holder().unwrap(), Some(format!("process {}", std::process::id())));
        assert!(directory.lock().is_err());
        drop(lock);
        assert_eq!(directory.holder().unwrap(), None);
        assert!(directory.lock().is_ok());
    }
}
