//! The primary's work: split a batch by shard, send, gather. Stateless but for the slot map, which [`leader`] keeps.
//! It is a [`Service`]; it must not know how shards are reached, nor what commands mean beyond their key.

mod leader;
mod teller;
mod view;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Notify;

use crate::cluster::{Check, MapView, Member, Readiness, Topology};
use crate::command::{Command, Cursor, Reply, ShardStats};
use crate::record::{Epoch, KEY_BYTES_MAX};
use crate::request;
use crate::service::{Batch, Error, PAGE_KEYS_MAX, REPLIES_BYTES_MAX, Replies, Service};
use crate::slots::{SLOTS, Slot};
use crate::sync::RwLock;

pub use leader::{Leader, LeaderOptions};

/// Before the leader has made a map.
const LOOKING: &str = "the primary is looking for its secondaries";

/// A shard as the router reaches it.
pub trait Peer: Service + Member {}

impl<P: Service + Member> Peer for P {}

/// Routes batches to shards.
#[derive(Debug)]
pub struct Router<P> {
    routes: RwLock<Arc<Routes<P>>>,
    /// Somebody was refused for an outdated map.
    is_outdated: Notify,
}

/// The slot map as the router uses it.
#[derive(Debug)]
struct Routes<P> {
    /// For each slot the index of its target.
    by_slot: Vec<u16>,
    targets: Vec<Target<P>>,
    /// The same, for those who ask.
    map: Arc<MapView>,
}

/// Where some slots go.
#[derive(Debug)]
enum Target<P> {
    Shard { epoch: Epoch, peer: Arc<P> },
    Nowhere { reason: String },
}

impl<P: Peer> Router<P> {
    /// A router that serves nothing until its leader has made a map.
    pub fn new() -> Arc<Self> {
        let targets = vec![Target::Nowhere { reason: LOOKING.to_owned() }];
        let routes = Routes { by_slot: vec![0; usize::from(SLOTS)], targets, map: Arc::default() };
        Arc::new(Self { routes: RwLock::new(Arc::new(routes)), is_outdated: Notify::new() })
    }

    /// Why some slots are not served, if any are not.
    pub fn unserved(&self) -> Option<String> {
        self.routes().targets.iter().find_map(|target| match target {
            Target::Nowhere { reason } => Some(reason.clone()),
            Target::Shard { .. } => None,
        })
    }

    fn routes(&self) -> Arc<Routes<P>> {
        Arc::clone(&self.routes.read())
    }

    fn set_routes(&self, routes: Routes<P>) {
        let old = std::mem::replace(&mut *self.routes.write(), Arc::new(routes));
        drop(old);
    }

    /// Sends commands with keys to one target, in one batch.
    async fn send(&self, target: &Target<P>, commands: Vec<Command>, timeout: Duration) -> Replies {
        match target {
            Target::Nowhere { reason } => vec![Err(Error::Unavailable(reason.clone())); commands.len()],
            Target::Shard { epoch, peer } => {
                let mut replies = peer.execute(Batch { commands, epoch: Some(*epoch), timeout }).await;
                for reply in &mut replies {
                    if let Err(Error::WrongShard { reason, .. }) = reply {
                        let reason = format!("the slot map is changing: {reason}");
                        *reply = Err(Error::Unavailable(reason));
                        self.is_outdated.notify_one();
                    }
                }
                replies
            }
        }
    }

    /// A command without a key.
    async fn gather(&self, routes: &Routes<P>, command: Command, timeout: Duration) -> Result<Reply, Error> {
        match command {
            Command::Scan { cursor, limit } => self.scan(routes, cursor, limit, timeout).await,
            Command::Count => {
                let mut sum = 0;
                for reply in self.ask_all(routes, Command::Count, timeout).await {
                    match reply? {
                        Reply::Count(count) => sum += count,
                        other => return Err(unexpected(&other)),
                    }
                }
                Ok(Reply::Count(sum))
            }
            Command::Stats => {
                let mut all = Vec::new();
                for reply in self.ask_all(routes, Command::Stats, timeout).await {
                    match reply {
                        Ok(Reply::Stats(stats)) => all.extend(stats),
                        Ok(other) => return Err(unexpected(&other)),
                        // A shard that is away is part of the picture.
                        Err(error) => all.push(ShardStats { shard: format!("? ({error})"), ..ShardStats::default() }),
                    }
                }
                Ok(Reply::Stats(all))
            }
            Command::Get { .. }
            | Command::Put { .. }
            | Command::Delete { .. }
            | Command::Exists { .. }
            | Command::Ttl { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::Update { .. }
            | Command::Move { .. }
            | Command::PutAllAbsent { .. }
            | Command::Explain { .. } => Err(Error::Invalid("a command with a key goes to one shard".to_owned())),
        }
    }

    async fn scan(&self, routes: &Routes<P>, cursor: Cursor, limit: u32, timeout: Duration) -> Result<Reply, Error> {
        let slot = Slot::try_from(cursor.slot).map_err(|error| Error::Invalid(error.to_string()))?;
        let replies = self.send(routes.target(slot)?, vec![Command::Scan { cursor, limit }], timeout).await;
        replies.into_iter().next().unwrap_or_else(|| Err(short_answer()))
    }

    /// Asks every target the same, all at once.
    async fn ask_all(&self, routes: &Routes<P>, command: Command, timeout: Duration) -> Replies {
        let asked = routes.targets.iter().map(async |target| {
            let reply = self.send(target, vec![command.clone()], timeout).await.into_iter().next();
            reply.unwrap_or_else(|| Err(short_answer()))
        });
        join_all(asked).await
    }
}

/// A batch, sorted by who answers its commands.
struct Split {
    /// Of each command, in the order of the batch.
    by: Vec<By>,
    /// For each target.
    parts: Vec<Vec<Command>>,
    keyless: Vec<Command>,
}

enum By {
    /// Its index.
    Target(usize),
    /// The router, which asks them all.
    Router,
    Nobody(Error),
}

impl<P: Peer> Service for Router<P> {
    async fn execute(&self, batch: Batch) -> Replies {
        let routes = self.routes();
        let Batch { commands, timeout, .. } = batch;
        if let Some(target) = routes.only_target(&commands) {
            log_routed(commands.len(), 1, 0);
            return self.send(target, commands, timeout).await;
        }
        let Split { by, parts, keyless } = routes.split(commands);
        log_routed(by.len(), parts.iter().filter(|part| !part.is_empty()).count(), keyless.len());
        let mut answers: Vec<_> = parts.iter().map(|_| Replies::new().into_iter()).collect();
        let asked = routes.targets.iter().zip(parts).zip(&mut answers).filter(|((_, part), _)| !part.is_empty());
        let sent = asked.map(async |((target, part), answers)| {
            *answers = self.send(target, part, timeout).await.into_iter();
        });
        let gathered = keyless.into_iter().map(|command| self.gather(&routes, command, timeout));
        let (_, gathered) = futures::join!(join_all(sent), join_all(gathered));
        let mut gathered = gathered.into_iter();
        let in_order = by.into_iter().map(|by| match by {
            By::Target(index) => answers.get_mut(index).and_then(Iterator::next),
            By::Router => gathered.next(),
            By::Nobody(error) => Some(Err(error)),
        });
        in_order.map(|reply| reply.unwrap_or_else(|| Err(short_answer()))).collect()
    }
}

impl<P: Peer> Topology for Router<P> {
    fn map(&self) -> Arc<MapView> {
        Arc::clone(&self.routes().map)
    }

    fn readiness(&self) -> Readiness {
        let map = Topology::map(self);
        let served = map.served().len();
        let outcome = match map.unserved().next() {
            None if served == usize::from(SLOTS) => Ok(format!("all {SLOTS} are served, under epoch {}", map.epoch)),
            None => Err(LOOKING.to_owned()),
            Some(first) => Err(format!("{served} of {SLOTS} are served; {}: {}", first.slots, first.reason)),
        };
        Readiness { checks: vec![Check { name: "slots", is_required: true, outcome }] }
    }
}

fn log_routed(commands: usize, shards: usize, keyless: usize) {
    if let Some(request) = request::current() {
        tracing::debug!(target: request::TARGET, %request, commands, shards, keyless, "routed");
    }
}

impl<P> Routes<P> {
    /// Where all of these commands go, if that is one target, as in most batches, which then need no gathering.
    fn only_target(&self, commands: &[Command]) -> Option<&Target<P>> {
        let index_of = |command: &Command| {
            let key = command.key().filter(|_| command.check().is_ok())?;
            Some(self.index(Slot::of(key)))
        };
        let (first, rest) = commands.split_first()?;
        let index = index_of(first)?;
        let is_only = rest.iter().all(|command| index_of(command) == Some(index));
        self.targets.get(index).filter(|_| is_only)
    }

    fn split(&self, commands: Vec<Command>) -> Split {
        let parts = self.targets.iter().map(|_| Vec::new()).collect();
        let mut split = Split { by: Vec::with_capacity(commands.len()), parts, keyless: Vec::new() };
        let mut scan_bytes = 0;
        for command in commands {
            let by = match (command.check(), command.key(), &command) {
                (Err(error), _, _) => By::Nobody(Error::Invalid(error.to_string())),
                (Ok(()), Some(key), _) => By::Target(self.index(Slot::of(key))),
                (Ok(()), None, Command::Scan { limit, .. }) => {
                    scan_bytes += page_bytes_max(*limit);
                    // The first fits.
                    if scan_bytes > REPLIES_BYTES_MAX { By::Nobody(Error::ReplyTooLarge) } else { By::Router }
                }
                (Ok(()), None, _) => By::Router,
            };
            let part = match &by {
                By::Target(index) => split.parts.get_mut(*index),
                By::Router => Some(&mut split.keyless),
                By::Nobody(_) => None,
            };
            if let Some(part) = part {
                part.push(command);
            }
            split.by.push(by);
        }
        split
    }

    fn index(&self, slot: Slot) -> usize {
        self.by_slot.get(slot.index()).copied().unwrap_or(0).into()
    }

    fn target(&self, slot: Slot) -> Result<&Target<P>, Error> {
        self.targets.get(self.index(slot)).ok_or_else(|| Error::Unavailable(format!("slot {slot} has no shard")))
    }
}

/// Of a page of the longest keys.
fn page_bytes_max(limit: u32) -> usize {
    (limit as usize).min(PAGE_KEYS_MAX) * KEY_BYTES_MAX
}

fn short_answer() -> Error {
    Error::Unknown("a shard answered less than it was asked".to_owned())
}

fn unexpected(reply: &Reply) -> Error {
    Error::Unknown(format!("a shard answered something else than it was asked: {reply:?}"))
}
