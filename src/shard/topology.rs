//! What a shard knows of the map: its own part, and what its primary tells it of the others.

use std::sync::Arc;

use super::Shard;
use crate::cluster::{Check, MapView, MemberState, Readiness, ShardName, ShardView, Topology, Unserved};
use crate::journal::Journal;
use crate::slots::SlotSet;
use crate::sync::OnceLock;

/// Where clients reach a shard.
#[derive(Debug, Default)]
pub(super) struct Address {
    announced: OnceLock<String>,
    listens_at: OnceLock<String>,
}

impl Address {
    pub fn announced(&self) -> Option<String> {
        self.announced.get().cloned()
    }

    /// The primary's name for a secondary is most often where it is reached.
    fn of(&self, name: &ShardName) -> String {
        let is_address = name.as_str().rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let listens_at = self.listens_at.get().filter(|_| !is_address);
        self.announced.get().or(listens_at).cloned().unwrap_or_else(|| name.to_string())
    }
}

impl Shard {
    /// Where it is reached if its name is no address. Counts once.
    pub fn listens_at(&self, address: String) {
        let _ = self.address.listens_at.set(address); // what was said first stays
    }

    /// Where clients are to reach it, whatever its primary calls it. Counts once.
    pub fn announce(&self, address: String) {
        let _ = self.address.announced.set(address); // what was said first stays
    }

    /// What it shall serve, and why it may not do so yet.
    fn wanted(&self) -> (Option<(ShardName, SlotSet)>, MemberState) {
        let ledger = self.steward.ledger.lock();
        let wanted = ledger.wanted.as_ref().map(|wanted| (wanted.shard.clone(), wanted.slots.clone()));
        let held = ledger.held.as_ref().map(|held| (held.shard.clone(), held.slots.clone()));
        (wanted.or(held), ledger.state.clone())
    }

    fn slots_check(&self) -> Check {
        let (wanted, state) = self.wanted();
        let served = self.core.serving().slots.clone();
        let missing = wanted.map_or_else(SlotSet::empty, |(_, slots)| slots.difference(&served));
        let outcome = match state {
            MemberState::Draining => Err("it is stopping".to_owned()),
            MemberState::Refusing(reason) => Err(format!("it refuses to serve: {reason}")),
            MemberState::Unassigned if served.is_empty() => {
                Err("no primary has told this secondary which slots to serve yet".to_owned())
            }
            MemberState::Starting(reason) if served.is_empty() || !missing.is_empty() => {
                Err(format!("{} of {} are served: {reason}", served.len(), served.len() + missing.len()))
            }
            MemberState::Serving if served.is_empty() => Err("its primary has given it none".to_owned()),
            MemberState::Unassigned | MemberState::Starting(_) | MemberState::Serving => {
                Ok(format!("all {} of its own are served", served.len()))
            }
        };
        Check { name: "slots", is_required: true, outcome }
    }

    fn journal_check(&self) -> Check {
        let usage = self.core.log.journal().map(Journal::usage);
        let outcome = match usage {
            None => Ok("there is none".to_owned()),
            Some(usage) if usage.is_failed => Err("it can't be written any more".to_owned()),
            Some(usage) => Ok(format!("recovered; {} of {} bytes are used", usage.bytes, usage.bytes_max)),
        };
        Check { name: "journal", is_required: true, outcome }
    }

    /// Hits and writes go on without it.
    fn tier_check(&self) -> Check {
        let outcome = match &self.core.tier {
            None => Ok("there is none".to_owned()),
            Some(tier) if self.core.tier_is_up() => Ok(format!("{} answers", tier.describe())),
            Some(tier) => Err(format!("{} does not answer", tier.describe())),
        };
        Check { name: "tier", is_required: false, outcome }
    }
}

impl Topology for Shard {
    fn map(&self) -> Arc<MapView> {
        let serving = self.core.serving();
        let (wanted, state) = self.wanted();
        let name = serving.name.clone().or_else(|| wanted.as_ref().map(|(name, _)| name.clone()));
        let told = self.told.lock().clone().unwrap_or_default();
        let Some(name) = name else { return Arc::new(told) };
        // What is wanted under another name is not for this one to serve.
        let wanted = wanted.filter(|(wanted, _)| *wanted == name).map(|(_, slots)| slots).unwrap_or_default();
        let missing = wanted.difference(&serving.slots);
        let reason = match state {
            MemberState::Starting(reason) | MemberState::Refusing(reason) => reason,
            MemberState::Unassigned | MemberState::Serving | MemberState::Draining => serving.reason.clone(),
        };
        let unserved = Some(Unserved { slots: missing, reason }).filter(|unserved| !unserved.slots.is_empty());
        let shard = ShardView {
            address: self.address.of(&name),
            name,
            is_me: true,
            epoch: serving.epoch,
            served: serving.slots.clone(),
            unserved: unserved.into_iter().collect(),
        };
        Arc::new(told.seen_by(shard))
    }

    fn readiness(&self) -> Readiness {
        Readiness { checks: vec![self.slots_check(), self.journal_check(), self.tier_check()] }
    }
}
