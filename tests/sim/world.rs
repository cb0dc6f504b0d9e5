//! Everything that exists in a run, and the run itself: one seed, one thread, one order of events.
//!
//! The processes are the shards of production. tokio's paused clock is the queue of events: when nobody can go on, it jumps
//! to the next timer. A process that is killed is cut off from tier, disk and network in the same instant: whatever its
//! tasks still do in memory, nobody can see.

use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use overspill::clock::Clock;
use overspill::cluster::{Fence, Incarnation, Member, MemberStatus, ShardName};
use overspill::command::Place;
use overspill::journal::memory::MemoryDisk;
use overspill::journal::{self, Fsync, OpenError};
use overspill::record::{JournalId, Key, Value};
use overspill::shard::{Durability, Shard, ShardOptions};
use overspill::slots::{Slot, SlotSet};
use overspill::tier::memory::MemoryTier;
use overspill::tier::{SharedTier, Tier};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::Notify;

use crate::clock::SimClock;
use crate::disk::{SimBlocking, SimDisk};
use crate::history::{History, ValueId};
use crate::invariants::{self, Witness};
use crate::plan::{Plan, Setup};
use crate::primary::Primary;
use crate::tier::SimTier;
use crate::trace::Trace;
use crate::weather::{Faults, Weather};
use crate::{check, clients, ending, faults, panics};

/// Virtual time after the last planned event in which everything has to come to rest.
pub const CONVERGE_MAX: Duration = Duration::from_secs(300);

/// Places of two bits in a sum.
const ADDITIONS_MAX: u32 = 31;

/// One life of a secondary.
pub struct Process {
    pub life: u64,
    pub name: usize,
    shard: OnceLock<Shard>,
    /// Where its journal lies.
    pub disk: Option<MemoryDisk>,
    is_dead: AtomicBool,
    is_cut_off: AtomicBool,
    /// It has been within its bounds once it served: what it took over from its journal, and dead letters, may pass them at first.
    pub was_within: AtomicBool,
}

impl Process {
    pub fn shard(&self) -> &Shard {
        self.shard.get().expect("set before anything else runs")
    }

    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    /// Whether anybody hears what it says.
    pub fn is_heard(&self) -> bool {
        !self.is_dead() && !self.is_cut_off.load(Ordering::Relaxed)
    }

    pub fn set_cut_off(&self, is_cut_off: bool) {
        self.is_cut_off.store(is_cut_off, Ordering::Relaxed);
    }

    /// A dead process goes no further.
    pub async fn unless_dead(&self) {
        if self.is_dead() {
            pending().await
        }
    }

    pub fn status(&self) -> MemberStatus {
        self.shard().status().now_or_never().and_then(Result::ok).expect("a status takes no time")
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", ["a", "b"][self.name], self.life)
    }
}

pub struct World {
    pub plan: Arc<Plan>,
    pub keys: Vec<Key>,
    pub names: Vec<ShardName>,
    pub rows: MemoryTier,
    pub clock: Arc<SimClock>,
    pub weather: Weather,
    pub trace: Trace,
    pub faults: Faults,
    pub history: Mutex<History>,
    pub witness: Mutex<Witness>,
    pub primary: Mutex<Primary>,
    /// All lives so far, dead ones too: what died with them is known.
    pub processes: Mutex<Vec<Arc<Process>>>,
    /// What the next process of a name finds.
    pub disks: Mutex<Vec<DiskOfName>>,
    pub chaos: Mutex<SmallRng>,
    pub failure: Mutex<Option<String>>,
    pub failed: Notify,
    lives: AtomicU64,
    values: AtomicU64,
    /// How often each key was to be added to.
    additions: Mutex<Vec<u32>>,
}

/// The disk that a name has.
#[derive(Clone)]
pub struct DiskOfName {
    pub disk: MemoryDisk,
    pub is_rotten: bool,
}

impl DiskOfName {
    pub fn empty() -> Self {
        Self { disk: MemoryDisk::new(), is_rotten: false }
    }
}

/// What came of a run.
pub struct Outcome {
    pub failure: Option<String>,
    pub hash: u64,
    pub events: u64,
    pub lines: Vec<String>,
    pub virtual_time: Duration,
    pub faults: u64,
    pub operations: u64,
    /// Histories that were too hard to judge.
    pub undecided: u64,
}

/// Runs a plan from its beginning to its end, or to the first thing that must not be.
pub fn run(plan: &Arc<Plan>, is_recording: bool) -> Outcome {
    fastrand::seed(plan.seed); // the jitter of `Backoff`
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime of one thread");
    panics::take();
    let outcome = runtime.block_on(async {
        let start = tokio::time::Instant::now();
        let world = World::new(Arc::clone(plan), is_recording);
        tokio::select! {
            biased;
            () = world.failed.notified() => {}
            () = world.live() => {}
        }
        let mut failure = world.failure.lock().take();
        if let Some(panic) = panics::take() {
            failure = Some(format!("a panic: {panic}"));
        }
        let history = std::mem::take(&mut *world.history.lock());
        let mut undecided = 0;
        if failure.is_none() {
            failure = history.keys.iter().enumerate().find_map(|(i, ops)| match check::check_key(ops) {
                Ok(judged) => {
                    undecided += u64::from(judged == check::Judged::TooHard);
                    None
                }
                Err(reason) => Some(format!("the history of {} is not linearizable: {reason}", world.keys[i])),
            });
        }
        Outcome {
            failure,
            hash: world.trace.hash(),
            events: world.trace.events(),
            lines: world.trace.take_lines(),
            virtual_time: start.elapsed(),
            faults: world.faults.get(),
            operations: history.operations() as u64,
            undecided,
        }
    });
    runtime.shutdown_background();
    outcome
}

impl World {
    fn new(plan: Arc<Plan>, is_recording: bool) -> Arc<Self> {
        let keys = plan.setup.keys + 1;
        let names = (0..plan.setup.shards).map(|i| ShardName::new(format!("localhost:{}", 8081 + i)));
        let names: Vec<ShardName> = names.collect::<Result<_, _>>().expect("short names");
        let keys: Vec<Key> = (0..keys).map(|i| Key::new(format!("k{i}")).expect("a short key")).collect();
        let world = Self {
            names,
            rows: MemoryTier::new(),
            clock: Arc::new(SimClock::new()),
            weather: Weather::new(plan.seed, plan.weather),
            trace: Trace::new(is_recording),
            faults: Faults::default(),
            history: Mutex::new(History::new(keys.len())),
            witness: Mutex::new(Witness::new(keys.len())),
            primary: Mutex::new(Primary::new(&plan.setup, &keys)),
            processes: Mutex::default(),
            disks: Mutex::default(),
            chaos: Mutex::new(SmallRng::seed_from_u64(plan.seed ^ 0xd15c)),
            failure: Mutex::default(),
            failed: Notify::new(),
            lives: AtomicU64::new(0),
            values: AtomicU64::new(0),
            additions: Mutex::new(vec![0; keys.len()]),
            keys,
            plan,
        };
        Arc::new(world)
    }

    async fn live(self: &Arc<Self>) {
        self.disks.lock().extend((0..self.names.len()).map(|_| DiskOfName::empty()));
        (0..self.names.len()).for_each(|name| self.start(name));
        tokio::spawn(crate::primary::lead(Arc::clone(self)));
        let clients: Vec<_> =
            (0..self.plan.clients.len()).map(|i| tokio::spawn(clients::run(Arc::clone(self), i))).collect();
        faults::plant(self).await;
        for client in clients {
            let _ = client.await; // a panic is noticed by the hook
        }
        ending::converge(self).await;
    }

    pub fn setup(&self) -> &Setup {
        &self.plan.setup
    }

    /// A new process of a name: nothing in memory, nothing assigned.
    pub fn start(self: &Arc<Self>, name: usize) {
        let life = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        let setup = self.setup();
        let options = ShardOptions {
            capacity: setup.capacity,
            memory_bytes_max: setup.memory_bytes_max,
            policy: setup.policy,
            write_mode: setup.mode,
            accept_loss: false,
            strict: false,
            drain_timeout: setup.drain_timeout,
            sweep_interval: setup.sweep_interval,
            seed: life,
        };
        let disk = setup.journal.map(|_| self.disks.lock()[name].disk.attach());
        let process = Arc::new(Process {
            life,
            name,
            shard: OnceLock::new(),
            disk,
            is_dead: AtomicBool::new(false),
            is_cut_off: AtomicBool::new(false),
            was_within: AtomicBool::new(false),
        });
        let tier = SimTier { world: Arc::clone(self), process: Arc::clone(&process) };
        let clock: Arc<SimClock> = Arc::clone(&self.clock);
        let tier = SharedTier::new(tier);
        let shard = match self.open_journal(&process) {
            None => Shard::spawn(options, Some(tier), clock),
            Some(Ok(durability)) => match Shard::recover(options, tier, clock, durability) {
                Ok(shard) => shard,
                Err(error) => return self.fail(format!("{process} can't recover: {error}")),
            },
            Some(Err(error)) => return self.not_started(&process, &error),
        };
        let _ = process.shard.set(shard); // nobody else does
        self.trace.note(format_args!("{process} starts"));
        self.processes.lock().push(Arc::clone(&process));
        if process.disk.is_some() {
            tokio::spawn(faults::end_with_journal(Arc::clone(self), process));
        }
    }

    fn open_journal(self: &Arc<Self>, process: &Arc<Process>) -> Option<Result<Durability, OpenError>> {
        let (options, disk) = (self.setup().journal?, process.disk.clone()?);
        let sim = SimDisk { world: Arc::clone(self), process: Arc::clone(process), disk };
        let opened = journal::open(Arc::new(sim), options, JournalId(process.life), &mut |_| {});
        let blocking = Arc::new(SimBlocking { world: Arc::clone(self), process: Arc::clone(process) });
        let opened = opened.map(|(journal, recovered)| Durability { journal, recovered, blocking });
        if opened.is_ok() && std::mem::take(&mut self.disks.lock()[process.name].is_rotten) {
            self.fail(format!("{process} has not noticed that its journal is rotten (R24)"));
        }
        Some(opened)
    }

    /// A person looks, and does what can be done.
    fn not_started(self: &Arc<Self>, process: &Process, error: &OpenError) {
        self.trace.note(format_args!("{process} does not start: {error}"));
        if let OpenError::Corrupt { .. } = error {
            let of_name = &mut self.disks.lock()[process.name];
            if !of_name.is_rotten {
                self.fail(format!("{process} finds its journal corrupt, and nothing is: {error} (R24)"));
            }
            *of_name = DiskOfName::empty();
        }
        let (world, name) = (Arc::clone(self), process.name);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if world.up(name).is_none() {
                world.start(name);
            }
        });
    }

    /// The newest process of a name.
    pub fn newest(&self, name: usize) -> Option<Arc<Process>> {
        self.processes.lock().iter().rev().find(|process| process.name == name).cloned()
    }

    /// The newest process of a name, if it is up.
    pub fn up(&self, name: usize) -> Option<Arc<Process>> {
        self.newest(name).filter(|process| !process.is_dead())
    }

    /// The process ends where it is. What it has written stays.
    pub fn kill(&self, process: &Process, how: &str) {
        if !process.is_dead.swap(true, Ordering::Relaxed) {
            self.trace.note(format_args!("{process} is killed {how}"));
            process.disk.iter().for_each(MemoryDisk::kill);
            self.witness.lock().died(process.life);
        }
    }

    /// Its machine ends: what was not synced may be gone. With lazy syncs, that is the price: but nothing that the tier has
    /// may go back in time (R10), and nothing that another serves.
    pub fn lose_power(&self, process: &Process) {
        if process.is_dead.swap(true, Ordering::Relaxed) {
            return;
        }
        self.trace.note(format_args!("{process} loses power"));
        process.disk.iter().for_each(|disk| disk.crash(&mut *self.chaos.lock()));
        self.witness.lock().died(process.life);
        if self.setup().journal.is_some_and(|journal| journal.fsync != Fsync::Always) {
            for key in 0..self.keys.len() {
                let newest = self.witness.lock().seen(key).version;
                let is_in_the_tier = self.rows.row(&self.keys[key]).is_some_and(|row| row.version == newest);
                let is_served_elsewhere = self.server(Slot::of(&self.keys[key])).is_some();
                if !is_in_the_tier && !is_served_elsewhere {
                    self.history.lock().forget(key);
                    self.witness.lock().forget(key);
                }
            }
        }
    }

    /// The process that serves a slot, as far as anybody can hear.
    pub fn server(&self, slot: Slot) -> Option<Arc<Process>> {
        let processes = self.processes.lock();
        let mut serving = processes.iter().filter(|process| process.is_heard() && process.shard().serves(slot));
        let first = serving.next();
        if let (Some(first), Some(second)) = (first, serving.next()) {
            self.fail(format!("both {first} and {second} serve slot {slot}"));
        }
        first.cloned()
    }

    pub fn fence(&self, shard: &ShardName) -> Option<Fence> {
        let fences = self.rows.fences().now_or_never().and_then(Result::ok).unwrap_or_default();
        fences.into_iter().find(|fence| fence.shard == *shard)
    }

    /// A fence row has changed. If another process has taken the name over from one that was not clean, what that had not
    /// spilled is lost; that is right only if the loss was accepted.
    pub fn on_swap(&self, before: Option<&Fence>, after: &Fence) {
        // It may read its filter anew.
        self.witness.lock().filters.retain(|(life, _)| *life != after.incarnation.0);
        let Some(before) = before.filter(|before| before.incarnation != after.incarnation) else { return };
        if before.clean || before.incarnation == Incarnation::default() {
            return;
        }
        let Some(name) = self.names.iter().position(|name| *name == after.shard) else { return };
        if !self.primary.lock().accepts_loss(name) {
            return; // then nothing may be missing
        }
        let processes = self.processes.lock();
        // Also a life that had served from its journal, before it got hold of the fence.
        let is_old = |process: &&Arc<Process>| process.name == name && process.life >= before.incarnation.0;
        let old: Vec<_> = processes.iter().filter(is_old).filter(|old| old.life != after.incarnation.0).collect();
        let lost: Vec<usize> =
            (0..self.keys.len()).filter(|&key| old.iter().any(|old| self.dies_with(old, key))).collect();
        self.trace.note(format_args!("lost with {}, with leave: {lost:?}", before.shard));
        for key in lost {
            self.history.lock().forget(key);
            self.witness.lock().forget(key);
        }
    }

    /// An old process of a name, taken for dead, may try to spill what it has; that it claims the name again, over the one that
    /// took it, is a matter for the person who runs both.
    pub fn stop_second_claim(&self, process: &Process) {
        let is_newest = self.newest(process.name).is_some_and(|newest| newest.life == process.life);
        let owner = self.fence(&self.names[process.name]).map(|fence| fence.incarnation.0);
        if !is_newest && owner != Some(process.life) {
            self.kill(process, "by a person, since another has its name");
        }
    }

    /// Whether a process knows something newer of a key than the tier.
    pub fn dies_with(&self, process: &Process, key: usize) -> bool {
        let key = &self.keys[key];
        let Some(seen) = process.shard().store().explain(key) else { return false };
        let letters = self.rows.buried(Slot::of(key), Slot::of(key)).now_or_never().and_then(Result::ok);
        let letters = letters.unwrap_or_default();
        if let Some(letter) = letters.iter().find(|letter| letter.effect.key() == key) {
            // KNOWN: a flush that was committed and whose dead letter was not removed yet is undone by a crash: the letter
            // comes back although a deletion had reached the tier.
            return letter.effect.version() < seen.version;
        }
        self.rows.row(key).map_or(seen.place != Place::Deleting, |row| row.version < seen.version)
    }

    pub fn fail(&self, reason: String) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            self.trace.note(format_args!("FAILED: {reason}"));
            *failure = Some(reason);
            self.failed.notify_one();
        }
    }

    pub fn clock_ms(&self) -> u64 {
        self.clock.now().0
    }

    pub fn new_value(&self) -> (ValueId, Value) {
        let id = self.values.fetch_add(1, Ordering::Relaxed) + 1;
        let text = format!("{id} {}", "x".repeat(self.setup().value_padding));
        (id, Value::new(text).expect("a short value"))
    }

    /// What to add to a counter next: a place of its own with room for a doubled request, so that a sum tells what it is made of.
    /// `None` when all places are used.
    pub fn next_addition(&self, key: usize) -> Option<u64> {
        let addition = &mut self.additions.lock()[key];
        *addition += 1;
        (*addition <= ADDITIONS_MAX).then(|| 1 << (2 * (*addition - 1)))
    }

    /// The slots that are served by the whole cluster.
    pub fn all_slots(setup: &Setup, keys: &[Key]) -> SlotSet {
        if setup.all_slots { SlotSet::all() } else { keys.iter().map(Slot::of).collect() }
    }

    /// Looks at everything.
    pub fn check_all(&self) {
        invariants::check_all(self);
    }
}

/// What a value says that it is.
pub fn value_id(bytes: &[u8]) -> ValueId {
    let digits = bytes.split(|&byte| byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX)
}
