//! Reads records back from the tier: one load a key at a time, many keys a statement (R12, R16).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::tickets::Tickets;
use crate::command::Found;
use crate::gather::{PATIENCE, is_company};
use crate::mutants::{Rule, is_planted};
use crate::record::{Key, Record, Timestamp, VALUE_BYTES_MAX};
use crate::request::{self, Spans, Trace};
use crate::service::Error;
use crate::store::{Fill, FillId, Known, Ticket};
use crate::sync::Mutex;
use crate::tier::SharedTier;

/// Most keys in one load: the size of a statement, so that nothing is padded; beyond it, MySQL and MariaDB gain little.
const KEYS_MAX: usize = 256;
/// Loads are sized so that their values take about this much memory, by the largest value of late (R9).
const LOAD_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX;
/// Before anything is known of the values.
const KEYS_FIRST: usize = 16;
/// Loads in flight at a time.
pub(super) const WORKERS: usize = 3;

type Answer = Result<Option<Arc<Record>>, String>;

/// A key to load, and the request that wants it first, if that is logged.
type Wanted = (Key, FillId, Option<Trace>);

/// Keys to load. Bounded by the commands in flight.
#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Wanted>,
    /// Until when they wait for company, if they do.
    held_until: Option<Instant>,
    /// How many are in loads.
    under_way: usize,
}

/// What is to be loaded, and those who wait for it.
#[derive(Debug)]
pub(super) struct Loader {
    queue: Mutex<Queue>,
    wake: Notify,
    waiting: Tickets<Answer>,
    keys_max: AtomicUsize,
}

impl Loader {
    pub fn new() -> Self {
        Self {
            queue: Mutex::default(),
            wake: Notify::new(),
            waiting: Tickets::new(),
            keys_max: AtomicUsize::new(KEYS_FIRST),
        }
    }

    /// As [`Loader::load_all`], of one key.
    pub async fn load(&self, core: &Core, key: &Key, now: Timestamp, deadline: Instant) -> Result<Known, Error> {
        let known = self.load_all(core, &[key], now, deadline).await.pop().flatten();
        known.unwrap_or_else(|| Err(Error::Unavailable("what was loaded was not kept".to_owned())))
    }

    /// What some keys are `now`, from memory or tier, in their order. `None`: it was not kept until the last was known, since the others
    /// are large (R9).
    ///
    /// # Errors
    /// [`Error::Unavailable`] for each that the tier does not answer by `deadline` (R15): never "not found".
    ///
    /// # Cancel safety
    /// A dropped future gives up the answers; the loads go on.
    pub async fn load_all(
        &self,
        core: &Core,
        keys: &[&Key],
        now: Timestamp,
        deadline: Instant,
    ) -> Vec<Option<Result<Known, Error>>> {
        if keys.is_empty() {
            return Vec::new();
        }
        let (first, mut told) = self.waiting.issue(keys.len());
        let mut wanted = Vec::with_capacity(keys.len());
        let begin = |(key, number): (&&Key, u64)| {
            let ticket = Ticket(number);
            match core.store.begin_fill(key, ticket, now) {
                Fill::Known(known) => {
                    self.waiting.withdraw(ticket);
                    return Some(known);
                }
                Fill::Joined => core.counters.loads_joined.add(1),
                Fill::Started(id) => wanted.push((Key::clone(key), id, request::trace())),
            }
            None
        };
        let known: Vec<Option<Known>> = keys.iter().zip(first.0..).map(begin).collect();
        if !wanted.is_empty() {
            self.queue.lock().waiting.append(&mut wanted);
            self.wake.notify_one();
        }
        let (told, late) = match timeout_at(deadline, &mut told).await {
            Ok(told) => (told, None),
            Err(_) => match self.waiting.give_up(first) {
                Some(answers) => (Ok(answers), Some("the tier did not answer in time")),
                None => (told.await, None), // they came just then
            },
        };
        let (answers, missing) = match told {
            Ok(answers) => (answers, late),
            Err(_) => (Vec::new(), Some("the shard is stopping")),
        };
        let answers = answers.into_iter().chain(std::iter::repeat_with(|| None));
        let outcome = |(known, answer): (Option<Known>, Option<Answer>)| match (known, answer) {
            (Some(known), _) => Some(Ok(known)),
            (None, Some(Ok(row))) => Some(Ok(Known { found: row.and_then(|row| live(&row, now)), unspilled: None })),
            (None, Some(Err(reason))) => Some(Err(Error::Unavailable(reason))),
            (None, None) => missing.map(|reason| Err(Error::Unavailable(reason.to_owned()))),
        };
        known.into_iter().zip(answers).map(outcome).collect()
    }

    /// Runs until `stop`: takes what waits, as one load, while others are in flight.
    pub async fn run(&self, core: &Core, tier: &SharedTier, stop: &CancellationToken) {
        loop {
            let batch = match self.take() {
                Ok(batch) => batch,
                Err(held_until) => {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = self.wake.notified() => {}
                        () = sleep_until(held_until.unwrap_or_else(Instant::now)), if held_until.is_some() => {}
                    }
                    continue;
                }
            };
            let count = batch.len();
            if !self.queue.lock().waiting.is_empty() {
                self.wake.notify_one(); // another worker may take the rest
            }
            self.load_batch(core, tier, batch).await;
            self.queue.lock().under_way -= count;
        }
    }

    /// How many keys a load has at most, by what values are like of late.
    pub fn keys_max(&self) -> usize {
        // Relaxed: a hint.
        self.keys_max.load(Ordering::Relaxed)
    }

    /// What waits, for a load of its own. If there is nothing, or if it waits for company: until when.
    fn take(&self) -> Result<Vec<Wanted>, Option<Instant>> {
        let keys_max = self.keys_max();
        let mut queue = self.queue.lock();
        let waiting = queue.waiting.len().min(keys_max);
        if waiting == 0 {
            return Err(None);
        }
        if waiting < keys_max && !is_company(waiting, queue.under_way) {
            let now = Instant::now();
            let held_until = *queue.held_until.get_or_insert(now + PATIENCE);
            if now < held_until {
                return Err(Some(held_until));
            }
        }
        queue.held_until = None;
        queue.under_way += waiting;
        Ok(queue.waiting.drain(..waiting).collect())
    }

    async fn load_batch(&self, core: &Core, tier: &SharedTier, batch: Vec<Wanted>) {
        let keys: Vec<Key> = batch.iter().map(|(key, ..)| key.clone()).collect();
        let started = request::is_told().then(Instant::now);
        let traces = batch.iter().filter_map(|(.., trace)| *trace);
        let spans = Spans::start("load", traces.clone());
        let loaded = tier.load(&keys).await;
        spans.end_with(|span| {
            span.set_count("overspill.keys", keys.len());
            span.set_errors(loaded.is_err().into());
        });
        if let Some(started) = started {
            let requests = request::list(traces.map(|trace| trace.request));
            let rows = loaded.as_ref().map_or(0, Vec::len);
            let (keys, micros, is_ok) = (keys.len(), started.elapsed().as_micros() as u64, loaded.is_ok());
            tracing::debug!(target: request::TARGET, requests, keys, rows, micros, is_ok, "loaded");
        }
        core.counters.load_batches.add(1);
        core.note_tier(&loaded);
        match loaded {
            Ok(rows) => {
                core.counters.loaded_rows.add(rows.len() as u64);
                self.resize(keys.len(), &rows);
                self.complete(core, batch, rows);
            }
            Err(_) if is_planted(Rule::R15NotFound) => self.complete(core, batch, Vec::new()),
            Err(error) => {
                core.counters.load_errors.add(1);
                let reason = error.to_string();
                for (key, id, _) in batch {
                    for ticket in core.store.fail_fill(&key, id) {
                        self.waiting.answer(ticket, Err(reason.clone()), 0);
                    }
                }
            }
        }
    }

    fn complete(&self, core: &Core, batch: Vec<Wanted>, rows: Vec<Record>) {
        let rows: std::collections::HashMap<Key, Arc<Record>, foldhash::fast::RandomState> =
            rows.into_iter().map(|row| (row.key.clone(), Arc::new(row))).collect();
        let now = core.clock.now();
        for (key, id, _) in batch {
            // A key may be in the batch twice: once for a load that a write has overtaken before it began (R12), once for a new one.
            let row = rows.get(&key).cloned();
            let bytes = row.as_ref().map_or(0, |row| row.value.as_bytes().len());
            for ticket in core.store.complete_fill(&key, id, row.as_deref(), now) {
                self.waiting.answer(ticket, Ok(row.clone()), bytes);
            }
        }
        // What was loaded may have evicted others.
        if core.store.has_spill() {
            core.spill.notify_one();
        }
    }

    /// Grows step by step while values are small, shrinks at once when they are large.
    fn resize(&self, asked: usize, rows: &[Record]) {
        let largest_bytes = rows.iter().map(|row| row.value.as_bytes().len()).max().unwrap_or(0).max(1);
        let fits = (LOAD_BYTES_MAX / largest_bytes).clamp(1, KEYS_MAX);
        // Relaxed: a hint.
        let grown = self.keys_max.load(Ordering::Relaxed).max(asked * 2);
        self.keys_max.store(grown.min(fits), Ordering::Relaxed);
    }
}

fn live(row: &Record, now: Timestamp) -> Option<Found> {
    let is_live = !row.is_expired(now);
    is_live.then(|| Found { value: row.value.clone(), version: row.version, expires_at: row.expires_at })
}
