//! Services to call, a server that can be killed, and short ways to say things.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use overspill::command::{Command, Condition, Found, Reply};
use overspill::doors::{self, Door, NoMember};
use overspill::record::{Epoch, Key, Value, Version};
use overspill::rpc::frames::{Frames, STALL_MAX, frame};
use overspill::rpc::{Client, Options, Role, hello};
use overspill::service::{Batch, Error, Replies, Service};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub const SECOND: Duration = Duration::from_secs(1);
pub const LONG: Duration = Duration::from_secs(20);

/// Puts, gets and deletes in memory. Lets so many calls pass as its gate has permits.
pub struct Memory {
    pub records: Mutex<HashMap<Key, Value>>,
    pub calls: AtomicUsize,
    pub commands: AtomicUsize,
    pub gate: Semaphore,
}

impl Memory {
    pub fn open() -> Arc<Self> {
        Self::gated(Semaphore::MAX_PERMITS)
    }

    pub fn gated(permits: usize) -> Arc<Self> {
        let (calls, commands) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { records: Mutex::default(), calls, commands, gate: Semaphore::new(permits) })
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn one(&self, command: Command) -> Result<Reply, Error> {
        Ok(match command {
            Command::Get { key } => Reply::Found(self.records.lock().get(&key).cloned().map(found)),
            Command::Put { key, value, .. } => {
                self.records.lock().insert(key, value);
                Reply::Stored(Version::new(1, 1))
            }
            Command::Delete { key } => Reply::Done(self.records.lock().remove(&key).is_some()),
            _ => return Err(Error::Invalid("not in this test".into())),
        })
    }
}

impl Service for Memory {
    async fn execute(&self, batch: Batch) -> Replies {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.commands.fetch_add(batch.commands.len(), Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        batch.commands.into_iter().map(|command| self.one(command)).collect()
    }
}

/// A node in a runtime of its own, so that it can be killed with all its connections.
pub struct Server {
    pub address: SocketAddr,
    shutdown: CancellationToken,
    runtime: Option<Runtime>,
}

impl Server {
    pub fn start<S: Service>(service: S) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), service, doors::Options::default())
    }

    pub fn start_at<S: Service>(address: SocketAddr, service: S, options: doors::Options) -> Self {
        Self::start_door(address, Door::new(service, NoMember, NoMember, options))
    }

    pub fn start_door<S: Service, M: overspill::cluster::Member>(address: SocketAddr, door: Door<S, M>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let token = shutdown.clone();
        runtime.spawn(async move {
            doors::serve(TcpListener::from_std(listener).unwrap(), Arc::new(door), token).await;
        });
        Self { address, shutdown, runtime: Some(runtime) }
    }

    pub fn client(&self) -> Client {
        self.client_with(Options::default())
    }

    pub fn client_with(&self, options: Options) -> Client {
        Client::spawn(self.address.to_string(), options)
    }

    /// Asks it to stop, as a signal would.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    /// As `kill -9` does: every socket is closed when it returns.
    pub fn kill(mut self) -> SocketAddr {
        let runtime = self.runtime.take().unwrap();
        // A thread that may block.
        std::thread::spawn(move || runtime.shutdown_timeout(LONG)).join().unwrap();
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn key(key: impl Into<String>) -> Key {
    Key::new(key.into()).unwrap()
}

pub fn get(name: impl Into<String>) -> Command {
    Command::Get { key: key(name) }
}

pub fn put(name: impl Into<String>, value: impl Into<bytes::Bytes>) -> Command {
    Command::Put { key: key(name), value: Value::new(value).unwrap(), ttl: None, condition: Condition::Always }
}

pub fn found(value: Value) -> Found {
    Found { value, version: Version::new(1, 1), expires_at: None }
}

pub fn found_bytes(value: impl Into<bytes::Bytes>) -> Result<Reply, Error> {
    Ok(Reply::Found(Some(found(Value::new(value).unwrap()))))
}

pub fn batch(commands: Vec<Command>, timeout: Duration) -> Batch {
    Batch { commands, epoch: None, timeout }
}

/// Executes one command.
pub async fn ask(client: &Client, command: Command, timeout: Duration) -> Result<Reply, Error> {
    let mut replies = client.execute(batch(vec![command], timeout)).await;
    assert_eq!(replies.len(), 1);
    replies.remove(0)
}

/// Waits until a condition holds; fails the test if that takes long.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("took too long: {what}"))
}

/// Waits until the client is connected, or is not.
pub async fn linked(client: &Client, up: bool) {
    within("link", client.link().wait_for(|&link| link == up)).await.unwrap();
}

pub async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.unwrap()
}

/// A connection after its hello, without a client.
pub async fn greeted(server: &Server) -> Frames<TcpStream> {
    let mut frames = Frames::new(connect(server).await, 1 << 24, STALL_MAX);
    hello::offer(&mut frames, Role::Client, LONG).await.unwrap();
    frames
}

/// A frame as version 3 has it: an `execute` with request number `id`.
pub fn execute(id: u64, commands: &[Command]) -> bytes::Bytes {
    execute_within(id, 20_000, commands)
}

pub fn execute_within(id: u64, timeout_ms: u32, commands: &[Command]) -> bytes::Bytes {
    // Envelope 0 = request: id, timeout in ms, no trace, method 0 = execute: epoch, timeout in ms, commands.
    let execute = (0u8, id, 20_000u32, None::<()>, 0u8, None::<Epoch>, timeout_ms, commands);
    frame(&postcard::to_stdvec(&execute).unwrap())
}

/// A `more`.
pub fn more_of(id: u64, token: u64) -> bytes::Bytes {
    frame(&postcard::to_stdvec(&(0u8, id, 20_000u32, None::<()>, 1u8, token)).unwrap())
}

/// A `status`.
pub fn status(id: u64) -> bytes::Bytes {
    frame(&postcard::to_stdvec(&(0u8, id, 20_000u32, None::<()>, 2u8)).unwrap())
}
