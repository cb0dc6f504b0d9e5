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

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tarpc::ChannelError;
use tarpc::context::Context;
use tarpc::server::{self, BaseChannel, Channel};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Assignment, ControlError, Fence, MapView, Member, MemberStatus, ShardName};
use crate::command::{Command, Reply};
use crate::doors::{Door, Metered, Source, ask, farewell};
use crate::metrics::DoorName;
use crate::record::Epoch;
use crate::rpc::answers::{Budget, Held, Share, UnderWay};
use crate::rpc::codec::server_transport;
use crate::rpc::frames::{FRAME_BYTES_MAX, Frames, Gate};
use crate::rpc::hello::{self, HELLO_BYTES_MAX, HelloError, Me};
use crate::rpc::wire::{Answer, Commands, Node, NodeRequest, TIMEOUT_MAX};
use crate::service::{BATCH_BYTES_MAX, Batch, Error, Replies, Service};
use crate::slots::SlotSet;
use crate::sync::Mutex;

/// Replies beyond this wait for [`Node::more`]; a single one may be larger.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Largest reply that is sent: it must fit a frame alone, and sizes are estimates.
const REPLY_BYTES_MAX: usize = FRAME_BYTES_MAX - 1024 * 1024;
/// Answers of one connection of which the rest was not fetched yet; the oldest goes first.
const REST_MAX: usize = 32;
/// How much longer than its caller waits the rest of an answer is kept.
const REST_GRACE: Duration = Duration::from_secs(2);
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
pub async fn serve<S, M, IO>(
    stream: IO,
    peer: SocketAddr,
    door: Arc<Door<S, M>>,
    budget: Arc<Budget>,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError>
where
    S: Service,
    M: Member,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let options = &door.options;
    let me = Me { role: options.role, secret: door.access.secret().cloned() };
    let mut frames = Frames::new(stream, HELLO_BYTES_MAX, options.stall_max);
    let role = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        role = hello::accept(&mut frames, me, options.hello_timeout) => role,
    };
    let role = match role {
        Ok(role) => role,
        Err(error) => {
            if error.is_denial() {
                door.access.note_refused(peer, "rpc");
            }
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
    let share = Share::new(budget);
    let node = Arc::new(Connection {
        door: Arc::clone(&door),
        peer,
        share,
        rest: Mutex::default(),
        shutdown: shutdown.clone(),
    });
    let mut drained = pin!(async {
        shutdown.cancelled().await;
        gate.drain();
        sleep(options.drain_timeout).await;
    });
    loop {
        let outdated_at = node.rest.lock().outdated_at();
        tokio::select! {
            biased;
            Some(()) = handlers.next(), if !handlers.is_empty() => {}
            () = &mut drained => return Err(ConnectionError::Drain(options.drain_timeout)),
            () = sleep_until_some(outdated_at), if outdated_at.is_some() => node.drop_outdated(),
            request = requests.next() => match request {
                Some(request) => {
                    let request = request?;
                    let guard = gate.enter(size_bytes(&request.get().message));
                    let handled = request.execute(Node::serve(Handler(Arc::clone(&node))));
                    handlers.push(handled.map(|()| drop(guard))); // an `async` block would hold and move it twice
                }
                None => return Ok(()),
            },
        }
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
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
        | NodeRequest::Resign { .. }
        | NodeRequest::Inform { .. } => 0,
    }
}

/// Replies with what they take of the budget.
#[derive(Debug)]
struct Made {
    replies: Replies,
    held: Held,
    /// Nobody waits for them any more.
    outdated_at: Instant,
}

/// What was answered and did not fit the frame, by token.
#[derive(Debug, Default)]
struct Rest {
    last_token: u64,
    waiting: VecDeque<(u64, Made)>,
}

impl Rest {
    fn outdated_at(&self) -> Option<Instant> {
        self.waiting.iter().map(|(_, made)| made.outdated_at).min()
    }
}

/// What the requests of a connection share.
struct Connection<S, M> {
    door: Arc<Door<S, M>>,
    peer: SocketAddr,
    share: Arc<Share>,
    rest: Mutex<Rest>,
    shutdown: CancellationToken,
}

impl<S, M> Connection<S, M> {
    /// Waits until there is room for an answer. `None` if there was none until `deadline`, or if the door closes: what
    /// else would make room is not read any more then.
    async fn begin(&self, deadline: Instant) -> Option<UnderWay> {
        loop {
            let changed = self.share.changed();
            if let Some(begun) = self.share.try_begin() {
                return Some(begun);
            }
            tokio::select! {
                () = changed => {}
                () = self.shutdown.cancelled() => return None,
                () = sleep_until(deadline) => return None,
            }
        }
    }

    fn answer(&self, made: Made) -> Answer {
        let Made { mut replies, mut held, outdated_at } = made;
        let mut bytes = 0;
        let mut full_at = None;
        for (i, reply) in replies.iter().enumerate() {
            let size = size_of_reply(reply);
            if bytes + size > ANSWER_BYTES && i > 0 {
                full_at = Some(i);
                break;
            }
            bytes += size;
        }
        let more = full_at.map(|i| {
            let rest = Made { replies: replies.split_off(i), held: held.split_off(bytes), outdated_at };
            self.keep(rest)
        });
        let held = (held.bytes() > 0).then(|| Arc::new(held));
        Answer { replies, more, held }
    }

    fn keep(&self, made: Made) -> u64 {
        let mut rest = self.rest.lock();
        rest.last_token += 1;
        let token = rest.last_token;
        rest.waiting.push_back((token, made));
        let outdated = if rest.waiting.len() > REST_MAX { rest.waiting.pop_front() } else { None };
        drop(rest);
        drop(outdated);
        token
    }

    fn drop_outdated(&self) {
        let now = Instant::now();
        let mut rest = self.rest.lock();
        let (outdated, waiting): (VecDeque<_>, _) =
            rest.waiting.drain(..).partition(|(_, made)| made.outdated_at <= now);
        rest.waiting = waiting;
        drop(rest);
        drop(outdated);
    }
}

/// Refuses the replies that fit no frame, and those for which there is no room.
fn fit(begun: UnderWay, replies: &mut Replies) -> Held {
    let mut bytes = 0;
    for reply in &mut *replies {
        let size = size_of_reply(reply);
        if size > REPLY_BYTES_MAX {
            let text = format!("the reply has {size} bytes, at most {REPLY_BYTES_MAX} fit a frame: ask for less");
            *reply = Err(Error::Invalid(text));
        }
        bytes += size_of_reply(reply);
    }
    let mut held = begun.answered(bytes);
    if held.is_cut() {
        held.resize(cut(replies, held.bytes()));
    }
    held
}

/// Refuses what was read beyond so many bytes; answers how many are left. What was written was written, and is told.
fn cut(replies: &mut Replies, bytes_max: usize) -> usize {
    let (mut bytes, mut has_read) = (0, false);
    for reply in replies {
        let size = size_of_reply(reply);
        match reply {
            Ok(Reply::Found(Some(_)) | Reply::Page { .. }) if bytes + size > bytes_max => {
                *reply = Err(if has_read { Error::ReplyTooLarge } else { no_room() });
            }
            Ok(Reply::Found(Some(_)) | Reply::Page { .. }) => has_read = true,
            Ok(_) | Err(_) => {}
        }
        bytes += size_of_reply(reply);
    }
    bytes
}

fn no_room() -> Error {
    Error::Unavailable("too many answers of this node were not read yet; try again".to_owned())
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

struct Handler<S, M>(Arc<Connection<S, M>>);

impl<S, M> Clone for Handler<S, M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Service, M: Member> Node for Handler<S, M> {
    async fn execute(self, _: Context, epoch: Option<Epoch>, timeout_ms: u32, commands: Commands) -> Answer {
        let timeout = Duration::from_millis(timeout_ms.into()).min(TIMEOUT_MAX);
        let (now, trace, commands) = (Instant::now(), commands.trace, commands.into_vec());
        let deadline = now + timeout;
        let refuse = |error: Error| Answer { replies: vec![Err(error); commands.len()], more: None, held: None };
        if commands.len() > 1 && commands.iter().map(Command::size_bytes).sum::<usize>() > BATCH_BYTES_MAX {
            return refuse(Error::Invalid(format!("a batch of several commands has at most {BATCH_BYTES_MAX} bytes")));
        }
        let Some(begun) = self.0.begin(deadline).await else { return refuse(no_room()) };
        let batch = Batch { commands, epoch, timeout: deadline.saturating_duration_since(Instant::now()) };
        let source = Source { door: "rpc", peer: self.0.peer, trace };
        let mut replies = ask(&Metered::new(&self.0.door, DoorName::Rpc), batch, source).await;
        let held = fit(begun, &mut replies);
        self.0.answer(Made { replies, held, outdated_at: deadline + REST_GRACE })
    }

    async fn more(self, _: Context, token: u64) -> Answer {
        let mut rest = self.0.rest.lock();
        let found = rest.waiting.iter().position(|(of, _)| *of == token).and_then(|i| rest.waiting.remove(i));
        drop(rest);
        // With an unknown token nothing is left; the caller sees that too few replies came.
        found.map_or(Answer { replies: Vec::new(), more: None, held: None }, |(_, made)| self.0.answer(made))
    }

    async fn status(self, _: Context) -> Result<MemberStatus, ControlError> {
        self.0.door.member.status().await
    }

    async fn assign(self, _: Context, assignment: Assignment) -> Result<MemberStatus, ControlError> {
        self.0.door.member.assign(assignment).await
    }

    async fn fences(self, _: Context) -> Result<Vec<Fence>, ControlError> {
        self.0.door.member.fences().await
    }

    async fn retire(self, _: Context, expected: Fence, slots: SlotSet, epoch: Epoch) -> Result<bool, ControlError> {
        self.0.door.member.retire(expected, slots, epoch).await
    }

    async fn inform(self, _: Context, map: MapView) -> Result<(), ControlError> {
        self.0.door.member.inform(map).await
    }

    async fn resign(self, _: Context, list: Vec<ShardName>) -> Result<(), ControlError> {
        self.0.door.member.resign(list).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Found;
    use crate::record::{Value, Version};

    #[test]
    fn what_was_read_is_cut_and_what_was_written_is_told() {
        let read = |bytes| {
            let (value, version) = (Value::new(vec![0; bytes]).unwrap(), Version::new(1, 1));
            Ok(Reply::Found(Some(Found { value, version, expires_at: None })))
        };
        let stored = Ok(Reply::Stored(Version::new(1, 1)));
        let mut replies = vec![stored.clone(), read(1000), read(5000), read(100), stored.clone()];
        let kept = cut(&mut replies, 2000);
        assert_eq!(replies, [stored.clone(), read(1000), Err(Error::ReplyTooLarge), read(100), stored.clone()]);
        assert!(kept <= 2000, "{kept}");

        let mut replies = vec![read(1), read(1), stored.clone()];
        let kept = cut(&mut replies, 0);
        assert_eq!(kept, replies.iter().map(size_of_reply).sum::<usize>());
        assert_eq!(replies, [Err(no_room()), Err(no_room()), stored]);
    }
}
