//! When requests are due.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::{Extent, Plan};

/// How long requests that are due may wait for their connection when no more become due.
const PATIENCE: Duration = Duration::from_secs(10);

/// Those of a connection.
pub struct Turns {
    /// The part of the keys that is walked through in order, if it is.
    pub keys: Range<u64>,
    when: When,
    /// How many were due and not asked before all patience was over.
    pub unsent: u64,
}

enum When {
    /// As soon as the last ones are answered.
    Free { left: u64, until: Until },
    /// By the pace.
    Due { turns: UnboundedReceiver<Instant>, until: Until },
}

/// A moment so long after the first turn.
struct Until {
    after: Duration,
    begun: Option<Instant>,
}

/// Tells connections in turn when their requests are due.
pub struct Pace {
    interval: Duration,
    requests: u64,
    connections: Vec<UnboundedSender<Instant>>,
}

/// For each connection; and what must run meanwhile.
pub fn of(plan: &Plan) -> (Vec<Turns>, Option<Pace>) {
    let part = |whole: u64, number: usize| (u128::from(whole) * number as u128 / plan.connections as u128) as u64;
    let share = |whole: u64, number: usize| part(whole, number)..part(whole, number + 1);
    let keys = |number| share(plan.keys, number);
    let Some(rate) = plan.rate else {
        let turns = |number| {
            let (left, after) = match plan.extent {
                Extent::Time(time) => (u64::MAX, time),
                Extent::Requests(requests) => {
                    let share = share(requests, number);
                    (share.end - share.start, Duration::MAX)
                }
            };
            Turns { keys: keys(number), when: When::Free { left, until: Until::new(after) }, unsent: 0 }
        };
        return ((0..plan.connections).map(turns).collect(), None);
    };
    let requests = plan.requests().unwrap_or_default();
    let seconds = Duration::try_from_secs_f64(requests as f64 / rate);
    let after = seconds.map_or(Duration::MAX, |seconds| seconds.saturating_add(PATIENCE));
    let (mut turns, mut connections) = (Vec::new(), Vec::new());
    for number in 0..plan.connections {
        let (sender, receiver) = unbounded_channel();
        connections.push(sender);
        let when = When::Due { turns: receiver, until: Until::new(after) };
        turns.push(Turns { keys: keys(number), when, unsent: 0 });
    }
    (turns, Some(Pace { interval: Duration::from_secs_f64(rate.recip()), requests, connections }))
}

impl Turns {
    /// Waits for the next requests of the connection, at most so many, and says when they were due. `false`: there are no more.
    pub async fn next(&mut self, most: usize, due: &mut Vec<Instant>) -> bool {
        due.clear();
        match &mut self.when {
            When::Free { left, until } => {
                let now = Instant::now();
                if !until.is_over(now) {
                    due.resize(most.min(usize::try_from(*left).unwrap_or(most)), now);
                    *left -= due.len() as u64;
                }
            }
            When::Due { turns, until } => {
                turns.recv_many(due, most).await;
                if until.is_over(Instant::now()) {
                    self.unsent = (due.len() + turns.len()) as u64;
                    return false;
                }
            }
        }
        !due.is_empty()
    }
}

impl Until {
    fn new(after: Duration) -> Self {
        Self { after, begun: None }
    }

    fn is_over(&mut self, now: Instant) -> bool {
        now.duration_since(*self.begun.get_or_insert(now)) >= self.after
    }
}

impl Pace {
    /// Until all are told. The system's sleep is exact to some 50 µs, a runtime's to a millisecond.
    pub fn run(self, started: Instant, stop: &CancellationToken) {
        for (request, connection) in (0..self.requests).zip(self.connections.iter().cycle()) {
            let due = started + self.interval.mul_f64(request as f64);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if stop.is_cancelled() || connection.send(due).is_err() {
                return;
            }
        }
    }
}
