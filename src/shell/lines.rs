//! Lines from something that is not a terminal, read and parsed on a thread of their own.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use tokio::sync::mpsc;

use crate::protocol::line::{Request, parse_line};

/// Longest line. A longer one is an error and is not held in memory.
pub const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a line came to. Blank lines and comments come to nothing.
#[derive(Debug)]
pub(super) enum Input {
    Request(Request),
    /// Can't be understood; why.
    Wrong(String),
    /// Nothing comes after it.
    Failed(io::Error),
}

/// Starts to read. At most one request waits: the one before it is still being run.
///
/// # Errors
/// If the thread can't be started.
pub(super) fn spawn(reader: impl Read + Send + 'static) -> io::Result<mpsc::Receiver<Input>> {
    let (inputs, received) = mpsc::channel(1);
    let read = move || {
        let mut lines = Lines { reader: BufReader::with_capacity(64 * 1024, reader), bytes_max: LINE_BYTES_MAX };
        while let Some(input) = next_input(&mut lines) {
            let last = matches!(input, Input::Failed(_));
            if inputs.blocking_send(input).is_err() || last {
                break;
            }
        }
    };
    std::thread::Builder::new().name("kv-input".to_owned()).spawn(read)?;
    Ok(received)
}

fn next_input(lines: &mut Lines<impl BufRead>) -> Option<Input> {
    loop {
        let line = match lines.next_line() {
            Ok(line) => line?,
            Err(error) => return Some(Input::Failed(error)),
        };
        match line {
            Line::Whole(line) => match parse_line(&line) {
                Ok(None) => {}
                Ok(Some(request)) => return Some(Input::Request(request)),
                Err(error) => return Some(Input::Wrong(error.to_string())),
            },
            Line::TooLong => {
                return Some(Input::Wrong(format!(
                    "the line is too long: at most {} bytes are allowed",
                    lines.bytes_max
                )));
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// Without its line feed.
    Whole(Vec<u8>),
    TooLong,
}

struct Lines<R> {
    reader: R,
    bytes_max: usize,
}

impl<R: BufRead> Lines<R> {
    /// `None` at the end. The last line needs no line feed.
    fn next_line(&mut self) -> io::Result<Option<Line>> {
        let mut line = Line::Whole(Vec::new());
        let mut begun = false;
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                return Ok(begun.then_some(line));
            }
            begun = true;
            let end = chunk.iter().position(|&b| b == b'\n');
            let text = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            let fits = matches!(&line, Line::Whole(bytes) if bytes.len() + text.len() <= self.bytes_max);
            match &mut line {
                Line::Whole(bytes) if fits => bytes.extend_from_slice(text),
                Line::Whole(_) | Line::TooLong => line = Line::TooLong,
            }
            let taken = end.map_or(chunk.len(), |end| end + 1);
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_line_feeds_and_too_long_ones_are_skipped() {
        let text: &[u8] = b"one\n\ntwelve bytes\n12345678\n123456789\nlast";
        for chunk in 1..text.len() {
            let mut lines = Lines { reader: BufReader::with_capacity(chunk, text), bytes_max: 8 };
            let mut read = Vec::new();
            while let Some(line) = lines.next_line().unwrap() {
                read.push(line);
            }
            let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
            let expected = [whole("one"), whole(""), Line::TooLong, whole("12345678"), Line::TooLong, whole("last")];
            assert_eq!(read, expected, "chunks of {chunk}");
        }
    }

    #[test]
    fn endless_line_is_refused_without_being_held() {
        let endless = io::repeat(b'x').take(200 * 1024 * 1024);
        let mut lines = Lines { reader: BufReader::with_capacity(1024 * 1024, endless), bytes_max: 1024 * 1024 };
        assert_eq!(lines.next_line().unwrap(), Some(Line::TooLong));
        assert_eq!(lines.next_line().unwrap(), None);
    }
}
