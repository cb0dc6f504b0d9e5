//! Time as a passed-in thing, so that a test or a simulation decides what time it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// What is left from `now` until this point in time; zero once it has passed.
    pub fn since(self, now: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now.0))
    }
}

/// Wall-clock time that never goes backwards (R27).
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

/// The machine's clock; when that is set back, it stands still until it has caught up.
#[derive(Debug, Default)]
pub struct SystemClock {
    last_ms: AtomicU64,
}

impl SystemClock {
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::default())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        // Relaxed: only this one number is ordered, no other memory depends on it. A load first: most calls come in the same
        // millisecond, and a write would take the cache line from the other threads.
        let last_ms = self.last_ms.load(Ordering::Relaxed);
        if wall_ms == last_ms {
            return Timestamp(wall_ms);
        }
        Timestamp(self.last_ms.fetch_max(wall_ms, Ordering::Relaxed).max(wall_ms))
    }
}

/// A clock that a test sets.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicU64,
}

impl ManualClock {
    pub fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self { now_ms: AtomicU64::new(now.0) })
    }

    pub fn advance_ms(&self, ms: u64) {
        // Relaxed: as above.
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now_ms.load(Ordering::Relaxed))
    }
}
