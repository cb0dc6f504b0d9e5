//! Requests and replies as bytes.

use std::io::{self, ErrorKind, Write};

/// A protocol that a server may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Of Redis, Valkey, proxies before them, and Overspill.
    Resp,
    /// The text protocol.
    Memcached,
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A value of so many bytes.
    Hit(usize),
    Miss,
    /// Stored, or whatever else is no value and no error.
    Done,
    /// In the server's words.
    Error(String),
}

impl Wire {
    pub(super) fn get(self, out: &mut Vec<u8>, key: &[u8]) {
        match self {
            Self::Resp => words(out, &[b"GET", key]),
            Self::Memcached => [b"get ", key, b"\r\n"].into_iter().for_each(|part| out.extend_from_slice(part)),
        }
    }

    pub(super) fn set(self, out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
        match self {
            Self::Resp => words(out, &[b"SET", key, value]),
            Self::Memcached => {
                out.extend_from_slice(b"set ");
                out.extend_from_slice(key);
                let _ = write!(out, " 0 0 {}\r\n", value.len()); // a vector takes it
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    pub(super) fn delete(self, out: &mut Vec<u8>, key: &[u8]) {
        match self {
            Self::Resp => words(out, &[b"DEL", key]),
            Self::Memcached => [b"delete ", key, b"\r\n"].into_iter().for_each(|part| out.extend_from_slice(part)),
        }
    }

    /// The first reply in `bytes` and how long it is, once it is complete.
    ///
    /// # Errors
    /// If that is no reply.
    pub(super) fn reply(self, bytes: &[u8]) -> io::Result<Option<(Reply, usize)>> {
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let (line, rest) = (bytes.get(..end).unwrap_or_default(), bytes.get(end + 2..).unwrap_or_default());
        let text = || String::from_utf8_lossy(line).into_owned();
        let odd = || io::Error::new(ErrorKind::InvalidData, format!("`{}` is no reply to a GET, SET or DEL", text()));
        let number = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<usize>().ok());
        // A value, and what is behind it.
        let value = |length: usize, tail: usize| {
            (rest.len() >= length + tail).then_some((Reply::Hit(length), end + 2 + length + tail))
        };
        let short = |reply| Ok(Some((reply, end + 2)));
        match (self, line) {
            (Self::Resp, b"$-1" | b"_") => short(Reply::Miss),
            (Self::Resp, [b'$', digits @ ..]) => Ok(value(number(digits).ok_or_else(odd)?, 2)),
            (Self::Resp, [b'+' | b':', ..]) | (Self::Memcached, b"STORED" | b"DELETED") => short(Reply::Done),
            (Self::Resp, [b'-', ..]) => short(Reply::Error(text().split_off(1))),
            (Self::Memcached, b"END" | b"NOT_FOUND") => short(Reply::Miss),
            (Self::Memcached, [b'V', b'A', b'L', b'U', b'E', b' ', ..]) => {
                let length = line.rsplit(|byte| *byte == b' ').next().and_then(number).ok_or_else(odd)?;
                Ok(value(length, b"\r\nEND\r\n".len()))
            }
            (Self::Memcached, _) if line.windows(5).any(|word| word == b"ERROR") => short(Reply::Error(text())),
            _ => Err(odd()),
        }
    }
}

/// An array of bulk strings.
pub(super) fn words(out: &mut Vec<u8>, words: &[&[u8]]) {
    length(out, b'*', words.len());
    for word in words {
        length(out, b'$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn length(out: &mut Vec<u8>, mark: u8, length: usize) {
    let _ = write!(out, "{}{length}\r\n", char::from(mark)); // a vector takes it
}
