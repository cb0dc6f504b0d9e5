//! For how long the oldest of what is on its way to the tier has been waiting, at least.
//!
//! Records bear no times. So now and then all that waits is counted, together with when that was: once so many are done,
//! all of those are, since they go in about the order in which they came. Until then something has waited since that time.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::Mutex;

/// What waits for the tier, in time.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    mark: Mutex<Option<Mark>>,
}

#[derive(Debug)]
struct Mark {
    at: Instant,
    /// How many of those that waited then still do.
    left: u64,
}

impl Backlog {
    /// Something waits: so many records, which is asked only if it is worth it.
    pub fn begin(&self, waiting: impl FnOnce() -> u64) {
        self.mark.lock().get_or_insert_with(|| Mark { left: waiting(), at: Instant::now() });
    }

    /// The tier has taken so many.
    pub fn done(&self, count: u64) {
        let mut mark = self.mark.lock();
        if let Some(mark) = &mut *mark {
            mark.left = mark.left.saturating_sub(count);
        }
        mark.take_if(|mark| mark.left == 0);
    }

    /// Nothing waits.
    pub fn end(&self) {
        *self.mark.lock() = None;
    }

    /// Zero if nothing waits.
    pub fn age(&self) -> Duration {
        self.mark.lock().as_ref().map_or(Duration::ZERO, |mark| mark.at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_waits_gets_older_until_all_that_waited_with_it_is_done() {
        let backlog = Backlog::default();
        assert_eq!(backlog.age(), Duration::ZERO);
        backlog.begin(|| 10);
        advance(SECOND).await;
        backlog.begin(|| panic!("they are counted already"));
        backlog.done(9);
        assert_eq!(backlog.age(), SECOND);
        backlog.done(5);
        assert_eq!(backlog.age(), Duration::ZERO);
        backlog.begin(|| 3); // those that came meanwhile
        advance(SECOND).await;
        assert_eq!(backlog.age(), SECOND);
        backlog.end();
        assert_eq!(backlog.age(), Duration::ZERO);
    }
}
