//! What the tasks of a shard share: its store, log, latches and queues, and the ways through them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{info, warn};

use super::backlog::Backlog;
use super::counters::Counters;
use super::courtesy::Courtesy;
use super::crowds::Crowds;
use super::evaluate::{Answer, Outcome, answers_a_value, evaluate, is_blind, read, value_bytes};
use super::latches::Latches;
use super::loader::Loader;
use super::replies::ReplyRoom;
use super::tickets::Tickets;
use super::{ShardOptions, WriteMode};
use crate::clock::Clock;
use crate::cluster::ShardName;
use crate::command::{Command, Effect, Found, Reply};
use crate::mutants::{Rule, is_planted};
use crate::record::{Epoch, Key, Timestamp, Version};
use crate::replication::{Appended, LogError, Mutation, ReplicatedLog, Solo};
use crate::service::Error;
use crate::slots::{Slot, SlotSet};
use crate::store::{Admission, Known, Lookup, Store};
use crate::sync::RwLock;
use crate::task::Tasks;
use crate::tier::{SharedTier, TierError};

/// How long a waiting write looks away before it asks for room again, should it miss the call.
const ROOM_POLL: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct Core {
    pub options: ShardOptions,
    pub store: Store,
    pub log: Solo,
    pub clock: Arc<dyn Clock>,
    pub tier: Option<SharedTier>,
    pub tasks: Tasks,
    pub latches: Arc<Latches>,
    pub courtesy: Courtesy,
    pub crowds: Crowds,
    pub loader: Loader,
    /// Something was queued to be spilled.
    pub spill: Notify,
    /// Somebody waits until it is.
    pub hurry: Notify,
    /// Memory was freed, or the tier took something.
    pub progress: Notify,
    /// Those who wait until the tier has a version.
    pub clean_waits: Tickets<()>,
    pub counters: Counters,
    pub backlog: Backlog,
    serving: RwLock<Arc<Serving>>,
    tier_is_up: AtomicBool,
    /// See [`Core::check_rows`].
    rows_count: AtomicBool,
}

/// A write that is committed, or has turned out to change nothing.
pub(super) struct Written {
    pub reply: Answer,
    /// Of what was written.
    pub version: Option<Version>,
    /// Of what it has seen, if the tier does not have that yet.
    pub seen: Option<Version>,
}

/// What the shard serves now. Replaced as a whole.
#[derive(Debug)]
pub(super) struct Serving {
    pub name: Option<ShardName>,
    pub epoch: Epoch,
    pub slots: SlotSet,
    /// Why the other slots are not served.
    pub reason: String,
    /// The batches that were let in under this.
    in_flight: TaskTracker,
}

impl Serving {
    pub fn new(name: Option<ShardName>, epoch: Epoch, slots: SlotSet, reason: impl Into<String>) -> Self {
        Self { name, epoch, slots, reason: reason.into(), in_flight: TaskTracker::new() }
    }

    pub fn check_epoch(&self, epoch: Option<Epoch>) -> Result<(), Error> {
        match epoch {
            Some(epoch) if self.slots.is_empty() => {
                Err(Error::Unavailable(format!("{} (asked under epoch {epoch})", self.reason)))
            }
            Some(epoch) if epoch != self.epoch => {
                Err(Error::WrongShard { epoch: self.epoch, reason: format!("asked under epoch {epoch}") })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub fn check_slot(&self, key: &Key) -> Result<(), Error> {
        let slot = Slot::of(key);
        if self.slots.contains(slot) {
            return Ok(());
        }
        if self.slots.is_empty() {
            return Err(Error::Unavailable(self.reason.clone()));
        }
        Err(Error::WrongShard { epoch: self.epoch, reason: format!("slot {slot} is not served here: {}", self.reason) })
    }
}

impl Core {
    pub fn new(options: ShardOptions, tier: Option<SharedTier>, clock: Arc<dyn Clock>, log: Solo) -> Self {
        Self {
            store: Store::new(&options.store(tier.is_some())),
            options,
            log,
            clock,
            tier,
            tasks: Tasks::default(),
            latches: Latches::new(),
            courtesy: Courtesy::new(),
            crowds: Crowds::default(),
            loader: Loader::new(),
            spill: Notify::new(),
            hurry: Notify::new(),
            progress: Notify::new(),
            clean_waits: Tickets::new(),
            counters: Counters::default(),
            backlog: Backlog::default(),
            serving: RwLock::new(Arc::new(Serving::new(
                None,
                Epoch::default(),
                SlotSet::empty(),
                "no primary has told this secondary which slots to serve yet",
            ))),
            tier_is_up: AtomicBool::new(false),
            rows_count: AtomicBool::new(false),
        }
    }

    /// What is served now, and a token that keeps [`Core::serve`] from returning until it is dropped.
    pub fn enter(&self) -> (Arc<Serving>, TaskTrackerToken) {
        let serving = self.serving.read();
        (Arc::clone(&serving), serving.in_flight.token()) // under the lock, so that `serve` can't miss it
    }

    pub fn serving(&self) -> Arc<Serving> {
        Arc::clone(&self.serving.read())
    }

    pub fn serves(&self, slot: Slot) -> bool {
        self.serving.read().slots.contains(slot)
    }

    /// Serves something else from now on. Returns when nothing runs any more that was let in before.
    pub async fn serve(&self, serving: Serving) {
        let before = self.swap_serving(serving);
        before.in_flight.close();
        before.in_flight.wait().await;
    }

    /// As [`Core::serve`], without the wait.
    pub fn swap_serving(&self, serving: Serving) -> Arc<Serving> {
        std::mem::replace(&mut *self.serving.write(), Arc::new(serving))
    }

    pub fn is_write_through(&self) -> bool {
        self.tier.is_some() && self.options.write_mode == WriteMode::Through
    }

    /// Executes a command on a key, waiting for latch, load, room and tier as it needs, until `deadline`.
    /// Whose reply would not fit `replies` is not done.
    pub async fn execute(
        self: &Arc<Self>,
        serving: &Serving,
        command: Command,
        replies: &ReplyRoom,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        if let Some(key) = command.key() {
            serving.check_slot(key)?;
        }
        if command.has_many_keys() {
            return self.write_many(command, deadline).await;
        }
        if command.is_write() {
            self.write(command, replies, deadline).await
        } else {
            self.read(command, deadline).await
        }
    }

    async fn read(&self, command: Command, deadline: Instant) -> Result<Reply, Error> {
        let Some(key) = command.key() else {
            return Err(Error::Invalid("this command has no key".to_owned()));
        };
        // What the key was when it was looked up: it may expire while this waits, but by then it may live longer, too.
        let mut now = self.clock.now();
        let is_written = self.latches.is_held(key);
        let mut known = self.know(key, now, deadline).await?;
        if known.found.is_none() && is_written {
            // It may have expired under a write that saw it alive: that comes first (ADR 6).
            let _latch = timeout_at(deadline, self.latches.acquire(key))
                .await
                .map_err(|_| Error::Unavailable("a write of this key did not end in time".to_owned()))?;
            now = self.clock.now();
            known = self.know(key, now, deadline).await?;
        }
        self.wait_visible(key, known.unspilled, deadline).await?;
        Self::reply_read(&command, known.found, now)
    }

    /// Waits until what memory knows of a key may be told: in write-through, once it is in the tier.
    pub async fn wait_visible(&self, key: &Key, unspilled: Option<Version>, deadline: Instant) -> Result<(), Error> {
        let Some(version) = unspilled.filter(|_| self.is_write_through() && !is_planted(Rule::R18Visible)) else {
            return Ok(());
        };
        self.wait_clean(key, version, deadline).await.map_err(|()| {
            Error::Unavailable("the tier has not confirmed the newest version of this key yet".to_owned())
        })
    }

    pub fn reply_read(command: &Command, found: Option<Found>, now: Timestamp) -> Result<Reply, Error> {
        read(command, found, now).ok_or_else(|| Error::Invalid("this command is not a read of a key".to_owned()))
    }

    async fn write(self: &Arc<Self>, command: Command, replies: &ReplyRoom, deadline: Instant) -> Result<Reply, Error> {
        let Some(key) = command.key().cloned() else {
            return Err(Error::Invalid("this command has no key".to_owned()));
        };
        let latch = match self.latches.try_acquire(&key) {
            Some(latch) => latch,
            None if self.may_join(&command) => return self.write_in_crowd(key, command, deadline, None).await,
            None => timeout_at(deadline, self.latches.acquire(&key))
                .await
                .map_err(|_| Error::Busy("other writes of this key did not end in time".to_owned()))?,
        };
        let written = self.write_latched(&key, command, Some(replies), deadline).await?;
        drop(latch);
        self.confirm(&key, written, deadline).await
    }

    /// Evaluates and commits a write. The caller holds the latch of its key. `replies`: of a command that answers a value.
    pub async fn write_latched(
        &self,
        key: &Key,
        command: Command,
        replies: Option<&ReplyRoom>,
        deadline: Instant,
    ) -> Result<Written, Error> {
        let now = self.clock.now();
        let mut known = if is_blind(&command) { Known::default() } else { self.know(key, now, deadline).await? };
        let old_bytes = known.found.as_ref().map_or(0, |found| found.value.as_bytes().len());
        if answers_a_value(&command) && replies.is_some_and(|replies| !replies.reserve(old_bytes)) {
            return Err(Error::ReplyTooLarge);
        }
        let payload_bytes = payload_bytes(&command, known.found.as_ref());
        let admission = match self.store.admit(payload_bytes) {
            Some(admission) => admission,
            None if known.found.is_none() => self.room(payload_bytes, deadline).await?,
            None => {
                // R9: many may wait, so it is not held on to meanwhile. Under the latch it stays what it is, or dies.
                drop(known);
                let admission = self.room(payload_bytes, deadline).await?;
                known = self.know(key, now, deadline).await?;
                admission
            }
        };
        let Some(Outcome { reply, mutation }) = evaluate(command, known.found, self.clock.now()) else {
            return Err(Error::Invalid("this command is not a write of a key".to_owned()));
        };
        let version = match mutation {
            Some(mutation) => Some(self.commit(mutation, admission, deadline).await?),
            None => None,
        };
        Ok(Written { reply, version, seen: known.unspilled })
    }

    /// In write-through, waits until the tier has what a reply tells.
    async fn confirm(&self, key: &Key, written: Written, deadline: Instant) -> Result<Reply, Error> {
        let Written { reply, version, seen } = written;
        match version {
            Some(version) => self.wait_through(key, version, deadline).await?,
            None => self.wait_visible(key, seen, deadline).await?, // a refusal tells what the key is
        }
        reply.into_reply(version)
    }

    /// In write-through, waits until the tier has what was written.
    ///
    /// # Errors
    /// [`Error::Unknown`] if it did not confirm it until `deadline`.
    pub async fn wait_through(&self, key: &Key, version: Version, deadline: Instant) -> Result<(), Error> {
        if !self.is_write_through() {
            return Ok(());
        }
        self.wait_clean(key, version, deadline)
            .await
            .map_err(|()| Error::Unknown("the tier did not confirm the write in time; it may still do".to_owned()))
    }

    /// Orders, commits and applies an outcome (R2). The caller holds the latch of its key.
    ///
    /// # Errors
    /// [`Error::Busy`] if the log had no room until `deadline`; [`Error::Unknown`] if it broke (R23).
    pub async fn commit(&self, mutation: Mutation, admission: Admission, deadline: Instant) -> Result<Version, Error> {
        let effect = self.log.propose(mutation);
        let version = effect.version();
        let effects = [effect];
        let appended = self.log.append(&effects);
        self.commit_all(&effects, [admission], appended, deadline).await.map(|()| version)
    }

    /// Waits until what was appended is committed, and applies it (R2). The caller holds the latches of the keys. What the
    /// log had no room for is appended again.
    ///
    /// # Errors
    /// As [`Core::commit`]; then nothing was applied.
    pub async fn commit_all(
        &self,
        effects: &[Effect],
        admissions: impl IntoIterator<Item = Admission>,
        appended: Result<Appended, LogError>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let _appended = self.until_committed(effects, appended, deadline).await?;
        self.apply_all(effects, admissions);
        Ok(())
    }

    /// Waits until what was appended is committed. What the log had no room for is appended again. The caller keeps the outcome until
    /// the effects are applied.
    ///
    /// # Errors
    /// As [`Core::commit`].
    pub async fn until_committed(
        &self,
        effects: &[Effect],
        appended: Result<Appended, LogError>,
        deadline: Instant,
    ) -> Result<Appended, Error> {
        let committed = async {
            let appended = match appended {
                Err(LogError::NoRoom(_)) => self.append_waiting(effects, deadline).await?,
                outcome => outcome?,
            };
            if is_planted(Rule::R2Commit) {
                return Ok(appended);
            }
            appended.committed().await.map(|()| appended)
        };
        committed.await.map_err(|error| match error {
            LogError::NoRoom(reason) => {
                self.counters.busy.add(effects.len() as u64);
                Error::Busy(reason)
            }
            LogError::Broken(reason) => Error::Unknown(reason),
        })
    }

    /// Waits for room in the log (R15).
    async fn append_waiting(&self, effects: &[Effect], deadline: Instant) -> Result<Appended, LogError> {
        loop {
            let progress = self.progress.notified();
            let outcome = self.log.append(effects);
            if !matches!(outcome, Err(LogError::NoRoom(_))) || Instant::now() >= deadline {
                return outcome;
            }
            self.until_progress(progress, deadline).await; // then look again
        }
    }

    /// Makes committed effects visible.
    pub fn apply_all(&self, effects: &[Effect], admissions: impl IntoIterator<Item = Admission>) {
        for (effect, admission) in effects.iter().zip(admissions) {
            self.apply(effect, admission);
        }
    }

    /// Makes a committed effect visible.
    pub fn apply(&self, effect: &Effect, admission: Admission) {
        match effect {
            Effect::Set(_) => self.counters.puts.add(1),
            Effect::Delete { .. } => self.counters.deletes.add(1),
        }
        if self.store.apply(effect, admission) {
            self.spill.notify_one();
        }
    }

    /// What a key is `now`: from memory, or else from the tier.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if only the tier could tell and it did not answer (R15).
    pub async fn know(&self, key: &Key, now: Timestamp, deadline: Instant) -> Result<Known, Error> {
        match self.store.get(key, self.store.hint(key), now) {
            Lookup::Known(known) => Ok(known),
            Lookup::Unknown => {
                self.check_rows()?;
                self.loader.load(self, key, now, deadline).await
            }
        }
    }

    /// Whether rows are the last word on what is not in memory. Not while the shard serves what it has from its journal without
    /// having had its fence since the start: dead letters may be newer, and others may have been given its slots.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if they are not.
    pub fn check_rows(&self) -> Result<(), Error> {
        // Relaxed: nothing is served on its account before the shard's task has set it and gone on to serve.
        if self.rows_count.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Error::Unavailable("the tier was not reached since this secondary started".to_owned()))
    }

    pub fn set_rows_count(&self, do_they: bool) {
        self.rows_count.store(do_they, Ordering::Relaxed);
    }

    /// Waits for room in memory (R15).
    pub async fn room(&self, payload_bytes: usize, deadline: Instant) -> Result<Admission, Error> {
        self.until_admitted(|| self.store.admit(payload_bytes), deadline).await
    }

    /// Waits for room for several entries at once: what waits for more holds none, so that two never wait for each other.
    pub async fn room_for_all(&self, payloads_bytes: &[usize], deadline: Instant) -> Result<Vec<Admission>, Error> {
        let admit_all = || payloads_bytes.iter().map(|bytes| self.store.admit(*bytes)).collect::<Option<Vec<_>>>();
        self.until_admitted(admit_all, deadline).await
    }

    async fn until_admitted<T>(&self, admit: impl Fn() -> Option<T>, deadline: Instant) -> Result<T, Error> {
        loop {
            let progress = self.progress.notified();
            if let Some(admitted) = admit() {
                return Ok(admitted);
            }
            if !self.until_progress(progress, deadline).await {
                return Err(self.busy());
            }
        }
    }

    /// Waits for the tier's next step, which is not to be put off, and after which there may be room. `false` at the deadline.
    pub async fn until_progress(&self, progress: Notified<'_>, deadline: Instant) -> bool {
        self.hurry.notify_one();
        let look_again = (Instant::now() + ROOM_POLL).min(deadline);
        timeout_at(look_again, progress).await.is_ok() || look_again < deadline
    }

    /// A write that found no room in time.
    pub fn busy(&self) -> Error {
        self.counters.busy.add(1);
        Error::Busy("memory is full of records that the tier has not taken yet".to_owned())
    }

    /// Waits until the tier has a version of a key, or a newer one.
    async fn wait_clean(&self, key: &Key, version: Version, deadline: Instant) -> Result<(), ()> {
        let (ticket, confirmed) = self.clean_waits.issue(1);
        if !self.store.await_clean(key, version, ticket) {
            self.clean_waits.withdraw(ticket);
            return Ok(());
        }
        match timeout_at(deadline, confirmed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                // Else those who gave up would pile up for as long as the tier is away.
                self.store.stop_awaiting(key, ticket);
                self.clean_waits.give_up(ticket);
                Err(())
            }
        }
    }

    /// Logs when the tier goes away or comes back, once.
    pub fn note_tier<T>(&self, result: &Result<T, TierError>) {
        let is_up = match result {
            Ok(_) => true,
            Err(TierError::Unavailable(_) | TierError::OutcomeUnknown(_)) => false,
            Err(TierError::Fenced | TierError::Conflict(_) | TierError::Rejected(_)) => return,
        };
        // Relaxed: two tasks may both notice a change, only one of them swaps it.
        if self.tier_is_up.swap(is_up, Ordering::Relaxed) == is_up {
            return;
        }
        match result {
            Ok(_) => info!("the tier answers"),
            Err(error) => warn!(%error, "the tier is away: hits and writes go on while memory has room, misses do not"),
        }
    }

    pub fn tier_is_up(&self) -> bool {
        // Relaxed: a figure for people.
        self.tier_is_up.load(Ordering::Relaxed)
    }
}

/// At least what the outcome of a command on one key takes: its key, and the value that it stores or keeps.
pub(super) fn payload_bytes(command: &Command, current: Option<&Found>) -> usize {
    let key = command.key().map_or(0, |key| key.as_bytes().len());
    let stored = match command {
        Command::Put { value, .. } => value.as_bytes().len(),
        Command::Expire { .. } | Command::Persist { .. } => current.map_or(0, |found| found.value.as_bytes().len()),
        Command::Update { update, .. } => value_bytes(update, current),
        Command::Delete { .. }
        | Command::Get { .. }
        | Command::Exists { .. }
        | Command::Ttl { .. }
        | Command::Scan { .. }
        | Command::Count
        | Command::Stats
        | Command::Explain { .. }
        | Command::Move { .. }
        | Command::PutAllAbsent { .. } => 0,
    };
    key + stored
}
