//! Growing pauses between tries, with jitter.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

const DELAY_MIN: Duration = Duration::from_millis(20);
const DELAY_MAX: Duration = Duration::from_secs(1);

/// Pauses from 20 ms, doubling, to 1 s; for ever, since whoever waits decides when it is enough.
#[derive(Debug)]
pub struct Backoff {
    delays: ExponentialBackoff,
}

/// The wait was cut short because the task is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl Backoff {
    pub fn new() -> Self {
        let delays = ExponentialBuilder::new()
            .with_min_delay(DELAY_MIN)
            .with_max_delay(DELAY_MAX)
            .with_jitter()
            .without_max_times()
            .build();
        Self { delays }
    }

    /// # Errors
    /// [`Stopped`] as soon as `stop` is cancelled.
    pub async fn wait(&mut self, stop: &CancellationToken) -> Result<(), Stopped> {
        let delay = self.delays.next().unwrap_or(DELAY_MAX);
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Stopped),
            () = tokio::time::sleep(delay) => Ok(()),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}
