//! How long to wait for others before work that costs the same for one and for many, as a sync of a disk does: until as many
//! have come as took part of late, or until nobody comes any more. Who is always alone waits for nobody, and when all are back
//! as soon as they are answered, two halves of them take turns: one gathers while the other is worked for.
//!
//! While one gathers no clock is asked: between two looks everything that is ready runs.

use std::time::Duration;

use tokio::task::yield_now;

/// So many looks in a row that find nobody new end the wait: some ten microseconds.
const IDLE_LOOKS: u32 = 32;

/// Nobody waits longer than this for company to a database or another node: what is under way for longer waits for something slow.
pub const PATIENCE: Duration = Duration::from_millis(1);

/// Whether those who wait go by themselves while others are `under_way`, or wait until these are back. Shares double until half of all
/// go together, and the two halves take turns; who is alone with one other goes at once.
pub fn is_company(waiting: usize, under_way: usize) -> bool {
    waiting >= under_way
}

/// How many took part in the last two turns, the last first.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turns([u64; 2]);

impl Turns {
    pub fn note(&mut self, count: u64) {
        let [last, _] = self.0;
        self.0 = [count, last];
    }

    /// How many are likely to take part in the next.
    pub fn usual(&self) -> u64 {
        self.0.iter().sum::<u64>() / 2
    }
}

/// Waits for others. `look`: how many there are now; `None` if they are enough.
pub async fn gather(look: impl Fn() -> Option<u64>) {
    let (mut before, mut idle) = (0, 0);
    while idle < IDLE_LOOKS
        && let Some(count) = look()
    {
        idle = if count > before { 0 } else { idle + 1 };
        before = count;
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn turns(last: u64, before: u64) -> Turns {
        let mut turns = Turns::default();
        turns.note(before);
        turns.note(last);
        turns
    }

    #[test]
    fn as_many_as_of_late_are_expected() {
        assert_eq!(Turns::default().usual(), 0);
        assert_eq!(turns(1, 1).usual(), 1);
        assert_eq!(turns(49, 1).usual(), 25);
        assert_eq!(turns(25, 25).usual(), 25);
    }

    #[tokio::test]
    async fn whoever_is_ready_to_come_is_waited_for_and_nobody_else() {
        for (coming, expected) in [(0, 1), (5, 6), (1_000, 50)] {
            let (there, looks) = (Cell::new(1), Cell::new(0));
            let come = async {
                for _ in 0..coming {
                    there.set(there.get() + 1);
                    yield_now().await;
                }
            };
            let wait = gather(|| {
                looks.set(looks.get() + 1);
                Some(there.get()).filter(|there| *there < 50)
            });
            let found = async {
                wait.await;
                there.get()
            };
            let (_, found) = tokio::join!(come, found);
            assert_eq!(found, expected);
            assert!(looks.get() < 100, "{}", looks.get());
        }
    }
}
