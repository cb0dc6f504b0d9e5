//! The RPC door: the far end of [`rpc::Client`](crate::rpc::Client). One task serves a connection: it reads requests,
//! runs their handlers and writes the answers, so that a request that needs no waiting never leaves it.
//!
//! tarpc drops a handler at its deadline, on cancel and with its connection; so a handler holds no state of its own
//! (R5): [`Service::execute`] finishes what it began.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tarpc::ChannelError;
use tarpc::context::Context;
use tarpc::server::{self, BaseChannel, Channel};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Assignment, ControlError, Fence, Member, MemberStatus, ShardName};
use crate::command::Reply;
use crate::doors::{Door, farewell};
use crate::record::Epoch;
use crate::rpc::codec::server_transport;
use crate::rpc::frames::{FRAME_BYTES_MAX, Frames, Gate};
use crate::rpc::hello::{self, HELLO_BYTES_MAX, HelloError};
use crate::rpc::wire::{Answer, Commands, Node, NodeRequest, TIMEOUT_MAX};
use crate::service::{Batch, Error, Replies, Service};
use crate::slots::SlotSet;
use crate::sync::Mutex;

/// Replies beyond this wait for [`Node::more`]; a single one may be larger.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Largest reply that is sent: it must fit a frame alone, and sizes are estimates.
const REPLY_BYTES_MAX: usize = FRAME_BYTES_MAX - 1024 * 1024;
/// Answers of one connection of which the rest was not fetched yet; the oldest goes first.
const REST_MAX: usize = 32;
/// Finished answers that wait to be encoded. More would only hold their values in memory.
const PENDING_ANSWERS: usize = 4;

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}: {source}", source = cause(.0))]
    Channel(#[from] ChannelError<io::Error>),
    #[error("requests did not finish within {0:?}")]
    Drain(Duration),
}

fn cause(error: &ChannelError<io::Error>) -> String {
    std::error::Error::source(error).map_or_else(String::new, ToString::to_string)
}

/// Serves one connection, from its hello on, until the peer ends it or `shutdown`.
///
/// # Errors
/// [`ConnectionError`], for whoever logs it; the connection is closed then.
pub async fn serve<S, M>(
    stream: TcpStream,
    peer: SocketAddr,
    door: Arc<Door<S, M>>,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError>
where
    S: Service,
    M: Member,
{
    let options = &door.options;
    let mut frames = Frames::new(stream, HELLO_BYTES_MAX, options.stall_max);
    let role = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        role = hello::accept(&mut frames, options.role, options.hello_timeout) => role,
    };
    let role = match role {
        Ok(role) => role,
        Err(error) => {
            farewell(frames.into_inner(), b"").await;
            return Err(error.into());
        }
    };
    tracing::debug!(%peer, ?role, "peer connected");

    let gate = Gate::new(options.requests_max, options.requests_bytes_max);
    let transport = server_transport(frames.with_gate(Arc::clone(&gate)));
    let config = server::Config { pending_response_buffer: PENDING_ANSWERS };
    let mut requests = pin!(BaseChannel::new(config, transport).requests());
    let mut handlers = FuturesUnordered::new();
    let node = Handler { door: Arc::clone(&door), rest: Arc::default() };
    let mut drained = pin!(async {
        shutdown.cancelled().await;
        gate.drain();
        sleep(options.drain_timeout).await;
    });
    loop {
        tokio::select! {
            biased;
            Some(()) = handlers.next(), if !handlers.is_empty() => {}
            () = &mut drained => return Err(ConnectionError::Drain(options.drain_timeout)),
            request = requests.next() => match request {
                Some(request) => {
                    let request = request?;
                    let guard = gate.enter(size_bytes(&request.get().message));
                    let handled = request.execute(Node::serve(node.clone()));
                    handlers.push(async move {
                        handled.await;
                        drop(guard);
                    });
                }
                None => return Ok(()),
            },
        }
    }
}

fn size_bytes(request: &NodeRequest) -> usize {
    match request {
        NodeRequest::Execute { commands, .. } => commands.size_bytes(),
        NodeRequest::More { .. }
        | NodeRequest::Status { .. }
        | NodeRequest::Assign { .. }
        | NodeRequest::Fences { .. }
        | NodeRequest::Retire { .. }
        | NodeRequest::Resign { .. } => 0,
    }
}

/// What was answered and did not fit the frame, by token.
#[derive(Debug, Default)]
struct Rest {
    last_token: u64,
    waiting: VecDeque<(u64, Replies)>,
}

struct Handler<S, M> {
    door: Arc<Door<S, M>>,
    rest: Arc<Mutex<Rest>>,
}

impl<S, M> Clone for Handler<S, M> {
    fn clone(&self) -> Self {
        Self { door: Arc::clone(&self.door), rest: Arc::clone(&self.rest) }
    }
}

impl<S, M> Handler<S, M> {
    fn answer(&self, mut replies: Replies) -> Answer {
        let mut bytes = 0;
        let mut full_at = None;
        for (i, reply) in replies.iter_mut().enumerate() {
            let size = size_of_reply(reply);
            if size > REPLY_BYTES_MAX {
                let text = format!("the reply has {size} bytes, at most {REPLY_BYTES_MAX} fit a frame: ask for less");
                *reply = Err(Error::Invalid(text));
                continue;
            }
            if bytes + size > ANSWER_BYTES && i > 0 {
                full_at = Some(i);
                break;
            }
            bytes += size;
        }
        let more = full_at.map(|i| self.keep(replies.split_off(i)));
        Answer { replies, more }
    }

    fn keep(&self, replies: Replies) -> u64 {
        let mut rest = self.rest.lock();
        rest.last_token += 1;
        let token = rest.last_token;
        rest.waiting.push_back((token, replies));
        let outdated = if rest.waiting.len() > REST_MAX { rest.waiting.pop_front() } else { None };
        drop(rest);
        drop(outdated);
        token
    }
}

fn size_of_reply(reply: &Result<Reply, Error>) -> usize {
    match reply {
        Ok(reply) => reply.size_bytes(),
        Err(Error::Busy(text) | Error::Unavailable(text) | Error::Unknown(text) | Error::Invalid(text)) => {
            32 + text.len()
        }
        Err(Error::WrongShard { reason, .. }) => 32 + reason.len(),
        Err(Error::ReplyTooLarge) => 32,
    }
}

impl<S: Service, M: Member> Node for Handler<S, M> {
    async fn execute(self, _: Context, epoch: Option<Epoch>, timeout_ms: u32, commands: Commands) -> Answer {
        let timeout = Duration::from_millis(timeout_ms.into()).min(TIMEOUT_MAX);
        let batch = Batch { commands: commands.into_vec(), epoch, timeout };
        self.answer(self.door.service.execute(batch).await)
    }

    async fn more(self, _: Context, token: u64) -> Answer {
        let mut rest = self.rest.lock();
        let found = rest.waiting.iter().position(|(of, _)| *of == token).and_then(|i| rest.waiting.remove(i));
        drop(rest);
        // With an unknown token nothing is left; the caller sees that too few replies came.
        found.map_or(Answer { replies: Vec::new(), more: None }, |(_, replies)| self.answer(replies))
    }

    async fn status(self, _: Context) -> Result<MemberStatus, ControlError> {
        self.door.member.status().await
    }

    async fn assign(self, _: Context, assignment: Assignment) -> Result<MemberStatus, ControlError> {
        self.door.member.assign(assignment).await
    }

    async fn fences(self, _: Context) -> Result<Vec<Fence>, ControlError> {
        self.door.member.fences().await
    }

    async fn retire(self, _: Context, expected: Fence, slots: SlotSet, epoch: Epoch) -> Result<bool, ControlError> {
        self.door.member.retire(expected, slots, epoch).await
    }

    async fn resign(self, _: Context, list: Vec<ShardName>) -> Result<(), ControlError> {
        self.door.member.resign(list).await
    }
}
