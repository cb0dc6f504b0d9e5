//! Warnings that a stranger can cause, and that must not fill the log.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::Mutex;

/// Lets a warning through now and then, with how often it would have been given.
#[derive(Debug)]
pub(super) struct Seldom {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told_at: Option<Instant>,
    untold: u64,
}

impl Seldom {
    pub fn new(every: Duration) -> Self {
        Self { every, state: Mutex::default() }
    }

    /// If it is to be told now: how often it has happened since it was told last.
    pub fn count(&self) -> Option<u64> {
        let mut state = self.state.lock();
        state.untold += 1;
        if state.told_at.is_some_and(|at| at.elapsed() < self.every) {
            return None;
        }
        state.told_at = Some(Instant::now());
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_at_once_and_the_others_together() {
        let seldom = Seldom::new(Duration::from_secs(1));
        assert_eq!([seldom.count(), seldom.count(), seldom.count()], [Some(1), None, None]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([seldom.count(), seldom.count()], [Some(3), None]);
    }
}
