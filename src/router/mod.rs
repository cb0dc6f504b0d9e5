//! The primary's work: split a batch by shard, send, gather. Stateless but for the slot map, which [`leader`] keeps.
//! It is a [`Service`]; it must not know how shards are reached, nor what commands mean beyond their key.

mod leader;
mod teller;
mod view;

use std::sync::Arc;

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
    async fn send(&self, target: &Target<P>, commands: Vec<Command>, batch: &BatchHead) -> Replies {
        match target {
            Target::Nowhere { reason } => vec![Err(Error::Unavailable(reason.clone())); commands.len()],
            Target::Shard { epoch, peer } => {
                let mut replies = peer.execute(Batch { commands, epoch: Some(*epoch), timeout: batch.timeout }).await;
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
    async fn gather(&self, routes: &Routes<P>, command: Command, batch: &BatchHead) -> Result<Reply, Error> {
        match command {
            Command::Scan { cursor, limit } => self.scan(routes, cursor, limit, batch).await,
            Command::Count => {
                let mut sum = 0;
                for reply in self.ask_all(routes, Command::Count, batch).await {
                    match reply? {
                        Reply::Count(count) => sum += count,
                        other => return Err(unexpected(&other)),
                    }
                }
                Ok(Reply::Count(sum))
            }
            Command::Stats => {
                let mut all = Vec::new();
                for reply in self.ask_all(routes, Command::Stats, batch).await {
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

    async fn scan(&self, routes: &Routes<P>, cursor: Cursor, limit: u32, batch: &BatchHead) -> Result<Reply, Error> {
        let slot = Slot::try_from(cursor.slot).map_err(|error| Error::Invalid(error.to_string()))?;
        let replies = self.send(routes.target(slot)?, vec![Command::Scan { cursor, limit }], batch).await;
        replies.into_iter().next().unwrap_or_else(|| Err(short_answer()))
    }

    /// Asks every target the same, all at once.
    async fn ask_all(&self, routes: &Routes<P>, command: Command, batch: &BatchHead) -> Replies {
        let asked = routes.targets.iter().map(async |target| {
            let reply = self.send(target, vec![command.clone()], batch).await.into_iter().next();
            reply.unwrap_or_else(|| Err(short_answer()))
        });
        join_all(asked).await
    }
}

/// What the parts of a batch share.
struct BatchHead {
    timeout: std::time::Duration,
}

/// The part of a batch that goes to one target, with the places of its commands.
#[derive(Default)]
struct Part {
    places: Vec<usize>,
    commands: Vec<Command>,
}

impl<P: Peer> Service for Router<P> {
    async fn execute(&self, batch: Batch) -> Replies {
        let routes = self.routes();
        let head = BatchHead { timeout: batch.timeout };
        let len = batch.commands.len();
        if let Some(target) = routes.only_target(&batch.commands) {
            log_routed(len, 1, 0);
            return self.send(target, batch.commands, &head).await;
        }
        let mut parts: Vec<Part> = routes.targets.iter().map(|_| Part::default()).collect();
        let mut keyless: Vec<(usize, Command)> = Vec::new();
        let mut scan_bytes = 0;
        let mut refused = Vec::new();
        for (place, command) in batch.commands.into_iter().enumerate() {
            if let Err(error) = command.check() {
                refused.push((place, Err(Error::Invalid(error.to_string()))));
                continue;
            }
            if let Command::Scan { limit, .. } = command {
                scan_bytes += page_bytes_max(limit);
                // The first fits.
                if scan_bytes > REPLIES_BYTES_MAX {
                    refused.push((place, Err(Error::ReplyTooLarge)));
                    continue;
                }
            }
            let part = command.key().and_then(|key| parts.get_mut(routes.index(Slot::of(key))));
            match part {
                Some(part) => {
                    part.places.push(place);
                    part.commands.push(command);
                }
                None => keyless.push((place, command)),
            }
        }
        let sends = routes.targets.iter().zip(parts).filter(|(_, part)| !part.places.is_empty());
        let sends: Vec<_> = sends.collect();
        log_routed(len, sends.len(), keyless.len());
        let sent = join_all(
            sends.into_iter().map(async |(target, part)| (part.places, self.send(target, part.commands, &head).await)),
        );
        let gathered = join_all(
            keyless.into_iter().map(async |(place, command)| (place, self.gather(&routes, command, &head).await)),
        );
        let (sent, gathered) = futures::join!(sent, gathered);
        let mut replies: Replies = vec![Err(short_answer()); len];
        let parts = sent.into_iter().flat_map(|(places, answers)| places.into_iter().zip(answers));
        for (place, reply) in parts.chain(gathered).chain(refused) {
            if let Some(slot) = replies.get_mut(place) {
                *slot = reply;
            }
        }
        replies
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
