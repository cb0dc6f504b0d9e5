//! One shard: evaluate, propose, commit, apply; spill, load, expire. It is a [`Service`] to whoever sends commands, and a
//! [`Member`] to the primary that leads it. It must not know how requests arrive.
//!
//! **Invariant (R5):** whatever waits or changes state runs in a task of the shard; a caller that goes away cancels nothing.
//!
//! | task | duty | ends |
//! |---|---|---|
//! | steward | carries out assignments | on stop |
//! | applier | applies what the log has committed | on stop, when nothing is left |
//! | spiller | takes up what leaves memory, where the tier is at home | on stop, after draining |
//! | flush | one for each batch: brings it into the tier | when done, or on stop |
//! | loader ×3 | reads records back | on stop |
//! | expirer | deletes what has expired | on stop |
//! | filter | reads the keys that have rows, once an assignment | when done |
//! | crowd | one for each key that several write at a time: writes for all of them | when nobody waits |
//! | journal | group commit | on stop, after the last sync |
//! | journal watch | stops serving when the journal has failed | on stop |
//! | checkpointer | keeps the journal short | on stop |

mod applier;
mod backlog;
mod batch;
mod checkpointer;
mod claim;
mod core;
mod counters;
mod courtesy;
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
mod reads;
mod replies;
mod scan;
mod spiller;
mod stats;
mod steward;
mod tenure;
mod tickets;
mod topology;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, SetOnce, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::applier::Work;
use self::claim::LSN_GAP;
use self::core::Core;
use self::fence::FenceKeeper;
use self::ledger::Ledger;
use self::spiller::{SetAside, Spiller};
use self::steward::Steward;
pub use self::tenure::Tenure;
use self::tenure::TenureKeeper;
use crate::clock::Clock;
use crate::cluster::{Incarnation, MapView};
use crate::journal::{Journal, Recovered};
use crate::policy::PolicyKind;
use crate::record::Lsn;
use crate::replication::Solo;
use crate::slots::Slot;
use crate::store::{Spill, Store, StoreOptions};
use crate::sync::Mutex;
use crate::task::Blocking;
use crate::tier::SharedTier;

/// How long the tasks may take to end once nothing is left to do; a statement under way has its own time-out.
const TASKS_END_TIMEOUT: Duration = Duration::from_secs(30);

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
        let home = tier.home().cloned().unwrap_or_else(Handle::current);
        let Steward { core, fence, set_aside, .. } = &*self.steward;
        let (core, fence, set_aside) = (Arc::clone(core), Arc::clone(fence), Arc::clone(set_aside));
        let spiller = Arc::new(Spiller { core, tier: tier.clone(), fence, set_aside, stop: self.stop.clone() });
        tasks.spawn_on(&home, "spiller", spiller.run());
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

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("serving", &self.core.serving()).finish_non_exhaustive()
    }
}
