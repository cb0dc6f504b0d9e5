//! The task behind a [`Client`](crate::rpc::Client): connects, sends what waits, gives answers back, and connects again.
//!
//! While a first attempt to connect is under way, jobs wait for its outcome; once it has failed they are refused at
//! once, until an attempt succeeds. A connection that had lived gets one attempt before that.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tarpc::client::{self, NewClient, RpcError};
use tarpc::context;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
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
use crate::task::{go_last, has_one_worker};

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
    number: u64,
    replies: Replies,
    failure: Option<CallError>,
}

/// Rings when the time of a job may be over. One for all jobs: hardly any needs it.
struct Alarm {
    set_for: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Alarm {
    fn new() -> Self {
        Self { set_for: None, timer: Box::pin(sleep(Duration::ZERO)) }
    }

    /// Has it ring by then, if it is not set for an earlier time.
    fn set_by(&mut self, deadline: Instant) {
        if self.set_for.is_none_or(|set_for| deadline < set_for) {
            self.set_for = Some(deadline);
            self.timer.as_mut().reset(deadline);
        }
    }

    /// Then it has to be set again.
    async fn rings(&mut self) {
        if self.set_for.is_none() {
            return pending().await;
        }
        self.timer.as_mut().await;
        self.set_for = None;
    }
}

pub struct Driver {
    address: Arc<str>,
    options: Options,
    jobs: mpsc::UnboundedReceiver<Job>,
    queue: VecDeque<Job>,
    /// The calls on their way, with their numbers. The jobs in them are still answered in time.
    calls: Vec<(u64, Call)>,
    alarm: Alarm,
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
        let (queue, calls, alarm) = (VecDeque::new(), Vec::new(), Alarm::new());
        Self { address, options, jobs, queue, calls, alarm, state, link, closing }
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
        self.refuse_all().await;
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
                () = self.alarm.rings() => {
                    self.expire();
                    continue;
                }
            };
            match (job, down) {
                (Some(mut job), Some(reason)) => job.fail(reason),
                (Some(job), None) => self.take_job(job),
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
        for mut job in self.queue.drain(..) {
            job.fail(&reason);
        }
        reason
    }

    /// Refuses what waits and was sent until now, and lets the client see that the driver has ended.
    async fn refuse_all(mut self) {
        let reason = format!("{}: the client was closed", self.address);
        for mut job in self.queue.drain(..) {
            job.fail(&reason);
        }
        self.jobs.close();
        // Until nobody is about to put one in.
        while let Some(mut job) = self.jobs.recv().await {
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

        let closing = self.closing.clone();
        let mut closed = pin!(closing.cancelled());
        let mut answers = FuturesUnordered::new();
        let mut last_number = 0;
        // Until when jobs wait for company.
        let mut held_until: Option<Instant> = None;
        // Since when calls are on their way without any answer.
        let mut silent_since: Option<Instant> = None;
        let mut dispatch = Box::pin(dispatch);
        let has_one_worker = has_one_worker();
        let end = loop {
            self.take_jobs();
            if has_one_worker && !self.queue.is_empty() && self.calls.len() < self.options.calls_in_flight_max {
                go_last().await; // first all whose jobs can go along (ADR 14)
                self.take_jobs();
            }
            let under_way = self.calls.iter().map(|(_, call)| call.jobs().len()).sum();
            let may_go =
                is_company(self.queue.len(), under_way) || held_until.is_some_and(|until| until <= Instant::now());
            while may_go && self.calls.len() < self.options.calls_in_flight_max {
                let now = Instant::now();
                let Some(call) = Call::assemble(&mut self.queue, now, &self.address) else { break };
                silent_since.get_or_insert(now);
                held_until = None;
                last_number += 1;
                answers.push(send(&node, &self.address, &call, last_number, now));
                self.calls.push((last_number, call));
            }
            let is_holding = !self.queue.is_empty() && self.calls.len() < self.options.calls_in_flight_max;
            held_until = is_holding.then(|| held_until.unwrap_or_else(|| Instant::now() + PATIENCE));
            tokio::select! {
                biased;
                () = &mut closed => break End::Closed,
                Some(done) = answers.next(), if !answers.is_empty() => match self.settle(done) {
                    Ok(()) => silent_since = if answers.is_empty() { None } else { Some(Instant::now()) },
                    Err(CallError::Rpc(RpcError::DeadlineExceeded)) => {
                        let silent = silent_since.map_or(Duration::ZERO, |since| since.elapsed());
                        if silent >= self.options.silence_max {
                            break End::Lost(format!("nothing was answered for {silent:?}"));
                        }
                    }
                    Err(error) => break End::Lost(reason_of(&error)),
                },
                outcome = &mut dispatch => break End::Lost(match outcome {
                    Ok(()) => "closed by the other side".to_owned(),
                    Err(error) => reason_of(&error),
                }),
                job = self.jobs.recv() => match job {
                    Some(job) => self.take_job(job),
                    None => break End::Closed,
                },
                () = self.alarm.rings() => self.expire(),
                () = sleep_until(held_until.unwrap_or_else(Instant::now)), if held_until.is_some() => {}
            }
        };
        self.link.send_replace(false);
        self.state.send_replace(State::Connecting);
        // Without it, every call that is still on its way ends.
        drop(dispatch);
        while let Some(done) = answers.next().await {
            let _ = self.settle(done);
        }
        end
    }

    fn take_jobs(&mut self) {
        while let Ok(job) = self.jobs.try_recv() {
            self.take_job(job);
        }
    }

    fn take_job(&mut self, job: Job) {
        self.alarm.set_by(job.deadline);
        self.queue.push_back(job);
    }

    /// Answers those whose time is over, and sets the alarm for the next of them.
    fn expire(&mut self) {
        let now = Instant::now();
        let mut is_waited_for = |job: &mut Job| {
            job.expire(now, &self.address);
            let is_open = !job.is_over();
            if is_open {
                self.alarm.set_by(job.deadline);
            }
            is_open
        };
        self.queue.retain_mut(&mut is_waited_for);
        for job in self.calls.iter_mut().flat_map(|(_, call)| call.jobs_mut()) {
            is_waited_for(job);
        }
    }

    fn settle(&mut self, done: Done) -> Result<(), CallError> {
        let Done { number, replies, failure } = done;
        let reason = failure.as_ref().map(|error| format!("{}: {}", self.address, reason_of(error)));
        if let Some(at) = self.calls.iter().position(|(sent, _)| *sent == number) {
            let (_, call) = self.calls.swap_remove(at);
            call.settle(replies, &reason.unwrap_or_default(), &mut self.queue);
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Makes a call, and fetches what did not fit the frame of its answer.
fn send(
    node: &NodeClient,
    address: &Arc<str>,
    call: &Call,
    number: u64,
    now: Instant,
) -> impl Future<Output = Done> + use<> {
    let mut context = context::current();
    context.deadline = (call.deadline + CALL_GRACE).into_std();
    let spans = Spans::start("call", call.traces());
    let count = call.len();
    // All that travels together goes by one name.
    let trace = spans.trace();
    if let Some(trace) = trace {
        context.trace_context.trace_id = trace.request.to_wire().into();
        if request::is_told() {
            let requests = request::list(call.traces().map(|trace| trace.request));
            tracing::debug!(target: request::TARGET, request = %trace.request, requests, commands = count, "sent");
        }
    }
    let timeout_ms = as_millis(call.deadline.saturating_duration_since(now));
    let (node, address, epoch, commands) = (node.clone(), Arc::clone(address), call.epoch, call.commands(trace));
    async move {
        let mut replies = Replies::new();
        let mut answer = node.execute(context, epoch, timeout_ms, commands).await;
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
                Some(token) if replies.len() < count => answer = node.more(context, token).await,
                None if replies.len() == count => break None,
                Some(_) | None => {
                    let came = replies.len();
                    // Whose they are can't be told.
                    replies.clear();
                    break Some(CallError::Miscounted { commands: count, replies: came });
                }
            }
        };
        spans.end_with(|span| {
            span.set_text("server.address", address.to_string());
            span.set_count("overspill.commands", count);
            span.set_errors(failure.is_some().into());
        });
        Done { number, replies, failure }
    }
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
