//! Bytes that wait to be written: small things run together, large values as they are.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// A value of this size is not copied. Below, a copy is cheaper than one more slice to a write.
pub const CHUNK_BYTES_MIN: usize = 16 * 1024;
/// Small things fill chunks of about this size, so that a long output is not moved as it grows, and its memory goes
/// as it is written.
const TAIL_BYTES_FULL: usize = 64 * 1024;
/// What an output keeps of its memory when everything is written: most connections are idle.
const IDLE_BYTES_MAX: usize = 16 * 1024;

/// A queue of bytes, which [`Encoder`](super::Encoder) fills and a socket drains.
///
/// # Ordering
/// `chunks`, then `tail`. No chunk is empty.
#[derive(Debug, Default)]
pub struct Output {
    chunks: VecDeque<Bytes>,
    chunks_bytes: usize,
    tail: BytesMut,
}

impl Output {
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.chunks_bytes + self.tail.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the next small thing goes.
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        if self.tail.len() >= TAIL_BYTES_FULL {
            self.seal();
        }
        &mut self.tail
    }

    /// Appends a value, without a copy from [`CHUNK_BYTES_MIN`] on.
    pub(super) fn push(&mut self, value: &Bytes) {
        if value.len() < CHUNK_BYTES_MIN {
            self.tail().extend_from_slice(value);
        } else {
            self.seal();
            self.push_chunk(value.clone());
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let chunk = self.tail.split().freeze();
            self.push_chunk(chunk);
        }
    }

    fn push_chunk(&mut self, chunk: Bytes) {
        self.chunks_bytes += chunk.len();
        self.chunks.push_back(chunk);
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&self.tail, |chunk| chunk)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = Some(&*self.tail).filter(|tail| !tail.is_empty());
        let parts = self.chunks.iter().map(|chunk| &**chunk).chain(tail);
        slices.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    /// More than there is leaves nothing.
    fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len(), "advance by {count} of {}", self.len());
        let mut left = count;
        while left > 0
            && let Some(chunk) = self.chunks.front_mut()
        {
            let step = left.min(chunk.len());
            chunk.advance(step);
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            self.chunks_bytes -= step;
            left -= step;
        }
        if left < self.tail.len() {
            self.tail.advance(left);
        } else {
            self.tail.clear();
        }
        // What is behind it counts as capacity again; if that is then more than may be kept, it goes.
        if self.is_empty() && self.tail.try_reclaim(IDLE_BYTES_MAX + 1) {
            self.tail = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a socket would take, in writes of at most `slices_max` slices and `bytes_max` bytes.
    fn drain(output: &mut Output, slices_max: usize, bytes_max: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while output.has_remaining() {
            let mut slices = vec![IoSlice::new(&[]); slices_max];
            let used = output.chunks_vectored(&mut slices);
            assert!(used > 0 && slices[..used].iter().all(|slice| !slice.is_empty()));
            assert!(slices[0].starts_with(output.chunk()));
            let bytes: Vec<u8> =
                slices[..used].iter().flat_map(|slice| slice.iter().copied()).take(bytes_max).collect();
            output.advance(bytes.len());
            written.extend(bytes);
        }
        written
    }

    fn filled() -> (Output, Vec<u8>) {
        let (mut output, mut expected) = (Output::new(), Vec::new());
        for (i, len) in [3, 0, CHUNK_BYTES_MIN, CHUNK_BYTES_MIN - 1, 100_000, 100_000, 1].into_iter().enumerate() {
            let value = Bytes::from(vec![b'a' + i as u8; len]);
            expected.extend_from_slice(&value);
            output.push(&value);
        }
        (output, expected)
    }

    #[test]
    fn what_goes_in_comes_out_in_order_however_little_a_write_takes() {
        for (slices_max, bytes_max) in [(1, usize::MAX), (2, usize::MAX), (16, usize::MAX), (16, 1000), (3, 16_385)] {
            let (mut output, expected) = filled();
            assert_eq!(output.len(), expected.len());
            assert_eq!(drain(&mut output, slices_max, bytes_max), expected, "{slices_max} slices, {bytes_max} bytes");
            assert!(output.is_empty());
            assert_eq!(output.chunks_vectored(&mut [IoSlice::new(&[])]), 0);
        }
    }

    #[test]
    fn values_are_copied_only_below_the_limit() {
        let mut output = Output::new();
        let (small, large) = (Bytes::from(vec![1; CHUNK_BYTES_MIN - 1]), Bytes::from(vec![2; CHUNK_BYTES_MIN]));
        output.push(&small);
        output.push(&large);
        assert!(small.is_unique() && !large.is_unique());
        assert_eq!(output.chunks.back().map(|chunk| chunk.as_ptr()), Some(large.as_ptr()));
    }

    #[test]
    fn a_long_output_of_small_things_is_in_chunks_and_leaves_little_behind() {
        let mut output = Output::new();
        for _ in 0..100_000 {
            output.tail().extend_from_slice(b"0123456789");
        }
        assert!(output.chunks.len() > 10, "{} chunks", output.chunks.len());
        assert!(output.chunks.iter().all(|chunk| chunk.len() < TAIL_BYTES_FULL + 10));
        assert_eq!(drain(&mut output, 64, 10_007).len(), 1_000_000);
        assert!(!output.tail.try_reclaim(IDLE_BYTES_MAX + 1));

        output.tail().extend_from_slice(&[0; 3_000_000]);
        output.advance(3_000_000);
        assert!(!output.tail.try_reclaim(IDLE_BYTES_MAX + 1));
    }

    #[test]
    fn small_replies_reuse_the_same_memory() {
        let mut output = Output::new();
        output.tail().extend_from_slice(&[7; 1000]);
        let place = output.chunk().as_ptr();
        for _ in 0..100 {
            output.advance(output.len());
            output.tail().extend_from_slice(&[7; 1000]);
            assert_eq!(output.chunk().as_ptr(), place);
        }
    }
}
