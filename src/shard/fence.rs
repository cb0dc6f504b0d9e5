//! The shard's own fence: the token under which it may write into the tier (R20), and what happens when it is gone.

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::backoff::{Backoff, Stopped};
use crate::cluster::{Assignment, Fence, FenceToken, ShardName};
use crate::mutants::{Rule, is_planted};
use crate::slots::SlotSet;
use crate::sync::Mutex;
use crate::tier::{SharedTier, TierError};

/// Another owner holds this shard's fence, or the shard has none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fenced;

/// Why the own fence could not be made sure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    Fenced,
    Stopped,
}

impl From<Fenced> for Lost {
    fn from(_: Fenced) -> Self {
        Self::Fenced
    }
}

impl From<Stopped> for Lost {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// The fence as this process last wrote it, and how often it was lost.
#[derive(Debug, Default)]
pub(super) struct FenceKeeper {
    state: Mutex<State>,
    is_lost: Notify,
}

#[derive(Debug, Default)]
struct State {
    fence: Option<Fence>,
    /// How often it was lost.
    losses: u64,
}

impl State {
    fn held(&self) -> Result<(ShardName, FenceToken), Fenced> {
        self.fence.as_ref().map(|fence| (fence.shard.clone(), fence.token)).ok_or(Fenced)
    }
}

/// From one loss of the fence to the next. What was evicted under one must not be flushed under another: meanwhile somebody else may
/// have written, or deleted, the same keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim(u64);

impl FenceKeeper {
    pub fn current(&self) -> Result<(ShardName, FenceToken), Fenced> {
        self.state.lock().held()
    }

    /// Under which claim it is held now.
    pub fn claim(&self) -> Result<Claim, Fenced> {
        let state = self.state.lock();
        state.fence.as_ref().map(|_| Claim(state.losses)).ok_or(Fenced)
    }

    /// As [`FenceKeeper::current`], unless the fence was lost since.
    pub fn under(&self, claim: Claim) -> Result<(ShardName, FenceToken), Fenced> {
        let state = self.state.lock();
        if Claim(state.losses) == claim { state.held() } else { Err(Fenced) }
    }

    pub fn row(&self) -> Option<Fence> {
        self.state.lock().fence.clone()
    }

    /// Takes note of a row that this process has claimed. The spiller and the steward both write it, and may learn of it out
    /// of order: a token older than the one held changes nothing.
    pub fn set(&self, row: Fence) {
        let fence = &mut self.state.lock().fence;
        if fence.as_ref().is_none_or(|fence| fence.shard != row.shard || fence.token <= row.token) {
            *fence = Some(row);
        }
    }

    /// As [`FenceKeeper::set`], if the token is still the one that was `seen`: what was lost meanwhile stays lost.
    fn renew(&self, seen: FenceToken, row: Fence) {
        let fence = &mut self.state.lock().fence;
        if fence.as_ref().is_some_and(|fence| fence.token == seen) {
            *fence = Some(row);
        }
    }

    /// Stays without a fence and tells whoever waits in [`FenceKeeper::until_lost`], unless another token than the one that
    /// was `seen` to be gone has been claimed meanwhile.
    pub fn forfeit(&self, seen: FenceToken) -> Fenced {
        let mut state = self.state.lock();
        if state.fence.take_if(|fence| fence.token == seen).is_some() {
            state.losses += 1;
            self.is_lost.notify_one();
        }
        Fenced
    }

    /// Tells it again, for another one who waits.
    pub fn tell_again(&self) {
        self.is_lost.notify_one();
    }

    /// # Cancel safety
    /// A loss that was told while nobody waited is not forgotten.
    pub async fn until_lost(&self) {
        self.is_lost.notified().await;
    }

    /// Takes the next token, so that whatever still runs under `seen` can't commit any more (R26).
    ///
    /// # Errors
    /// [`Lost::Fenced`] if another owner was faster.
    pub async fn raise(&self, tier: &SharedTier, seen: FenceToken, stop: &CancellationToken) -> Result<(), Lost> {
        if is_planted(Rule::R26Token) {
            return Ok(());
        }
        let mut backoff = Backoff::new();
        loop {
            let Some(mut next) = self.row() else { return Err(Lost::Fenced) };
            if next.token != seen {
                return Ok(()); // raised already
            }
            next.token = seen.next();
            match tier.swap_fence(Some(seen), &next).await {
                Ok(true) => {
                    warn!(
                        token = next.token.0,
                        "the fence token was raised: what was sent under the one before can't be committed any more"
                    );
                    self.renew(seen, next);
                    return Ok(());
                }
                // Not raised until the row says so: a token that is still `seen` outdates nobody.
                Ok(false) | Err(TierError::OutcomeUnknown(_)) => self.recheck(tier, seen, stop).await?,
                Err(_) => {}
            }
            backoff.wait(stop).await?;
        }
    }

    /// Reads the fence row again: a token that this very process wrote, by an update whose answer was lost, is its own.
    ///
    /// # Errors
    /// [`Lost::Fenced`] if another owner holds the fence.
    pub async fn recheck(&self, tier: &SharedTier, seen: FenceToken, stop: &CancellationToken) -> Result<(), Lost> {
        let mut backoff = Backoff::new();
        loop {
            let Some(mine) = self.row() else { return Err(Lost::Fenced) };
            if mine.token != seen {
                return Ok(());
            }
            if let Ok(fences) = tier.fences().await {
                let row = fences.into_iter().find(|row| row.shard == mine.shard);
                let Some(row) = row.filter(|row| row.incarnation == mine.incarnation) else {
                    return Err(self.forfeit(seen).into());
                };
                self.renew(seen, row);
                return Ok(());
            }
            backoff.wait(stop).await?;
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
