//! Keeps the journal short: writes what the tier does not have yet aside, so that older segments can go.

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::core::Core;
use crate::backoff::Backoff;
use crate::journal::{Checkpoint, Journal, JournalError};
use crate::store::Walk;
use crate::task::Blocking;

/// When so large a part of the journal (one in ...) is needed even after a checkpoint, the tier is given what memory holds: else
/// the journal could not be shortened, and writes would be refused for ever.
const PRESSURE: u64 = 4;

/// Runs until `stop`.
pub(super) async fn run(core: &Arc<Core>, journal: &Journal, blocking: &dyn Blocking, stop: &CancellationToken) {
    let mut backoff = Backoff::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = journal.until_checkpoint_wanted() => {}
        }
        match checkpoint(core, journal, blocking).await {
            Ok(records) => {
                let usage = journal.usage();
                info!(records, journal_bytes = usage.bytes, "wrote a checkpoint of what the tier does not have yet");
                if usage.checkpoint_bytes > usage.bytes_max / PRESSURE {
                    info!("the journal is long because the tier does not have what is in memory: writing it there");
                    core.store.hand_out_unspilled();
                    core.spill.notify_one();
                }
                core.progress.notify_waiters();
                backoff = Backoff::new();
            }
            Err(error) => {
                warn!(%error, "could not write a checkpoint of the journal; trying again");
                if backoff.wait(stop).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Why a checkpoint was not made. The journal is as good as before, only longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckpointError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the work on it ended badly")]
    Abandoned,
}

/// Writes a checkpoint. Answers how many records it holds.
pub(super) async fn checkpoint(
    core: &Arc<Core>,
    journal: &Journal,
    blocking: &dyn Blocking,
) -> Result<usize, CheckpointError> {
    let mut checkpoint = journal.begin_checkpoint(blocking).await?;
    let mut records = 0;
    let mut next = Some(Walk::default());
    while let Some(walk) = next {
        let core = Arc::clone(core);
        let step = move || -> io::Result<(Checkpoint, usize, Option<Walk>)> {
            let (effects, next) = core.store.unspilled(walk);
            checkpoint.write(&effects)?;
            Ok((checkpoint, effects.len(), next))
        };
        let written;
        (checkpoint, written, next) = run_blocking(blocking, step).await??;
        records += written;
    }
    run_blocking(blocking, move || checkpoint.finish()).await??;
    Ok(records)
}

async fn run_blocking<T: Send + 'static>(
    blocking: &dyn Blocking,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CheckpointError> {
    let (done, outcome) = oneshot::channel();
    let work = move || drop(done.send(work())); // if nobody waits any more, nobody needs it
    blocking.run(Box::new(work)).await;
    outcome.await.map_err(|_| CheckpointError::Abandoned)
}
