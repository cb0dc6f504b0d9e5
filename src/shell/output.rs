//! Standard output and error on a thread of their own: a pipe whose reader is slow must not stop the runtime.

use std::io::{self, ErrorKind, Write};

use tokio::sync::{mpsc, oneshot};

/// Pieces that wait to be written; whoever has more waits. A piece holds about a megabyte or one value.
const PIECES_MAX: usize = 4;

/// Writes in order, to the one stream or the other.
pub(super) struct Output {
    pieces: mpsc::Sender<Piece>,
    /// Taken once it has been told.
    failure: Option<oneshot::Receiver<io::Error>>,
}

enum Piece {
    Out(Vec<u8>),
    Err(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

impl Output {
    /// # Errors
    /// If the thread can't be started.
    pub fn spawn(out: impl Write + Send + 'static, err: impl Write + Send + 'static) -> io::Result<Self> {
        let (pieces, received) = mpsc::channel(PIECES_MAX);
        let (failed, failure) = oneshot::channel();
        let write = move || {
            if let Err(error) = write_all(received, out, err) {
                let _ = failed.send(error); // Nobody asks any more.
            }
        };
        std::thread::Builder::new().name("kv-output".to_owned()).spawn(write)?;
        Ok(Self { pieces, failure: Some(failure) })
    }

    /// # Errors
    /// What an earlier write to standard output met; then nothing is written any more.
    pub async fn out(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        if bytes.is_empty() { Ok(()) } else { self.send(Piece::Out(bytes)).await }
    }

    /// # Errors
    /// As [`Self::out`]. That standard error can't be written to is not one.
    pub async fn err(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.send(Piece::Err(bytes)).await
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// As [`Self::out`].
    pub async fn flush(&mut self) -> io::Result<()> {
        let (done, flushed) = oneshot::channel();
        self.send(Piece::Flush(done)).await?;
        match flushed.await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    async fn send(&mut self, piece: Piece) -> io::Result<()> {
        match self.pieces.send(piece).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    async fn failure(&mut self) -> io::Error {
        let told = match self.failure.take() {
            Some(failure) => failure.await.ok(),
            None => None,
        };
        told.unwrap_or_else(|| io::Error::new(ErrorKind::BrokenPipe, "the output has ended"))
    }
}

fn write_all(mut pieces: mpsc::Receiver<Piece>, mut out: impl Write, mut err: impl Write) -> io::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Out(bytes) => out.write_all(&bytes)?,
            Piece::Err(bytes) => {
                // What was said before comes first, also where both streams go to one terminal.
                out.flush()?;
                let _ = err.write_all(&bytes).and_then(|()| err.flush());
            }
            Piece::Flush(done) => {
                out.flush()?;
                let _ = done.send(()); // Whoever waited has gone.
            }
        }
        if pieces.is_empty() {
            out.flush()?;
        }
    }
    out.flush()
}
