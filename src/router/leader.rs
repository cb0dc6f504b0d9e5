//! Leads the secondaries: looks at them and their fences, plans, orders, and keeps the router's map.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Peer, Router, Routes, Target};
use crate::cluster::{Assignment, ControlError, Fence, Plan, Retirement, Seen, ShardName, View, plan};
use crate::record::Epoch;
use crate::slots::{SLOTS, SlotSet};

/// How often the secondaries hear from their primary: they follow another list after six silent beats.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How soon to look again while something changes.
const UNSETTLED: Duration = Duration::from_millis(50);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Reading the fences waits for the tier; the secondaries wait for the next heartbeat meanwhile.
const FENCES_TIMEOUT: Duration = Duration::from_secs(2);

/// What a primary was started with.
#[derive(Debug, Clone)]
pub struct LeaderOptions {
    /// The secondaries, in order; not empty, each once.
    pub list: Vec<ShardName>,
    /// Serve slots although a former holder's unspilled records are lost.
    pub accept_loss: bool,
}

/// The one task that changes the map.
pub struct Leader<P> {
    options: LeaderOptions,
    router: Arc<Router<P>>,
    connect: Box<dyn Fn(&ShardName) -> P + Send + Sync>,
    peers: BTreeMap<ShardName, Arc<P>>,
    seen: BTreeMap<ShardName, Seen>,
    orders: BTreeMap<ShardName, Assignment>,
    /// The fences as last read, while the map is unsettled.
    fences: Result<Vec<Fence>, String>,
    epoch: Option<Epoch>,
    told: Vec<(SlotSet, Result<ShardName, String>)>,
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
            peers: BTreeMap::new(),
            seen: BTreeMap::new(),
            orders: BTreeMap::new(),
            fences: Err("no secondary was reached yet".to_owned()),
            epoch: None,
            told: Vec::new(),
        }
    }

    /// Leads until stopped; then tells the secondaries so.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = UNSETTLED;
        loop {
            let has_changed = self.beat().await;
            pause = if has_changed { UNSETTLED } else { (pause * 2).min(HEARTBEAT) };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.router.is_outdated.notified() => tokio::time::sleep(UNSETTLED).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
        let resigned = self.peers.values().map(|peer| peer.resign(self.options.list.clone()));
        // A secondary that does not hear it notices the silence.
        let _ = timeout(ASK_TIMEOUT, join_all(resigned)).await;
    }

    /// Looks, plans and orders once. Returns whether something has changed.
    async fn beat(&mut self) -> bool {
        self.ask().await;
        self.read_fences().await;
        self.ask_former().await;
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
        let is_rerouted = self.publish(&plan);
        let orders: BTreeMap<ShardName, Assignment> =
            plan.orders.into_iter().map(|order| (order.shard.clone(), order)).collect();
        let is_reordered = orders != self.orders;
        self.orders = orders;
        let has_retired = self.retire(plan.retirements, plan.epoch).await;
        is_rerouted || is_reordered || has_retired
    }

    /// Sends each member its order, or asks what it is where there is none.
    async fn ask(&mut self) {
        let names = self.options.list.iter().chain(self.orders.keys()).cloned().collect();
        self.ask_these(names).await;
    }

    /// Holders by the word of a fence that are not in the list may still live.
    async fn ask_former(&mut self) {
        let fences = self.fences.iter().flatten().filter(|fence| !fence.slots.is_empty());
        let is_asked = |name: &ShardName| self.options.list.contains(name) || self.orders.contains_key(name);
        let former = fences.map(|fence| fence.shard.clone()).filter(|name| !is_asked(name)).collect();
        self.ask_these(former).await;
    }

    async fn ask_these(&mut self, mut names: Vec<ShardName>) {
        names.sort_unstable();
        names.dedup();
        for name in &names {
            if !self.peers.contains_key(name) {
                self.peers.insert(name.clone(), Arc::new((self.connect)(name)));
            }
        }
        let asked = names.iter().filter_map(|name| {
            let (peer, order) = (self.peers.get(name)?, self.orders.get(name).cloned());
            Some(async move { (name.clone(), look(peer.as_ref(), order).await) })
        });
        let answers = join_all(asked).await;
        for (name, seen) in answers {
            if let Err(ControlError::StaleEpoch(epoch)) = &seen.obeyed {
                self.epoch = self.epoch.max(Some(*epoch));
            }
            self.seen.insert(name, seen);
        }
    }

    /// Reads the fences through any member that can; only while the map is not settled, since it costs SQL.
    async fn read_fences(&mut self) {
        let live = |name: &ShardName| self.seen.get(name).is_some_and(|seen| seen.status.is_ok());
        let all_serve = self.options.list.iter().all(|name| {
            let order = self.orders.get(name).map(|order| (&order.shard, order.epoch, &order.slots));
            let held = self.seen.get(name).and_then(|seen| seen.status.as_ref().ok()?.held.as_ref());
            order.is_some() && held.map(|held| (&held.shard, held.epoch, &held.slots)) == order
        });
        let is_whole = self.told.iter().all(|(_, to)| to.is_ok()) && !self.told.is_empty();
        if all_serve && is_whole {
            return;
        }
        let mut error = "no secondary can be reached".to_owned();
        for name in self.options.list.iter().filter(|name| live(name)) {
            let Some(peer) = self.peers.get(name) else { continue };
            match timeout(FENCES_TIMEOUT, peer.fences()).await {
                Ok(Ok(fences)) => {
                    self.fences = Ok(fences);
                    return;
                }
                Ok(Err(reason)) => error = reason.to_string(),
                Err(_) => error = format!("{name} did not answer in time"),
            }
        }
        self.fences = Err(error);
    }

    async fn retire(&mut self, retirements: Vec<Retirement>, epoch: Epoch) -> bool {
        let mut has_retired = false;
        for Retirement { fence, slots } in retirements {
            let executor = self.options.list.iter().find(|name| self.seen.get(*name).is_some_and(|s| s.status.is_ok()));
            let Some(peer) = executor.and_then(|name| self.peers.get(name)) else { return has_retired };
            warn!(shard = %fence.shard, clean = fence.clean, slots = %fence.slots, "taking over the slots of a shard that is gone");
            match timeout(FENCES_TIMEOUT, peer.retire(fence.clone(), slots, epoch)).await {
                Ok(Ok(_)) => has_retired = true,
                Ok(Err(error)) => warn!(shard = %fence.shard, %error, "could not take over slots; trying again"),
                Err(_) => warn!(shard = %fence.shard, "could not take over slots in time; trying again"),
            }
        }
        has_retired
    }

    /// Makes the plan's routes the router's, and logs what changed. Returns whether anything did.
    fn publish(&mut self, plan: &Plan) -> bool {
        let mut by_slot = vec![0_u16; usize::from(SLOTS)];
        let mut targets = Vec::new();
        for route in &plan.routes {
            let target = match &route.to {
                Ok((name, epoch)) => match self.peers.get(name) {
                    Some(peer) => Target::Shard { name: name.clone(), epoch: *epoch, peer: Arc::clone(peer) },
                    None => Target::Nowhere { reason: format!("{name} has not been reached yet") },
                },
                Err(reason) => Target::Nowhere { reason: reason.clone() },
            };
            for slot in route.slots.iter() {
                if let Some(index) = by_slot.get_mut(slot.index()) {
                    *index = targets.len() as u16; // at most one route a slot
                }
            }
            targets.push(target);
        }
        self.router.set_routes(Routes { by_slot, targets });
        self.tell(plan)
    }

    fn tell(&mut self, plan: &Plan) -> bool {
        let routes: Vec<_> = plan
            .routes
            .iter()
            .map(|route| (route.slots.clone(), route.to.as_ref().map(|(name, _)| name.clone()).map_err(Clone::clone)))
            .collect();
        for route in routes.iter().filter(|route| !self.told.contains(route)) {
            match route {
                (slots, Ok(shard)) => info!(%slots, %shard, epoch = plan.epoch.0, "serving slots"),
                (slots, Err(reason)) => warn!(%slots, reason, "not serving slots"),
            }
        }
        let has_changed = self.told != routes;
        self.told = routes;
        has_changed
    }
}

async fn look<P: Peer>(peer: &P, order: Option<Assignment>) -> Seen {
    let timed_out = || ControlError::Unreachable("no answer in time".to_owned());
    let obeyed = match order {
        None => Ok(false),
        Some(order) => match timeout(ASK_TIMEOUT, peer.assign(order)).await {
            Ok(Ok(status)) => return Seen { status: Ok(status), obeyed: Ok(true) },
            Ok(Err(error @ ControlError::Unreachable(_))) => return Seen { status: Err(error), obeyed: Ok(false) },
            Ok(Err(error)) => Err(error),
            Err(_) => return Seen { status: Err(timed_out()), obeyed: Ok(false) },
        },
    };
    let status = timeout(ASK_TIMEOUT, peer.status()).await.unwrap_or_else(|_| Err(timed_out()));
    Seen { status, obeyed }
}

impl<P> fmt::Debug for Leader<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leader").field("options", &self.options).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}
