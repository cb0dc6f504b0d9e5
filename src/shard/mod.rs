//! One shard: evaluate, propose, commit, apply; spill, load, expire. It is a [`Service`] to whoever sends commands, and a
//! [`Member`] to the primary that leads it. It must not know how requests arrive.
//!
//! **Invariant (R5):** whatever waits or changes state runs in a task of the shard; a caller that goes away cancels nothing.
//!
//! | task | duty | ends |
//! |---|---|---|
//! | steward | carries out assignments | on stop |
//! | spiller | writes what leaves memory into the tier | on stop, after draining |
//! | loader ×3 | reads records back | on stop |
//! | expirer | deletes what has expired | on stop |
//! | filter | reads the keys that have rows, once an assignment | when done |

mod core;
mod counters;
mod evaluate;
mod expirer;
mod fence;
mod filter;
mod latches;
mod ledger;
mod loader;
mod member;
mod scan;
mod spiller;
mod stats;
mod steward;
mod tickets;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::core::{Core, Serving};
use self::fence::FenceKeeper;
use self::ledger::Ledger;
use self::spiller::{SetAside, Spiller};
use self::steward::Steward;
use crate::clock::Clock;
use crate::cluster::{Incarnation, MemberState};
use crate::command::{Command, Reply};
use crate::policy::PolicyKind;
use crate::record::Key;
use crate::service::{Batch, Error, Replies, Service};
use crate::slots::Slot;
use crate::store::{Spill, Store, StoreOptions};
use crate::tier::SharedTier;

/// How long the tasks may take to end once nothing is left to do; a statement under way has its own time-out.
const TASKS_END_TIMEOUT: Duration = Duration::from_secs(30);

/// Values that are loaded for one batch take about this much memory at most; reads beyond it are refused (R9).
const REPLY_BYTES_MAX: usize = 128 * 1024 * 1024;

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
    lead: Arc<Mutex<Option<member::Lead>>>,
    started: Instant,
    stop: CancellationToken,
}

impl Shard {
    /// Starts the tasks of a shard that serves nothing until a primary assigns it slots. `tier`: `None` makes it a pure
    /// cache. Must be called within a tokio runtime.
    pub fn spawn(options: ShardOptions, tier: Option<SharedTier>, clock: Arc<dyn Clock>) -> Self {
        let incarnation = Incarnation(options.seed);
        let core = Arc::new(Core::new(options, tier, clock));
        let stop = CancellationToken::new();
        let (fence, set_aside) = (Arc::new(FenceKeeper::default()), Arc::new(SetAside::default()));
        let steward = Arc::new(Steward {
            core: Arc::clone(&core),
            fence,
            set_aside,
            ledger: Arc::new(Mutex::new(Ledger {
                wanted: None,
                held: None,
                list: Vec::new(),
                state: MemberState::Unassigned,
                tier: None,
            })),
            wake: Arc::new(Notify::new()),
            incarnation,
            stop: stop.child_token(),
            running: tokio::sync::Mutex::default(),
            filter_scan: Mutex::default(),
        });
        let shard = Self { core, steward, lead: Arc::default(), started: Instant::now(), stop };
        shard.spawn_tasks();
        shard
    }

    fn spawn_tasks(&self) {
        let tasks = &self.core.tasks;
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
        tasks.spawn("spiller", async move {
            let (core, fence, set_aside) = (&steward.core, &steward.fence, &steward.set_aside);
            Spiller { core, tier: &tier, fence, set_aside, stop: &stop }.run().await;
        });
    }

    /// Finishes what is in flight, spills everything unspilled, marks the fence clean, and ends all tasks. Returns how
    /// many records it spilled.
    ///
    /// # Errors
    /// [`UncleanStop`] if the tier did not take everything within the drain timeout.
    pub async fn shutdown(&self) -> Result<u64, UncleanStop> {
        let stopped = self.steward.stop_cleanly().await;
        self.stop.cancel();
        self.core.tasks.shutdown(TASKS_END_TIMEOUT).await;
        if let Some(tier) = &self.core.tier {
            tier.close().await;
        }
        stopped.map_err(|unspilled| UncleanStop { unspilled })
    }
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
        let (mut replies, waiting) = self.execute_what_needs_no_wait(&serving, batch.commands);
        if waiting.is_empty() {
            return replies;
        }
        // R5: from here on nothing may be cancelled by the caller.
        let shard = self.clone();
        let deadline = Instant::now() + batch.timeout;
        let work = self.core.tasks.spawn_work(async move {
            let _in_flight = in_flight;
            shard.execute_waiting(&serving, waiting, deadline).await
        });
        let answers = work.await.unwrap_or_default();
        for (i, answer) in answers {
            if let Some(place) = replies.get_mut(i) {
                *place = answer;
            }
        }
        replies
    }
}

/// A command that has to wait, with its place in the batch.
type Waiting = (usize, Command);

impl Shard {
    /// The replies of all commands that need no waiting, in their places, and the rest. A command goes to the rest if an
    /// earlier one on its key did: commands on one key keep their order.
    fn execute_what_needs_no_wait(&self, serving: &Serving, commands: Vec<Command>) -> (Replies, Vec<Waiting>) {
        let mut replies = Vec::with_capacity(commands.len());
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut waiting_keys: HashSet<Key, RandomState> = HashSet::default();
        for (i, command) in commands.into_iter().enumerate() {
            let must_wait = !waiting_keys.is_empty() && command.key().is_some_and(|key| waiting_keys.contains(key));
            let tried = if must_wait { Err(command) } else { self.core.try_execute(serving, command) };
            match tried {
                Ok(reply) => replies.push(reply),
                Err(command) => {
                    waiting_keys.extend(command.key().cloned());
                    waiting.push((i, command));
                    replies.push(Err(Error::Unknown("the work on this command ended without an answer".to_owned())));
                }
            }
        }
        (replies, waiting)
    }

    async fn execute_waiting(
        &self,
        serving: &Serving,
        waiting: Vec<Waiting>,
        deadline: Instant,
    ) -> Vec<(usize, Result<Reply, Error>)> {
        let mut by_key: BTreeMap<Option<Key>, Vec<Waiting>> = BTreeMap::new(); // in an order that can be repeated
        for (i, command) in waiting {
            by_key.entry(command.key().cloned()).or_default().push((i, command));
        }
        let (bytes, is_too_much) = (AtomicUsize::new(0), CancellationToken::new());
        let keys = by_key.into_values().map(async |commands| {
            let mut answers = Vec::with_capacity(commands.len());
            for (i, command) in commands {
                let is_get = matches!(command, Command::Get { .. });
                let executed = self.execute_one(serving, command, deadline);
                let answer = if is_get {
                    // It may be given up half way: its load goes on by itself.
                    is_too_much.run_until_cancelled(executed).await.unwrap_or(Err(Error::ReplyTooLarge))
                } else {
                    executed.await
                };
                // Relaxed: one task runs all of this.
                let size = answer.as_ref().map_or(0, Reply::size_bytes);
                if bytes.fetch_add(size, Ordering::Relaxed) + size > REPLY_BYTES_MAX {
                    is_too_much.cancel();
                }
                answers.push((i, answer));
            }
            answers
        });
        join_all(keys).await.into_iter().flatten().collect()
    }

    async fn execute_one(&self, serving: &Serving, command: Command, deadline: Instant) -> Result<Reply, Error> {
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
            | Command::Persist { .. }) => self.core.execute(serving, command, deadline).await,
        }
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("serving", &self.core.serving()).finish_non_exhaustive()
    }
}
