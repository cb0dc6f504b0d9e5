//! What the replies to a batch may take together (R9).

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

use crate::service::REPLIES_BYTES_MAX;

/// Counts the bytes of a batch's replies while its commands wait side by side.
#[derive(Debug)]
pub(super) struct ReplyRoom {
    bytes: AtomicUsize,
    is_over: CancellationToken,
}

// Relaxed everywhere: one task runs all commands of a batch that wait.
impl ReplyRoom {
    /// `bytes`: of what is answered already.
    pub fn new(bytes: usize) -> Self {
        Self { bytes: AtomicUsize::new(bytes), is_over: CancellationToken::new() }
    }

    /// Counts a reply that is given. Whoever goes over the bound is the last whose read is not refused.
    pub fn add(&self, bytes: usize) {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > REPLIES_BYTES_MAX {
            self.is_over.cancel();
        }
    }

    /// Counts a reply before it is made, if it fits.
    pub fn reserve(&self, bytes: usize) -> bool {
        let more = |before: usize| before.checked_add(bytes).filter(|after| *after <= REPLIES_BYTES_MAX);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Whether nothing that may be refused is given any more.
    pub fn is_over(&self) -> bool {
        self.is_over.is_cancelled()
    }

    /// `None` if there was no room any more when it ended, or before.
    pub async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.is_over.run_until_cancelled(work).await.filter(|_| !self.is_over.is_cancelled())
    }
}
