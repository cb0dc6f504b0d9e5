//! The arguments of a request: slices of the bytes that it arrived in.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

/// Shorter arguments are copied.
const SHARED_BYTES_MIN: usize = 4096;
/// Arguments whose places need no memory of their own: enough for `SET key value EX 60 NX`.
pub(super) const SPANS_INLINE: usize = 6;

/// The arguments of one request, the command's name first.
///
/// Looking at an argument costs nothing. [`Args::bytes`] copies a short one; a long one keeps alive what the request was read into,
/// which may be some times as much.
#[derive(Clone)]
pub struct Args<'b> {
    frame: Frame<'b>,
    spans: Spans,
}

/// What arguments are slices of.
#[derive(Clone)]
enum Frame<'b> {
    /// Still at the front of the buffer.
    Buffered(&'b [u8]),
    Taken(Bytes),
}

impl Frame<'_> {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Buffered(bytes) => bytes,
            Self::Taken(bytes) => bytes,
        }
    }
}

impl<'b> Args<'b> {
    /// `spans` lie within the bytes.
    pub(super) fn buffered(bytes: &'b [u8], spans: Spans) -> Self {
        Self::new(Frame::Buffered(bytes), spans)
    }

    /// As [`Args::buffered`].
    pub(super) fn taken(bytes: Bytes, spans: Spans) -> Self {
        Self::new(Frame::Taken(bytes), spans)
    }

    fn new(frame: Frame<'b>, spans: Spans) -> Self {
        let len = frame.as_bytes().len();
        debug_assert!(spans.iter().all(|span| span.range().end <= len), "a span is outside of its frame");
        Self { frame, spans }
    }

    /// At least 1 in a [`Request`](super::Request).
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.frame.as_bytes().get(self.spans.get(index)?.range())
    }

    /// The argument for as long as it is wanted.
    pub fn bytes(&self, index: usize) -> Option<Bytes> {
        let range = self.spans.get(index)?.range();
        match &self.frame {
            Frame::Taken(bytes) if range.len() >= SHARED_BYTES_MIN => Some(bytes.slice(range)),
            frame => frame.as_bytes().get(range).map(Bytes::copy_from_slice),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.spans.iter().filter_map(|span| self.frame.as_bytes().get(span.range()))
    }

    /// How many bytes the request was on the wire; those of an inline request without quotes and spaces.
    pub fn frame_bytes(&self) -> usize {
        self.frame.as_bytes().len()
    }
}

/// Only numbers: arguments are the client's data.
impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Args({} in {} bytes)", self.len(), self.frame_bytes())
    }
}

/// Where an argument stands in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// `None` for what ends beyond 4 GiB.
    pub(super) fn new(start: usize, len: usize) -> Option<Self> {
        let span = Self { start: u32::try_from(start).ok()?, len: u32::try_from(len).ok()? };
        span.start.checked_add(span.len).map(|_| span)
    }

    pub(super) fn range(self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }
}

/// Spans in order, the first few in place.
#[derive(Debug, Clone, Default)]
pub(super) struct Spans {
    first: [Span; SPANS_INLINE],
    more: Vec<Span>,
    len: usize,
}

impl Spans {
    pub(super) fn push(&mut self, span: Span) {
        match self.first.get_mut(self.len) {
            Some(place) => *place = span,
            None => self.more.push(span),
        }
        self.len += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Memory beyond the value itself: at most 16 bytes a span.
    pub(super) fn heap_bytes(&self) -> usize {
        self.more.capacity() * size_of::<Span>()
    }

    fn get(&self, index: usize) -> Option<Span> {
        if index >= self.len {
            return None;
        }
        self.first.get(index).or_else(|| self.more.get(index - SPANS_INLINE)).copied()
    }

    fn iter(&self) -> impl Iterator<Item = Span> {
        self.first.iter().take(self.len).chain(&self.more).copied()
    }
}
