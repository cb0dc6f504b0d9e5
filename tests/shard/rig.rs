//! A shard with everything that a test turns: its tier, its clock, its options; and how to wait for a condition.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use overspill::clock::ManualClock;
use overspill::cluster::{Assignment, Member, MemberState, ShardName};
use overspill::command::{Command, Condition, Cursor, Expiry, Explanation, Found, Place, Reply, ShardStats};
use overspill::journal::memory::MemoryDisk;
use overspill::journal::{self, Directory, Disk, Fsync, OpenError};
use overspill::policy::PolicyKind;
use overspill::record::{Epoch, JournalId, Key, Record, Timestamp, Ttl, Value, Version};
use overspill::service::{Batch, Error, Service};
use overspill::shard::{Durability, Shard, ShardOptions, WriteMode};
use overspill::slots::SlotSet;
use overspill::task::Threads;
use overspill::tier::SharedTier;
use overspill::tier::memory::MemoryTier;
use tokio::runtime::Handle;

/// How long a condition may take to come true, and a command to be answered.
const PATIENCE: Duration = Duration::from_secs(10);
pub const START: Timestamp = Timestamp(1_000_000);

static LIVES: AtomicU64 = AtomicU64::new(1);

pub fn key(text: impl AsRef<[u8]>) -> Key {
    Key::new(text.as_ref().to_vec()).unwrap()
}

pub fn value(text: impl AsRef<[u8]>) -> Value {
    Value::new(text.as_ref().to_vec()).unwrap()
}

pub fn ttl(ms: u64) -> Ttl {
    Ttl::from_millis(ms).unwrap()
}

pub fn row(text: &str, bytes: &str, version: (u64, u64)) -> Record {
    Record { key: key(text), value: value(bytes), version: Version::new(version.0, version.1), expires_at: None }
}

pub fn put_command(k: &str, v: impl AsRef<[u8]>) -> Command {
    Command::Put { key: key(k), value: value(v), ttl: None, condition: Condition::Always }
}

pub fn get_command(k: &str) -> Command {
    Command::Get { key: key(k) }
}

/// Waits until `holds`, or says what never came true.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Polls what else is ready, and no time goes by if it is paused.
pub async fn give_way() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// What to start; clones share tier and clock.
#[derive(Clone)]
pub struct Setup {
    pub options: ShardOptions,
    pub tier: Option<MemoryTier>,
    pub clock: Arc<ManualClock>,
    pub assignment: Assignment,
    pub journal: Option<JournalSetup>,
    /// Where its spiller runs, if not where the test does.
    pub home: Option<Handle>,
}

/// Where a shard under test has its journal.
#[derive(Clone)]
pub struct JournalSetup {
    pub directory: Arc<tempfile::TempDir>,
    /// In place of the directory.
    pub memory: Option<MemoryDisk>,
    pub options: journal::Options,
}

impl JournalSetup {
    pub fn new() -> Self {
        let options = journal::Options { segment_bytes: 1 << 16, ..journal::Options::new(Fsync::Always, 1 << 30) };
        Self { directory: Arc::new(tempfile::tempdir().unwrap()), memory: None, options }
    }

    /// Opens it as soon as the process that had it is gone for good.
    fn open(&self) -> Durability {
        loop {
            let disk: Arc<dyn Disk> = match &self.memory {
                Some(disk) => Arc::new(disk.attach()),
                None => Arc::new(Directory::create(self.directory.path()).unwrap()),
            };
            let id = JournalId(LIVES.fetch_add(1, Ordering::Relaxed));
            match journal::open(disk, self.options, id, &mut |_| {}) {
                Ok((journal, recovered)) => {
                    return Durability { journal, recovered, blocking: Arc::new(Threads) };
                }
                Err(OpenError::Locked(_)) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Setup {
    /// A shard in spill mode for `capacity` records.
    pub fn new(capacity: usize) -> Self {
        let shard = ShardName::new("localhost:1").unwrap();
        Self {
            options: ShardOptions {
                capacity,
                memory_bytes_max: 64 * 1024 * 1024,
                policy: PolicyKind::Lru,
                write_mode: WriteMode::Spill,
                accept_loss: false,
                strict: false,
                drain_timeout: PATIENCE,
                sweep_interval: Duration::from_secs(3600),
                seed: 0,
            },
            tier: Some(MemoryTier::new()),
            clock: ManualClock::at(START),
            assignment: Assignment {
                list: vec![shard.clone()],
                shard,
                epoch: Epoch(1),
                slots: SlotSet::all(),
                accept_loss: false,
            },
            journal: None,
            home: None,
        }
    }

    pub fn journaled(mut self) -> Self {
        self.journal = Some(JournalSetup::new());
        self
    }

    /// With a journal on a disk in memory, which can be made to fail.
    pub fn journaled_on(mut self, disk: &MemoryDisk) -> Self {
        self.journal = Some(JournalSetup { memory: Some(disk.clone()), ..JournalSetup::new() });
        self
    }

    pub fn mode(mut self, mode: WriteMode) -> Self {
        self.options.write_mode = mode;
        self
    }

    /// A new process: tasks of its own, nothing in memory, not assigned yet.
    pub fn spawn(&self) -> Rig {
        // Relaxed: only uniqueness counts.
        let options = ShardOptions { seed: LIVES.fetch_add(1, Ordering::Relaxed), ..self.options.clone() };
        let tier = self.tier.clone().map(SharedTier::new).map(|tier| match &self.home {
            Some(home) => tier.at_home_on(home),
            None => tier,
        });
        let clock = Arc::<ManualClock>::clone(&self.clock);
        let shard = match &self.journal {
            Some(journal) => Shard::recover(options, tier.unwrap(), clock, journal.open()).unwrap(),
            None => Shard::spawn(options, tier, clock),
        };
        Rig {
            shard,
            tier: self.tier.clone().unwrap_or_default(),
            clock: Arc::clone(&self.clock),
            asked: Arc::default(),
        }
    }

    /// A new process that serves.
    pub async fn start(&self) -> Rig {
        let rig = self.spawn();
        rig.assign(&self.assignment).await;
        rig.until_state("serving", |state| *state == MemberState::Serving).await;
        rig.until_stats("the filter is complete", |stats| stats.filter_ready).await;
        rig
    }

    /// A new process that does not get to serve: why it refuses.
    pub async fn start_refused(&self) -> String {
        let rig = self.spawn();
        rig.assign(&self.assignment).await;
        rig.until_state("refusing", |state| matches!(state, MemberState::Refusing(_))).await;
        assert!(matches!(rig.get_error("k").await, Error::Unavailable(_)));
        let MemberState::Refusing(reason) = rig.state().await else { unreachable!() };
        rig.shutdown().await.unwrap();
        reason
    }
}

/// A shard under test.
#[derive(Clone)]
pub struct Rig {
    pub shard: Shard,
    pub tier: MemoryTier,
    pub clock: Arc<ManualClock>,
    asked: Arc<AtomicU64>,
}

impl Deref for Rig {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        &self.shard
    }
}

impl Rig {
    pub async fn assign(&self, assignment: &Assignment) {
        Member::assign(&self.shard, assignment.clone()).await.unwrap();
    }

    pub async fn state(&self) -> MemberState {
        self.status().await.unwrap().state
    }

    pub async fn until_state(&self, what: &str, holds: impl Fn(&MemberState) -> bool) {
        until(what, async || holds(&self.state().await)).await;
    }

    pub async fn run(&self, commands: Vec<Command>, timeout: Duration) -> Vec<Result<Reply, Error>> {
        let asked = commands.len();
        let work = self.shard.execute(Batch { commands, epoch: None, timeout });
        let replies = tokio::time::timeout(timeout + PATIENCE, work).await.expect("an answer, long after the timeout");
        assert_eq!(replies.len(), asked);
        replies
    }

    /// As doors ask for one command: some try whether it is answered at once.
    async fn ask(&self, command: Command, timeout: Duration) -> Result<Reply, Error> {
        // Relaxed: only a number.
        let tries = self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        let at_once = if tries { self.shard.answer_now(&command) } else { None };
        match at_once {
            Some(reply) => Ok(reply),
            None => self.run(vec![command], timeout).await.remove(0),
        }
    }

    pub async fn one_within(&self, command: Command, ms: u64) -> Result<Reply, Error> {
        self.ask(command, Duration::from_millis(ms)).await
    }

    pub async fn one(&self, command: Command) -> Result<Reply, Error> {
        self.ask(command, PATIENCE).await
    }

    pub async fn put(&self, k: &str, v: impl AsRef<[u8]>) -> Version {
        let Reply::Stored(version) = self.one(put_command(k, v)).await.unwrap() else { panic!("not stored") };
        version
    }

    /// As much as memory and its backlog take while the tier takes nothing.
    pub async fn fill(&self) {
        let mut filled = 0;
        while self.one_within(put_command(&format!("fill{filled}"), "x"), 20).await.is_ok() {
            filled += 1;
            assert!(filled < 100_000, "memory has no bound");
        }
    }

    pub async fn put_if(&self, k: &str, v: &str, condition: Condition) -> Reply {
        let command = Command::Put { key: key(k), value: value(v), ttl: None, condition };
        self.one(command).await.unwrap()
    }

    pub async fn put_ttl(&self, k: &str, v: &str, ms: u64) {
        let command = Command::Put { key: key(k), value: value(v), ttl: Some(ttl(ms)), condition: Condition::Always };
        self.one(command).await.unwrap();
    }

    pub async fn found(&self, k: &str) -> Option<Found> {
        let Reply::Found(found) = self.one(get_command(k)).await.unwrap() else { panic!("not a found") };
        found
    }

    pub async fn get(&self, k: &str) -> Option<String> {
        self.found(k).await.map(|found| String::from_utf8(found.value.as_bytes().to_vec()).unwrap())
    }

    pub async fn get_error(&self, k: &str) -> Error {
        self.one_within(get_command(k), 200).await.unwrap_err()
    }

    async fn done(&self, command: Command) -> bool {
        let Reply::Done(done) = self.one(command).await.unwrap() else { panic!("not a done") };
        done
    }

    pub async fn delete(&self, k: &str) -> bool {
        self.done(Command::Delete { key: key(k) }).await
    }

    pub async fn exists(&self, k: &str) -> bool {
        self.done(Command::Exists { key: key(k) }).await
    }

    pub async fn expire(&self, k: &str, ms: u64) -> bool {
        self.done(Command::Expire { key: key(k), ttl: ttl(ms) }).await
    }

    pub async fn persist(&self, k: &str) -> bool {
        self.done(Command::Persist { key: key(k) }).await
    }

    pub async fn ttl(&self, k: &str) -> Expiry {
        let Reply::Expiry(expiry) = self.one(Command::Ttl { key: key(k) }).await.unwrap() else { panic!("no expiry") };
        expiry
    }

    pub async fn explain(&self, k: &str) -> Explanation {
        let Reply::Explained(told) = self.one(Command::Explain { key: key(k) }).await.unwrap() else { panic!("?") };
        *told
    }

    pub async fn place(&self, k: &str) -> Place {
        self.explain(k).await.place
    }

    pub async fn count(&self) -> u64 {
        let Reply::Count(count) = self.one(Command::Count).await.unwrap() else { panic!("no count") };
        count
    }

    pub async fn stats(&self) -> ShardStats {
        let Reply::Stats(mut stats) = self.one(Command::Stats).await.unwrap() else { panic!("no stats") };
        stats.remove(0)
    }

    pub async fn until_stats(&self, what: &str, holds: impl Fn(&ShardStats) -> bool) {
        until(what, async || holds(&self.stats().await)).await;
    }

    /// A flush is under way, if flushes are held.
    pub async fn until_flush_is_held(&self) {
        until("a flush is held", async || self.tier.held_flushes() > 0).await;
    }

    /// All that left memory has reached the tier.
    pub async fn until_spilled(&self) {
        self.until_stats("nothing is on its way out", |stats| stats.records_spilling + stats.tombstones == 0).await;
    }

    /// Makes `k` a key that lives in the tier only, by way of `filler` keys that are deleted again.
    pub async fn put_spilled(&self, k: &str, v: &str) {
        self.put(k, v).await;
        self.push_out().await;
        assert!(self.tier.row(&key(k)).is_some(), "`{k}` has no row");
    }

    /// Everything that is in memory now leaves it.
    pub async fn push_out(&self) {
        let capacity = self.stats().await.records_max;
        for i in 0..capacity {
            self.put(&format!("filler{i}"), "x").await;
        }
        self.until_spilled().await;
        for i in 0..capacity {
            self.delete(&format!("filler{i}")).await;
        }
        self.until_spilled().await;
    }

    pub async fn scan(&self, limit: u32) -> Vec<Key> {
        let mut all = Vec::new();
        let mut next = Some(Cursor::START);
        while let Some(cursor) = next {
            (next, all) = self.scan_on(cursor, limit, all).await;
        }
        all
    }

    pub async fn scan_on(&self, cursor: Cursor, limit: u32, mut all: Vec<Key>) -> (Option<Cursor>, Vec<Key>) {
        let reply = self.one(Command::Scan { cursor, limit }).await.unwrap();
        let Reply::Page { keys, next } = reply else { panic!("no page") };
        assert!(keys.len() <= limit as usize);
        all.extend(keys);
        (next, all)
    }
}
