//! From a service to a file: pages of keys, and batches of their records.

use std::fmt;
use std::path::Path;

use bytesize::ByteSize;

use crate::command::Cursor;
use crate::record::Key;
use crate::service::Service;
use crate::slots::Slot;

use super::caller::Caller;
use super::format::{Encoder, FORMAT, FORMAT_VERSION, Header, Position};
use super::part::{Left, Next, Part};
use super::threads::{Writer, blocking};
use super::{Context, Failure, Place};

/// Keys in a page; as many as a progress line may stand for.
const PAGE_KEYS: u32 = 1000;

#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The node's address, as it is told in the file.
    pub from: String,
    pub to: Place,
    /// Forget what an earlier run has left.
    pub restart: bool,
    /// Overwrite a complete file.
    pub force: bool,
}

/// What is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    pub records: u64,
    pub bytes: u64,
    /// Of `records`, those that an earlier run had written.
    pub resumed_records: u64,
}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, bytes, resumed_records } = self;
        write!(f, "exported {records} records, {}", ByteSize(*bytes))?;
        if *resumed_records > 0 {
            write!(f, "; {resumed_records} of them were there from an earlier run")?;
        }
        Ok(())
    }
}

/// Writes every record that exists from the beginning to the end, hot or cold, once. Records that come, go or change meanwhile are
/// in it as they were at some moment, or not at all: it is no snapshot.
///
/// # Errors
/// [`Failure::Unfinished`] if the same call will go on where this one stopped.
pub async fn export<S: Service>(service: S, options: ExportOptions, context: Context) -> Result<Exported, Failure> {
    let mut caller = Caller::new(service, context);
    match &options.to {
        Place::File(path) => to_file(&mut caller, path, &options).await,
        Place::Stdio => {
            let total = caller.count().await?;
            caller.progress().begin("export", Some(total), 0);
            let writer = Writer::spawn(std::io::stdout(), "standard output".to_owned())?;
            let mut walk = Walk::begin(&mut caller, writer, &options.from);
            walk.run(Cursor::START).await?;
            walk.finish(0).await
        }
    }
}

async fn to_file<S: Service>(
    caller: &mut Caller<S>,
    path: &Path,
    options: &ExportOptions,
) -> Result<Exported, Failure> {
    Part::check_absent(path, options.force)?;
    let total = caller.count().await?;
    let (path, from, force, restart) = (path.to_owned(), options.from.clone(), options.force, options.restart);
    let (part, left) = blocking(move || Part::open(&path, &from, force, restart)).await?;
    let name = part.name();
    let writer = Writer::spawn(part.file()?, name.clone())?;
    let resumed_records = left.as_ref().map_or(0, |left| left.position.records);
    if let Some(Left { cut_bytes, .. }) = &left {
        let cut = match ByteSize(*cut_bytes) {
            ByteSize(0) => String::new(),
            bytes => format!("; {bytes} after the last progress line were cut off"),
        };
        caller.progress().say(&format!("going on with `{name}`, which has {resumed_records} records{cut}"));
    }
    caller.progress().begin("export", Some(total), resumed_records);
    let (mut walk, next) = match left {
        Some(Left { position, next, .. }) => (Walk::go_on(caller, writer, position), next),
        None => (Walk::begin(caller, writer, &options.from), Next::Keys(Cursor::START)),
    };
    let walked = match next {
        Next::Keys(cursor) => walk.run(cursor).await,
        Next::Nothing => Ok(()),
    };
    match walked {
        Ok(()) => {}
        Err(failure @ Failure::Unfinished(_)) => {
            walk.mark().await?;
            let records = walk.finish(resumed_records).await?.records;
            blocking(move || part.sync()).await?;
            let hint = || format!("{records} records are in `{name}`: the same command goes on from there");
            return Err(failure.with_hint(hint));
        }
        Err(failure @ (Failure::Refused(_) | Failure::File(_) | Failure::Io { .. })) => return Err(failure),
    }
    let exported = walk.finish(resumed_records).await?;
    blocking(move || part.finish()).await?;
    Ok(exported)
}

/// A scan that writes what it finds.
struct Walk<'a, S> {
    caller: &'a mut Caller<S>,
    writer: Writer,
    encoder: Encoder,
    /// Up to the last line that was handed to the writer.
    written: Position,
    /// Behind the last record.
    behind: Cursor,
}

impl<'a, S: Service> Walk<'a, S> {
    fn go_on(caller: &'a mut Caller<S>, writer: Writer, position: Position) -> Self {
        Self { caller, writer, encoder: Encoder::at(position), written: position, behind: Cursor::START }
    }

    fn begin(caller: &'a mut Caller<S>, writer: Writer, from: &str) -> Self {
        let exported_at = caller.now().0;
        let mut walk = Self::go_on(caller, writer, Position::default());
        let (format, from) = (FORMAT.to_owned(), from.to_owned());
        walk.encoder.header(&Header { format, version: FORMAT_VERSION, exported_at, from });
        walk
    }

    /// To the end, the last line included.
    async fn run(&mut self, from: Cursor) -> Result<(), Failure> {
        // Whoever reads the file, or goes on with it, should know at once what it is.
        self.write().await?;
        let mut cursor = from;
        loop {
            let (keys, next) = self.caller.scan(&cursor, PAGE_KEYS).await?;
            self.records(&keys).await?;
            let Some(next) = next else { break };
            self.behind = next.clone();
            self.mark().await?;
            cursor = next;
        }
        self.encoder.end();
        self.write().await
    }

    /// Keys that are gone by now are left out.
    async fn records(&mut self, keys: &[Key]) -> Result<(), Failure> {
        let mut keys = keys;
        while !keys.is_empty() {
            let batch = self.caller.get(keys).await?;
            let (asked, rest) = keys.split_at(batch.len().min(keys.len()));
            for (key, found) in asked.iter().zip(batch) {
                let Some(found) = found else { continue };
                self.encoder.record(key, &found);
                self.behind = Cursor { slot: Slot::of(key).get(), after: Some(key.clone()) };
                if self.encoder.is_block_full() {
                    self.mark().await?;
                }
            }
            keys = rest;
        }
        Ok(())
    }

    /// From here on it can be gone on with.
    async fn mark(&mut self) -> Result<(), Failure> {
        if self.encoder.has_unmarked() {
            self.encoder.mark(&self.behind);
            self.write().await?;
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), Failure> {
        let position = self.encoder.position;
        self.writer.write(self.encoder.take()).await?;
        let (records, bytes) = (position.records - self.written.records, position.offset - self.written.offset);
        self.caller.progress().advance(records, bytes);
        self.written = position;
        Ok(())
    }

    /// Waits until all that was handed to the writer is written.
    async fn finish(self, resumed_records: u64) -> Result<Exported, Failure> {
        self.writer.finish().await?;
        let Position { records, offset: bytes, .. } = self.written;
        Ok(Exported { records, bytes, resumed_records })
    }
}
