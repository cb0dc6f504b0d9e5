//! Reading an exported file block by block: the records between two progress lines, which vouch for them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use crate::command::Cursor;
use crate::record::Record;

use super::format::{BLOCK_BYTES_MAX, Header, LINE_BYTES_MAX, Line, Position, Sum, parse_header, parse_line};

/// Why a file can't be read on.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("`{file}`: {error}")]
    Io { file: String, error: io::Error },
    /// It is not what was written.
    #[error("`{file}` line {line}: {what}")]
    Line { file: String, line: u64, what: String },
    /// It ends too early.
    #[error("`{file}` line {line}: {what}")]
    Cut { file: String, line: u64, what: String },
}

/// A piece of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Block(Block),
    /// The file ends here without its last line. So many records in it have no progress line behind them.
    Cut {
        unmarked: u64,
    },
}

/// Records whose checksum is right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub records: Vec<Record>,
    /// Behind the line that vouches for them.
    pub end: Position,
    /// Where a scan goes on; `None` behind the last line.
    pub cursor: Option<Cursor>,
}

/// A file that is read from its beginning, or from behind a block.
pub(super) struct Blocks<R> {
    reader: R,
    /// For messages.
    file: String,
    allow_cut: bool,
    position: Position,
    line: Vec<u8>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Reading,
    /// The last line has been read.
    Ended,
    /// There is nothing more to say.
    Over,
}

/// One line, with its line feed, is in the buffer; or it is cut off, or there is none.
enum Read1 {
    Whole,
    CutOff,
    Nothing,
}

impl<R: BufRead> Blocks<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`FileError::Cut`] if the file ends before the header does.
    pub fn open(reader: R, file: String, allow_cut: bool) -> Result<(Self, Header), FileError> {
        let mut blocks = Self::new(reader, file, allow_cut, Position::default());
        match blocks.read_line()? {
            Read1::Whole => {
                let header = parse_header(&blocks.line).map_err(|what| blocks.wrong(what))?;
                blocks.position.pass(&blocks.line);
                Ok((blocks, header))
            }
            Read1::CutOff | Read1::Nothing => Err(blocks.cut("the file ends before its first line does".to_owned())),
        }
    }

    fn new(reader: R, file: String, allow_cut: bool, position: Position) -> Self {
        Self { reader, file, allow_cut, position, line: Vec::new(), state: State::Reading }
    }

    pub fn position(&self) -> Position {
        self.position
    }

    /// `None` behind the last piece.
    ///
    /// # Errors
    /// If something is not as it was written; or, unless that is allowed, if the file is cut.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, FileError> {
        let (mut records, from) = (Vec::new(), self.position);
        loop {
            let read = match self.state {
                State::Over => return Ok(None),
                State::Reading | State::Ended => self.read_line()?,
            };
            match (&self.state, read) {
                (State::Ended, Read1::Nothing) => {
                    self.state = State::Over;
                    return Ok(None);
                }
                (State::Ended, Read1::Whole | Read1::CutOff) => {
                    return Err(self.wrong("something follows the last line of the export".to_owned()));
                }
                (_, Read1::Nothing | Read1::CutOff) if self.allow_cut => {
                    self.state = State::Over;
                    return Ok(Some(Piece::Cut { unmarked: records.len() as u64 }));
                }
                (_, Read1::Nothing | Read1::CutOff) => {
                    let count = self.position.records;
                    let what = format!(
                        "the file ends here, after {count} records: the export was not finished, or the file was cut"
                    );
                    return Err(self.cut(what));
                }
                (_, Read1::Whole) => {}
            }
            let block = match parse_line(&self.line).map_err(|what| self.wrong(what))? {
                Line::Record(record) => {
                    records.push(record);
                    self.position.pass(&self.line);
                    self.position.records += 1;
                    if self.position.offset - from.offset > BLOCK_BYTES_MAX as u64 {
                        return Err(self.wrong("there is no progress line where one must be".to_owned()));
                    }
                    continue;
                }
                Line::Mark { cursor, sum } => {
                    self.check(from, sum)?;
                    Block { records, end: self.position, cursor: Some(cursor) }
                }
                Line::End(sum) => {
                    self.check(from, sum)?;
                    self.state = State::Ended;
                    Block { records, end: self.position, cursor: None }
                }
            };
            return Ok(Some(Piece::Block(block)));
        }
    }

    /// Compares a sum with what was read, and goes past its line.
    fn check(&mut self, from: Position, told: Sum) -> Result<(), FileError> {
        let read = self.position.sum();
        if told.records != read.records {
            let what = format!("there should be {} records up to here, and there are {}", told.records, read.records);
            return Err(self.wrong(what));
        }
        if told.crc32c != read.crc32c {
            let (first, last) = (from.lines.max(1), self.position.lines);
            let what =
                format!("the checksum does not fit: something was altered in lines {first} to {last}, or in this one");
            return Err(self.wrong(what));
        }
        self.position.pass(&self.line);
        Ok(())
    }

    fn read_line(&mut self) -> Result<Read1, FileError> {
        self.line.clear();
        let most = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut self.reader).take(most).read_until(b'\n', &mut self.line);
        read.map_err(|error| FileError::Io { file: self.file.clone(), error })?;
        match self.line.last() {
            None => Ok(Read1::Nothing),
            Some(b'\n') => Ok(Read1::Whole),
            Some(_) if self.line.len() as u64 == most => {
                Err(self.wrong("it is longer than any line may be".to_owned()))
            }
            Some(_) => Ok(Read1::CutOff),
        }
    }

    fn wrong(&self, what: String) -> FileError {
        FileError::Line { file: self.file.clone(), line: self.position.lines + 1, what }
    }

    fn cut(&self, what: String) -> FileError {
        FileError::Cut { file: self.file.clone(), line: self.position.lines + 1, what }
    }
}

impl Blocks<BufReader<File>> {
    /// Goes on behind a block.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn open_at(mut file: File, name: String, allow_cut: bool, position: Position) -> Result<Self, FileError> {
        let sought = file.seek(SeekFrom::Start(position.offset));
        sought.map_err(|error| FileError::Io { file: name.clone(), error })?;
        Ok(Self::new(BufReader::with_capacity(BUFFER_BYTES, file), name, allow_cut, position))
    }
}

pub(super) const BUFFER_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::super::format::{Encoder, FORMAT, FORMAT_VERSION};
    use super::*;
    use crate::command::Found;
    use crate::record::{Key, Value, Version};

    fn file(blocks: usize) -> Vec<u8> {
        let mut encoder = Encoder::default();
        let (format, from) = (FORMAT.to_owned(), "localhost:1".to_owned());
        encoder.header(&Header { format, version: FORMAT_VERSION, exported_at: 1, from });
        for block in 0..blocks {
            for i in 0..3 {
                let value = Value::new(format!("value {i}")).unwrap();
                let found = Found { value, version: Version::new(1, 1), expires_at: None };
                encoder.record(&Key::new(format!("k{block}.{i}")).unwrap(), &found);
            }
            encoder.mark(&Cursor { slot: block as u16, after: None });
        }
        encoder.end();
        encoder.take()
    }

    fn read(bytes: &[u8], allow_cut: bool) -> Result<(u64, bool), FileError> {
        let (mut blocks, _) = Blocks::open(bytes, "f".to_owned(), allow_cut)?;
        let (mut records, mut is_cut) = (0, false);
        while let Some(piece) = blocks.next_piece()? {
            match piece {
                Piece::Block(block) => records += block.records.len() as u64,
                Piece::Cut { .. } => is_cut = true,
            }
        }
        Ok((records, is_cut))
    }

    #[test]
    fn a_file_is_read_to_its_end_and_from_behind_any_block() {
        let bytes = file(4);
        assert_eq!(read(&bytes, false).unwrap(), (12, false));
        let (mut blocks, _) = Blocks::open(bytes.as_slice(), "f".to_owned(), false).unwrap();
        let mut left = 12;
        while let Some(Piece::Block(block)) = blocks.next_piece().unwrap() {
            left -= block.records.len();
            let rest = bytes.get(block.end.offset as usize..).unwrap();
            let mut rest = Blocks::new(rest, "f".to_owned(), false, block.end);
            let mut read = 0;
            rest.state = if block.cursor.is_some() { State::Reading } else { State::Ended };
            while let Some(Piece::Block(block)) = rest.next_piece().unwrap() {
                read += block.records.len();
            }
            assert_eq!(read, left);
        }
    }

    #[test]
    fn cut_anywhere_it_is_refused_at_the_line_or_read_to_the_last_progress_line() {
        let bytes = file(4);
        for len in 0..bytes.len() - 1 {
            let cut = bytes.get(..len).unwrap();
            let lines = cut.iter().filter(|&&byte| byte == b'\n').count() as u64;
            let FileError::Cut { line, .. } = read(cut, false).unwrap_err() else { panic!("cut at {len}") };
            assert_eq!(line, lines + 1, "cut at {len}");
            if lines > 0 {
                assert_eq!(read(cut, true).unwrap(), ((lines - 1) / 4 * 3, true), "cut at {len}");
            }
        }
    }

    #[test]
    fn no_altered_byte_goes_unnoticed() {
        let bytes = file(2);
        for at in 0..bytes.len() {
            for flip in [1, 2, 0x20, 0x80] {
                let mut altered = bytes.clone();
                altered[at] ^= flip;
                let line = bytes[..at].iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
                // The case of a hexadecimal digit means nothing.
                let is_harmless =
                    bytes[at].is_ascii_hexdigit() && altered[at].eq_ignore_ascii_case(&bytes[at]) && line >= 5;
                match read(&altered, true) {
                    Err(FileError::Line { line: told, .. } | FileError::Cut { line: told, .. }) => {
                        assert!(told >= line && told <= line + 4, "byte {at} of line {line}: told of {told}");
                    }
                    Ok((6, false)) => assert!(is_harmless, "byte {at} ^ {flip}"),
                    // Only the last line feed: then the last line is cut off.
                    Ok((6, true)) => assert_eq!(at, bytes.len() - 1),
                    other => panic!("byte {at} ^ {flip}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn endless_lines_and_blocks_are_refused_without_being_held() {
        let endless = BufReader::new(io::repeat(b'x'));
        assert!(matches!(Blocks::open(endless, "f".to_owned(), true), Err(FileError::Line { line: 1, .. })));
        let mut bytes = file(0).split_inclusive(|&byte| byte == b'\n').next().unwrap().to_vec();
        let value = "x".repeat(1024 * 1024);
        for i in 0..60 {
            let line = format!("{{\"key\":\"k{i}\",\"value\":\"{value}\",\"version\":\"1.1\"}}\n");
            bytes.extend_from_slice(line.as_bytes());
        }
        let said = read(&bytes, true).unwrap_err().to_string();
        assert!(said.contains("no progress line"), "{said}");
    }
}
