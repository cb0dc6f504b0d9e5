//! A byte stream of which some was read already. Knows nothing of what the bytes mean.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads what was read before once more, and then goes on with the stream. Writes go straight to it.
#[derive(Debug)]
pub struct Prefixed<IO> {
    /// What is still to be read again. Given back when it is used up: connections live long.
    prefix: Bytes,
    io: IO,
}

impl<IO> Prefixed<IO> {
    pub fn new(prefix: impl Into<Bytes>, io: IO) -> Self {
        Self { prefix: prefix.into(), io }
    }

    /// What is still to be read again, and the stream behind it.
    pub fn into_parts(self) -> (Bytes, IO) {
        (self.prefix, self.io)
    }

    pub fn get_ref(&self) -> &IO {
        &self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prefixed<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.prefix.len().min(buf.remaining());
        if let Some(again) = self.prefix.get(..count) {
            buf.put_slice(again);
        }
        self.prefix.advance(count);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prefixed<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
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
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_first_whatever_the_reader_asks_for() {
        for at_once in 1..8 {
            let (near, mut far) = duplex(64);
            far.write_all(b"world").await.unwrap();
            far.shutdown().await.unwrap();
            let mut stream = Prefixed::new(&b"hello "[..], near);
            let (mut all, mut some) = (Vec::new(), vec![0; at_once]);
            loop {
                match stream.read(&mut some).await.unwrap() {
                    0 => break,
                    count => all.extend_from_slice(&some[..count]),
                }
            }
            assert_eq!(all, b"hello world", "{at_once} at once");
        }
    }

    #[tokio::test]
    async fn writes_go_through_and_the_rest_of_the_prefix_is_handed_on() {
        let (near, mut far) = duplex(64);
        let mut stream = Prefixed::new(&b"abc"[..], near);
        stream.write_all(b"out").await.unwrap();
        let mut out = [0; 3];
        far.read_exact(&mut out).await.unwrap();
        assert_eq!(&out, b"out");
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        assert_eq!(stream.into_parts().0, &b"bc"[..]);
    }
}
