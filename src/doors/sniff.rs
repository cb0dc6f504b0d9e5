//! Tells what a connection speaks by its first bytes, and hands them on. Serves no protocol itself.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::prefixed::Prefixed;

/// Longest first line that is waited for; one that is longer is told by how it begins.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// What is asked for at first: most openers are shorter.
const READ_BYTES: usize = 512;
/// No HTTP method is longer.
const METHOD_BYTES_MAX: usize = 16;
const METHODS: [&[u8]; 9] = [b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT"];

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A frame: its length begins with a zero.
    Rpc,
    /// A first line that ends in `HTTP/1.0` or `HTTP/1.1`.
    Http,
    /// An array, as all clients send.
    Resp,
    /// Anything else: words on a line, typed by hand, or garbage.
    Inline,
    /// A TLS handshake record.
    Tls,
}

impl Protocol {
    /// By the first bytes of a connection; `None` if more are needed to tell. What more bytes follow never changes an
    /// answer.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? {
            0x00 => Some(Self::Rpc),
            0x16 => Some(Self::Tls),
            b'*' => Some(Self::Resp),
            b'A'..=b'Z' => Self::of_line(bytes),
            _ => Some(Self::Inline),
        }
    }

    /// Of a line that begins with a capital letter: `GET a` is inline, `GET a HTTP/1.1` is not.
    fn of_line(bytes: &[u8]) -> Option<Self> {
        let word_bytes = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
        match bytes.get(word_bytes) {
            _ if word_bytes > METHOD_BYTES_MAX => return Some(Self::Inline),
            None => return None,
            Some(b' ') => {}
            Some(_) => return Some(Self::Inline),
        }
        let line = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
        if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
            let line = line.get(..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let is_http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
            return Some(if is_http { Self::Http } else { Self::Inline });
        }
        if line.len() < LINE_BYTES_MAX {
            return None;
        }
        let (word, rest) = line.split_at_checked(word_bytes)?;
        let is_http = METHODS.contains(&word) && rest.starts_with(b" /");
        Some(if is_http { Self::Http } else { Self::Inline })
    }
}

/// Reads until it is clear what the peer speaks; the stream that is answered reads from the beginning. `None` if the
/// peer ends before that. Takes as long as the peer likes: the caller has the deadline.
///
/// # Errors
/// Those of the stream.
pub async fn sniff<IO: AsyncRead + Unpin>(mut io: IO) -> io::Result<Option<(Protocol, Prefixed<IO>)>> {
    let mut read = BytesMut::new();
    loop {
        read.reserve(READ_BYTES);
        if io.read_buf(&mut read).await? == 0 {
            return Ok(None);
        }
        if let Some(protocol) = Protocol::of(&read) {
            return Ok(Some((protocol, Prefixed::new(read, io))));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    fn openers() -> Vec<(Vec<u8>, Protocol)> {
        let long = "x".repeat(2 * LINE_BYTES_MAX);
        let openers = [
            ("\0\0\0\u{5}hello", Protocol::Rpc),
            ("*1\r\n$4\r\nPING\r\n", Protocol::Resp),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Protocol::Http),
            ("GET / HTTP/1.0\r\n\r\n", Protocol::Http),
            ("DELETE /v1/kv/a%20b HTTP/1.1\nHost: a\n\n", Protocol::Http),
            ("BREW /pot HTTP/1.1\r\n\r\n", Protocol::Http),
            ("GET key\r\nGET / HTTP/1.1\r\n", Protocol::Inline),
            ("GET HTTP/1.1x\r\n", Protocol::Inline),
            ("GET /path\n", Protocol::Inline),
            ("PING\r\n", Protocol::Inline),
            ("set a b\r\n", Protocol::Inline),
            ("\r\n", Protocol::Inline),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Protocol::Inline),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZ HTTP/1.1\r\n", Protocol::Inline),
            ("\u{16}\u{3}\u{1}\u{2}", Protocol::Tls),
        ];
        let mut openers: Vec<(Vec<u8>, Protocol)> =
            openers.into_iter().map(|(bytes, protocol)| (bytes.into(), protocol)).collect();
        openers.push((format!("GET /{long} HTTP/1.1\r\n\r\n").into(), Protocol::Http));
        openers.push((format!("GET {long} HTTP/1.1\r\n\r\n").into(), Protocol::Inline));
        openers.push((format!("SET /{long} 1\r\n").into(), Protocol::Inline));
        openers.push((vec![0x81; 100], Protocol::Inline));
        openers
    }

    #[test]
    fn the_first_bytes_decide_at_every_split_and_more_of_them_change_nothing() {
        for (bytes, protocol) in openers() {
            let mut is_decided = false;
            for end in 0..=bytes.len() {
                let told = Protocol::of(&bytes[..end]);
                assert!(told == Some(protocol) || (told.is_none() && !is_decided), "{:?}: {told:?}", &bytes[..end]);
                is_decided |= told.is_some();
            }
            assert!(is_decided, "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_split_anywhere_is_told_apart_and_reads_from_the_beginning() {
        for (bytes, protocol) in openers() {
            for split in (1..bytes.len()).step_by(1 + bytes.len() / 64) {
                let (near, mut far) = duplex(bytes.len());
                far.write_all(&bytes[..split]).await.unwrap();
                let sniffed = tokio::spawn(sniff(near));
                tokio::task::yield_now().await;
                far.write_all(&bytes[split..]).await.unwrap();
                far.shutdown().await.unwrap();
                let (told, mut stream) = sniffed.await.unwrap().unwrap().unwrap();
                let mut read = Vec::new();
                stream.read_to_end(&mut read).await.unwrap();
                assert_eq!((told, &read), (protocol, &bytes), "split at {split}");
            }
        }
    }

    #[tokio::test]
    async fn a_peer_that_ends_before_it_is_clear_is_none() {
        for bytes in ["", "GET", "GET / HTTP/1."] {
            let (near, mut far) = duplex(64);
            far.write_all(bytes.as_bytes()).await.unwrap();
            drop(far);
            assert!(sniff(near).await.unwrap().is_none(), "{bytes}");
        }
    }

    #[tokio::test]
    async fn no_more_than_a_line_is_read_to_tell() {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(&[b'A'; 100]).await.unwrap();
        far.write_all(&vec![b' '; 1 << 19]).await.unwrap();
        let (told, stream) = sniff(near).await.unwrap().unwrap();
        assert_eq!(told, Protocol::Inline);
        assert!(stream.into_parts().0.len() <= LINE_BYTES_MAX + READ_BYTES);
    }
}
