//! A client's connection: requests in one write, replies one by one.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::BenchError;
use super::wire::{Reply, Wire, words};

const READ_BYTES: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Connection {
    stream: TcpStream,
    wire: Wire,
    out: Vec<u8>,
    input: BytesMut,
    /// When the newest of `input` came.
    read: Instant,
}

impl Connection {
    /// Connects, and says the password if there is one.
    ///
    /// # Errors
    /// If the server can't be reached, or does not want the password.
    pub async fn open(address: &str, wire: Wire, password: Option<&str>) -> Result<Self, BenchError> {
        let failed = |error| BenchError::Connect { address: address.to_owned(), error };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_TIMEOUT:?}"));
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await.map_err(late);
        let stream = connected.flatten().map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (out, input, read) = (Vec::new(), BytesMut::with_capacity(READ_BYTES), Instant::now());
        let mut connection = Self { stream, wire, out, input, read };
        if let (Some(password), Wire::Resp) = (password, wire) {
            words(&mut connection.out, &[b"AUTH", password.as_bytes()]);
            connection.send().await.map_err(failed)?;
            if let (Reply::Error(answer), _) = connection.receive().await.map_err(failed)? {
                return Err(BenchError::Refused { address: address.to_owned(), answer });
            }
        }
        Ok(connection)
    }

    /// Puts a request with those that the next `send` sends.
    pub fn get(&mut self, key: &[u8]) {
        self.wire.get(&mut self.out, key);
    }

    /// As `get`.
    pub fn set(&mut self, key: &[u8], value: &[u8]) {
        self.wire.set(&mut self.out, key, value);
    }

    /// As `get`.
    pub fn delete(&mut self, key: &[u8]) {
        self.wire.delete(&mut self.out, key);
    }

    /// # Errors
    /// If the connection fails.
    pub async fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// The next reply, and when it had come. There is one for each request, in their order.
    ///
    /// # Errors
    /// If the connection fails, or something else than a reply comes.
    pub async fn receive(&mut self) -> io::Result<(Reply, Instant)> {
        loop {
            if let Some((reply, bytes)) = self.wire.reply(&self.input)? {
                self.input.advance(bytes);
                return Ok((reply, self.read));
            }
            self.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read = Instant::now();
        }
    }
}
