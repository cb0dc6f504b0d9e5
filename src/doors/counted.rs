//! A byte stream whose bytes are counted for its door.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::metrics::Connected;

/// Also tells that the connection is there, for as long as it is.
#[derive(Debug)]
pub(super) struct Counted<IO> {
    io: IO,
    connected: Connected,
}

impl<IO> Counted<IO> {
    pub fn new(io: IO, connected: Connected) -> Self {
        Self { io, connected }
    }

    fn sent(&self, written: io::Result<usize>) -> io::Result<usize> {
        written.inspect(|&count| self.connected.door().sent(count as u64))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.connected.door().received((buf.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        Poll::Ready(self.sent(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices));
        Poll::Ready(self.sent(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::metrics::{DoorName, Metrics};

    #[tokio::test]
    async fn bytes_count_both_ways_and_the_connection_while_it_is_there() {
        let metrics = Metrics::new();
        let (near, mut far) = duplex(64);
        let mut stream = Counted::new(near, metrics.connected(DoorName::Resp));
        far.write_all(b"12345").await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        stream.write_all(b"123").await.unwrap();
        assert_eq!(metrics.door(DoorName::Resp).connections(), 1);
        let text = metrics.encode(Vec::new());
        assert!(text.contains("kv_received_bytes_total{door=\"resp\"} 5\n"), "{text}");
        assert!(text.contains("kv_sent_bytes_total{door=\"resp\"} 3\n"), "{text}");
        drop(stream);
        assert_eq!(metrics.door(DoorName::Resp).connections(), 0);
    }
}
