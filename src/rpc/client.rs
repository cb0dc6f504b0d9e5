//! The near end of the hop between nodes: a [`Service`] and a [`Member`] whose work is done by another node.
//!
//! Callers put their batches into a queue that is bounded in bytes; one driver task per client (see `driver`) owns the
//! connection, sends what waits as few calls, and gives the answers back. R4: a write that may have been delivered is
//! never sent again.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tarpc::client::RpcError;
use tarpc::context::{self, Context};
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Assignment, ControlError, Fence, MapView, Member, MemberStatus, ShardName};
use crate::net::ClientTls;
use crate::record::Epoch;
use crate::rpc::driver::{Driver, State};
use crate::rpc::hello::Role;
use crate::rpc::queue::{Job, Submitted};
use crate::rpc::wire::{NodeClient, TIMEOUT_MAX};
use crate::secret::Secret;
use crate::service::{Batch, Replies, Service};
use crate::slots::SlotSet;

/// What a batch costs in the queue beside its commands.
const JOB_BYTES: usize = 256;

#[derive(Debug, Clone)]
pub struct Options {
    /// What this side is.
    pub role: Role,
    /// The password that the other side asks for, and must know itself.
    pub secret: Option<Secret>,
    /// How to encrypt; without it, nothing is.
    pub tls: Option<ClientTls>,
    /// Most calls on their way; what comes meanwhile waits and travels together.
    pub calls_in_flight_max: usize,
    /// Most bytes of commands that wait or are on their way. Beyond it, callers wait until their timeout.
    pub queue_bytes_max: usize,
    /// For name lookup and TCP connect.
    pub connect_timeout: Duration,
    pub hello_timeout: Duration,
    /// For the calls of [`Member`].
    pub control_timeout: Duration,
    /// Between two attempts to connect: from `min`, doubled up to `max`, each with jitter.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// A connection on which calls run out of their time, and nothing was answered for this long, is given up.
    pub silence_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            role: Role::Client,
            secret: None,
            tls: None,
            calls_in_flight_max: 4,
            queue_bytes_max: 64 * 1024 * 1024,
            connect_timeout: Duration::from_secs(1),
            hello_timeout: Duration::from_secs(1),
            control_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            silence_max: Duration::from_secs(5),
        }
    }
}

/// A node at the other end of a connection that heals itself. Clones share the connection; with the last of them it
/// ends.
#[derive(Clone)]
pub struct Client {
    address: Arc<str>,
    control_timeout: Duration,
    jobs: mpsc::UnboundedSender<Job>,
    /// Bounds `jobs`, in bytes.
    queue: Arc<Semaphore>,
    queue_bytes_max: usize,
    state: watch::Receiver<State>,
    link: watch::Receiver<bool>,
    closing: CancellationToken,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Client {
    /// Starts to connect to `address`, `host:port`. The name is looked up anew for every attempt. Must be called in a
    /// runtime.
    pub fn spawn(address: impl Into<String>, options: Options) -> Self {
        let address: Arc<str> = address.into().into();
        let queue_bytes_max = options.queue_bytes_max.clamp(1, u32::MAX as usize);
        let control_timeout = options.control_timeout;
        let (jobs, jobs_to_send) = mpsc::unbounded_channel();
        let (state_to_publish, state) = watch::channel(State::Connecting);
        let (link_to_publish, link) = watch::channel(false);
        let closing = CancellationToken::new();
        let (of_driver, token) = (Arc::clone(&address), closing.clone());
        tokio::spawn(Driver::new(of_driver, options, jobs_to_send, state_to_publish, link_to_publish, token).run());
        let queue = Arc::new(Semaphore::new(queue_bytes_max));
        Self { address, control_timeout, jobs, queue, queue_bytes_max, state, link, closing }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether it is connected.
    pub fn link(&self) -> watch::Receiver<bool> {
        self.link.clone()
    }

    /// Waits until it is connected, at most so long. Answers why not, if waiting longer is of no use: the other side is there and
    /// refuses it.
    pub async fn until_connected(&self, within: Duration) -> Result<(), Arc<str>> {
        let mut state = self.state.clone();
        let is_clear = |state: &State| matches!(state, State::Up(_) | State::Refused(_));
        match timeout(within, state.wait_for(is_clear)).await {
            Ok(Ok(state)) => match &*state {
                State::Refused(reason) => Err(Arc::clone(reason)),
                State::Connecting | State::Up(_) | State::Down(_) => Ok(()),
            },
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Closes the connection, for all clones, and waits until the driver has ended. Calls on their way end as if the
    /// connection had broken.
    pub async fn close(&self) {
        self.closing.cancel();
        self.jobs.closed().await;
    }

    /// Room in the queue for so many bytes, if there is some in time; a batch larger than the queue takes all of it.
    async fn admit(&self, bytes: usize, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let permits = bytes.min(self.queue_bytes_max) as u32;
        if let Ok(permit) = Arc::clone(&self.queue).try_acquire_many_owned(permits) {
            return Some(permit);
        }
        let room = Arc::clone(&self.queue).acquire_many_owned(permits);
        timeout_at(deadline, room).await.ok()?.ok() // never closed
    }

    fn closed(&self) -> String {
        format!("{}: the client was closed", self.address)
    }

    /// The stub to call, as soon as it is decided whether there is one.
    async fn node(&self, deadline: Instant) -> Result<NodeClient, ControlError> {
        let mut state = self.state.clone();
        let decided = timeout_at(deadline, state.wait_for(|state| !matches!(state, State::Connecting))).await;
        let unreachable = |reason: &str| ControlError::Unreachable(format!("{}: {reason}", self.address));
        match decided {
            Ok(Ok(state)) => match &*state {
                State::Up(node) => Ok(node.clone()),
                State::Down(reason) | State::Refused(reason) => Err(ControlError::Unreachable(reason.to_string())),
                State::Connecting => Err(unreachable("not connected")),
            },
            Ok(Err(_)) => Err(unreachable("the client was closed")),
            Err(_) => Err(unreachable("not connected yet")),
        }
    }

    async fn control<T, F>(&self, call: impl FnOnce(NodeClient, Context) -> F + Send) -> Result<T, ControlError>
    where
        F: Future<Output = Result<Result<T, ControlError>, RpcError>> + Send,
    {
        let deadline = Instant::now() + self.control_timeout;
        let node = self.node(deadline).await?;
        let mut context = context::current();
        context.deadline = deadline.into_std();
        let reason = match timeout_at(deadline, call(node, context)).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(RpcError::DeadlineExceeded)) | Err(_) => format!("no answer within {:?}", self.control_timeout),
            Ok(Err(error)) => error.to_string(),
        };
        Err(ControlError::Unreachable(format!("{}: {reason}", self.address)))
    }
}

impl Service for Client {
    /// # Cancel safety
    /// As for every [`Service`]; what was not sent yet when the future is dropped never is.
    async fn execute(&self, batch: Batch) -> Replies {
        if batch.commands.is_empty() {
            return Vec::new();
        }
        let submitted = Arc::new(Submitted::new(batch.commands));
        let (answer, answered) = oneshot::channel();
        let (timeout, now) = (batch.timeout.min(TIMEOUT_MAX), Instant::now());
        let mut job = Job::new(Arc::clone(&submitted), batch.epoch, timeout, now, answer);
        job.permit = self.admit(JOB_BYTES + job.left_bytes, job.deadline).await;
        if job.permit.is_none() {
            job.expire(Instant::now(), &self.address);
        } else if let Err(SendError(mut job)) = self.jobs.send(job) {
            job.fail(&self.closed());
        }
        // The driver keeps the time.
        let gone = |_| submitted.lost(0, submitted.commands().len(), &self.closed()).collect();
        answered.await.unwrap_or_else(gone)
    }
}

impl Member for Client {
    async fn status(&self) -> Result<MemberStatus, ControlError> {
        self.control(|node, context| async move { node.status(context).await }).await
    }

    async fn assign(&self, assignment: Assignment) -> Result<MemberStatus, ControlError> {
        self.control(|node, context| async move { node.assign(context, assignment).await }).await
    }

    async fn fences(&self) -> Result<Vec<Fence>, ControlError> {
        self.control(|node, context| async move { node.fences(context).await }).await
    }

    async fn retire(&self, expected: Fence, slots: SlotSet, epoch: Epoch) -> Result<bool, ControlError> {
        self.control(|node, context| async move { node.retire(context, expected, slots, epoch).await }).await
    }

    async fn inform(&self, map: MapView) -> Result<(), ControlError> {
        self.control(|node, context| async move { node.inform(context, map).await }).await
    }

    async fn resign(&self, list: Vec<ShardName>) -> Result<(), ControlError> {
        self.control(|node, context| async move { node.resign(context, list).await }).await
    }
}
