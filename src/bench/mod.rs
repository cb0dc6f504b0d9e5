//! `kv bench`: a load on any server that speaks RESP or the text protocol of memcached, and how long its answers took.
//!
//! The method is memtier_benchmark's: some threads, each with connections of its own, each connection with some requests on their way.
//! With a rate the loop is open: requests are due whether or not the server keeps up, and a latency begins when its request was due, so
//! that a stall is paid by all who would have come meanwhile (Gil Tene, "How NOT to Measure Latency").

mod connection;
mod pattern;
mod report;
#[cfg(test)]
mod tests;
mod turns;
mod wire;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use thiserror::Error;
use tokio::runtime::{self, Runtime};
use tokio_util::sync::CancellationToken;

pub use self::connection::Connection;
pub use self::pattern::{KEY_DIGITS, Pattern, PatternError};
pub use self::report::{Figures, Report};
pub use self::wire::{Reply, Wire};

use self::pattern::Choice;
use self::report::Tally;
use self::turns::Turns;

const TELL_INTERVAL: Duration = Duration::from_millis(20);

/// What is asked, by whom, and for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// HOST:PORT.
    pub address: String,
    pub wire: Wire,
    pub password: Option<String>,
    /// At least 1.
    pub threads: usize,
    /// In all; at least 1.
    pub connections: usize,
    /// Most requests of a connection that are on their way at once; at least 1.
    pub pipeline: usize,
    /// Of a hundred requests; the others are SETs.
    pub gets_percent: u32,
    /// Before the number of a key, which has [`KEY_DIGITS`].
    pub prefix: String,
    /// How many keys there are; at least 1.
    pub keys: u64,
    pub pattern: Pattern,
    pub value_bytes: usize,
    pub extent: Extent,
    /// Requests a second in all, due at even intervals; `None`: each connection asks again as soon as it has its answers.
    pub rate: Option<f64>,
    /// The same seed, the same keys and commands.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Extent {
    Time(Duration),
    Requests(u64),
}

/// Why there are no figures.
#[derive(Debug, Error)]
pub enum BenchError {
    #[error("{address} can't be reached: {error}")]
    Connect { address: String, error: io::Error },
    #[error("{address} does not let us in: {answer}")]
    Refused { address: String, answer: String },
    #[error("{address} is gone: {error}")]
    Lost { address: String, error: io::Error },
    #[error("no thread: {0}")]
    Thread(io::Error),
}

/// What the threads of a run share.
struct Run {
    plan: Plan,
    /// All are connected.
    begin: Barrier,
    /// Asked for from outside, or since a connection has failed.
    stop: CancellationToken,
    answered: AtomicU64,
}

impl Plan {
    /// How many requests it is, if that is known before.
    pub fn requests(&self) -> Option<u64> {
        match self.extent {
            Extent::Time(time) => self.rate.map(|rate| (time.as_secs_f64() * rate).ceil() as u64),
            Extent::Requests(requests) => Some(requests),
        }
    }

    /// Runs it, and tells often how many requests were answered. Blocks until it is done, or `stop` is cancelled: then the figures are
    /// of what was done.
    ///
    /// # Errors
    /// If the server can't be reached, lets nobody in, or closes a connection.
    pub fn run(&self, stop: &CancellationToken, mut tell: impl FnMut(u64)) -> Result<Report, BenchError> {
        let threads = self.threads.min(self.connections);
        let (begin, answered) = (Barrier::new(threads + 1), AtomicU64::new(0));
        let run = Arc::new(Run { plan: self.clone(), begin, stop: stop.clone(), answered });
        let runtime = |_| runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::Thread);
        let runtimes = (0..threads).map(runtime).collect::<Result<Vec<_>, _>>()?;
        let (mut turns, pace) = turns::of(self);
        let mut workers = Vec::with_capacity(threads);
        for (number, runtime) in runtimes.into_iter().enumerate().rev() {
            // The shares differ by one at most.
            let share = turns.split_off(turns.len() - turns.len() / (number + 1));
            let run = run.clone();
            let named = thread::Builder::new().name(format!("bench {number}"));
            workers.push(named.spawn(move || run.work(&runtime, number, share)).map_err(BenchError::Thread)?);
        }
        run.begin.wait();
        let (started, pacing) = (Instant::now(), run.clone());
        let pace = pace.map(|pace| thread::spawn(move || pace.run(started, &pacing.stop)));
        while !workers.iter().all(JoinHandle::is_finished) {
            thread::sleep(TELL_INTERVAL);
            tell(run.answered.load(Ordering::Relaxed));
        }
        let _ = pace.map(JoinHandle::join); // it has nothing to say
        let tallies =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        Ok(Report::new(self, started, tallies.collect::<Result<Vec<_>, _>>()?.into_iter().flatten()))
    }
}

impl Run {
    /// A thread with a connection for each of the turns.
    fn work(&self, runtime: &Runtime, thread: usize, turns: Vec<Turns>) -> Result<Vec<Tally>, BenchError> {
        let plan = &self.plan;
        let connect = || Connection::open(&plan.address, plan.wire, plan.password.as_deref());
        let connected = runtime.block_on(try_join_all(turns.iter().map(|_| connect())));
        self.begin.wait();
        let done = connected.and_then(|connections| {
            let pairs = connections.into_iter().zip(turns).enumerate();
            runtime.block_on(try_join_all(pairs.map(|(number, (connection, turns))| {
                let seed = plan.seed ^ (thread as u64) << 32 ^ number as u64;
                self.drive(connection, turns, SmallRng::seed_from_u64(seed))
            })))
        });
        if done.is_err() {
            self.stop.cancel();
        }
        done
    }

    async fn drive(
        &self,
        mut connection: Connection,
        mut turns: Turns,
        mut rng: SmallRng,
    ) -> Result<Tally, BenchError> {
        let lost = |error| BenchError::Lost { address: self.plan.address.clone(), error };
        let (value, mut key) = (vec![b'v'; self.plan.value_bytes], String::new());
        let mut choice = Choice::new(&self.plan, turns.keys.clone());
        let (mut tally, mut due, mut gets) = (Tally::default(), Vec::new(), Vec::new());
        while !self.stop.is_cancelled() && turns.next(self.plan.pipeline, &mut due).await {
            gets.clear();
            for _ in &due {
                choice.next(&mut rng, &self.plan.prefix, &mut key);
                let is_get = rng.random_range(0..100) < self.plan.gets_percent;
                if is_get {
                    connection.get(key.as_bytes());
                } else {
                    connection.set(key.as_bytes(), &value);
                }
                gets.push(is_get);
            }
            connection.send().await.map_err(lost)?;
            for (due, &is_get) in due.iter().zip(&gets) {
                let (reply, at) = connection.receive().await.map_err(lost)?;
                tally.count(is_get, at.saturating_duration_since(*due), &reply);
                tally.ended = Some(at);
            }
            self.answered.fetch_add(due.len() as u64, Ordering::Relaxed);
        }
        tally.unsent = turns.unsent;
        Ok(tally)
    }
}
