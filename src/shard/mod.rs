//! One shard: evaluate, propose, commit, apply; spill, load, expire. It is a [`Service`] to whoever sends commands, and a
//! [`Member`] to the primary that leads it. It must not know how requests arrive.
//!
//! **Invariant (R5):** whatever waits or changes state runs in a task of the shard; a caller that goes away cancels nothing.
//!
//! | task | duty | ends |
//! |---|---|---|
//! | steward | carries out assignments | on stop |
//! | applier | applies what the log has committed | on stop, when nothing is left |
//! | spiller | writes what leaves memory into the tier, where the tier is at home | on stop, after draining |
//! | loader ×3 | reads records back | on stop |
//! | expirer | deletes what has expired | on stop |
//! | filter | reads the keys that have rows, once an assignment | when done |
//! | crowd | one for each key that several write at a time: writes for all of them | when nobody waits |
//! | journal | group commit | on stop, after the last sync |
//! | journal watch | stops serving when the journal has failed | on stop |
//! | checkpointer | keeps the journal short | on stop |

mod applier;
mod backlog;
mod checkpointer;
mod claim;
mod core;
mod counters;
mod crowds;
mod evaluate;
mod expirer;
mod fence;
mod filter;
mod group;
#[cfg(test)]
#[cfg(feature = "shuttle")]
mod interleavings;
mod latches;
mod ledger;
mod loader;
mod many;
mod member;
mod replies;
mod scan;
mod spiller;
mod stats;
mod steward;
mod tenure;
mod tickets;
mod topology;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::vec;

use foldhash::fast::RandomState;
use futures::future::{join, join_all};
use tokio::runtime::Handle;
use tokio::sync::{Notify, SetOnce, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::info;

use self::applier::Work;
use self::claim::LSN_GAP;
use self::core::{Core, Serving};
use self::evaluate::{answers_a_value, keys_of};
use self::fence::FenceKeeper;
use self::group::{Answered, Group, Tried};
use self::ledger::Ledger;
use self::replies::ReplyRoom;
use self::spiller::{SetAside, Spiller};
use self::steward::Steward;
pub use self::tenure::Tenure;
use self::tenure::TenureKeeper;
use crate::clock::Clock;
use crate::cluster::{Incarnation, MapView};
use crate::command::{Command, Reply};
use crate::journal::{Journal, Recovered};
use crate::policy::PolicyKind;
use crate::record::{Key, Lsn};
use crate::replication::{Appended, Solo};
use crate::request;
use crate::service::{Batch, Error, REPLIES_BYTES_MAX, Replies, Service};
use crate::slots::Slot;
use crate::store::{PREFETCHED, Spill, Store, StoreOptions};
use crate::sync::{Mutex, oneshot};
use crate::task::Blocking;
use crate::tier::SharedTier;

/// How long the tasks may take to end once nothing is left to do; a statement under way has its own time-out.
const TASKS_END_TIMEOUT: Duration = Duration::from_secs(30);

/// Stands for a reply until it comes.
const TO_COME: Error = Error::Unknown(String::new());
/// Why it never came: a panic.
const UNANSWERED: &str = "the work on this command ended without an answer";

/// When a write reaches the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// When its record leaves memory.
    Spill,
    /// Soon after it was acknowledged.
    Behind,
    /// Before it is acknowledged.
    Through,
}

/// How a shard behaves; fixed for its life.
#[derive(Debug, Clone)]
pub struct ShardOptions {
    /// Live records in memory, at least 1.
    pub capacity: usize,
    /// All bytes in memory, at least [`crate::store::MEMORY_BYTES_MIN`].
    pub memory_bytes_max: usize,
    pub policy: PolicyKind,
    pub write_mode: WriteMode,
    /// Serve although unspilled records of an unclean stop are lost (R22).
    pub accept_loss: bool,
    /// Refuse a tier whose settings let it lose what it acknowledged.
    pub strict: bool,
    /// How long a stop waits for the tier to take what is unspilled.
    pub drain_timeout: Duration,
    /// How long a walk over all rows takes that removes the expired ones.
    pub sweep_interval: Duration,
    /// Seeds the hash of the keys and names this life of the process; random in production.
    pub seed: u64,
}

impl ShardOptions {
    fn store(&self, has_tier: bool) -> StoreOptions {
        let spill = match self.write_mode {
            _ if !has_tier => Spill::Nothing,
            WriteMode::Spill => Spill::Evicted,
            WriteMode::Behind | WriteMode::Through => Spill::Everything,
        };
        StoreOptions {
            capacity: self.capacity,
            memory_bytes_max: self.memory_bytes_max,
            policy: self.policy,
            spill,
            seed: self.seed,
        }
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Shard {
    core: Arc<Core>,
    steward: Arc<Steward>,
    applier: mpsc::UnboundedSender<Work>,
    lead: Arc<Mutex<Option<member::Lead>>>,
    started: Instant,
    address: Arc<topology::Address>,
    /// What its primary has told it of the map.
    told: Arc<Mutex<Option<MapView>>>,
    stop: CancellationToken,
}

/// Where a shard keeps what it has acknowledged and the tier does not have yet.
pub struct Durability {
    pub journal: Journal,
    pub recovered: Recovered,
    pub blocking: Arc<dyn Blocking>,
}

/// The journal holds something that this program does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal's note about its shard can't be read ({0}): use a newer program")]
pub struct UnknownNote(String);

impl Shard {
    /// Starts the tasks of a shard that serves nothing until a primary assigns it slots. It has no journal: what it had not
    /// spilled when it ended is lost. `tier`: `None` makes it a pure cache. Must be called within a tokio runtime.
    pub fn spawn(options: ShardOptions, tier: Option<SharedTier>, clock: Arc<dyn Clock>) -> Self {
        Self::start(Core::new(options, tier, clock, Solo::default()), Tenure::default(), None)
    }

    /// As [`Shard::spawn`], with a journal: takes in what an earlier life had acknowledged. Takes about a second for a million
    /// records.
    ///
    /// # Errors
    /// [`UnknownNote`] if a newer program wrote the journal.
    pub fn recover(
        options: ShardOptions,
        tier: SharedTier,
        clock: Arc<dyn Clock>,
        durability: Durability,
    ) -> Result<Self, UnknownNote> {
        let Durability { journal, recovered, blocking } = durability;
        let tenure = Tenure::decode(recovered.note.as_deref()).map_err(|error| UnknownNote(error.to_string()))?;
        let core = Core::new(options, Some(tier), clock, Solo::with_journal(journal.clone(), Arc::clone(&blocking)));
        for effect in recovered.effects.iter().filter(|effect| tenure.covers(effect)) {
            core.store.restore(effect);
        }
        // A life that synced lazily may have lost its last versions with the machine: a client that has seen one of them must not
        // find another write under it.
        let gap = if tenure.holding().is_some() { LSN_GAP } else { 0 };
        let last = recovered.last.map_or(Lsn(0), |last| last.lsn).max(tenure.last());
        core.log.begin(tenure.epoch, Lsn(last.0 + gap));
        let unspilled = core.store.stats().unspilled;
        if let Some(shard) = tenure.shard.as_ref().filter(|_| !recovered.is_new) {
            info!(%shard, journal = %recovered.id, unspilled, torn_bytes = recovered.torn_bytes, "recovered from the journal");
        }
        let shard = Self::start(core, tenure, Some((journal, blocking)));
        shard.core.spill.notify_one();
        Ok(shard)
    }

    fn start(core: Core, tenure: Tenure, journal: Option<(Journal, Arc<dyn Blocking>)>) -> Self {
        let incarnation = Incarnation(core.options.seed);
        let has_inherited = core.store.stats().unspilled > 0;
        let core = Arc::new(core);
        let stop = CancellationToken::new();
        let (applier, appended) = mpsc::unbounded_channel();
        let ledger = Ledger::new(tenure.holding());
        let steward = Arc::new(Steward {
            core: Arc::clone(&core),
            fence: Arc::new(FenceKeeper::default()),
            tenure: TenureKeeper::new(journal.clone(), tenure, has_inherited),
            set_aside: Arc::new(SetAside::default()),
            ledger: Arc::new(Mutex::new(ledger)),
            wake: Arc::new(Notify::new()),
            incarnation,
            stop: stop.child_token(),
            running: tokio::sync::Mutex::default(),
            filter_scan: Mutex::default(),
            failed: SetOnce::new(),
        });
        let shard = Self {
            core,
            steward,
            applier,
            lead: Arc::default(),
            started: Instant::now(),
            address: Arc::default(),
            told: Arc::default(),
            stop,
        };
        shard.spawn_tasks(appended);
        if let Some((journal, blocking)) = journal {
            shard.spawn_journal_tasks(&journal, &blocking);
        }
        shard
    }

    fn spawn_tasks(&self, appended: mpsc::UnboundedReceiver<Work>) {
        let tasks = &self.core.tasks;
        let (core, stop) = (Arc::clone(&self.core), self.stop.clone());
        tasks.spawn("applier", async move { applier::run(&core, appended, &stop).await });
        let steward = Arc::clone(&self.steward);
        tasks.spawn("steward", async move { steward.run().await });
        let (core, stop) = (Arc::clone(&self.core), self.stop.clone());
        tasks.spawn("expirer", async move { expirer::run(&core, &stop).await });
        let Some(tier) = &self.core.tier else { return };
        for _ in 0..loader::WORKERS {
            let (core, tier, stop) = (Arc::clone(&self.core), tier.clone(), self.stop.clone());
            tasks.spawn("loader", async move { core.loader.run(&core, &tier, &stop).await });
        }
        let (steward, tier, stop) = (Arc::clone(&self.steward), tier.clone(), self.stop.clone());
        let home = tier.home().cloned().unwrap_or_else(Handle::current);
        tasks.spawn_on(&home, "spiller", async move {
            let (core, fence, set_aside) = (&steward.core, &steward.fence, &steward.set_aside);
            Spiller { core, tier: &tier, fence, set_aside, stop: &stop }.run().await;
        });
    }

    fn spawn_journal_tasks(&self, journal: &Journal, blocking: &Arc<dyn Blocking>) {
        let tasks = &self.core.tasks;
        let (writer, thread, stop) = (journal.clone(), Arc::clone(blocking), self.stop.clone());
        tasks.spawn("journal", async move { writer.run(&*thread, &stop).await });
        let (steward, writer, stop) = (Arc::clone(&self.steward), journal.clone(), self.stop.clone());
        tasks.spawn("journal watch", async move {
            if let Some(reason) = stop.run_until_cancelled(writer.failed()).await {
                steward.fail(&reason);
            }
        });
        let (core, writer, thread) = (Arc::clone(&self.core), journal.clone(), Arc::clone(blocking));
        let stop = self.stop.clone();
        tasks.spawn("checkpointer", async move { checkpointer::run(&core, &writer, &*thread, &stop).await });
    }

    /// Returns once the shard serves nothing any more because its journal can't be written, with the reason (R23): the process
    /// is to end, and to recover. Never without a journal.
    pub async fn failed(&self) -> String {
        self.steward.failed.wait().await.clone()
    }

    /// Finishes what is in flight, spills everything unspilled, marks the fence clean, and ends all tasks.
    ///
    /// # Errors
    /// [`UncleanStop`] if the tier did not take everything within the drain timeout, and there is no journal that has it.
    pub async fn shutdown(&self) -> Result<Stopped, UncleanStop> {
        let stopped = self.steward.stop_cleanly().await;
        self.stop.cancel();
        self.core.tasks.shutdown(TASKS_END_TIMEOUT).await;
        if let Some(tier) = &self.core.tier {
            tier.close().await;
        }
        stopped
    }
}

/// How a shard stopped: nothing that it had acknowledged is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Records that it spilled while stopping.
    pub spilled: u64,
    /// Records that are in the journal only: the tier did not take them in time.
    pub journaled: u64,
}

/// A shard stopped before the tier had everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped without the tier having taken {unspilled} acknowledged records: they are lost")]
pub struct UncleanStop {
    pub unspilled: u64,
}

/// For simulations, which check what holds in memory between any two effects.
impl Shard {
    #[doc(hidden)]
    pub fn store(&self) -> &Store {
        &self.core.store
    }

    #[doc(hidden)]
    pub fn serves(&self, slot: Slot) -> bool {
        self.core.serves(slot)
    }
}

impl Service for Shard {
    async fn execute(&self, batch: Batch) -> Replies {
        let (serving, in_flight) = self.core.enter();
        if let Err(error) = serving.check_epoch(batch.epoch) {
            return batch.commands.iter().map(|_| Err(error.clone())).collect();
        }
        let commands = batch.commands.len();
        let Sorted { mut replies, group, waiting, bytes, rest } =
            self.sort_out(&serving, Rest { stuck: None, others: batch.commands.into_iter() }, 0, 0);
        if let Some(request) = request::current() {
            let waiting = waiting.len();
            tracing::debug!(target: request::TARGET, %request, commands, waiting, "executed");
        }
        if group.is_empty() && waiting.is_empty() && rest.is_empty() {
            return replies;
        }
        let deadline = Instant::now() + batch.timeout;
        let waiting = match alone_in_crowd(&self.core, commands, waiting) {
            Ok((key, command)) => {
                return vec![self.core.write_in_crowd(key, command, deadline, Some(in_flight)).await];
            }
            Err(waiting) => waiting,
        };
        let appended = group.append(&self.core.log);
        // R5: from here on nothing may be cancelled by the caller.
        let answers = match appended {
            Ok(appended) if waiting.is_empty() && rest.is_empty() && !self.core.is_write_through() => {
                self.apply_in_order(group, appended, deadline, in_flight).await
            }
            appended => {
                let (shard, next) = (self.clone(), replies.len());
                let work = self.core.tasks.spawn_work(request::within(request::trace(), async move {
                    let _in_flight = in_flight;
                    let grouped = shard.core.commit_group(group, appended, deadline);
                    let waiting = shard.execute_waiting(&serving, waiting, bytes, deadline);
                    let (mut answers, more) = join(grouped, waiting).await;
                    answers.extend(more);
                    shard.execute_rest(&serving, rest, next, bytes, deadline, &mut answers).await;
                    answers
                }));
                work.await.unwrap_or_default()
            }
        };
        replies.resize_with(commands, || Err(TO_COME));
        for (i, answer) in answers {
            if let Some(place) = replies.get_mut(i) {
                *place = answer;
            }
        }
        for reply in replies.iter_mut().filter(|reply| **reply == Err(TO_COME)) {
            *reply = Err(Error::Unknown(UNANSWERED.to_owned()));
        }
        replies
    }
}

/// The only command of a batch, if it is a write of a key that is being written.
fn alone_in_crowd(core: &Core, commands: usize, mut waiting: Vec<Waiting>) -> Result<(Key, Command), Vec<Waiting>> {
    let is_alone =
        |command: &Command| core.may_join(command) && command.key().is_some_and(|key| core.latches.is_held(key));
    let alone = waiting.pop_if(|(_, command)| commands == 1 && is_alone(command));
    let key = alone.as_ref().and_then(|(_, command)| command.key().cloned());
    key.zip(alone.map(|(_, command)| command)).ok_or(waiting)
}

/// For fewer commands than this it does not pay to look ahead.
const PREFETCHED_MIN: usize = 4;

/// A command that has to wait, with its place in the batch.
type Waiting = (usize, Command);

/// Commands of a batch that are still to be tried: all from one on.
struct Rest {
    /// The first of them, if there was no room in memory for it.
    stuck: Option<Command>,
    others: vec::IntoIter<Command>,
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.stuck.is_none() && self.others.len() == 0
    }

    fn next(&mut self) -> Option<Command> {
        self.stuck.take().or_else(|| self.others.next())
    }
}

/// A batch, or its rest, after everything was tried that needs no waiting, up to the first command that there is no room for.
struct Sorted {
    /// In their places; an error stands where a reply is still to come.
    replies: Replies,
    group: Group,
    waiting: Vec<Waiting>,
    /// Of all replies of the batch so far.
    bytes: usize,
    rest: Rest,
}

/// Whether the reply may be large, and nothing is lost if it is not given.
fn is_refusable(command: &Command) -> bool {
    matches!(command, Command::Get { .. } | Command::Scan { .. })
}

impl Shard {
    /// Has a group that waits for nothing but its commit applied. No answers come if the work on it broke off.
    async fn apply_in_order(
        &self,
        group: Group,
        appended: Appended,
        deadline: Instant,
        in_flight: TaskTrackerToken,
    ) -> Vec<Answered> {
        let (answers, answered) = oneshot::channel();
        let work = Work { group, appended, deadline, in_flight, answers };
        if let Err(mpsc::error::SendError(work)) = self.applier.send(work) {
            // The shard is being stopped.
            let core = Arc::clone(&self.core);
            self.core.tasks.spawn("late write", async move { applier::apply(&core, work).await });
        }
        answered.await.unwrap_or_default()
    }

    /// Tries all commands, whose places are `first` and those after it. One goes to those that wait if an earlier one on its key
    /// did: commands on one key keep their order, as those on several keys do, which always wait. `bytes`: of the batch's replies
    /// before.
    fn sort_out(&self, serving: &Serving, mut rest: Rest, first: usize, mut bytes: usize) -> Sorted {
        let mut replies = Vec::with_capacity(rest.others.len() + 1);
        let (mut group, mut waiting) = (Group::default(), Vec::new());
        let mut waiting_keys: HashSet<Key, RandomState> = HashSet::default();
        let mut is_too_much = false;
        let now = self.core.clock.now(); // a batch's reads are of one moment
        for i in first.. {
            if (i - first).is_multiple_of(PREFETCHED) && rest.others.len() >= PREFETCHED_MIN {
                self.core.store.prefetch(rest.others.as_slice().iter().filter_map(Command::key));
            }
            let Some(command) = rest.next() else { break };
            let must_wait = !waiting_keys.is_empty() && command.key().is_some_and(|key| waiting_keys.contains(key));
            let is_refusable = is_refusable(&command);
            let tried = match must_wait {
                _ if is_too_much && (is_refusable || answers_a_value(&command)) => {
                    Tried::Answered(Err(Error::ReplyTooLarge))
                }
                true => Tried::MustWait(command),
                false => self.core.try_execute(serving, &mut group, i, command, now),
            };
            match tried {
                Tried::Answered(reply) => {
                    let size = reply.as_ref().map_or(0, Reply::size_bytes);
                    is_too_much |= bytes + size > REPLIES_BYTES_MAX;
                    let is_refused = is_refusable && is_too_much;
                    bytes += if is_refused { 0 } else { size };
                    replies.push(if is_refused { Err(Error::ReplyTooLarge) } else { reply });
                }
                Tried::Grouped { bytes: size } => {
                    bytes += size;
                    is_too_much |= bytes > REPLIES_BYTES_MAX;
                    replies.push(Err(TO_COME));
                }
                Tried::MustWait(command) => {
                    waiting_keys.extend(keys_of(&command));
                    waiting.push((i, command));
                    replies.push(Err(TO_COME));
                }
                Tried::NoRoom(command) => {
                    rest.stuck = Some(command);
                    break;
                }
            }
        }
        Sorted { replies, group, waiting, bytes, rest }
    }

    /// Waits for room in memory (R15), and then tries what is left of a batch as it tried the batch: so many writers wait for room
    /// at a time that each must cost little. `next`: the place of the first.
    async fn execute_rest(
        &self,
        serving: &Serving,
        mut rest: Rest,
        mut next: usize,
        mut bytes: usize,
        deadline: Instant,
        answers: &mut Vec<Answered>,
    ) {
        while !rest.is_empty() {
            let progress = self.core.progress.notified();
            let sorted = self.sort_out(serving, rest, next, bytes);
            (rest, bytes) = (sorted.rest, sorted.bytes);
            if sorted.replies.is_empty() {
                if let Err(busy) = self.core.until_progress(progress, deadline).await {
                    drop(rest.stuck.take());
                    answers.push((next, Err(busy)));
                    next += 1; // those behind it may still be reads
                }
                continue;
            }
            let tried = sorted.replies.into_iter().enumerate();
            let at = next;
            next += tried.len();
            answers.extend(tried.filter(|(_, reply)| *reply != Err(TO_COME)).map(|(i, reply)| (at + i, reply)));
            let appended = sorted.group.append(&self.core.log);
            let grouped = self.core.commit_group(sorted.group, appended, deadline);
            let waiting = self.execute_waiting(serving, sorted.waiting, bytes, deadline);
            let (grouped, waiting) = join(grouped, waiting).await;
            answers.extend(grouped.into_iter().chain(waiting));
        }
    }

    /// `bytes`: of what the batch is answered already.
    async fn execute_waiting(
        &self,
        serving: &Serving,
        waiting: Vec<Waiting>,
        bytes: usize,
        deadline: Instant,
    ) -> Vec<Answered> {
        let replies = ReplyRoom::new(bytes);
        let chains = chains(waiting).into_iter().map(async |commands| {
            let mut answers = Vec::with_capacity(commands.len());
            for (i, command) in commands {
                let (is_refusable, is_reserved) = (is_refusable(&command), answers_a_value(&command));
                let executed = self.execute_one(serving, command, &replies, deadline);
                let answer = if is_refusable {
                    // It may be given up half way: its load goes on by itself.
                    replies.unless_over(executed).await.unwrap_or(Err(Error::ReplyTooLarge))
                } else {
                    executed.await
                };
                if !is_reserved {
                    replies.add(answer.as_ref().map_or(0, Reply::size_bytes));
                }
                answers.push((i, answer));
            }
            answers
        });
        join_all(chains).await.into_iter().flatten().collect()
    }

    async fn execute_one(
        &self,
        serving: &Serving,
        command: Command,
        replies: &ReplyRoom,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        match command {
            Command::Scan { cursor, limit } => scan::page(&self.core, serving, cursor, limit).await,
            Command::Count => self.count(),
            Command::Stats => Ok(Reply::Stats(vec![self.stats(serving)])),
            Command::Explain { key } => self.explain(serving, &key).await,
            command @ (Command::Get { .. }
            | Command::Put { .. }
            | Command::Delete { .. }
            | Command::Exists { .. }
            | Command::Ttl { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::Update { .. }
            | Command::Move { .. }
            | Command::PutAllAbsent { .. }) => self.core.execute(serving, command, replies, deadline).await,
        }
    }
}

/// Commands that wait, in chains: those that have a key in common one after the other, in the order of the batch.
fn chains(waiting: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut chain_of: HashMap<Option<Key>, usize, RandomState> = HashMap::default();
    let mut chains: Vec<Vec<Waiting>> = Vec::new();
    for (i, command) in waiting {
        let keys: Vec<Option<Key>> = match command.key() {
            Some(_) => keys_of(&command).into_iter().map(Some).collect(),
            None => vec![None],
        };
        let mut joined: Vec<usize> = keys.iter().filter_map(|key| chain_of.get(key).copied()).collect();
        joined.sort_unstable();
        joined.dedup();
        let at = joined.first().copied().unwrap_or(chains.len());
        let mut chain = chains.get_mut(at).map(std::mem::take).unwrap_or_default();
        for other in joined.iter().skip(1) {
            chain.extend(chains.get_mut(*other).map(std::mem::take).unwrap_or_default());
            chain_of.values_mut().filter(|of| **of == *other).for_each(|of| *of = at);
        }
        if joined.len() > 1 {
            chain.sort_unstable_by_key(|(i, _)| *i);
        }
        chain.push((i, command));
        match chains.get_mut(at) {
            Some(place) => *place = chain,
            None => chains.push(chain),
        }
        chain_of.extend(keys.into_iter().map(|key| (key, at)));
    }
    chains
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("serving", &self.core.serving()).finish_non_exhaustive()
    }
}
