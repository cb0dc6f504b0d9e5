//! Secondaries by name, each with a runtime of its own so that it can be killed; primaries that reach them by name; and how
//! to wait for a condition.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use overspill::clock::SystemClock;
use overspill::cluster::{Assignment, ControlError, Fence, MapView, Member, MemberState, MemberStatus, ShardName};
use overspill::command::{Command, Condition, Reply};
use overspill::policy::PolicyKind;
use overspill::record::{Epoch, Key, Value, Version};
use overspill::router::{Leader, LeaderOptions, Router};
use overspill::service::{Batch, Error, Replies, Service};
use overspill::shard::{Shard, ShardOptions, WriteMode};
use overspill::slots::SlotSet;
use overspill::tier::SharedTier;
use overspill::tier::memory::MemoryTier;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How soon an error must come where nothing can be served.
pub const BOUND: Duration = Duration::from_secs(3);

/// Shares of this many shards fall into shares of 1 to 4.
pub const SHARES_MAX: usize = 12;

static LIVES: AtomicU64 = AtomicU64::new(1);

pub fn name(name: &str) -> ShardName {
    ShardName::new(name).unwrap()
}

pub fn key(i: usize) -> Key {
    Key::new(format!("user:{i}")).unwrap()
}

pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn options() -> ShardOptions {
    ShardOptions {
        capacity: 20,
        memory_bytes_max: 64 * 1024 * 1024,
        policy: PolicyKind::Lru,
        write_mode: WriteMode::Spill,
        accept_loss: false,
        strict: false,
        drain_timeout: PATIENCE,
        sweep_interval: Duration::from_secs(3600),
        // Relaxed: only uniqueness counts.
        seed: LIVES.fetch_add(1, Ordering::Relaxed),
    }
}

/// A running secondary.
struct Process {
    shard: Shard,
    runtime: Option<Runtime>,
    /// Nobody reaches it.
    is_cut_off: bool,
    /// It takes calls, and never answers.
    hangs: bool,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// All secondaries, and the tier that they share.
#[derive(Clone)]
pub struct World {
    pub tier: MemoryTier,
    is_pure: bool,
    processes: Arc<Mutex<BTreeMap<ShardName, Process>>>,
}

impl World {
    pub fn new() -> Self {
        Self { tier: MemoryTier::new(), is_pure: false, processes: Arc::default() }
    }

    /// Secondaries without a tier.
    pub fn of_pure_caches() -> Self {
        Self { is_pure: true, ..Self::new() }
    }

    pub fn start(&self, names: &[&str]) {
        for name in names {
            self.start_with(name, options(), (!self.is_pure).then(|| self.tier.clone()));
        }
    }

    pub fn start_with(&self, who: &str, options: ShardOptions, tier: Option<MemoryTier>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shard = {
            let _context = runtime.enter();
            Shard::spawn(options, tier.map(SharedTier::new), SystemClock::shared())
        };
        let process = Process { shard, runtime: Some(runtime), is_cut_off: false, hangs: false };
        assert!(self.processes.lock().insert(name(who), process).is_none(), "{who} runs already");
    }

    /// As with kill -9.
    pub fn kill(&self, who: &str) {
        drop(self.processes.lock().remove(&name(who)).unwrap());
    }

    /// As with SIGTERM. Returns how many records were spilled.
    pub async fn stop(&self, who: &str) -> u64 {
        let process = self.processes.lock().remove(&name(who)).unwrap();
        process.shard.shutdown().await.unwrap().spilled
    }

    pub fn cut_off(&self, who: &str, is_cut_off: bool) {
        self.processes.lock().get_mut(&name(who)).unwrap().is_cut_off = is_cut_off;
    }

    pub fn hang(&self, who: &str) {
        self.processes.lock().get_mut(&name(who)).unwrap().hangs = true;
    }

    /// The same process under another name, as if the primary knew it by another address.
    pub fn rename(&self, from: &str, to: &str) {
        let process = self.processes.lock().remove(&name(from)).unwrap();
        self.processes.lock().insert(name(to), process);
    }

    pub fn shard(&self, who: &str) -> Shard {
        self.processes.lock()[&name(who)].shard.clone()
    }

    pub async fn state(&self, who: &str) -> MemberState {
        self.shard(who).status().await.unwrap().state
    }

    pub async fn until_refusing(&self, who: &str) -> String {
        until("refuses", async || match self.state(who).await {
            MemberState::Refusing(reason) => Some(reason),
            _ => None,
        })
        .await
    }

    pub fn lead(&self, list: &[&str]) -> Primary {
        self.lead_with(list, false)
    }

    pub fn lead_with(&self, list: &[&str], accept_loss: bool) -> Primary {
        let (router, stop, world) = (Router::new(), CancellationToken::new(), self.clone());
        let options = LeaderOptions { list: list.iter().map(|who| name(who)).collect(), accept_loss };
        let connect = move |name: &ShardName| Peer { name: name.clone(), world: world.clone() };
        let leader = tokio::spawn(Leader::new(options, Arc::clone(&router), connect).run(stop.clone()));
        Primary { router, stop, leader }
    }
}

/// A secondary as a primary reaches it.
pub struct Peer {
    name: ShardName,
    world: World,
}

impl Peer {
    async fn reach(&self) -> Result<Shard, ControlError> {
        let found = self.world.processes.lock().get(&self.name).map(|p| (p.shard.clone(), p.is_cut_off, p.hangs));
        match found {
            Some((_, _, true)) => pending().await,
            Some((shard, false, false)) => Ok(shard),
            Some((_, true, false)) | None => Err(ControlError::Unreachable("connection refused".to_owned())),
        }
    }
}

impl Service for Peer {
    async fn execute(&self, batch: Batch) -> Replies {
        let len = batch.commands.len();
        match tokio::time::timeout(batch.timeout, self.reach()).await {
            Ok(Ok(shard)) => shard.execute(batch).await,
            Ok(Err(_)) | Err(_) => vec![Err(Error::Unavailable(format!("{}: no answer", self.name))); len],
        }
    }
}

impl Member for Peer {
    async fn status(&self) -> Result<MemberStatus, ControlError> {
        self.reach().await?.status().await
    }

    async fn assign(&self, assignment: Assignment) -> Result<MemberStatus, ControlError> {
        self.reach().await?.assign(assignment).await
    }

    async fn fences(&self) -> Result<Vec<Fence>, ControlError> {
        self.reach().await?.fences().await
    }

    async fn retire(&self, expected: Fence, slots: SlotSet, epoch: Epoch) -> Result<bool, ControlError> {
        self.reach().await?.retire(expected, slots, epoch).await
    }

    async fn inform(&self, map: MapView) -> Result<(), ControlError> {
        self.reach().await?.inform(map).await
    }

    async fn resign(&self, list: Vec<ShardName>) -> Result<(), ControlError> {
        self.reach().await?.resign(list).await
    }
}

/// A running primary.
pub struct Primary {
    router: Arc<Router<Peer>>,
    stop: CancellationToken,
    leader: JoinHandle<()>,
}

impl Primary {
    /// Stops and says so.
    pub async fn stop(self) {
        self.stop.cancel();
        self.leader.await.unwrap();
    }

    /// As with kill -9.
    pub async fn kill(self) {
        self.leader.abort();
        assert!(self.leader.await.unwrap_err().is_cancelled());
    }

    pub async fn until_served(&self) {
        for share in 0..SHARES_MAX {
            let probe = key_of(share, SHARES_MAX);
            until("all slots are served", async || self.get(probe).await.ok()).await;
        }
    }

    /// One command, whose answer comes in bounded time.
    pub async fn execute(&self, command: Command) -> Result<Reply, Error> {
        self.execute_all(vec![command]).await.remove(0)
    }

    /// As one batch.
    pub async fn execute_all(&self, commands: Vec<Command>) -> Vec<Result<Reply, Error>> {
        let batch = Batch { commands, epoch: None, timeout: Duration::from_secs(1) };
        tokio::time::timeout(BOUND, self.router.execute(batch)).await.expect("an answer in bounded time")
    }

    pub async fn put(&self, i: usize, value: &str) -> Result<Version, Error> {
        let value = Value::new(value.to_owned()).unwrap();
        match self.execute(Command::Put { key: key(i), value, ttl: None, condition: Condition::Always }).await? {
            Reply::Stored(version) => Ok(version),
            other => panic!("{other:?}"),
        }
    }

    pub async fn delete(&self, i: usize) -> Result<bool, Error> {
        match self.execute(Command::Delete { key: key(i) }).await? {
            Reply::Done(existed) => Ok(existed),
            other => panic!("{other:?}"),
        }
    }

    pub async fn get(&self, i: usize) -> Result<Option<String>, Error> {
        match self.execute(Command::Get { key: key(i) }).await? {
            Reply::Found(found) => Ok(found.map(|found| String::from_utf8(found.value.as_bytes().to_vec()).unwrap())),
            other => panic!("{other:?}"),
        }
    }

    pub async fn put_all(&self, keys: std::ops::Range<usize>, value: &str) {
        for i in keys {
            self.put(i, &format!("{value} {i}")).await.unwrap();
        }
    }

    pub async fn assert_all(&self, keys: std::ops::Range<usize>, value: &str) {
        for i in keys {
            assert_eq!(self.get(i).await.unwrap(), Some(format!("{value} {i}")), "key {i}");
        }
    }

    pub async fn count(&self) -> u64 {
        until("the filters are complete", async || match self.execute(Command::Count).await {
            Ok(Reply::Count(count)) => Some(count),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        })
        .await
    }

    /// Waits until a key is not served for a reason that contains this, and returns it.
    pub async fn until_unserved(&self, i: usize, reason: &str) -> String {
        let mut last = String::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.get(i).await {
                Err(Error::Unavailable(why)) if why.contains(reason) => return why,
                other => last = format!("{other:?}, not long ago {last:.200}"),
            }
            assert!(Instant::now() < deadline, "never unserved for `{reason}`: {last}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The first key, from 0, of a slot in this share of a list of so many.
pub fn key_of(share: usize, of: usize) -> usize {
    let share = &SlotSet::shares(of)[share];
    (0..).find(|&i| share.contains(overspill::slots::Slot::of(&key(i)))).unwrap()
}
