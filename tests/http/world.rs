//! A shard over a tier in memory, behind a door; and services that answer as a test wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use overspill::clock::SystemClock;
use overspill::cluster::{Assignment, Member, ShardName, Topology};
use overspill::command::Command;
use overspill::doors::http::Http;
use overspill::doors::{self, Door, NoMember};
use overspill::policy::PolicyKind;
use overspill::record::Epoch;
use overspill::rpc::answers::Budget;
use overspill::service::{Batch, Error, Replies, Service};
use overspill::shard::{Shard, ShardOptions, WriteMode};
use overspill::slots::SlotSet;
use overspill::tier::SharedTier;
use overspill::tier::memory::MemoryTier;
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;

pub const PATIENCE: Duration = Duration::from_secs(10);

pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A shard that is not assigned anything, and what it stands on.
pub struct World {
    pub shard: Shard,
    pub tier: MemoryTier,
}

impl World {
    pub fn new(capacity: usize) -> Self {
        let tier = MemoryTier::new();
        let options = ShardOptions {
            capacity,
            memory_bytes_max: 64 * 1024 * 1024,
            policy: PolicyKind::Lru,
            write_mode: WriteMode::Spill,
            accept_loss: false,
            strict: false,
            drain_timeout: PATIENCE,
            sweep_interval: Duration::from_secs(3600),
            seed: 1,
        };
        let shard = Shard::spawn(options, Some(SharedTier::new(tier.clone())), SystemClock::shared());
        Self { shard, tier }
    }

    /// One that serves all slots.
    pub async fn serving(capacity: usize) -> Self {
        let world = Self::new(capacity);
        world.assign(SlotSet::all()).await;
        until("it serves", async || world.shard.readiness().is_ready()).await;
        world
    }

    pub async fn assign(&self, slots: SlotSet) {
        let shard = ShardName::new("localhost:1").unwrap();
        let list = vec![shard.clone()];
        let assignment = Assignment { shard, epoch: Epoch(1), slots, list, accept_loss: false };
        self.shard.assign(assignment).await.unwrap();
    }

    pub fn door(&self, options: doors::Options) -> Door<Shard, Shard> {
        Door::new(self.shard.clone(), self.shard.clone(), self.shard.clone(), options)
    }

    /// Served over memory.
    pub fn caller(&self) -> Caller<DuplexStream> {
        connect(&Http::new(&Arc::new(self.door(doors::Options::default()))))
    }

    /// Served over a socket, with all other protocols.
    pub async fn listen(&self, options: doors::Options) -> Server {
        Server::start(self.door(options)).await
    }
}

/// A connection to a door, over memory.
pub fn connect(http: &Http) -> Caller<DuplexStream> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let http = http.clone();
    tokio::spawn(async move {
        http.serve(far, ([127, 0, 0, 1], 1).into(), Budget::new(256 << 20), CancellationToken::new()).await
    });
    Caller::new(near)
}

/// A door on a port.
pub struct Server {
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub ended: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start<S: Service, M: Member>(door: Door<S, M>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let ended = tokio::spawn(doors::serve(listener, Arc::new(door), stop.clone()));
        Self { address, stop, ended }
    }

    pub async fn caller(&self) -> Caller<TcpStream> {
        Caller::new(TcpStream::connect(self.address).await.unwrap())
    }
}

/// Answers every command with the same error, and remembers what it was asked.
#[derive(Clone)]
pub struct Refusing {
    pub error: Error,
    pub asked: Arc<Mutex<Vec<Command>>>,
}

impl Refusing {
    pub fn with(error: Error) -> Self {
        Self { error, asked: Arc::default() }
    }

    pub fn caller(&self) -> Caller<DuplexStream> {
        connect(&Http::new(&Arc::new(Door::new(self.clone(), NoMember, NoMember, doors::Options::default()))))
    }
}

impl Service for Refusing {
    async fn execute(&self, batch: Batch) -> Replies {
        let replies = batch.commands.iter().map(|_| Err(self.error.clone())).collect();
        self.asked.lock().extend(batch.commands);
        replies
    }
}
