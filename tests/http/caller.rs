//! An HTTP client that says exactly what it is told, and reads what comes.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// One connection.
pub struct Caller<IO> {
    pub io: IO,
    read: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// What a status says must be one line for a person.
    pub fn sentence(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("text/plain; charset=utf-8"), "{self:?}");
        let text = self.text();
        assert!(text.ends_with('\n') && text.lines().count() == 1 && text.len() > 2, "{text:?}");
        text.trim_end()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Caller<IO> {
    pub fn new(io: IO) -> Self {
        Self { io, read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.io.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Asks, and reads the answer.
    pub async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.send(request(method, path, headers, body)).await;
        self.response(method).await.unwrap()
    }

    pub async fn get(&mut self, path: &str) -> Response {
        self.ask("GET", path, &[], b"").await
    }

    pub async fn put(&mut self, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Response {
        self.ask("PUT", path, headers, body.as_ref()).await
    }

    /// The next answer, to a request of this method; `None` if the connection ended before it.
    pub async fn response(&mut self, method: &str) -> Option<Response> {
        timeout(PATIENCE, self.read_response(method)).await.expect("an answer in bounded time")
    }

    async fn read_response(&mut self, method: &str) -> Option<Response> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.read_more().await {
                assert!(self.read.is_empty(), "half a response: {}", self.read.escape_ascii());
                return None;
            }
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().strip_prefix("HTTP/1.").unwrap()[2..5].parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        if method != "HEAD" && status != 304 {
            while self.read.len() < length {
                assert!(self.read_more().await, "the body ended early: {response:?}");
            }
            response.body = self.read.drain(..length).collect();
        }
        Some(response)
    }

    async fn read_more(&mut self) -> bool {
        self.io.read_buf(&mut self.read).await.is_ok_and(|count| count > 0)
    }

    /// Waits until the other side ends; answers what it still sent.
    pub async fn until_closed(&mut self) -> Vec<u8> {
        timeout(PATIENCE, async { while self.read_more().await {} }).await.expect("an end in bounded time");
        std::mem::take(&mut self.read)
    }
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "PUT" || method == "POST" {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    [request.as_bytes(), body].concat()
}
