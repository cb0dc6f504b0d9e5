//! Bytes to requests, as they arrive.

use bytes::{Buf, BytesMut};

use crate::number::parse_integer;
use crate::record::VALUE_BYTES_MAX;

use super::args::{Args, SPANS_INLINE, Span, Spans};
use super::inline;

/// Longest inline request and longest length line, as in Redis.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// The most that [`Parser::wants`] asks for: a length that was merely told takes no more memory than this.
pub const READ_BYTES_MAX: usize = 64 * 1024;

/// What a request may have. Whatever is beyond is a [`ProtocolError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Arguments of a multibulk request.
    pub args_max: usize,
    /// Bytes of one argument of a multibulk request.
    pub arg_bytes_max: usize,
    /// Bytes of a multibulk request as it arrives, counted to the end of its last argument.
    pub request_bytes_max: usize,
    /// Bytes of an inline request, or of a line that tells a length, without the final `\n`.
    pub line_bytes_max: usize,
}

impl Limits {
    /// For clients that may only authenticate themselves yet; as in Redis.
    pub const STRANGER: Self =
        Self { args_max: 10, arg_bytes_max: 16 * 1024, request_bytes_max: 64 * 1024, line_bytes_max: LINE_BYTES_MAX };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            args_max: 1024 * 1024,
            arg_bytes_max: VALUE_BYTES_MAX,
            request_bytes_max: 64 * 1024 * 1024,
            line_bytes_max: LINE_BYTES_MAX,
        }
    }
}

/// Why bytes are not a request. The client's fault; what follows can't be understood, so the connection is to be closed.
///
/// Displayed as Redis words it, without the `ERR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    #[error("Protocol error: expected '$', got '{}'", printable(*.0))]
    ExpectedBulk(u8),
    /// Redis does not look.
    #[error("Protocol error: expected CRLF after bulk")]
    ExpectedBulkEnd,
    /// Redis closes the connection without a word.
    #[error("Protocol error: too big request")]
    RequestTooBig,
    #[error("Protocol error: too big mbulk count string")]
    MultibulkLengthTooBig,
    #[error("Protocol error: too big bulk count string")]
    BulkLengthTooBig,
    #[error("Protocol error: too big inline request")]
    InlineTooBig,
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

fn printable(byte: u8) -> String {
    if byte == b' ' || byte.is_ascii_graphic() { char::from(byte).to_string() } else { format!("\\x{byte:02x}") }
}

/// One request, of at least one argument.
#[derive(Debug, Clone)]
pub struct Request<'b> {
    pub args: Args<'b>,
}

/// Takes requests off the front of a connection's buffer.
///
/// Every byte is looked at twice at most, however the bytes arrive. Memory is taken for arguments that have arrived, never for
/// those that were announced.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    stage: Stage,
    /// Where the line or the argument that is being read begins. The request begins where the buffer does.
    at: usize,
    /// No line ends between `at` and here.
    searched: usize,
    /// The arguments that have arrived.
    spans: Spans,
    /// How long the buffer was when it had no whole request; 0 after one.
    held_bytes: usize,
    /// Of the request at the front of the buffer that was returned last, and goes with the next call.
    done_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Before a request's first byte.
    Start,
    Inline,
    /// At `*N`.
    Count,
    /// At `$N`.
    Length {
        args_left: usize,
    },
    Arg {
        args_left: usize,
        span: Span,
    },
    Failed(ProtocolError),
}

impl Parser {
    pub fn new(limits: Limits) -> Self {
        Self { limits, stage: Stage::Start, at: 0, searched: 0, spans: Spans::default(), held_bytes: 0, done_bytes: 0 }
    }

    /// Other limits from the next request on. Between requests only.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The next request, or `None` until more bytes are appended to `buffer`. What is no request and no error, such as
    /// an empty line, is skipped.
    ///
    /// Between calls nothing but the parser takes bytes from `buffer`, and what it returns does not depend on how the
    /// bytes came. A short request stays at the front of `buffer` until the next call.
    ///
    /// # Errors
    /// [`ProtocolError`], and from then on the same one.
    pub fn next<'b>(&mut self, buffer: &'b mut BytesMut) -> Result<Option<Request<'b>>, ProtocolError> {
        buffer.advance(std::mem::take(&mut self.done_bytes));
        if let Stage::Start = self.stage
            && let Some((request_bytes, spans)) = whole(buffer, &self.limits)
        {
            self.held_bytes = 0;
            self.done_bytes = request_bytes;
            let bytes = buffer.get(..request_bytes).unwrap_or_default();
            return Ok(Some(Request { args: Args::buffered(bytes, spans) }));
        }
        match self.advance(buffer) {
            Ok(Some(args)) => Ok(Some(Request { args })),
            Ok(None) => {
                self.held_bytes = buffer.len();
                Ok(None)
            }
            Err(error) => {
                self.begin();
                self.stage = Stage::Failed(error);
                Err(error)
            }
        }
    }

    /// How many bytes are missing for certain, at most [`READ_BYTES_MAX`]: room for so many saves reads. 0 where no
    /// length has been told.
    pub fn wants(&self) -> usize {
        match self.stage {
            Stage::Arg { span, .. } => {
                (span.range().end + LINE_END.len()).saturating_sub(self.held_bytes).min(READ_BYTES_MAX)
            }
            Stage::Start | Stage::Inline | Stage::Count | Stage::Length { .. } | Stage::Failed(_) => 0,
        }
    }

    /// The memory of the request that has begun and not ended: its bytes in the buffer, and up to 16 bytes for every
    /// argument that has arrived. 0 after a whole request.
    pub fn pending_bytes(&self) -> usize {
        self.held_bytes + self.spans.heap_bytes()
    }

    fn advance(&mut self, buffer: &mut BytesMut) -> Result<Option<Args<'static>>, ProtocolError> {
        loop {
            match self.stage {
                Stage::Start => match buffer.first() {
                    None => return Ok(None),
                    Some(b'*') => self.stage = Stage::Count,
                    Some(_) => self.stage = Stage::Inline,
                },
                Stage::Inline => {
                    let Some(line) = self.line(buffer, ProtocolError::InlineTooBig)? else { return Ok(None) };
                    let args = inline::split(line.strip_suffix(b"\r").unwrap_or(line));
                    let line_bytes = line.len() + 1;
                    let args = args.ok_or(ProtocolError::UnbalancedQuotes)?;
                    buffer.advance(line_bytes);
                    self.begin();
                    if !args.is_empty() {
                        return Ok(Some(args));
                    }
                }
                Stage::Count => {
                    let (args_left, line_bytes) = match short_line(buffer) {
                        Some(told) => told,
                        None => {
                            let line = self.line(buffer, ProtocolError::MultibulkLengthTooBig)?;
                            let Some(line) = line else { return Ok(None) };
                            let count = told(line).ok_or(ProtocolError::InvalidMultibulkLength)?;
                            // Redis skips any negative count, not only -1.
                            (usize::try_from(count).unwrap_or(0), line.len() + 1)
                        }
                    };
                    if args_left > self.limits.args_max {
                        return Err(ProtocolError::InvalidMultibulkLength);
                    }
                    if args_left == 0 {
                        buffer.advance(line_bytes);
                        self.begin();
                    } else {
                        self.at = line_bytes;
                        self.stage = Stage::Length { args_left };
                    }
                }
                Stage::Length { args_left } => {
                    let Some(span) = self.length(buffer)? else { return Ok(None) };
                    self.at = span.range().start;
                    self.stage = Stage::Arg { args_left, span };
                }
                Stage::Arg { args_left, span } => {
                    let end = span.range().end;
                    let Some(line_end) = buffer.get(end..end + LINE_END.len()) else { return Ok(None) };
                    if line_end != LINE_END {
                        return Err(ProtocolError::ExpectedBulkEnd);
                    }
                    self.spans.push(span);
                    self.at = end + LINE_END.len();
                    if args_left > 1 {
                        self.stage = Stage::Length { args_left: args_left - 1 };
                        continue;
                    }
                    let frame = buffer.split_to(self.at).freeze();
                    let spans = self.begin();
                    return Ok(Some(Args::taken(frame, spans)));
                }
                Stage::Failed(error) => return Err(error),
            }
        }
    }

    /// Where the argument whose length line begins at `at` will stand; `None` while the line has no end.
    fn length(&mut self, buffer: &[u8]) -> Result<Option<Span>, ProtocolError> {
        match buffer.get(self.at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
        }
        let (len, line_bytes) = match short_line(buffer.get(self.at..).unwrap_or_default()) {
            Some(told) => told,
            None => {
                let Some(line) = self.line(buffer, ProtocolError::BulkLengthTooBig)? else { return Ok(None) };
                let len = told(line).and_then(|len| usize::try_from(len).ok());
                (len.ok_or(ProtocolError::InvalidBulkLength)?, line.len() + 1)
            }
        };
        if len > self.limits.arg_bytes_max {
            return Err(ProtocolError::InvalidBulkLength);
        }
        let span = Span::new(self.at + line_bytes, len).ok_or(ProtocolError::RequestTooBig)?;
        if span.range().end + LINE_END.len() > self.limits.request_bytes_max {
            return Err(ProtocolError::RequestTooBig);
        }
        Ok(Some(span))
    }

    /// The line that begins at `at`, without its `\n`; `None` while it has no end.
    fn line<'b>(&mut self, buffer: &'b [u8], too_big: ProtocolError) -> Result<Option<&'b [u8]>, ProtocolError> {
        let line = buffer.get(self.at..).unwrap_or_default();
        let searched = self.searched.saturating_sub(self.at);
        // The lines are short: a loop over bytes beats `memchr`.
        let found =
            line.iter().take(self.limits.line_bytes_max.saturating_add(1)).skip(searched).position(|&b| b == b'\n');
        match found {
            Some(i) => Ok(line.get(..searched + i)),
            None if line.len() > self.limits.line_bytes_max => Err(too_big),
            None => {
                self.searched = buffer.len();
                Ok(None)
            }
        }
    }

    /// Forgets the request that has ended, and returns where its arguments are.
    fn begin(&mut self) -> Spans {
        self.stage = Stage::Start;
        self.at = 0;
        self.searched = 0;
        self.held_bytes = 0;
        std::mem::take(&mut self.spans)
    }
}

const LINE_END: &[u8] = b"\r\n";

/// The length of the request at the front of some bytes, and where its arguments are. Most have arrived whole, and are few and
/// short; `None` for what is to be read step by step.
fn whole(bytes: &[u8], limits: &Limits) -> Option<(usize, Spans)> {
    if bytes.first() != Some(&b'*') {
        return None;
    }
    let (count, mut at) = short_line(bytes)?;
    if count == 0 || count > limits.args_max.min(SPANS_INLINE) {
        return None;
    }
    let mut spans = Spans::default();
    for _ in 0..count {
        let rest = bytes.get(at..)?;
        if rest.first() != Some(&b'$') {
            return None;
        }
        let (len, line_bytes) = short_line(rest)?;
        let end = line_bytes + len;
        if len > limits.arg_bytes_max || rest.get(end..end + LINE_END.len())? != LINE_END {
            return None;
        }
        spans.push(Span::new(at + line_bytes, len)?);
        at += end + LINE_END.len();
    }
    (at <= limits.request_bytes_max).then_some((at, spans))
}

/// The number in a line such as `$16\r\n` at the front of some bytes, and how long the line is; `None` for what is to be looked at
/// closer. Most lines have one to three digits.
fn short_line(bytes: &[u8]) -> Option<(usize, usize)> {
    let digit = |byte: u8| char::from(byte).to_digit(10).map(|digit| digit as usize);
    let (number, line_bytes) = match *bytes {
        [_, a, b'\r', b'\n', ..] => (digit(a)?, 4),
        [_, a, b, b'\r', b'\n', ..] => (digit(a)? * 10 + digit(b)?, 5),
        [_, a, b, c, b'\r', b'\n', ..] => (digit(a)? * 100 + digit(b)? * 10 + digit(c)?, 6),
        _ => return None,
    };
    // Redis takes no zeros before a number.
    (bytes.get(1) != Some(&b'0')).then_some((number, line_bytes))
}

/// The number in a line such as `*3\r`.
fn told(line: &[u8]) -> Option<i64> {
    parse_integer(line.strip_suffix(b"\r")?.get(1..)?)
}
