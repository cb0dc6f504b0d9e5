//! Replies to bytes, in either version of the protocol.

use bytes::{BufMut, Bytes};

use super::number::{format_double, put_number_line};
use super::output::Output;

/// The version of the protocol that a connection speaks: 2 until `HELLO 3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proto {
    #[default]
    Resp2,
    Resp3,
}

/// Writes replies at the end of an [`Output`].
///
/// What version 2 has no type for is written as Redis writes it there. After [`Encoder::array`] and its like, the
/// caller writes that many elements.
#[derive(Debug)]
pub struct Encoder<'a> {
    output: &'a mut Output,
    proto: Proto,
}

impl<'a> Encoder<'a> {
    pub fn new(output: &'a mut Output, proto: Proto) -> Self {
        Self { output, proto }
    }

    pub fn proto(&self) -> Proto {
        self.proto
    }

    /// A status such as `OK`. Line ends in it become spaces.
    pub fn simple(&mut self, text: &str) {
        self.text_line(b'+', text);
    }

    /// An error, its code first, as in `ERR no such key`. Line ends in it become spaces, those at its end nothing.
    pub fn error(&mut self, text: &str) {
        self.text_line(b'-', text.trim_end_matches(['\r', '\n']));
    }

    pub fn integer(&mut self, value: i64) {
        put_number_line(self.output.tail(), b':', value < 0, value.unsigned_abs());
    }

    /// A string of any bytes, copied.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.count(b'$', bytes.len());
        self.raw(bytes);
        self.raw(b"\r\n");
    }

    /// A string of any bytes, not copied if it has [`CHUNK_BYTES_MIN`](super::CHUNK_BYTES_MIN) or more.
    pub fn bulk_value(&mut self, value: &Bytes) {
        self.count(b'$', value.len());
        self.output.push(value);
        self.raw(b"\r\n");
    }

    /// No value.
    pub fn null(&mut self) {
        self.raw(match self.proto {
            Proto::Resp2 => b"$-1\r\n",
            Proto::Resp3 => b"_\r\n",
        });
    }

    /// No array: what version 2 keeps apart from no value.
    pub fn null_array(&mut self) {
        self.raw(match self.proto {
            Proto::Resp2 => b"*-1\r\n",
            Proto::Resp3 => b"_\r\n",
        });
    }

    pub fn array(&mut self, len: usize) {
        self.count(b'*', len);
    }

    /// Keys and values in turn; in version 2 an array of both.
    pub fn map(&mut self, pairs: usize) {
        match self.proto {
            Proto::Resp2 => self.count(b'*', pairs.saturating_mul(2)),
            Proto::Resp3 => self.count(b'%', pairs),
        }
    }

    /// In version 2 an array.
    pub fn set(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.count(b'*', len),
            Proto::Resp3 => self.count(b'~', len),
        }
    }

    /// What nobody asked for, such as a message; in version 2 an array.
    pub fn push(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.count(b'*', len),
            Proto::Resp3 => self.count(b'>', len),
        }
    }

    /// In version 2 a string.
    pub fn double(&mut self, value: f64) {
        let text = format_double(value);
        match self.proto {
            Proto::Resp2 => self.bulk(text.as_bytes()),
            Proto::Resp3 => self.text_line(b',', &text),
        }
    }

    /// In version 2 an integer, 1 or 0.
    pub fn boolean(&mut self, value: bool) {
        self.raw(match (self.proto, value) {
            (Proto::Resp2, true) => b":1\r\n",
            (Proto::Resp2, false) => b":0\r\n",
            (Proto::Resp3, true) => b"#t\r\n",
            (Proto::Resp3, false) => b"#f\r\n",
        });
    }

    /// A text to be shown as it is, such as that of `INFO`; in version 2 a string.
    pub fn verbatim(&mut self, text: &str) {
        match self.proto {
            Proto::Resp2 => self.bulk(text.as_bytes()),
            Proto::Resp3 => {
                const FORMAT: &[u8] = b"txt:";
                self.count(b'=', FORMAT.len() + text.len());
                self.raw(FORMAT);
                self.raw(text.as_bytes());
                self.raw(b"\r\n");
            }
        }
    }

    fn text_line(&mut self, prefix: u8, text: &str) {
        let tail = self.output.tail();
        tail.put_u8(prefix);
        for (i, part) in text.split(['\r', '\n']).enumerate() {
            if i > 0 {
                tail.put_u8(b' ');
            }
            tail.extend_from_slice(part.as_bytes());
        }
        tail.extend_from_slice(b"\r\n");
    }

    fn count(&mut self, prefix: u8, count: usize) {
        put_number_line(self.output.tail(), prefix, false, count as u64);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.output.tail().extend_from_slice(bytes);
    }
}
