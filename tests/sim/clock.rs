//! The wall clock: runs at another rate than the time that timers know, jumps, and, as the one of production, never goes back.

use overspill::clock::{Clock, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

/// One clock for all processes. What it showed once it never takes back, also not across restarts.
pub struct SimClock(Mutex<Inner>);

struct Inner {
    /// Since then the clock has run at `rate`, from `wall_ms`.
    since: Instant,
    wall_ms: f64,
    rate: f64,
    last_ms: u64,
}

pub const START_MS: u64 = 1_700_000_000_000;

impl SimClock {
    pub fn new() -> Self {
        let inner = Inner { since: Instant::now(), wall_ms: START_MS as f64, rate: 1.0, last_ms: START_MS };
        Self(Mutex::new(inner))
    }

    /// Forward or backward; after a jump backward it stands still until it has caught up.
    pub fn jump_ms(&self, ms: i64) {
        let inner = &mut *self.0.lock();
        inner.rebase();
        inner.wall_ms += ms as f64;
    }

    pub fn set_rate(&self, rate: f64) {
        let inner = &mut *self.0.lock();
        inner.rebase();
        inner.rate = rate;
    }
}

impl Inner {
    fn rebase(&mut self) {
        let now = Instant::now();
        self.wall_ms += now.duration_since(self.since).as_micros() as f64 / 1000.0 * self.rate;
        self.since = now;
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let inner = &mut *self.0.lock();
        inner.rebase();
        inner.last_ms = inner.last_ms.max(inner.wall_ms as u64);
        Timestamp(inner.last_ms)
    }
}
