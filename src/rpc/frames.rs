//! Frames on a byte stream: a big-endian `u32` length, then so many bytes. Knows nothing of what is in them.
//!
//! tokio-util's `LengthDelimitedCodec` reserves the announced length as soon as it has read it; a thousand idle peers
//! could claim gigabytes with four bytes each. Here the buffer grows only as bytes arrive, at most to twice of them,
//! and is given back after a large frame. A peer that stops in the middle of a frame, or stops reading, is closed.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};

/// Length of the length.
pub const HEAD_BYTES: usize = 4;
/// Longest frame, without its head. Below 2^24, so that the first byte of every frame is 0x00: the door tells the
/// protocols apart by it.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024 - 1;
/// How long a peer may make no progress within a frame, in either direction.
pub const STALL_MAX: Duration = Duration::from_secs(30);

/// What is read at once while the length of the next frame is not known.
const READ_BYTES: usize = 8 * 1024;
/// A read buffer above this is given back once it is empty.
const READ_KEEP_BYTES: usize = 256 * 1024;
/// Above this much unwritten, [`Frames`] takes no more until some is written.
const WRITE_QUEUE_BYTES: usize = 256 * 1024;
/// Most frames in one system call.
const WRITE_SLICES: usize = 32;

/// Decides whether [`Frames`] may read on: a bound on what was read and is not answered yet. It does not wake the
/// reader: whoever finishes something must poll the [`Frames`] again, in the same task.
#[derive(Debug)]
pub struct Gate {
    requests_max: usize,
    bytes_max: usize,
    requests: AtomicUsize,
    bytes: AtomicUsize,
    draining: AtomicBool,
}

impl Gate {
    pub fn new(requests_max: usize, bytes_max: usize) -> Arc<Self> {
        let (requests, bytes, draining) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { requests_max, bytes_max, requests, bytes, draining })
    }

    pub fn unlimited() -> Arc<Self> {
        Self::new(usize::MAX, usize::MAX)
    }

    /// Counts a request of about `bytes` until the guard is dropped.
    pub fn enter(self: &Arc<Self>, bytes: usize) -> GateGuard {
        // Relaxed here and below: plain counts, touched by one task at a time; no other memory depends on them.
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        GateGuard { gate: Arc::clone(self), bytes }
    }

    /// From now on the stream reads as ended.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.requests.load(Ordering::Relaxed) >= self.requests_max
            || self.bytes.load(Ordering::Relaxed) >= self.bytes_max
    }
}

/// A request that was read and is not answered yet.
#[derive(Debug)]
pub struct GateGuard {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Drop for GateGuard {
    fn drop(&mut self) {
        self.gate.requests.fetch_sub(1, Ordering::Relaxed);
        self.gate.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Runs out when a peer makes no progress for too long; armed only while something is awaited from it.
#[derive(Debug)]
struct Stall {
    max: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    is_armed: bool,
}

impl Stall {
    fn new(max: Duration) -> Self {
        Self { max, timer: None, is_armed: false }
    }

    fn progress(&mut self) {
        self.is_armed = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>, what: &'static str) -> Poll<io::Error> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.max)));
        if !self.is_armed {
            timer.as_mut().reset(Instant::now() + self.max);
            self.is_armed = true;
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, what))
    }
}

/// A stream of frames, without their heads, and a sink for frames *with* their heads (see [`frame`] and the codec,
/// which writes head and payload into one buffer).
#[derive(Debug)]
pub struct Frames<S> {
    io: S,
    gate: Arc<Gate>,
    frame_bytes_max: usize,
    read: BytesMut,
    read_stall: Stall,
    write: VecDeque<Bytes>,
    write_bytes: usize,
    write_stall: Stall,
}

/// A frame, complete with its head.
pub fn frame(payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(payload);
    frame.into()
}

impl<S> Frames<S> {
    pub fn new(io: S, frame_bytes_max: usize, stall_max: Duration) -> Self {
        Self {
            io,
            gate: Gate::unlimited(),
            frame_bytes_max: frame_bytes_max.min(FRAME_BYTES_MAX),
            read: BytesMut::new(),
            read_stall: Stall::new(stall_max),
            write: VecDeque::new(),
            write_bytes: 0,
            write_stall: Stall::new(stall_max),
        }
    }

    pub fn with_frame_bytes_max(mut self, frame_bytes_max: usize) -> Self {
        self.frame_bytes_max = frame_bytes_max.min(FRAME_BYTES_MAX);
        self
    }

    pub fn with_gate(mut self, gate: Arc<Gate>) -> Self {
        self.gate = gate;
        self
    }

    /// The stream beneath; what is buffered is dropped.
    pub fn into_inner(self) -> S {
        self.io
    }

    /// The next frame, if all of it is here, and else how many bytes to make room for.
    fn take_frame(&mut self) -> io::Result<Result<BytesMut, usize>> {
        let Some(head) = self.read.first_chunk::<HEAD_BYTES>() else {
            return Ok(Err(READ_BYTES));
        };
        let len = u32::from_be_bytes(*head) as usize;
        if len > self.frame_bytes_max {
            let text = format!("a frame of {len} bytes was announced, at most {} are allowed", self.frame_bytes_max);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let missing = (HEAD_BYTES + len).saturating_sub(self.read.len());
        if missing > 0 {
            // As much as has arrived already, so that an announcement alone costs next to nothing.
            return Ok(Err(missing.clamp(1, self.read.len().max(READ_BYTES))));
        }
        self.read.advance(HEAD_BYTES);
        let frame = self.read.split_to(len);
        if self.read.is_empty() && frame.len() > READ_KEEP_BYTES {
            self.read = BytesMut::new();
        }
        Ok(Ok(frame))
    }
}

impl<S: AsyncRead + Unpin> Stream for Frames<S> {
    type Item = io::Result<BytesMut>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<BytesMut>>> {
        let this = self.get_mut();
        if this.gate.is_draining() {
            return Poll::Ready(None);
        }
        if this.gate.is_full() {
            return Poll::Pending;
        }
        loop {
            let room = match this.take_frame()? {
                Ok(frame) => return Poll::Ready(Some(Ok(frame))),
                Err(room) => room,
            };
            this.read.reserve(room);
            // `read_buf` keeps no state of its own: a poll of a new one each time is as good as a kept one.
            let read = match pin!(this.io.read_buf(&mut this.read)).poll(cx) {
                // As TLS says it if the peer did not take its leave; frames can't be cut unnoticed.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(0),
                read => read?,
            };
            match read {
                Poll::Ready(0) if this.read.is_empty() => return Poll::Ready(None),
                Poll::Ready(0) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                Poll::Ready(_) => this.read_stall.progress(),
                Poll::Pending if this.read.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    let stalled = ready!(this.read_stall.poll(cx, "the peer stopped in the middle of a frame"));
                    return Poll::Ready(Some(Err(stalled)));
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Frames<S> {
    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(&self.write) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or_default();
        let written = match Pin::new(&mut self.io).poll_write_vectored(cx, slices)? {
            Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(written) => written,
            Poll::Pending => {
                let stalled = ready!(self.write_stall.poll(cx, "the peer does not read what it is sent"));
                return Poll::Ready(Err(stalled));
            }
        };
        self.write_stall.progress();
        self.write_bytes = self.write_bytes.saturating_sub(written);
        let mut left = written;
        while let Some(bytes) = self.write.front_mut() {
            if bytes.len() > left {
                bytes.advance(left);
                break;
            }
            left -= bytes.len();
            self.write.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Sink<Bytes> for Frames<S> {
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.write_bytes >= WRITE_QUEUE_BYTES {
            ready!(this.poll_write_some(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, frame: Bytes) -> io::Result<()> {
        let this = self.get_mut();
        this.write_bytes += frame.len();
        this.write.push_back(frame);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.write.is_empty() {
            ready!(this.poll_write_some(cx))?;
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::{SinkExt, StreamExt};
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn frames_arrive_whole_however_the_bytes_are_cut() {
        let (mut near, far) = duplex(7);
        let mut frames = Frames::new(far, FRAME_BYTES_MAX, STALL_MAX);
        let payloads = [vec![], vec![1], vec![2; 3], vec![3; 100_000], vec![4; 5]];
        let expected = payloads.clone();
        let writer = tokio::spawn(async move {
            for payload in payloads {
                near.write_all(&frame(&payload)).await.unwrap();
            }
        });
        for payload in expected {
            assert_eq!(frames.next().await.unwrap().unwrap(), payload);
        }
        writer.await.unwrap();
        assert!(frames.next().await.is_none());
    }

    #[tokio::test]
    async fn an_announced_length_reserves_next_to_nothing() {
        let (mut near, far) = duplex(64);
        let mut frames = Frames::new(far, FRAME_BYTES_MAX, STALL_MAX);
        near.write_all(&(FRAME_BYTES_MAX as u32).to_be_bytes()).await.unwrap();
        near.write_all(&[0; 10]).await.unwrap();
        assert!(futures::poll!(frames.next()).is_pending());
        assert!(frames.read.capacity() <= 4 * READ_BYTES, "{}", frames.read.capacity());
    }

    #[tokio::test]
    async fn a_large_frame_does_not_keep_its_buffer() {
        let (mut near, far) = duplex(1 << 20);
        let mut frames = Frames::new(far, FRAME_BYTES_MAX, STALL_MAX);
        let writer = tokio::spawn(async move { near.write_all(&frame(&vec![0; 4 << 20])).await.unwrap() });
        assert_eq!(frames.next().await.unwrap().unwrap().len(), 4 << 20);
        writer.await.unwrap();
        assert_eq!(frames.read.capacity(), 0);
    }

    #[tokio::test]
    async fn too_long_a_frame_is_an_error() {
        let (mut near, far) = duplex(64);
        let mut frames = Frames::new(far, 1024, STALL_MAX);
        near.write_all(&1025u32.to_be_bytes()).await.unwrap();
        assert_eq!(frames.next().await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_within_a_frame_times_out_and_an_idle_one_does_not() {
        let (mut near, far) = duplex(64);
        let mut frames = Frames::new(far, 1024, STALL_MAX);
        assert!(tokio::time::timeout(10 * STALL_MAX, frames.next()).await.is_err());
        near.write_all(&[0, 0, 0]).await.unwrap();
        assert_eq!(frames.next().await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_times_out() {
        let (_near, far) = duplex(64);
        let mut frames = Frames::new(far, 1024, STALL_MAX);
        assert_eq!(frames.send(frame(&[0; 1000])).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_full_gate_stops_the_reading_until_a_request_is_done() {
        let (mut near, far) = duplex(64);
        let gate = Gate::new(1, usize::MAX);
        let mut frames = Frames::new(far, 1024, STALL_MAX).with_gate(Arc::clone(&gate));
        near.write_all(&frame(&[1])).await.unwrap();
        let guard = gate.enter(1);
        assert!(futures::poll!(frames.next()).is_pending());
        drop(guard);
        assert!(frames.next().await.is_some());
        gate.drain();
        assert!(frames.next().await.is_none());
    }
}
