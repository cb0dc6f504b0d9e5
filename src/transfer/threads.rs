//! Reading and writing on threads of their own: a pipe may block for ever, and must not keep the program from ending.

use std::io::{self, BufRead, ErrorKind, Write};

use tokio::sync::{mpsc, oneshot};

use super::Failure;
use super::blocks::{Blocks, FileError, Piece};

/// Writes what it is given, in order. At most one chunk waits while another is being written.
pub(super) struct Writer {
    /// For messages.
    file: String,
    chunks: mpsc::Sender<Vec<u8>>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Writer {
    pub fn spawn(mut out: impl Write + Send + 'static, file: String) -> Result<Self, Failure> {
        let (chunks, mut received) = mpsc::channel::<Vec<u8>>(1);
        let (end, ended) = oneshot::channel();
        let write = move || {
            let mut written = Ok(());
            while let Some(chunk) = received.blocking_recv() {
                written = out.write_all(&chunk);
                if written.is_err() {
                    break;
                }
            }
            drop(received);
            let _ = end.send(written.and_then(|()| out.flush())); // nobody may wait for it
        };
        spawn("kv-output", write, &file)?;
        Ok(Self { file, chunks, ended })
    }

    /// # Errors
    /// That of an earlier chunk.
    pub async fn write(&mut self, chunk: Vec<u8>) -> Result<(), Failure> {
        if chunk.is_empty() || self.chunks.send(chunk).await.is_ok() {
            return Ok(());
        }
        let error = match (&mut self.ended).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => ended_early(),
        };
        Err(Failure::Io { file: self.file.clone(), error })
    }

    /// Waits until everything is written.
    pub async fn finish(self) -> Result<(), Failure> {
        let Self { file, chunks, ended } = self;
        drop(chunks);
        let written = ended.await.unwrap_or_else(|_| Err(ended_early()));
        written.map_err(|error| Failure::Io { file, error })
    }
}

fn ended_early() -> io::Error {
    io::Error::new(ErrorKind::BrokenPipe, "the thread that writes has ended")
}

/// Pieces of a file, one read ahead.
pub(super) struct Pieces {
    received: mpsc::Receiver<Result<Piece, FileError>>,
}

impl Pieces {
    /// `open` is called on the thread, since it reads too.
    pub fn spawn<R, F>(open: F, file: &str) -> Result<Self, Failure>
    where
        R: BufRead,
        F: FnOnce() -> Result<Blocks<R>, FileError> + Send + 'static,
    {
        let (pieces, received) = mpsc::channel(1);
        let read = move || {
            let mut blocks = match open() {
                Ok(blocks) => blocks,
                Err(error) => {
                    let _ = pieces.blocking_send(Err(error)); // nobody may wait for it
                    return;
                }
            };
            while let Some(piece) = blocks.next_piece().transpose() {
                let is_error = piece.is_err();
                if pieces.blocking_send(piece).is_err() || is_error {
                    return;
                }
            }
        };
        spawn("kv-input", read, file)?;
        Ok(Self { received })
    }

    /// `None` behind the last one.
    pub async fn next(&mut self) -> Result<Option<Piece>, FileError> {
        self.received.recv().await.transpose()
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static, file: &str) -> Result<(), Failure> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).map_err(|error| Failure::Io { file: file.to_owned(), error })
}

/// Runs what blocks for a while, and ends by itself.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::Refused(format!("work on a file did not end: {error}"))))
}
