//! Tells a person, in the log, what is served and what is not. A start or a move takes a moment, which is not worth a word;
//! what lasts is.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::cluster::{Plan, ShardName};
use crate::slots::SlotSet;

/// Slots that are not served for this long are worth a warning.
const LASTING: Duration = Duration::from_secs(2);
/// A warning whose reason changes is repeated this often at most.
const REPEAT: Duration = Duration::from_secs(10);

/// What was told, and what is to be.
#[derive(Debug, Default)]
pub(super) struct Teller {
    served: Vec<(SlotSet, ShardName)>,
    unserved: Vec<Unserved>,
}

#[derive(Debug)]
struct Unserved {
    slots: SlotSet,
    since: Instant,
    /// When a person was told, and which reason.
    told: Option<(Instant, String)>,
}

impl Teller {
    /// Returns whether other slots are served than before, or by others.
    pub fn tell(&mut self, plan: &Plan) -> bool {
        let now = Instant::now();
        let mut served: Vec<(SlotSet, ShardName)> = Vec::new();
        let mut unserved: Vec<Unserved> = Vec::new();
        for route in &plan.routes {
            match &route.to {
                Ok((shard, epoch)) => {
                    let is_new = !self.served.iter().any(|(slots, to)| *slots == route.slots && to == shard);
                    if is_new {
                        info!(slots = %route.slots, %shard, epoch = epoch.0, "serving slots");
                    }
                    served.push((route.slots.clone(), shard.clone()));
                }
                Err(reason) => unserved.push(self.tell_unserved(&route.slots, reason, now)),
            }
        }
        let has_changed = self.served != served;
        self.served = served;
        self.unserved = unserved;
        has_changed
    }

    fn tell_unserved(&mut self, slots: &SlotSet, reason: &str, now: Instant) -> Unserved {
        let before = self.unserved.iter().position(|before| before.slots == *slots);
        let Some(before) = before.map(|i| self.unserved.swap_remove(i)) else {
            if self.served.iter().any(|(served, _)| !served.intersection(slots).is_empty()) {
                info!(%slots, reason, "slots are not served any more");
            }
            return Unserved { slots: slots.clone(), since: now, told: None };
        };
        let is_due = match &before.told {
            None => now - before.since >= LASTING,
            Some((at, told)) => told != reason && now - *at >= REPEAT,
        };
        if is_due {
            warn!(%slots, reason, "not serving slots");
            return Unserved { told: Some((now, reason.to_owned())), ..before };
        }
        before
    }

    /// Whether all slots are served.
    pub fn is_whole(&self) -> bool {
        self.unserved.is_empty() && !self.served.is_empty()
    }
}
