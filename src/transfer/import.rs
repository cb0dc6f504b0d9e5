//! From a file to a service: batches of writes, and then every record is read back.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::command::{Command, Condition, Reply};
use crate::record::{Record, TTL_MAX, Ttl};
use crate::service::{BATCH_BYTES_MAX, Service};

use super::blocks::{BUFFER_BYTES, Block, Blocks, FileError, Piece};
use super::caller::{Caller, unexpected};
use super::format::Position;
use super::state::{Counts, State};
use super::threads::{Pieces, blocking};
use super::verify::{Tally, Verified};
use super::{Context, Failure, Place, Status};

/// Writes in a batch; its bytes are bounded too.
const BATCH_RECORDS: usize = 1000;
/// How much work a crash of this program repeats at most.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct ImportOptions {
    pub from: Place,
    /// The node's address: a state that was left is for the same one only.
    pub to: String,
    /// Leave keys that exist as they are.
    pub if_absent: bool,
    /// Read every record back.
    pub verify: bool,
    /// Take a file that does not end as a whole one does.
    pub allow_partial: bool,
    /// Forget how far an earlier run has come.
    pub restart: bool,
}

/// What became of the records of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    pub records: u64,
    pub stored: u64,
    /// Their keys existed, and were to be left as they are.
    pub kept: u64,
    /// They were dead already, and were left out.
    pub expired: u64,
    /// Of all these, what an earlier run had done.
    pub resumed_records: u64,
    /// The file is not whole.
    pub is_partial: bool,
    /// `None` if it was not asked for.
    pub verified: Option<Verified>,
}

impl Imported {
    pub fn status(&self) -> Status {
        match &self.verified {
            Some(verified) if !verified.is_good() => Status::Unfinished,
            Some(_) | None => Status::Done,
        }
    }
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, stored, kept, expired, .. } = self;
        write!(f, "imported {stored} of {records} records")?;
        if *kept > 0 {
            write!(f, "; the keys of {kept} existed and were left as they are")?;
        }
        if *expired > 0 {
            write!(f, "; {expired} had expired")?;
        }
        if self.is_partial {
            write!(f, "; the export was not whole")?;
        }
        match &self.verified {
            Some(verified) => write!(f, "\n{verified}"),
            None => Ok(()),
        }
    }
}

/// Stores the records of a file. A file is read through before anything is stored, so that a damaged one changes nothing; standard
/// input can't be, so of that a block is stored when its checksum has come.
///
/// # Errors
/// [`Failure::Unfinished`] if the same call will go on where this one stopped (or, from standard input, begin again).
pub async fn import<S: Service>(service: S, options: ImportOptions, context: Context) -> Result<Imported, Failure> {
    let mut import = Import { caller: Caller::new(service, context), state: State::new(&options.to), options };
    match import.options.from.clone() {
        Place::File(path) => import.file(&path).await,
        Place::Stdio => import.stream().await,
    }
}

struct Import<S> {
    caller: Caller<S>,
    options: ImportOptions,
    state: State,
}

/// What reading a file through has told.
struct Checked {
    end: Position,
    unmarked: Option<u64>,
}

impl<S: Service> Import<S> {
    async fn file(&mut self, path: &Path) -> Result<Imported, Failure> {
        let _lock = lock(path)?;
        let state_path = State::path(path);
        if !self.options.restart {
            let (from, target) = (state_path.clone(), self.options.to.clone());
            if let Some(state) = blocking(move || State::load(&from, &target)).await? {
                self.state = state;
            }
        }
        let resumed = self.state.position;
        let checked = self.check(path, resumed).await?;
        if resumed.records > 0 {
            let (records, all) = (resumed.records, checked.end.records);
            let text = format!("going on with `{}`: {records} of its {all} records are done", path.display());
            self.caller.progress().say(&text);
        }
        // Answers sooner than a write would that nobody is there.
        self.caller.count().await?;
        let imported = self.store_and_verify(path, &state_path, &checked).await;
        let verified = match imported {
            Ok(verified) => verified,
            Err(failure) => {
                self.save(&state_path).await?;
                let (state, file) = (state_path.display(), path.display());
                let hint = || format!("how far it came is in `{state}`: the same command goes on with `{file}`");
                return Err(failure.with_hint(hint));
            }
        };
        match std::fs::remove_file(&state_path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Failure::io(&state_path)(error)),
            Ok(()) | Err(_) => {}
        }
        Ok(self.imported(resumed.records, checked.unmarked.is_some(), verified))
    }

    /// Reads the file to its end.
    async fn check(&mut self, path: &Path, resumed: Position) -> Result<Checked, Failure> {
        self.caller.progress().begin("check", None, 0);
        let mut pieces = self.pieces(path, Position::default())?;
        let mut is_known = resumed == Position::default();
        let mut checked = Checked { end: Position::default(), unmarked: None };
        while let Some(piece) = self.caller.or_stop(pieces.next()).await?? {
            match piece {
                Piece::Block(block) => {
                    is_known |= block.end == resumed;
                    let bytes = block.end.offset - checked.end.offset;
                    self.caller.progress().advance(block.records.len() as u64, bytes);
                    checked.end = block.end;
                }
                Piece::Cut { unmarked } => checked.unmarked = Some(unmarked),
            }
        }
        if !is_known {
            let (file, state) = (path.display(), State::path(path));
            let state = state.display();
            return Err(Failure::Refused(format!(
                "`{file}` is not the file that `{state}` was left by: begin anew with --restart"
            )));
        }
        self.tell_of_cut(checked.unmarked);
        Ok(checked)
    }

    fn tell_of_cut(&mut self, unmarked: Option<u64>) {
        if let Some(unmarked) = unmarked {
            let text = format!("the export is not whole; {unmarked} records after its last progress line are left out");
            self.caller.progress().say(&text);
        }
    }

    async fn store_and_verify(
        &mut self,
        path: &Path,
        state_path: &Path,
        checked: &Checked,
    ) -> Result<Option<Verified>, Failure> {
        if self.state.position != checked.end {
            self.caller.progress().begin("import", Some(checked.end.records), self.state.position.records);
            self.save(state_path).await?;
            let mut saved = Instant::now();
            let mut pieces = self.pieces(path, self.state.position)?;
            while let Some(piece) = self.caller.or_stop(pieces.next()).await?? {
                let Piece::Block(block) = piece else { continue };
                self.store(&block).await?;
                if saved.elapsed() >= SAVE_INTERVAL {
                    self.save(state_path).await?;
                    saved = Instant::now();
                }
            }
        }
        if !self.options.verify {
            return Ok(None);
        }
        self.caller.progress().begin("read back", Some(checked.end.records), 0);
        let mut tally = Tally::default();
        let mut pieces = self.pieces(path, Position::default())?;
        while let Some(piece) = self.caller.or_stop(pieces.next()).await?? {
            let Piece::Block(block) = piece else { continue };
            self.read_back(&block, &mut tally).await?;
        }
        Ok(Some(tally.finish(self.state.counts.kept)))
    }

    /// Each block is read back when it has been stored: the stream comes only once.
    async fn stream(&mut self) -> Result<Imported, Failure> {
        self.caller.count().await?;
        self.caller.progress().begin("import", None, 0);
        let (name, allow_partial) = ("standard input".to_owned(), self.options.allow_partial);
        let open = {
            let name = name.clone();
            move || {
                let input = BufReader::with_capacity(BUFFER_BYTES, std::io::stdin());
                Blocks::open(input, name, allow_partial).map(|(blocks, _)| blocks)
            }
        };
        let mut pieces = Pieces::spawn(open, &name)?;
        let (mut tally, mut is_partial) = (Tally::default(), false);
        while let Some(piece) = self.caller.or_stop(pieces.next()).await?? {
            match piece {
                Piece::Block(block) => {
                    self.store(&block).await?;
                    if self.options.verify {
                        self.read_back_silently(&block, &mut tally).await?;
                    }
                }
                Piece::Cut { unmarked } => {
                    is_partial = true;
                    self.tell_of_cut(Some(unmarked));
                }
            }
        }
        let verified = self.options.verify.then(|| tally.finish(self.state.counts.kept));
        Ok(self.imported(0, is_partial, verified))
    }

    fn imported(&self, resumed_records: u64, is_partial: bool, verified: Option<Verified>) -> Imported {
        let Counts { stored, kept, expired } = self.state.counts;
        Imported { records: self.state.position.records, stored, kept, expired, resumed_records, is_partial, verified }
    }

    fn pieces(&self, path: &Path, from: Position) -> Result<Pieces, Failure> {
        let (name, allow_partial) = (path.display().to_string(), self.options.allow_partial);
        let (shown, path) = (name.clone(), path.to_owned());
        let open = move || {
            let file = File::open(&path).map_err(|error| FileError::Io { file: name.clone(), error })?;
            if from == Position::default() {
                let reader = BufReader::with_capacity(BUFFER_BYTES, file);
                Blocks::open(reader, name, allow_partial).map(|(blocks, _)| blocks)
            } else {
                Blocks::open_at(file, name, allow_partial, from)
            }
        };
        Pieces::spawn(open, &shown)
    }

    async fn save(&self, path: &Path) -> Result<(), Failure> {
        let (state, path): (State, PathBuf) = (self.state.clone(), path.to_owned());
        blocking(move || state.save(&path)).await
    }

    /// Stores the records of a block.
    async fn store(&mut self, block: &Block) -> Result<(), Failure> {
        let condition = if self.options.if_absent { Condition::Absent } else { Condition::Always };
        // What is done of a block is forgotten unless all is: the same writes are then done again.
        let (mut counts, mut written) = (self.state.counts, self.state.written.clone());
        for batch in batches(&block.records) {
            let put = |i: usize, now| batch.get(i).and_then(|record: &Record| put(record, condition, now));
            let replies = self.caller.write(batch.len(), put).await?;
            let mut bytes = 0;
            for (record, reply) in batch.iter().zip(replies) {
                bytes += size_bytes(record) as u64;
                match reply {
                    Some(Reply::Stored(version)) => {
                        counts.stored += 1;
                        written.note(&record.key, version);
                    }
                    Some(Reply::Conflict(_)) if self.options.if_absent => counts.kept += 1,
                    Some(_) => return Err(unexpected()),
                    None => counts.expired += 1,
                }
            }
            self.caller.progress().advance(batch.len() as u64, bytes);
        }
        (self.state.counts, self.state.written, self.state.position) = (counts, written, block.end);
        Ok(())
    }

    async fn read_back(&mut self, block: &Block, tally: &mut Tally) -> Result<(), Failure> {
        self.read_back_silently(block, tally).await?;
        let bytes: usize = block.records.iter().map(size_bytes).sum();
        self.caller.progress().advance(block.records.len() as u64, bytes as u64);
        Ok(())
    }

    async fn read_back_silently(&mut self, block: &Block, tally: &mut Tally) -> Result<(), Failure> {
        let keys: Vec<_> = block.records.iter().map(|record| record.key.clone()).collect();
        let mut done = 0;
        while let Some(rest) = keys.get(done..).filter(|rest| !rest.is_empty()) {
            let found = self.caller.get(rest).await?;
            let now = self.caller.now();
            let records = block.records.iter().skip(done);
            done += found.len();
            for (record, found) in records.zip(found) {
                tally.compare(record, found.as_ref(), &self.state.written, now);
            }
        }
        Ok(())
    }
}

/// Keeps others from importing the same file: they would share its state.
fn lock(path: &Path) -> Result<File, Failure> {
    let file = File::open(path).map_err(Failure::io(path))?;
    match file.try_lock() {
        // Some file systems can't lock what is opened for reading only. Two imports at once are a mistake, not a danger.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::Refused(format!("another process is importing or writing `{}`", path.display())))
        }
    }
}

/// `None` for a record that is dead.
fn put(record: &Record, condition: Condition, now: Timestamp) -> Option<Command> {
    let ttl = match record.expires_at {
        None => None,
        // A time further away than any may be would be refused, and is as good as the furthest.
        Some(at) => Some(Ttl::from_millis(at.since(now).min(TTL_MAX).as_millis() as u64).ok()?),
    };
    Some(Command::Put { key: record.key.clone(), value: record.value.clone(), ttl, condition })
}

fn size_bytes(record: &Record) -> usize {
    record.key.as_bytes().len() + record.value.as_bytes().len()
}

/// Cuts records into batches that are bounded in number and in bytes, each with one at least.
fn batches(records: &[Record]) -> impl Iterator<Item = &[Record]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(BATCH_RECORDS).take_while(|record| {
            let is_first = bytes == 0;
            bytes += 64 + size_bytes(record);
            is_first || bytes <= BATCH_BYTES_MAX
        });
        let (batch, more) = rest.split_at(fits.count());
        rest = more;
        (!batch.is_empty()).then_some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Key, Value, Version};

    fn record(value_bytes: usize, expires_at: Option<u64>) -> Record {
        let (key, value) = (Key::new("k").unwrap(), Value::new(vec![0; value_bytes]).unwrap());
        Record { key, value, version: Version::new(1, 1), expires_at: expires_at.map(Timestamp) }
    }

    #[test]
    fn batches_are_bounded_in_records_and_in_bytes() {
        let sizes = |count, bytes| {
            let records = vec![record(bytes, None); count];
            batches(&records).map(<[Record]>::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(2 * BATCH_RECORDS + 1, 0), [BATCH_RECORDS, BATCH_RECORDS, 1]);
        assert_eq!(sizes(3, BATCH_BYTES_MAX / 2 - 100), [2, 1]);
        assert_eq!(sizes(3, 2 * BATCH_BYTES_MAX), [1, 1, 1]);
        assert_eq!(sizes(0, 0), [0; 0]);
    }

    #[test]
    fn what_is_left_to_live_goes_with_the_record() {
        let left = |expires_at, now| match put(&record(1, expires_at), Condition::Always, Timestamp(now)) {
            Some(Command::Put { ttl, .. }) => Some(ttl.map(Ttl::as_millis)),
            other => {
                assert_eq!(other, None);
                None
            }
        };
        assert_eq!(left(None, 5), Some(None));
        assert_eq!(left(Some(100), 99), Some(Some(1)));
        assert_eq!(left(Some(100), 100), None, "dead");
        assert_eq!(left(Some(u64::MAX), 0), Some(Some(TTL_MAX.as_millis() as u64)));
    }
}
