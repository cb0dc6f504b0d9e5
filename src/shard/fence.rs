//! The shard's own fence: the token under which it may write into the tier (R20), and what happens when it is gone.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::backoff::{Backoff, Stopped};
use crate::cluster::{Assignment, Fence, FenceToken, ShardName};
use crate::slots::SlotSet;
use crate::tier::{SharedTier, TierError};

/// Another owner holds this shard's fence, or the shard has none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fenced;

/// The fence row as this process last wrote it.
#[derive(Debug, Default)]
pub(super) struct FenceKeeper {
    fence: Mutex<Option<Fence>>,
    was_lost: AtomicBool,
    is_lost: Notify,
}

impl FenceKeeper {
    pub fn current(&self) -> Result<(ShardName, FenceToken), Fenced> {
        let fence = self.fence.lock();
        fence.as_ref().map(|fence| (fence.shard.clone(), fence.token)).ok_or(Fenced)
    }

    pub fn row(&self) -> Option<Fence> {
        self.fence.lock().clone()
    }

    /// Takes note of a row that this process has written. The spiller and the steward both write it, and may learn of it out
    /// of order: an older token changes nothing.
    pub fn set(&self, row: Fence) {
        let mut fence = self.fence.lock();
        if fence.as_ref().is_none_or(|fence| fence.shard != row.shard || fence.token <= row.token) {
            *fence = Some(row);
        }
    }

    /// Tells whoever waits in [`FenceKeeper::until_lost`], and stays without a fence.
    pub async fn lost(&self) {
        if self.fence.lock().take().is_some() {
            self.was_lost.store(true, Ordering::Release); // pairs with `was_lost`
        }
        self.is_lost.notify_one();
    }

    /// Whether this process had a fence and lost it. It must not take one again: what it has in memory was left behind.
    pub fn was_lost(&self) -> bool {
        self.was_lost.load(Ordering::Acquire) // pairs with `lost`
    }

    /// # Cancel safety
    /// A loss that was told while nobody waited is not forgotten.
    pub async fn until_lost(&self) {
        self.is_lost.notified().await;
    }

    /// Takes the next token, so that whatever still runs under `seen` can't commit any more (R26).
    ///
    /// # Errors
    /// [`Fenced`] if another owner was faster, or on `stop`.
    pub async fn raise(&self, tier: &SharedTier, seen: FenceToken, stop: &CancellationToken) -> Result<(), Fenced> {
        let mut backoff = Backoff::new();
        loop {
            let Some(mut next) = self.row() else { return Err(Fenced) };
            if next.token != seen {
                return Ok(()); // raised already
            }
            next.token = seen.next();
            match tier.swap_fence(Some(seen), &next).await {
                Ok(true) => {
                    warn!(token = next.token.0, "the outcome of a flush is unknown: the fence token was raised");
                    self.set(next);
                    return Ok(());
                }
                Ok(false) | Err(TierError::OutcomeUnknown(_)) => return self.recheck(tier, seen, stop).await,
                Err(_) => backoff.wait(stop).await.map_err(|Stopped| Fenced)?,
            }
        }
    }

    /// Reads the fence row again: a token that this very process wrote, by an update whose answer was lost, is its own.
    ///
    /// # Errors
    /// [`Fenced`] if another owner holds the fence, or on `stop`.
    pub async fn recheck(&self, tier: &SharedTier, seen: FenceToken, stop: &CancellationToken) -> Result<(), Fenced> {
        let mut backoff = Backoff::new();
        loop {
            let Some(mine) = self.row() else { return Err(Fenced) };
            if mine.token != seen {
                return Ok(());
            }
            if let Ok(fences) = tier.fences().await {
                let row = fences.into_iter().find(|row| row.shard == mine.shard);
                let Some(row) = row.filter(|row| row.incarnation == mine.incarnation) else { return Err(Fenced) };
                self.set(row);
                return Ok(());
            }
            backoff.wait(stop).await.map_err(|Stopped| Fenced)?;
        }
    }
}

/// Whether the slots that an assignment brings may be taken: all others have let them go, and no row speaks of a newer map,
/// under which they may have been written already (R42). The primary sees to it; but a primary that was replaced may have
/// sent this.
///
/// # Errors
/// What is in the way.
pub(super) fn check_others(rows: &[Fence], wanted: &Assignment, gained: &SlotSet) -> Result<(), String> {
    for row in rows {
        if row.epoch > wanted.epoch {
            return Err(format!("the assignment is outdated: {} is at epoch {}", row.shard, row.epoch));
        }
        if row.shard != wanted.shard && !row.slots.intersection(gained).is_empty() {
            return Err(format!("{} has not let these slots go yet", row.shard));
        }
    }
    Ok(())
}
