//! The RESP door: Redis clients. One task serves a connection: it parses all that has arrived, asks it in batches, and writes the
//! replies with one call. Knows nothing of what commands do.
//!
//! A secondary's door is in cluster mode: it serves its own slots and sends clients elsewhere for the others. A primary's is
//! not: it takes every key.

mod batch;
mod cluster;
mod commands;
mod errors;
mod gathered;
mod info;
mod keyspace;
mod render;
mod session;
mod system;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::batch::{Asked, Pending, Target, again, targets};
use self::gathered::Gathered;
use self::keyspace::{AllKeys, Cursors};
use self::session::{Clients, Connected, Session};
use super::{Door, Metered, Source, ask, farewell};
use crate::command::{Command, Reply};
use crate::metrics::DoorName;
use crate::protocol::redis::{Action, ClientReply, Flag, Keyspace, Refusal, Spec, System, spec_of};
use crate::protocol::resp::{Args, Encoder, Limits, Output, Parser, ProtocolError};
use crate::record::Key;
use crate::request;
use crate::rpc::Role;
use crate::rpc::answers::{Budget, Held, Share, UnderWay};
use crate::service::{Batch, Error, Replies, Service};
use crate::slots::Slot;
use crate::task::{go_last, has_one_worker, stopped};

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Room for what a client sends, at first and at most: busy ones get more.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES_MAX: usize = 64 * 1024;
/// Replies beyond this are written before more is asked.
const OUTPUT_BYTES: usize = 1024 * 1024;
/// An answer that costs about as much as its request is made in any case.
const SMALL_BYTES: usize = 1024;

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("it made no progress in the middle of a request or a reply")]
    Stalled,
}

/// What the RESP connections of a node share.
#[derive(Debug)]
pub struct Node {
    clients: Arc<Clients>,
    cursors: Cursors,
    started: Instant,
    /// Names this run of the node to clients.
    run_id: u128,
}

impl Default for Node {
    fn default() -> Self {
        Self { clients: Arc::default(), cursors: Cursors::default(), started: Instant::now(), run_id: rand::random() }
    }
}

/// Serves one connection until the peer ends it or `shutdown`.
///
/// # Errors
/// [`ConnectionError`], for whoever logs it; the connection is closed then.
pub(super) async fn serve<S: Service, M: Send + Sync + 'static, IO: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: IO,
    peer: SocketAddr,
    door: Arc<Door<S, M>>,
    budget: Arc<Budget>,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError> {
    let session = Session::new(door.access.is_open());
    let mut connection = Connection {
        parser: Parser::new(limits(&session)),
        session,
        client: door.redis.clients.connect(peer),
        share: Share::new(budget),
        stream,
        output: Output::new(),
        pending: Pending::default(),
        gathered: Gathered::default(),
        held: Vec::new(),
        last: None,
        door,
    };
    match connection.run(&shutdown).await {
        Err(ConnectionError::Protocol(error)) => {
            connection.encoder().error(&format!("ERR {error}"));
            connection.write().await?;
            farewell(connection.stream, b"").await;
            Err(error.into())
        }
        Ok(()) if connection.session.is_over => {
            farewell(connection.stream, b"").await; // it may have sent more than it waits for
            Ok(())
        }
        ended => ended,
    }
}

/// What is not asked together with other requests.
enum Apart {
    /// These commands are kept in their order by going alone.
    Alone(Vec<Command>, Asked),
    Keyspace(Box<Keyspace>),
    /// With the name of the command.
    System(&'static str, Box<System>),
}

struct Connection<S, M, IO> {
    door: Arc<Door<S, M>>,
    stream: IO,
    client: Connected,
    session: Session,
    parser: Parser,
    output: Output,
    pending: Pending,
    /// Of the request whose replies have not all come.
    gathered: Gathered,
    share: Arc<Share>,
    /// What `output` takes of the budget.
    held: Vec<Held>,
    /// The command of the last request.
    last: Option<&'static Spec>,
}

impl<S: Service, M: Send + Sync + 'static, IO: AsyncRead + AsyncWrite + Unpin> Connection<S, M, IO> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), ConnectionError> {
        let mut input = BytesMut::new();
        let mut room = READ_BYTES_MIN;
        let has_one_worker = has_one_worker();
        let stop = shutdown.child_token(); // asked in every turn, and the other is shared by all
        let mut stopped = pin!(stopped(&stop));
        loop {
            let mut has_waited = false;
            {
                let mut asked = pin!(self.ask_requests(&mut input));
                let asked = poll_fn(|context| {
                    let asked = asked.as_mut().poll(context);
                    has_waited |= asked.is_pending();
                    asked
                });
                asked.await?;
            }
            if has_one_worker && !has_waited && !self.output.is_empty() {
                // First the requests of all others: a client of many connections is woken once for their answers (ADR 14).
                go_last().await;
            }
            self.write().await?;
            // Whoever never pauses would not be stopped below, and has sent more by now.
            self.session.is_over |= stop.is_cancelled();
            if self.session.is_over {
                return Ok(());
            }
            input.reserve(self.parser.wants().max(room));
            let capacity = input.capacity() - input.len();
            let read = tokio::select! {
                biased;
                read = self.read(&mut input) => read?,
                () = &mut stopped => return Ok(()),
            };
            match read {
                0 => return Ok(()),
                read if read == capacity => room = (room * 2).min(READ_BYTES_MAX),
                read if read < room / 4 => room = (room / 2).max(READ_BYTES_MIN),
                _ => {}
            }
        }
    }

    /// Asks what has arrived whole, and makes the replies.
    async fn ask_requests(&mut self, input: &mut BytesMut) -> Result<(), ConnectionError> {
        let parsed = self.take_requests(input).await;
        self.ask_pending().await?;
        parsed
    }

    /// A client may be idle for ever, but not in the middle of a request.
    async fn read(&mut self, input: &mut BytesMut) -> Result<usize, ConnectionError> {
        let read = self.stream.read_buf(input);
        if self.parser.pending_bytes() == 0 {
            return Ok(read.await?);
        }
        Ok(timeout(self.door.options.stall_max, read).await.map_err(|_| ConnectionError::Stalled)??)
    }

    async fn write(&mut self) -> Result<(), ConnectionError> {
        while !self.output.is_empty() {
            let written = match write_some(&mut self.stream, &mut self.output).now_or_never() {
                Some(written) => written,
                None => timeout(self.door.options.stall_max, write_some(&mut self.stream, &mut self.output))
                    .await
                    .map_err(|_| ConnectionError::Stalled)?,
            };
            if written? == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
        }
        self.held.clear();
        Ok(self.stream.flush().await?)
    }

    fn encoder(&mut self) -> Encoder<'_> {
        Encoder::new(&mut self.output, self.session.proto)
    }

    /// Takes all requests that have arrived whole; asks what does not fit one batch.
    async fn take_requests(&mut self, input: &mut BytesMut) -> Result<(), ConnectionError> {
        while !self.session.is_over {
            let taken = match self.parser.next(input) {
                Ok(Some(request)) => self.take(&request.args),
                Ok(None) => break,
                Err(error) => return Err(error.into()),
            };
            match taken {
                Ok(None) => {}
                Ok(Some(apart)) => self.ask_apart(apart).await?,
                Err(refusal) => {
                    self.ask_pending().await?; // replies come in the order of the requests
                    self.reply(|encoder| encoder.error(&refusal.0));
                }
            }
            if self.pending.is_full() {
                self.ask_pending().await?;
            }
            if self.output.len() > OUTPUT_BYTES {
                self.write().await?;
            }
        }
        Ok(())
    }

    /// Puts what a request asks to what waits, or answers what it asks apart from that.
    fn take(&mut self, request: &Args<'_>) -> Result<Option<Apart>, Refusal> {
        let from = self.pending.commands.len();
        let taken = self.take_from(from, request);
        if taken.is_err() {
            self.pending.commands.truncate(from);
        }
        taken
    }

    /// The commands of the request are put behind `from`, maybe also if it is refused.
    fn take_from(&mut self, from: usize, request: &Args<'_>) -> Result<Option<Apart>, Refusal> {
        let spec = spec_of(request, self.last)?;
        self.last = Some(spec);
        if !self.session.is_authenticated && !spec.flags.contains(&Flag::NoAuth) {
            return Err(errors::no_auth());
        }
        let shape = match spec.translate(request, &mut self.pending.commands)? {
            Action::Data(shape) => shape,
            Action::Keyspace(asked) => return Ok(Some(Apart::Keyspace(asked))),
            Action::System(asked) => return Ok(Some(Apart::System(spec.name, asked))),
        };
        if self.crosses_slots(from) {
            return Err(errors::cross_slot());
        }
        let asked = Asked { shape, is_silent: self.is_silent() };
        if self.pending.commands.get(from..).unwrap_or_default().iter().any(goes_alone) {
            return Ok(Some(Apart::Alone(self.pending.commands.split_off(from), asked)));
        }
        self.pending.push(from, asked);
        Ok(None)
    }

    /// Asks what waits, and then something apart from it.
    async fn ask_apart(&mut self, apart: Apart) -> Result<(), ConnectionError> {
        self.ask_pending().await?;
        match apart {
            Apart::Alone(commands, asked) => {
                self.pending.commands = commands;
                self.pending.push(0, asked);
                self.ask_pending().await?;
            }
            Apart::Keyspace(asked) => self.keyspace(*asked).await?,
            Apart::System(name, asked) => {
                self.client.client.names.lock().last_command = name;
                self.system(*asked).await;
                self.parser.limit(limits(&self.session));
            }
        }
        Ok(())
    }

    /// Whether the commands behind `from` are for keys of several slots although they must be in one: always in cluster
    /// mode, elsewhere only for one command.
    fn crosses_slots(&self, from: usize) -> bool {
        let commands = self.pending.commands.get(from..).unwrap_or_default();
        match commands {
            [single] if !single.has_many_keys() => false,
            [single] => is_spread(single.keys().into_iter().map(Slot::of)),
            several if self.is_member() => is_spread(several.iter().filter_map(Command::key).map(Slot::of)),
            _ => false,
        }
    }

    fn is_member(&self) -> bool {
        self.door.options.role == Role::Secondary
    }

    /// Whether the next reply is not wanted.
    fn is_silent(&mut self) -> bool {
        match self.session.reply {
            ClientReply::On => false,
            ClientReply::Off => true,
            ClientReply::Skip => {
                self.session.reply = ClientReply::On;
                true
            }
        }
    }

    /// Writes a reply, if it is wanted.
    fn reply(&mut self, write: impl FnOnce(&mut Encoder<'_>)) {
        if !self.is_silent() {
            write(&mut self.encoder());
        }
    }

    /// Answers what waits if it is one read that needs no waiting, as most requests are that come one at a time. Whoever holds large
    /// answers may have to write them first.
    fn answer_now(&mut self) {
        let is_free = self.held.is_empty() && !request::is_followed();
        let Some(read) = self.pending.lone_read().filter(|_| is_free) else { return };
        let Some(reply) = self.door.answer_now(DoorName::Resp, read) else { return };
        let Some(held) = self.share.try_answer(reply.size_bytes()) else { return };
        if held.bytes() > 0 {
            self.held.push(held);
        }
        self.pending.forget_commands();
        self.render_one(&[], 0, Ok(reply));
    }

    /// Asks all that waits, and makes the replies.
    async fn ask_pending(&mut self) -> Result<(), ConnectionError> {
        self.answer_now();
        while !self.pending.is_empty() {
            let begun = self.begin().await?;
            let commands = self.pending.take();
            let asked: Vec<Target> = targets(&commands).collect();
            let batch = Batch { commands, epoch: None, timeout: TIMEOUT };
            let source = Source { door: "resp", peer: self.client.client.peer, trace: None };
            let mut replies = ask(&Metered::new(&self.door, DoorName::Resp), batch, source).await;
            replies.resize_with(asked.len(), || Err(Error::Unknown("there was no answer".to_owned())));
            let held = begun.answered(replies.iter().flatten().map(Reply::size_bytes).sum());
            if held.is_cut() {
                cut(&mut replies, &asked, held.bytes());
            }
            self.gathered.held.push(held);
            let mut replies = replies.into_iter().enumerate();
            while let Some(at) = self.render(&asked, &mut replies) {
                let reply = self.ask_again(&asked, at).await?;
                self.render_one(&asked, at, reply);
            }
            if self.gathered.is_empty() {
                self.held.append(&mut self.gathered.held);
            }
            if self.output.len() > OUTPUT_BYTES {
                self.write().await?;
            }
        }
        Ok(())
    }

    /// Takes room for answers. A connection does not wait for what it holds itself: that is written first, and a request that
    /// has gathered much already goes on with what room there is.
    async fn begin(&mut self) -> Result<UnderWay, ConnectionError> {
        if let Some(begun) = self.share.try_begin() {
            return Ok(begun);
        }
        self.write().await?;
        Ok(self.share.try_begin().unwrap_or_else(|| self.share.go_on()))
    }

    /// Makes the replies of all requests whose commands have been answered; gathers those of the next one. Stops at what is to be
    /// asked again, and returns its place.
    fn render(
        &mut self,
        asked: &[Target],
        replies: &mut impl Iterator<Item = (usize, Result<Reply, Error>)>,
    ) -> Option<usize> {
        for (at, reply) in replies {
            if matches!(reply, Err(Error::ReplyTooLarge)) && self.is_wanted(asked.get(at)) {
                return Some(at);
            }
            self.render_one(asked, at, reply);
        }
        None
    }

    /// A write is done even if nobody wants its answer.
    fn is_wanted(&self, target: Option<&Target>) -> bool {
        self.pending.requests.front().is_some_and(|asked| !asked.is_silent)
            || target.is_some_and(|target| target.is_write)
    }

    fn render_one(&mut self, asked: &[Target], at: usize, reply: Result<Reply, Error>) {
        let Some(&Asked { shape, is_silent }) = self.pending.requests.front() else { return };
        let key = || asked.get(at).and_then(|target| target.key.as_ref());
        if shape.is_single() {
            self.pending.requests.pop_front();
            match reply {
                _ if is_silent => {}
                Ok(reply) => render::write_one(shape, &reply, &mut self.encoder()),
                Err(error) => {
                    let words = self.words(&error, key());
                    self.encoder().error(&words);
                }
            }
            return;
        }
        let reply = reply.map_err(|error| self.words(&error, key()));
        self.gathered.add(shape, reply);
        if self.gathered.len() < shape.replies() {
            return;
        }
        self.pending.requests.pop_front();
        let answer = self.gathered.finish();
        if !is_silent {
            render::write(shape, answer, &mut self.encoder());
        }
    }

    /// Asks once more, alone, what was not done because its answer was too large to come with the others.
    async fn ask_again(&mut self, asked: &[Target], at: usize) -> Result<Result<Reply, Error>, ConnectionError> {
        let Some(command) = again(asked, at).filter(|_| !self.gathered.is_given_up()) else {
            return Ok(Err(Error::ReplyTooLarge));
        };
        // What was rendered goes first: only one large answer is in memory, and those that are gathered.
        self.write().await?;
        if self.gathered.is_empty() {
            self.gathered.held.clear();
        }
        let begun = self.begin().await?;
        let is_write = command.is_write();
        let batch = Batch { commands: vec![command], epoch: None, timeout: TIMEOUT };
        let reply =
            Metered::new(&self.door, DoorName::Resp).execute(batch).await.pop().unwrap_or(Err(Error::ReplyTooLarge));
        let held = begun.answered(reply.as_ref().map_or(0, Reply::size_bytes));
        let is_refused = held.is_cut() && !is_write;
        self.gathered.held.push(held);
        Ok(if is_refused { Err(Error::ReplyTooLarge) } else { reply })
    }

    fn words(&self, error: &Error, key: Option<&Key>) -> String {
        errors::words(error, key, &*self.door.topology, self.is_member())
    }

    async fn keyspace(&mut self, asked: Keyspace) -> Result<(), ConnectionError> {
        let begun = self.begin().await?;
        let door = Arc::clone(&self.door);
        let metered = Metered::new(&door, DoorName::Resp);
        let keys = AllKeys::of(&door, &metered);
        let answer = match asked {
            Keyspace::Scan { cursor, pattern, count, has_type } => {
                let page = keys.scan(cursor, pattern.as_ref(), count).await;
                page.map(|(next, keys)| (Some(next), if has_type { keys } else { Vec::new() }))
            }
            Keyspace::Keys { pattern } => keys.matching(&pattern).await.map(|keys| (None, keys)),
            Keyspace::RandomKey => match keys.random().await {
                Ok(Some(key)) => {
                    self.reply(|encoder| encoder.bulk(key.as_bytes()));
                    return Ok(());
                }
                Ok(None) => {
                    self.reply(|encoder| encoder.null());
                    return Ok(());
                }
                Err(error) => Err(error),
            },
            Keyspace::Flush => match keys.delete_all().await {
                Ok(()) => {
                    self.reply(|encoder| encoder.simple("OK"));
                    return Ok(());
                }
                Err(error) => Err(error),
            },
        };
        let bytes = answer.iter().flat_map(|(_, keys)| keys).map(|key| key.as_bytes().len()).sum();
        let held = begun.answered(bytes);
        match answer.and_then(|answer| if held.is_cut() { Err(Error::ReplyTooLarge) } else { Ok(answer) }) {
            Ok((next, keys)) => self.reply(|encoder| {
                if let Some(next) = next {
                    encoder.array(2);
                    encoder.bulk(next.to_string().as_bytes());
                }
                encoder.array(keys.len());
                keys.iter().for_each(|key| encoder.bulk(key.as_bytes()));
            }),
            Err(error) => {
                let words = self.words(&error, None);
                self.reply(|encoder| encoder.error(&words));
            }
        }
        self.held.push(held);
        Ok(())
    }
}

/// Most output is in one piece, which costs less to send as such.
async fn write_some<IO: AsyncWrite + Unpin>(stream: &mut IO, output: &mut Output) -> io::Result<usize> {
    let chunk = output.chunk();
    if chunk.len() < output.remaining() {
        return stream.write_buf(output).await;
    }
    let written = stream.write(chunk).await?;
    output.advance(written);
    Ok(written)
}

/// Whether a command is kept in its order by going alone: it acts on several keys, or on all.
fn goes_alone(command: &Command) -> bool {
    command.has_many_keys() || command.key().is_none()
}

/// Leaves as many answers as there is room for. A read that finds none has not been done; what a write answers is told in any
/// case.
fn cut(replies: &mut Replies, asked: &[Target], mut room: usize) {
    for (reply, target) in replies.iter_mut().zip(asked) {
        let size = reply.as_ref().map_or(0, Reply::size_bytes);
        if size <= room {
            room -= size;
        } else if size > SMALL_BYTES && !target.is_write {
            *reply = Err(Error::ReplyTooLarge);
        }
    }
}

/// Who has not said the password yet needs little room.
fn limits(session: &Session) -> Limits {
    if session.is_authenticated { Limits::default() } else { Limits::STRANGER }
}

fn is_spread(mut slots: impl Iterator<Item = Slot>) -> bool {
    let first = slots.next();
    slots.any(|slot| Some(slot) != first)
}
