//! The RESP door: Redis clients. One task serves a connection: it parses all that has arrived, asks it in batches, and writes the
//! replies with one call. Knows nothing of what commands do.
//!
//! A secondary's door is in cluster mode: it serves its own slots and sends clients elsewhere for the others. A primary's is
//! not: it takes every key.

mod batch;
mod cluster;
mod commands;
mod errors;
mod info;
mod keyspace;
mod render;
mod session;
mod system;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::batch::{Asked, Pending, Target, is_overtaken, targets};
use self::keyspace::{AllKeys, Cursors};
use self::session::{Clients, Connected, Session};
use super::{Door, Source, ask, farewell};
use crate::command::{Command, Reply};
use crate::protocol::redis::{Action, ClientReply, Flag, Keyspace, Refusal, translate};
use crate::protocol::resp::{Args, Encoder, Limits, Output, Parser, ProtocolError};
use crate::rpc::Role;
use crate::rpc::answers::{Budget, Share, UnderWay};
use crate::service::{Batch, Error, Replies, Service};
use crate::slots::Slot;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Room for what a client sends, at first and at most: busy ones get more.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES_MAX: usize = 64 * 1024;
/// Replies beyond this are written before more is asked.
const OUTPUT_BYTES: usize = 1024 * 1024;
/// What one request may answer in all.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("it made no progress in the middle of a request or a reply")]
    Stalled,
    #[error("there was no room for its answers")]
    NoRoom,
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
    let mut connection = Connection {
        session: Session::new(door.access.is_open()),
        client: door.redis.clients.connect(peer),
        share: Share::new(budget),
        parser: Parser::new(limits(door.access.is_open())),
        stream,
        input: BytesMut::new(),
        output: Output::new(),
        pending: Pending::default(),
        door,
    };
    match connection.run(&shutdown).await {
        Err(ConnectionError::Protocol(error)) => {
            connection.encoder().error(&format!("ERR {error}"));
            connection.write().await?;
            farewell(connection.stream, b"").await;
            Err(error.into())
        }
        ended => ended,
    }
}

/// What a client may send in one request: little, before it has said who it is (Redis: 10 arguments of 16 KiB).
fn limits(is_authenticated: bool) -> Limits {
    if is_authenticated {
        return Limits::default();
    }
    Limits { args_max: 10, arg_bytes_max: 16 * 1024, request_bytes_max: 64 * 1024, ..Limits::default() }
}

struct Connection<S, M, IO> {
    door: Arc<Door<S, M>>,
    stream: IO,
    client: Connected,
    session: Session,
    parser: Parser,
    input: BytesMut,
    output: Output,
    pending: Pending,
    share: Arc<Share>,
}

impl<S: Service, M, IO: AsyncRead + AsyncWrite + Unpin> Connection<S, M, IO> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), ConnectionError> {
        let mut room = READ_BYTES_MIN;
        loop {
            let parsed = self.take_requests().await;
            self.ask_pending().await?;
            parsed?;
            self.write().await?;
            if self.session.is_over || shutdown.is_cancelled() {
                return Ok(());
            }
            self.input.reserve(self.parser.wants().max(room));
            let capacity = self.input.capacity() - self.input.len();
            let read = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                read = self.read() => read?,
            };
            match read {
                0 => return Ok(()),
                read if read == capacity => room = (room * 2).min(READ_BYTES_MAX),
                read if read < room / 4 => room = (room / 2).max(READ_BYTES_MIN),
                _ => {}
            }
        }
    }

    /// A client may be idle for ever, but not in the middle of a request.
    async fn read(&mut self) -> Result<usize, ConnectionError> {
        let read = self.stream.read_buf(&mut self.input);
        if self.parser.pending_bytes() == 0 {
            return Ok(read.await?);
        }
        Ok(timeout(self.door.options.stall_max, read).await.map_err(|_| ConnectionError::Stalled)??)
    }

    async fn write(&mut self) -> Result<(), ConnectionError> {
        while !self.output.is_empty() {
            let written = timeout(self.door.options.stall_max, self.stream.write_buf(&mut self.output)).await;
            if written.map_err(|_| ConnectionError::Stalled)?? == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
        }
        Ok(self.stream.flush().await?)
    }

    fn encoder(&mut self) -> Encoder<'_> {
        Encoder::new(&mut self.output, self.session.proto)
    }

    /// Takes all requests that have arrived whole; asks what does not fit one batch.
    async fn take_requests(&mut self) -> Result<(), ConnectionError> {
        while !self.session.is_over
            && let Some(request) = self.parser.next(&mut self.input)?
        {
            if let Err(refusal) = self.take(&request.args).await? {
                self.ask_pending().await?; // replies come in the order of the requests
                self.reply(|encoder| encoder.error(&refusal.0));
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

    async fn take(&mut self, request: &Args) -> Result<Result<(), Refusal>, ConnectionError> {
        let from = self.pending.commands.len();
        let (spec, action) = match translate(request, &mut self.pending.commands) {
            Ok(translated) => translated,
            Err(_) if !self.session.is_authenticated => return Ok(Err(errors::no_auth())),
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !self.session.is_authenticated && !spec.flags.contains(&Flag::NoAuth) {
            self.pending.commands.truncate(from);
            return Ok(Err(errors::no_auth()));
        }
        match action {
            Action::Data(shape) => {
                if self.crosses_slots(from) {
                    self.pending.commands.truncate(from);
                    return Ok(Err(errors::cross_slot()));
                }
                let is_silent = self.is_silent();
                // What acts on several keys is kept in its order by going alone.
                let is_many = self.pending.commands.get(from).is_some_and(Command::has_many_keys);
                if is_many {
                    let many = self.pending.commands.split_off(from);
                    self.ask_pending().await?;
                    self.pending.commands = many;
                }
                self.pending.push(if is_many { 0 } else { from }, Asked { shape, is_silent });
                if is_many {
                    self.ask_pending().await?;
                }
            }
            Action::Keyspace(keyspace) => {
                self.ask_pending().await?;
                self.keyspace(keyspace).await;
            }
            Action::System(asked) => {
                self.ask_pending().await?;
                self.client.client.names.lock().last_command = spec.name;
                self.system(asked).await;
            }
        }
        Ok(Ok(()))
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

    /// Asks all that waits, and makes the replies.
    async fn ask_pending(&mut self) -> Result<(), ConnectionError> {
        let (mut asked, mut replies) = (Vec::new(), Replies::new());
        while !self.pending.is_empty() {
            let room = self.begin().await?;
            let commands = self.pending.take();
            asked.extend(targets(&commands));
            let batch = Batch { commands, epoch: None, timeout: TIMEOUT };
            let source = Source { door: "resp", peer: self.client.client.peer, request: None };
            replies.extend(ask(&self.door.service, batch, source).await);
            let bytes = replies.iter().flatten().map(Reply::size_bytes).sum();
            // Until it is written.
            let _held = room.answered(bytes);
            self.render(&mut asked, &mut replies).await?;
            if self.output.len() > OUTPUT_BYTES {
                self.write().await?;
            }
        }
        Ok(())
    }

    /// Waits until there is room for answers.
    async fn begin(&self) -> Result<UnderWay, ConnectionError> {
        let deadline = Instant::now() + self.door.options.stall_max;
        loop {
            let changed = self.share.changed();
            if let Some(begun) = self.share.try_begin() {
                return Ok(begun);
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(deadline) => return Err(ConnectionError::NoRoom),
            }
        }
    }

    /// Makes the replies of all requests whose commands have been answered; leaves the others.
    async fn render(&mut self, asked: &mut Vec<Target>, replies: &mut Replies) -> Result<(), ConnectionError> {
        let mut done = 0;
        while let Some(&Asked { shape, is_silent }) = self.pending.requests.front() {
            let count = shape.replies();
            if replies.len() - done < count {
                break;
            }
            self.pending.requests.pop_front();
            self.ask_again(asked, replies, done..done + count).await?;
            let mut mine = replies.iter_mut().skip(done).take(count).map(|reply| {
                std::mem::replace(reply, Err(Error::ReplyTooLarge)) // taken
            });
            if is_silent {
                mine.by_ref().for_each(drop);
            } else {
                let (topology, is_member) = (&self.door.topology, self.door.options.role == Role::Secondary);
                let key = asked.get(done).and_then(|target| target.key.as_ref());
                let words = |error: &Error| errors::words(error, key, &**topology, is_member);
                render::write(shape, &mut mine, &mut Encoder::new(&mut self.output, self.session.proto), words);
            }
            done += count;
        }
        replies.drain(..done);
        asked.drain(..done.min(asked.len()));
        Ok(())
    }

    /// Asks once more for those reads of a request whose answers were too large to come with the others, one by one.
    async fn ask_again(
        &mut self,
        asked: &[Target],
        replies: &mut Replies,
        places: std::ops::Range<usize>,
    ) -> Result<(), ConnectionError> {
        let mut bytes = 0;
        for at in places {
            let reply = replies.get_mut(at);
            if let Some(Ok(reply)) = reply {
                bytes += reply.size_bytes();
                continue;
            }
            let (Some(place @ Err(Error::ReplyTooLarge)), false) = (reply, is_overtaken(asked, at)) else { continue };
            let Some(key) = asked.get(at).and_then(|target| target.key.clone()) else { continue };
            if bytes > REPLY_BYTES_MAX {
                continue;
            }
            // What was rendered goes first: only one large answer is in memory.
            while !self.output.is_empty() {
                let written = timeout(self.door.options.stall_max, self.stream.write_buf(&mut self.output)).await;
                written.map_err(|_| ConnectionError::Stalled)??;
            }
            let batch = Batch { commands: vec![Command::Get { key }], epoch: None, timeout: TIMEOUT };
            if let Some(reply) = self.door.service.execute(batch).await.pop() {
                bytes += reply.as_ref().map_or(0, Reply::size_bytes);
                *place = reply;
            }
        }
        Ok(())
    }

    async fn keyspace(&mut self, asked: Keyspace) {
        let door = Arc::clone(&self.door);
        let is_member = self.is_member();
        let keys =
            AllKeys { service: &door.service, topology: &*door.topology, cursors: &door.redis.cursors, is_member };
        let failed = match asked {
            Keyspace::Scan { cursor, pattern, count, has_type } => {
                match keys.scan(cursor, pattern.as_ref(), count).await {
                    Ok((next, mut keys)) => {
                        keys.retain(|_| has_type);
                        return self.reply(|encoder| {
                            encoder.array(2);
                            encoder.bulk(next.to_string().as_bytes());
                            encoder.array(keys.len());
                            keys.iter().for_each(|key| encoder.bulk(key.as_bytes()));
                        });
                    }
                    Err(error) => error,
                }
            }
            Keyspace::Keys { pattern } => match keys.matching(&pattern).await {
                Ok(keys) => {
                    return self.reply(|encoder| {
                        encoder.array(keys.len());
                        keys.iter().for_each(|key| encoder.bulk(key.as_bytes()));
                    });
                }
                Err(error) => error,
            },
            Keyspace::RandomKey => match keys.random().await {
                Ok(Some(key)) => return self.reply(|encoder| encoder.bulk(key.as_bytes())),
                Ok(None) => return self.reply(|encoder| encoder.null()),
                Err(error) => error,
            },
            Keyspace::Flush => match keys.delete_all().await {
                Ok(()) => return self.reply(|encoder| encoder.simple("OK")),
                Err(error) => error,
            },
        };
        let words = errors::words(&failed, None, &*door.topology, is_member);
        self.reply(|encoder| encoder.error(&words));
    }
}

fn is_spread(mut slots: impl Iterator<Item = Slot>) -> bool {
    let first = slots.next();
    slots.any(|slot| Some(slot) != first)
}
