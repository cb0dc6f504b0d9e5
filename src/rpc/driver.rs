//! The task behind a [`Client`](crate::rpc::Client): connects, sends what waits, gives answers back, and connects again.
//!
//! While a first attempt to connect is under way, jobs wait for its outcome; once it has failed they are refused at
//! once, until an attempt succeeds. A connection that had lived gets one attempt before that.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tarpc::client::{self, NewClient, RpcError};
use tarpc::context;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::gather::{PATIENCE, is_company};
use crate::net::{ClientStream, is_refusal, reason};
use crate::request::{self, Spans};
use crate::rpc::client::Options;
use crate::rpc::codec::{as_millis, client_transport};
use crate::rpc::frames::{Frames, STALL_MAX};
use crate::rpc::hello::{self, HELLO_BYTES_MAX, HelloError, Me};
use crate::rpc::queue::{Call, Job};
use crate::rpc::wire::NodeClient;
use crate::service::Replies;

/// How much longer than its callers the driver waits for a call: a late answer still shows that the other side lives.
const CALL_GRACE: Duration = Duration::from_secs(1);
/// A connection that lived this long was a good one: the next attempt comes at once, and the backoff starts anew.
const GOOD_AFTER: Duration = Duration::from_secs(1);
/// For tarpc, whose own bound on calls is not the one that matters here: control calls come on top of the driver's.
const TARPC_CALLS_MAX: usize = 1024;

/// Whether there is a connection.
#[derive(Debug, Clone)]
pub enum State {
    /// It will be known soon.
    Connecting,
    Up(NodeClient),
    /// No, and why.
    Down(Arc<str>),
    /// No, and the next attempts will hardly end otherwise: the other side is there, and they don't fit.
    Refused(Arc<str>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("{}", reason(.0))]
    Io(#[from] io::Error),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("no answer to the TLS handshake within {0:?}")]
    Handshake(Duration),
    #[error(transparent)]
    Hello(#[from] HelloError),
}

impl ConnectError {
    fn is_final(&self) -> bool {
        match self {
            Self::Hello(error) => error.is_final(),
            Self::Io(error) => is_refusal(error),
            Self::Timeout(_) | Self::Handshake(_) => false,
        }
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error("{replies} replies came to {commands} commands")]
    Miscounted { commands: usize, replies: usize },
}

/// How a connection ended.
enum End {
    /// The client was closed or dropped.
    Closed,
    Lost(String),
}

/// What became of a call: the replies that came, and if some are missing, why.
struct Done {
    call: Call,
    replies: Replies,
    failure: Option<CallError>,
}

pub struct Driver {
    address: Arc<str>,
    options: Options,
    jobs: mpsc::UnboundedReceiver<Job>,
    queue: VecDeque<Job>,
    state: watch::Sender<State>,
    link: watch::Sender<bool>,
    closing: CancellationToken,
}

impl Driver {
    pub fn new(
        address: Arc<str>,
        options: Options,
        jobs: mpsc::UnboundedReceiver<Job>,
        state: watch::Sender<State>,
        link: watch::Sender<bool>,
        closing: CancellationToken,
    ) -> Self {
        Self { address, options, jobs, queue: VecDeque::new(), state, link, closing }
    }

    /// Lives until the client is closed or its last clone dropped.
    pub async fn run(mut self) {
        let mut backoff = self.backoff();
        let mut down: Option<Arc<str>> = None;
        let mut told = String::new();
        loop {
            let (address, options) = (Arc::clone(&self.address), self.options.clone());
            let connected = tokio::select! {
                biased;
                () = self.meanwhile(down.as_deref()) => break,
                connected = connect(&address, &options) => connected,
            };
            let mut is_final = false;
            let reason = match connected {
                Ok(frames) => {
                    let since = Instant::now();
                    tracing::info!(peer = %self.address, "connected");
                    let End::Lost(reason) = self.serve(frames).await else { break };
                    tracing::warn!(peer = %self.address, reason, "connection lost");
                    (down, told) = (None, String::new());
                    if since.elapsed() >= GOOD_AFTER {
                        backoff = self.backoff();
                        self.state.send_replace(State::Connecting);
                        continue;
                    }
                    reason
                }
                Err(error) => {
                    let reason = error.to_string();
                    is_final = error.is_final();
                    // Told once, not for every attempt.
                    if told != reason {
                        tracing::warn!(peer = %self.address, reason, "not connected");
                        told.clone_from(&reason);
                    }
                    reason
                }
            };
            down = Some(self.go_down(&reason, is_final));
            let delay = backoff.next().unwrap_or(self.options.backoff_max);
            tokio::select! {
                biased;
                () = self.meanwhile(down.as_deref()) => break,
                () = sleep(delay) => {}
            }
        }
        self.refuse_all();
    }

    fn backoff(&self) -> ExponentialBackoff {
        let Options { backoff_min, backoff_max, .. } = self.options;
        let builder = ExponentialBuilder::new().with_min_delay(backoff_min).with_max_delay(backoff_max);
        builder.with_jitter().without_max_times().build()
    }

    /// Takes jobs while there is no connection: keeps them if that is not decided yet, refuses them if it is `down`.
    /// Returns when the client is closed or dropped.
    async fn meanwhile(&mut self, down: Option<&str>) {
        loop {
            let job = tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                job = self.jobs.recv() => job,
            };
            match (job, down) {
                (Some(job), Some(reason)) => job.fail(reason),
                (Some(job), None) => self.queue.push_back(job),
                (None, _) => return,
            }
        }
    }

    /// Refuses what waits, and says why to all that comes until there is a connection.
    fn go_down(&mut self, reason: &str, is_final: bool) -> Arc<str> {
        let retrying = if is_final { "" } else { "; retrying" };
        let reason: Arc<str> = format!("{}: {reason}{retrying}", self.address).into();
        let shared = Arc::clone(&reason);
        self.state.send_replace(if is_final { State::Refused(shared) } else { State::Down(shared) });
        for job in self.queue.drain(..) {
            job.fail(&reason);
        }
        reason
    }

    /// Refuses what waits and was sent until now, and lets the client see that the driver has ended.
    fn refuse_all(mut self) {
        let reason = format!("{}: the client was closed", self.address);
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            self.queue.push_back(job);
        }
        for job in self.queue.drain(..) {
            job.fail(&reason);
        }
    }

    /// Sends calls and gives answers back until the connection ends.
    async fn serve(&mut self, frames: Frames<ClientStream>) -> End {
        let mut config = client::Config::default();
        config.max_in_flight_requests = TARPC_CALLS_MAX;
        config.pending_request_buffer = TARPC_CALLS_MAX;
        let NewClient { client: node, dispatch } = NodeClient::new(config, client_transport(frames));
        self.state.send_replace(State::Up(node.clone()));
        self.link.send_replace(true);

        let address = Arc::clone(&self.address);
        let mut calls = FuturesUnordered::new();
        let mut jobs_under_way = 0;
        // Until when jobs wait for company.
        let mut held_until: Option<Instant> = None;
        // Since when calls are on their way without any answer.
        let mut silent_since: Option<Instant> = None;
        let mut dispatch = Box::pin(dispatch);
        let end = loop {
            self.take_jobs();
            let may_go =
                is_company(self.queue.len(), jobs_under_way) || held_until.is_some_and(|until| until <= Instant::now());
            while may_go && calls.len() < self.options.calls_in_flight_max {
                let now = Instant::now();
                let Some(call) = Call::assemble(&mut self.queue, now) else { break };
                silent_since.get_or_insert(now);
                jobs_under_way += call.jobs();
                held_until = None;
                calls.push(run(node.clone(), &address, call, now));
            }
            let is_holding = !self.queue.is_empty() && calls.len() < self.options.calls_in_flight_max;
            held_until = is_holding.then(|| held_until.unwrap_or_else(|| Instant::now() + PATIENCE));
            tokio::select! {
                biased;
                () = self.closing.cancelled() => break End::Closed,
                Some(done) = calls.next(), if !calls.is_empty() => {
                    jobs_under_way -= done.call.jobs();
                    match self.settle(done) {
                        Ok(()) => silent_since = if calls.is_empty() { None } else { Some(Instant::now()) },
                        Err(CallError::Rpc(RpcError::DeadlineExceeded)) => {
                            let silent = silent_since.map_or(Duration::ZERO, |since| since.elapsed());
                            if silent >= self.options.silence_max {
                                break End::Lost(format!("nothing was answered for {silent:?}"));
                            }
                        }
                        Err(error) => break End::Lost(reason_of(&error)),
                    }
                }
                outcome = &mut dispatch => break End::Lost(match outcome {
                    Ok(()) => "closed by the other side".to_owned(),
                    Err(error) => reason_of(&error),
                }),
                job = self.jobs.recv() => match job {
                    Some(job) => self.queue.push_back(job),
                    None => break End::Closed,
                },
                () = sleep_until(held_until.unwrap_or_else(Instant::now)), if held_until.is_some() => {}
            }
        };
        self.link.send_replace(false);
        self.state.send_replace(State::Connecting);
        // Without it, every call that is still on its way ends.
        drop(dispatch);
        while let Some(done) = calls.next().await {
            let _ = self.settle(done);
        }
        end
    }

    fn take_jobs(&mut self) {
        while let Ok(job) = self.jobs.try_recv() {
            self.queue.push_back(job);
        }
    }

    fn settle(&mut self, done: Done) -> Result<(), CallError> {
        let Done { call, replies, failure } = done;
        let Some(error) = failure else {
            call.settle(replies, "", &mut self.queue);
            return Ok(());
        };
        call.settle(replies, &format!("{}: {}", self.address, reason_of(&error)), &mut self.queue);
        Err(error)
    }
}

/// Makes a call, and fetches what did not fit the frame of its answer.
async fn run(node: NodeClient, address: &str, call: Call, now: Instant) -> Done {
    let mut context = context::current();
    context.deadline = (call.deadline + CALL_GRACE).into_std();
    let spans = Spans::start("call", call.traces());
    // All that travels together goes by one name.
    let trace = spans.trace();
    if let Some(trace) = trace {
        context.trace_context.trace_id = trace.request.to_wire().into();
        if request::is_told() {
            let (requests, commands) = (request::list(call.traces().map(|trace| trace.request)), call.len());
            tracing::debug!(target: request::TARGET, request = %trace.request, requests, commands, "sent");
        }
    }
    let timeout_ms = as_millis(call.deadline.saturating_duration_since(now));
    let commands = call.len();
    let mut replies = Replies::new();
    let mut answer = node.execute(context, call.epoch, timeout_ms, call.commands(trace)).await;
    let failure = loop {
        let more = match answer {
            Ok(mut answer) => {
                if replies.is_empty() {
                    replies = answer.replies
                } else {
                    replies.append(&mut answer.replies)
                }
                answer.more
            }
            Err(error) => break Some(error.into()),
        };
        match more {
            Some(token) if replies.len() < commands => answer = node.more(context, token).await,
            None if replies.len() == commands => break None,
            Some(_) | None => {
                let count = replies.len();
                // Whose they are can't be told.
                replies.clear();
                break Some(CallError::Miscounted { commands, replies: count });
            }
        }
    };
    spans.end_with(|span| {
        span.set_text("server.address", address.to_owned());
        span.set_count("overspill.commands", commands);
        span.set_errors(failure.is_some().into());
    });
    Done { call, replies, failure }
}

/// A connection on which hellos were exchanged.
async fn connect(address: &str, options: &Options) -> Result<Frames<ClientStream>, ConnectError> {
    let connected = timeout(options.connect_timeout, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| ConnectError::Timeout(options.connect_timeout))??;
    stream.set_nodelay(true)?;
    let stream = match &options.tls {
        None => ClientStream::Left(stream),
        Some(tls) => {
            let shaken = timeout(options.hello_timeout, tls.connect(address, stream)).await;
            ClientStream::Right(Box::new(shaken.map_err(|_| ConnectError::Handshake(options.hello_timeout))??))
        }
    };
    let mut frames = Frames::new(stream, HELLO_BYTES_MAX, STALL_MAX);
    let me = Me { role: options.role, secret: options.secret.clone() };
    match hello::offer(&mut frames, me, options.hello_timeout).await {
        Ok(_) => {}
        // What the other side thinks of our certificate is told after the handshake.
        Err(HelloError::Io(error)) => return Err(error.into()),
        Err(error) => return Err(error.into()),
    }
    Ok(frames)
}

/// An error with its causes, in one line.
fn reason_of(error: &dyn std::error::Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    reason
}
