//! A connection that speaks RESP and knows only where a reply ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longer than any request takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

/// A request as clients send it.
pub fn request<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.as_ref().len()).bytes());
        bytes.extend(word.as_ref());
        bytes.extend(b"\r\n");
    }
    bytes
}

impl Wire {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new(), at: 0 }
    }

    /// The same with version 3 of the protocol.
    pub fn connect_3(port: u16) -> Self {
        let mut wire = Self::connect(port);
        assert!(wire.ask(&["HELLO", "3"]).starts_with(b"%7\r\n"));
        wire
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The reply as it came.
    pub fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Vec<u8> {
        self.send(&request(words));
        self.reply()
    }

    /// The reply, with line ends shown.
    pub fn told<W: AsRef<[u8]>>(&mut self, words: &[W]) -> String {
        self.ask(words).escape_ascii().to_string()
    }

    /// Asks a line as a person types it, all of it without quotes; the reply as [`Wire::told`] shows it, without its last line
    /// end.
    pub fn line(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        self.told(&words).trim_end_matches("\\r\\n").to_owned()
    }

    /// One whole reply, raw.
    pub fn reply(&mut self) -> Vec<u8> {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.element();
        self.buffer[..self.at].to_vec()
    }

    /// What comes until the peer ends the connection.
    pub fn rest(mut self) -> Vec<u8> {
        let mut rest = self.buffer.split_off(self.at);
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return rest,
                Ok(count) => rest.extend(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return rest,
                Err(error) => panic!("the peer neither answers nor closes: {error}"),
            }
        }
    }

    fn element(&mut self) {
        let line = self.take_line();
        let count = || -> i64 { std::str::from_utf8(&line[1..]).unwrap().parse().unwrap() };
        match line[0] {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            b'$' | b'=' => {
                if let Ok(len) = usize::try_from(count()) {
                    self.fill(self.at + len + 2);
                    self.at += len + 2;
                }
            }
            b'*' | b'~' | b'>' => (0..count()).for_each(|_| self.element()),
            b'%' => (0..2 * count()).for_each(|_| self.element()),
            other => panic!("no reply begins with {:?}: {}", char::from(other), line.escape_ascii()),
        }
    }

    fn take_line(&mut self) -> Vec<u8> {
        let mut searched = self.at;
        loop {
            if let Some(end) = self.buffer[searched..].windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer[self.at..searched + end].to_vec();
                self.at = searched + end + 2;
                return line;
            }
            searched = self.buffer.len().saturating_sub(1).max(self.at);
            self.fill(self.buffer.len() + 1);
        }
    }

    fn fill(&mut self, len: usize) {
        let mut chunk = [0; 64 * 1024];
        while self.buffer.len() < len {
            let count = self.stream.read(&mut chunk).unwrap();
            assert!(count > 0, "the peer has ended the connection after {}", self.buffer.escape_ascii());
            self.buffer.extend(&chunk[..count]);
        }
    }
}
