//! While somebody asks for little, batches with many writes take turns: between two of them all that has become ready is done, so that
//! a read waits for one of them and not for all. Where nobody asks for little, nobody takes turns.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::command::Command;

/// A batch with more writes than these takes long: some hundred microseconds.
const SHORT_WRITES: usize = 16;
/// So many turns are taken after a short batch.
const LONG_TURNS: u32 = 64;

#[derive(Debug)]
pub(super) struct Courtesy {
    /// One turn for each thread.
    turns: Semaphore,
    /// So many turns are still taken.
    left: AtomicU32,
}

/// Ends when it is dropped.
pub(super) struct Turn<'a> {
    /// When it was asked for.
    pub since: Instant,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Courtesy {
    /// To be made in the runtime that executes the batches.
    pub fn new() -> Self {
        Self { turns: Semaphore::new(Handle::current().metrics().num_workers()), left: AtomicU32::new(0) }
    }

    /// Somebody asks for these commands. Waits for their turn, as [`Courtesy::turn`].
    pub async fn first_turn(&self, commands: &[Command]) -> Option<Turn<'_>> {
        if is_long(commands) {
            return self.wait().await;
        }
        self.note_short();
        None
    }

    /// Somebody asks for little.
    pub fn note_short(&self) {
        // Relaxed here and below: a hint.
        if self.left.load(Ordering::Relaxed) < LONG_TURNS {
            self.left.store(LONG_TURNS, Ordering::Relaxed);
        }
    }

    /// Waits until it is the turn of these commands, which is at once if they take little time, or nobody else's do.
    pub async fn turn(&self, commands: &[Command]) -> Option<Turn<'_>> {
        if is_long(commands) { self.wait().await } else { None }
    }

    async fn wait(&self) -> Option<Turn<'_>> {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        let since = Instant::now();
        let _permit = self.turns.acquire().await.ok(); // never closed
        yield_now().await;
        Some(Turn { since, _permit })
    }
}

fn is_long(commands: &[Command]) -> bool {
    commands.len() > SHORT_WRITES && commands.iter().filter(|command| command.is_write()).nth(SHORT_WRITES).is_some()
}
