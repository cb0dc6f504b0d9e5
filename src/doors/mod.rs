//! The ways in: one port, every protocol. Accepts connections, finds out by their first bytes what they speak, and hands
//! them to that protocol's server. Knows nothing of what commands do: all is written against a [`Service`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::cluster::{Assignment, ControlError, Fence, MapView, Member, MemberStatus, Readiness, ShardName, Topology};
use crate::metrics::{DoorName, Metrics, Refusal};
use crate::record::Epoch;
use crate::rpc::Role;
use crate::rpc::answers::Budget;
use crate::service::Service;
use crate::slots::SlotSet;
use crate::task::Tasks;

mod access;
mod ask;
mod counted;
pub mod http;
mod meter;
mod open;
mod prefixed;
pub mod resp;
pub mod rpc;
mod seldom;
mod sniff;

use self::counted::Counted;
use self::http::Http;
use self::meter::{Metered, Meters};
use self::open::open;
use self::sniff::Protocol;

pub use self::access::Access;
pub use self::ask::{Source, ask};
pub use self::open::{Incoming, Tls};
pub use self::prefixed::Prefixed;

/// After an error of `accept` (too many open files, mostly), how long to leave those who wait waiting.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// How often to tell that connections are refused.
const WARN_EVERY: Duration = Duration::from_secs(1);
/// For telling a peer why it is refused.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Of what a refused peer still sends, how much is read so that it sees the answer and not a reset.
const FAREWELL_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone)]
pub struct Options {
    /// What this node is, told to other nodes.
    pub role: Role,
    /// Where it listens, told to clients.
    pub port: u16,
    pub access: Access,
    /// May be reached from elsewhere although it asks for no password.
    pub is_insecure: bool,
    pub tls: Option<Tls>,
    pub connections_max: usize,
    /// How long a new connection may be silent.
    pub sniff_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    pub hello_timeout: Duration,
    /// Of one RPC connection: requests that are read and not answered, and their bytes. Beyond it nothing is read.
    pub requests_max: usize,
    pub requests_bytes_max: usize,
    /// Of all RPC connections: bytes of answers that are not written or not fetched yet.
    pub answers_bytes_max: usize,
    /// How long a peer may make no progress in the middle of a frame, sending or receiving.
    pub stall_max: Duration,
    /// On shutdown, how long requests may take to finish.
    pub drain_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            role: Role::Secondary,
            port: 0,
            access: Access::default(),
            is_insecure: false,
            tls: None,
            connections_max: 10_000,
            sniff_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(10),
            requests_max: 32,
            requests_bytes_max: 16 * 1024 * 1024,
            answers_bytes_max: 256 * 1024 * 1024,
            stall_max: crate::rpc::frames::STALL_MAX,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// What is behind a door.
pub struct Door<S, M = NoMember> {
    pub service: S,
    pub member: M,
    /// Who serves what, and whether this node is fit to be asked.
    pub topology: Arc<dyn Topology>,
    pub access: Access,
    pub redis: resp::Node,
    pub metrics: Arc<Metrics>,
    meters: Meters,
    clock: Arc<dyn Clock>,
    started: Instant,
    pub options: Options,
}

impl<S, M> Door<S, M> {
    pub fn new(service: S, member: M, topology: impl Topology, options: Options) -> Self {
        let (topology, access) = (Arc::new(topology), options.access.clone());
        let metrics = Metrics::new();
        Self {
            service,
            member,
            topology,
            access,
            redis: resp::Node::default(),
            meters: Meters::new(&metrics),
            metrics,
            clock: SystemClock::shared(),
            started: Instant::now(),
            options,
        }
    }
}

/// Serves connections until `shutdown`; then takes no more, lets requests under way finish, and returns.
///
/// # Cancel safety
/// Dropping the future is a shutdown that nobody waits for.
pub async fn serve<S, M>(listener: TcpListener, door: Arc<Door<S, M>>, shutdown: CancellationToken)
where
    S: Service,
    M: Member,
{
    let tasks = Tasks::under(&shutdown);
    // Drops with this future, and the connections with it.
    let _end = tasks.token().clone().drop_guard();
    let connections = Arc::new(Semaphore::new(door.options.connections_max));
    let budget = Budget::new(door.options.answers_bytes_max);
    let http = Http::new(&door);
    let mut warned: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn_seldom(&mut warned, || tracing::warn!(%error, "accept"));
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            let max = door.options.connections_max;
            door.metrics.refused(Refusal::TooMany);
            warn_seldom(&mut warned, || tracing::warn!(%peer, max, "connection refused: there are too many"));
            continue;
        };
        let (door, http) = (Arc::clone(&door), http.clone());
        let (budget, token) = (Arc::clone(&budget), tasks.token().clone());
        tasks.spawn("connection", async move {
            if let Err(error) = connection(stream, peer, door, http, budget, token).await {
                tracing::debug!(%peer, %error, "connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    let drained = tasks.shutdown(door.options.drain_timeout + FAREWELL_TIMEOUT).await;
    if !drained {
        tracing::warn!(connections = tasks.len(), "connections did not end in time");
    }
}

fn warn_seldom(warned: &mut Option<Instant>, warn: impl FnOnce()) {
    if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
        *warned = Some(Instant::now());
        warn();
    }
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Rpc(#[from] rpc::ConnectionError),
    #[error(transparent)]
    Resp(#[from] resp::ConnectionError),
    #[error(transparent)]
    Http(#[from] http::ConnectionError),
}

async fn connection<S, M>(
    stream: TcpStream,
    peer: SocketAddr,
    door: Arc<Door<S, M>>,
    http: Http,
    budget: Arc<Budget>,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError>
where
    S: Service,
    M: Member,
{
    let opened = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        opened = Box::pin(open(stream, peer, &door.options)) => opened,
    };
    let opened = opened.inspect_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => door.metrics.refused(Refusal::Silent),
        // What TLS is not satisfied with.
        io::ErrorKind::InvalidData | io::ErrorKind::Other => door.metrics.refused(Refusal::Protocol),
        _ => {}
    });
    let Some((protocol, stream)) = opened? else { return Ok(()) };
    let counted = |stream, name| Counted::new(stream, door.metrics.connected(name));
    match protocol {
        Protocol::Rpc => {
            let stream = counted(stream, DoorName::Rpc);
            Ok(Box::pin(rpc::serve(stream, peer, door, budget, shutdown)).await?)
        }
        Protocol::Resp | Protocol::Inline => {
            let stream = counted(stream, DoorName::Resp);
            Ok(Box::pin(resp::serve(stream, peer, door, budget, shutdown)).await?)
        }
        Protocol::Http => {
            let stream = counted(stream, DoorName::Http);
            Ok(Box::pin(http.serve(stream, peer, budget, shutdown)).await?)
        }
        Protocol::Tls => {
            door.metrics.refused(Refusal::Protocol);
            farewell(stream, b"-ERR this protocol is not spoken here\r\n").await;
            Ok(())
        }
    }
}

/// Sends last words, if there are any, and sees that they arrive: closing a socket with unread bytes resets it, and the
/// peer may lose what it was sent.
async fn farewell<IO: AsyncRead + AsyncWrite + Unpin>(stream: IO, words: &[u8]) {
    farewell_of(stream, words, FAREWELL_BYTES).await;
}

/// As [`farewell`], with so much being read.
async fn farewell_of<IO: AsyncRead + AsyncWrite + Unpin>(mut stream: IO, words: &[u8], bytes_max: usize) {
    let say = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        // Not in the future itself: every connection would have it.
        let (mut discarded, mut buffer) = (0, vec![0; 4096]);
        while discarded < bytes_max {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => discarded += count,
            }
        }
        io::Result::Ok(())
    };
    // The peer may be gone, or not care.
    let _ = timeout(FAREWELL_TIMEOUT, say).await;
}

/// For a node that nobody leads: a primary.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMember;

impl NoMember {
    fn refused<T>() -> Result<T, ControlError> {
        Err(ControlError::Refused("this is a primary".to_owned()))
    }
}

/// It knows of no shard, and has nothing to wait for.
impl Topology for NoMember {
    fn map(&self) -> Arc<MapView> {
        Arc::default()
    }

    fn readiness(&self) -> Readiness {
        Readiness::default()
    }
}

impl Member for NoMember {
    async fn status(&self) -> Result<MemberStatus, ControlError> {
        Self::refused()
    }

    async fn assign(&self, _assignment: Assignment) -> Result<MemberStatus, ControlError> {
        Self::refused()
    }

    async fn fences(&self) -> Result<Vec<Fence>, ControlError> {
        Self::refused()
    }

    async fn retire(&self, _expected: Fence, _slots: SlotSet, _epoch: Epoch) -> Result<bool, ControlError> {
        Self::refused()
    }

    async fn inform(&self, _map: MapView) -> Result<(), ControlError> {
        Self::refused()
    }

    async fn resign(&self, _list: Vec<ShardName>) -> Result<(), ControlError> {
        Self::refused()
    }
}
