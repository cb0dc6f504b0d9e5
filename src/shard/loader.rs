//! Reads records back from the tier: one load a key at a time, many keys a statement (R12, R16).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::tickets::Tickets;
use crate::command::Found;
use crate::mutants::{Rule, is_planted};
use crate::record::{Key, Record, Timestamp, VALUE_BYTES_MAX};
use crate::request::{self, Spans, Trace};
use crate::service::Error;
use crate::store::{Fill, FillId, Known};
use crate::sync::Mutex;
use crate::tier::SharedTier;

/// Most keys in one load: beyond it, MySQL gains nothing (FACTS: 500 keys a statement).
const KEYS_MAX: usize = 500;
/// Loads are sized so that their values take about this much memory, by the largest value of late (R9).
const LOAD_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX;
/// Before anything is known of the values.
const KEYS_FIRST: usize = 16;
/// Loads in flight at a time.
pub(super) const WORKERS: usize = 3;

type Answer = Result<Option<Arc<Record>>, String>;

/// A key to load, and the request that wants it first, if that is logged.
type Wanted = (Key, FillId, Option<Trace>);

/// The queue of keys to load, and those who wait for them. Bounded by the commands in flight.
#[derive(Debug)]
pub(super) struct Loader {
    queue: Mutex<Vec<Wanted>>,
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

    /// What a key is `now`, from memory or tier.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the tier does not answer by `deadline` (R15): never "not found".
    ///
    /// # Cancel safety
    /// A dropped future gives up the answer; the load goes on.
    pub async fn load(&self, core: &Core, key: &Key, now: Timestamp, deadline: Instant) -> Result<Known, Error> {
        let (ticket, answer) = self.waiting.issue();
        match core.store.begin_fill(key, ticket, now) {
            Fill::Known(known) => {
                self.waiting.withdraw(ticket);
                return Ok(known);
            }
            Fill::Joined => core.counters.loads_joined.add(1),
            Fill::Started(id) => {
                self.queue.lock().push((key.clone(), id, request::trace()));
                self.wake.notify_one();
            }
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(Ok(row))) => Ok(Known { found: row.and_then(|row| live(&row, now)), unspilled: None }),
            Ok(Ok(Err(reason))) => Err(Error::Unavailable(reason)),
            Ok(Err(_)) => Err(Error::Unavailable("the shard is stopping".to_owned())),
            Err(_) => Err(Error::Unavailable("the tier did not answer in time".to_owned())),
        }
    }

    /// Runs until `stop`: takes what waits, as one load, while others are in flight.
    pub async fn run(&self, core: &Core, tier: &SharedTier, stop: &CancellationToken) {
        loop {
            let batch = self.take();
            if batch.is_empty() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = self.wake.notified() => continue,
                }
            }
            if !self.queue.lock().is_empty() {
                self.wake.notify_one(); // another worker may take the rest
            }
            self.load_batch(core, tier, batch).await;
        }
    }

    fn take(&self) -> Vec<Wanted> {
        // Relaxed: a hint.
        let keys_max = self.keys_max.load(Ordering::Relaxed);
        let mut queue = self.queue.lock();
        let rest = queue.len().min(keys_max);
        queue.drain(..rest).collect()
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
                        self.waiting.answer(ticket, Err(reason.clone()));
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
            for ticket in core.store.complete_fill(&key, id, row.as_deref(), now) {
                self.waiting.answer(ticket, Ok(row.clone()));
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
