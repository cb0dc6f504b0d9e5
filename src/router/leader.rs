//! Leads the secondaries: looks at them and their fences, plans, orders, and keeps the router's map.
//!
//! A beat asks all secondaries at once and is over within [`ASK_TIMEOUT`]: a secondary that hangs, or a tier that does, must
//! not let the others think that their primary is gone. What waits for the tier runs beside the beats, as a chore.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::teller::Teller;
use super::view::map_view;
use super::{LOOKING, Peer, Router, Routes, Target};
use crate::cluster::{
    Assignment, ControlError, Fence, Incarnation, MapView, MemberStatus, OrderAnswer, Retirement, Route, Seen,
    ShardName, View, plan, readers,
};
use crate::record::Epoch;
use crate::slots::{SLOTS, SlotSet};

/// How often the secondaries hear from their primary at least.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How soon to look again while something changes.
const UNSETTLED: Duration = Duration::from_millis(50);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than any statement of the tier may take.
const CHORE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a primary was started with.
#[derive(Debug, Clone)]
pub struct LeaderOptions {
    /// The secondaries, in order; not empty, each once.
    pub list: Vec<ShardName>,
    /// Serve slots although a former holder's unspilled records are lost.
    pub accept_loss: bool,
}

/// Where clients reach the secondary that a name stands for.
type AddressOf = Box<dyn Fn(&ShardName) -> String + Send + Sync>;

/// The one task that changes the map.
pub struct Leader<P> {
    options: LeaderOptions,
    router: Arc<Router<P>>,
    connect: Box<dyn Fn(&ShardName) -> P + Send + Sync>,
    address_of: AddressOf,
    peers: BTreeMap<ShardName, Arc<P>>,
    seen: BTreeMap<ShardName, Seen>,
    orders: BTreeMap<ShardName, Assignment>,
    /// The map that each secondary was told, and in which life.
    informed: BTreeMap<ShardName, (Incarnation, Arc<MapView>)>,
    /// The fences as last read, while the map is unsettled.
    fences: Result<Vec<Fence>, String>,
    epoch: Option<Epoch>,
    teller: Teller,
    /// At most one of them under way.
    chores: FuturesUnordered<BoxFuture<'static, Done>>,
}

/// What a chore has brought.
enum Done {
    Fences(Result<Vec<Fence>, String>),
    /// Whether any of the rows has changed.
    Retired(bool),
}

impl<P: Peer> Leader<P> {
    /// `connect` gives the peer that a name stands for, without waiting.
    pub fn new(
        options: LeaderOptions,
        router: Arc<Router<P>>,
        connect: impl Fn(&ShardName) -> P + Send + Sync + 'static,
    ) -> Self {
        Self {
            options,
            router,
            connect: Box::new(connect),
            address_of: Box::new(ToString::to_string),
            peers: BTreeMap::new(),
            seen: BTreeMap::new(),
            orders: BTreeMap::new(),
            informed: BTreeMap::new(),
            fences: Err(UNREAD.to_owned()),
            epoch: None,
            teller: Teller::default(),
            chores: FuturesUnordered::new(),
        }
    }

    /// Tells clients that a name is reached somewhere else than at the name.
    pub fn with_addresses(self, address_of: impl Fn(&ShardName) -> String + Send + Sync + 'static) -> Self {
        Self { address_of: Box::new(address_of), ..self }
    }

    /// Leads until stopped; then tells the secondaries so.
    pub async fn run(mut self, stop: CancellationToken) {
        let nowhere = Route { slots: SlotSet::all(), to: Err(LOOKING.to_owned()) };
        self.publish(&[nowhere], Epoch::default());
        let mut pause = UNSETTLED;
        while !stop.is_cancelled() {
            let has_changed = self.beat().await;
            pause = if has_changed { UNSETTLED } else { (pause * 2).min(HEARTBEAT) };
            if self.rest(pause, &stop).await {
                pause = UNSETTLED;
            }
        }
        let resigned = self.peers.values().map(|peer| peer.resign(self.options.list.clone()));
        // A secondary that does not hear it notices the silence.
        let _ = timeout(ASK_TIMEOUT, join_all(resigned)).await;
    }

    /// Returns after `pause`, or earlier if there is a reason to look again; answers whether there was.
    async fn rest(&mut self, pause: Duration, stop: &CancellationToken) -> bool {
        let until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = stop.cancelled() => return false,
                () = self.router.is_outdated.notified() => {
                    sleep(UNSETTLED).await; // the secondaries change, and need a moment too
                    return true;
                }
                Some(done) = self.chores.next() => {
                    if self.note(done) {
                        return true;
                    }
                }
                () = tokio::time::sleep_until(until) => return false,
            }
        }
    }

    /// Takes in what a chore has brought. Returns whether it is news.
    fn note(&mut self, done: Done) -> bool {
        match done {
            Done::Fences(fences) => {
                // Another error is not worth another look.
                let is_news = self.fences != fences && (self.fences.is_ok() || fences.is_ok());
                self.fences = fences;
                is_news
            }
            Done::Retired(has_changed) => {
                if has_changed {
                    self.fences = Err(UNREAD.to_owned());
                }
                has_changed
            }
        }
    }

    /// Looks, plans and orders once. Returns whether something has changed.
    async fn beat(&mut self) -> bool {
        self.ask().await;
        let plan = plan(&View {
            list: &self.options.list,
            members: &self.seen,
            fences: self.fences.as_deref().map_err(String::as_str),
            epoch: self.epoch,
            accept_loss: self.options.accept_loss,
        });
        if plan.epoch > Epoch::default() {
            self.epoch = Some(plan.epoch);
        }
        self.publish(&plan.routes, plan.epoch);
        let is_rerouted = self.teller.tell(&plan);
        let orders: BTreeMap<ShardName, Assignment> =
            plan.orders.into_iter().map(|order| (order.shard.clone(), order)).collect();
        let is_reordered = orders != self.orders;
        self.orders = orders;
        self.start_chore(plan.retirements, plan.epoch);
        is_rerouted || is_reordered
    }

    /// Sends each member its order, or asks what it is where there is none: the listed ones, and holders by the word of a
    /// fence, which may still live.
    async fn ask(&mut self) {
        let former = self.fences.iter().flatten().filter(|fence| !fence.slots.is_empty()).map(|fence| &fence.shard);
        let mut names: Vec<ShardName> =
            self.options.list.iter().chain(self.orders.keys()).chain(former).cloned().collect();
        names.sort_unstable();
        names.dedup();
        for name in &names {
            if !self.peers.contains_key(name) {
                self.peers.insert(name.clone(), Arc::new((self.connect)(name)));
            }
        }
        let asked = names.iter().filter_map(|name| {
            let peer = self.peers.get(name)?;
            let planned_for = self.seen.get(name).and_then(incarnation);
            let order = planned_for.and_then(|life| Some((life, self.orders.get(name)?.clone())));
            let map = Arc::clone(&self.router.routes().map);
            let informed = self.informed.get(name).filter(|(_, told)| *told == map).map(|(life, _)| *life);
            Some(async move { (name.clone(), look(peer.as_ref(), order, informed, &map).await, map) })
        });
        for (name, looked, map) in join_all(asked).await {
            if let Some(life) = looked.informed {
                self.informed.insert(name.clone(), (life, map));
            }
            self.see(name, looked.status, looked.order);
        }
        self.informed.retain(|name, _| names.binary_search(name).is_ok());
        self.seen.retain(|name, _| names.binary_search(name).is_ok()); // what is not asked any more gets old
    }

    fn see(&mut self, name: ShardName, status: Result<MemberStatus, ControlError>, order: OrderAnswer) {
        if let OrderAnswer::Refused(ControlError::StaleEpoch(epoch)) = &order {
            self.epoch = self.epoch.max(Some(*epoch));
        }
        let before = self.seen.get(&name);
        let misses = if status.is_ok() { 0 } else { before.map_or(0, |seen| seen.misses).saturating_add(1) };
        let seen = Seen { status, order, misses };
        // From now on its fence speaks for it, and may be newer than what was read.
        if before.and_then(incarnation).is_some_and(|before| incarnation(&seen) != Some(before)) {
            self.fences = Err(UNREAD.to_owned());
        }
        self.seen.insert(name, seen);
    }

    /// What waits for the tier: retirements, or else the fences are read anew, as long as the map is not settled.
    fn start_chore(&mut self, retirements: Vec<Retirement>, epoch: Epoch) {
        if !self.chores.is_empty() || self.is_settled() {
            return;
        }
        let readers = readers(&self.options.list, &self.seen);
        let readers: Vec<(ShardName, Arc<P>)> =
            readers.into_iter().filter_map(|name| Some((name.clone(), Arc::clone(self.peers.get(name)?)))).collect();
        let chore = match readers.first() {
            Some((_, executor)) if !retirements.is_empty() => retire(Arc::clone(executor), retirements, epoch).boxed(),
            Some(_) => read_fences(readers).boxed(),
            None => {
                self.fences = Err("no secondary can be reached".to_owned());
                return;
            }
        };
        self.chores.push(chore);
    }

    /// All is served, and every secondary does as it was told.
    fn is_settled(&self) -> bool {
        let is_done = |name: &ShardName| {
            let order = self.orders.get(name).map(|order| (&order.shard, order.epoch, &order.slots));
            let held = self.seen.get(name).and_then(|seen| seen.status.as_ref().ok()?.held.as_ref());
            order.is_some() && held.map(|held| (&held.shard, held.epoch, &held.slots)) == order
        };
        self.teller.is_whole() && self.options.list.iter().all(is_done)
    }

    /// Makes a plan's routes the router's.
    fn publish(&self, routes: &[Route], epoch: Epoch) {
        let mut by_slot = vec![0_u16; usize::from(SLOTS)];
        let mut targets = Vec::new();
        for route in routes {
            let target = match &route.to {
                Ok((name, epoch)) => match self.peers.get(name) {
                    Some(peer) => Target::Shard { epoch: *epoch, peer: Arc::clone(peer) },
                    None => Target::Nowhere { reason: format!("{name} has not been reached yet") },
                },
                Err(reason) => Target::Nowhere { reason: reason.clone() },
            };
            for (first, last) in route.slots.ranges() {
                if let Some(indexes) = by_slot.get_mut(first.index()..=last.index()) {
                    indexes.fill(targets.len() as u16); // at most one route a slot
                }
            }
            targets.push(target);
        }
        let address_of = |name: &ShardName| {
            let status = self.seen.get(name).and_then(|seen| seen.status.as_ref().ok());
            status.and_then(|status| status.announced.clone()).unwrap_or_else(|| (self.address_of)(name))
        };
        let map = map_view(&self.options.list, routes, epoch, address_of);
        self.router.set_routes(Routes { by_slot, targets, map: Arc::new(map) });
    }
}

/// Before the fences were read, or when what was read may be outdated.
const UNREAD: &str = "the fences in the tier are being read";

/// Gives a member its order, if there is one, and learns what it is.
fn incarnation(seen: &Seen) -> Option<Incarnation> {
    seen.status.as_ref().ok().map(|status| status.incarnation)
}

/// What a look at a secondary has brought.
struct Looked {
    status: Result<MemberStatus, ControlError>,
    order: OrderAnswer,
    /// The life of it that knows the map.
    informed: Option<Incarnation>,
}

/// Asks what a secondary is, and gives it its order: not to another life of it than the one that was planned for, since
/// that one may have another tier. Tells it the map, unless its life is the one that was `informed`.
async fn look<P: Peer>(
    peer: &P,
    order: Option<(Incarnation, Assignment)>,
    informed: Option<Incarnation>,
    map: &MapView,
) -> Looked {
    let failed = |error| Looked { status: Err(error), order: OrderAnswer::None, informed: None };
    let asked = async {
        let status = match peer.status().await {
            Ok(status) => status,
            Err(error) => return failed(error),
        };
        let life = status.incarnation;
        let is_informed = informed == Some(life) || peer.inform(map.clone()).await.is_ok();
        let informed = is_informed.then_some(life);
        let Some((_, order)) = order.filter(|(planned_for, _)| *planned_for == life) else {
            return Looked { status: Ok(status), order: OrderAnswer::None, informed };
        };
        match peer.assign(order).await {
            Ok(status) => Looked { status: Ok(status), order: OrderAnswer::Accepted, informed },
            Err(error @ ControlError::Unreachable(_)) => failed(error),
            Err(error) => Looked { status: Ok(status), order: OrderAnswer::Refused(error), informed },
        }
    };
    let silence = |_| failed(ControlError::Unreachable("no answer in time".to_owned()));
    timeout(ASK_TIMEOUT, asked).await.unwrap_or_else(silence)
}

/// Reads the fences through the first of these that can. All are asked: so they get to know their tier.
async fn read_fences<P: Peer>(readers: Vec<(ShardName, Arc<P>)>) -> Done {
    let asked = readers.into_iter().map(|(name, peer)| async move {
        match timeout(CHORE_TIMEOUT, peer.fences()).await {
            Ok(Ok(fences)) => Ok(fences),
            Ok(Err(error)) => Err(format!("{name}: {error}")),
            Err(_) => Err(format!("{name} did not answer in time")),
        }
    });
    let mut answers: FuturesOrdered<_> = asked.collect();
    let mut failure = "no secondary can be reached".to_owned();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(fences) => return Done::Fences(Ok(fences)),
            Err(reason) => failure = reason,
        }
    }
    Done::Fences(Err(failure))
}

async fn retire<P: Peer>(executor: Arc<P>, retirements: Vec<Retirement>, epoch: Epoch) -> Done {
    let mut has_changed = false;
    for Retirement { fence, slots } in retirements {
        if fence.clean {
            info!(shard = %fence.shard, slots = %fence.slots, "taking over from a shard that stopped cleanly");
        } else {
            warn!(shard = %fence.shard, slots = %fence.slots, "--accept-loss: taking over from a shard that did not stop \
                cleanly; acknowledged writes that it had not spilled are lost");
        }
        let shard = fence.shard.clone();
        match timeout(CHORE_TIMEOUT, executor.retire(fence, slots, epoch)).await {
            Ok(Ok(_)) => has_changed = true,
            Ok(Err(error)) => warn!(%shard, %error, "could not take over slots; trying again"),
            Err(_) => warn!(%shard, "could not take over slots in time; trying again"),
        }
    }
    Done::Retired(has_changed)
}

impl<P> fmt::Debug for Leader<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leader").field("options", &self.options).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}
