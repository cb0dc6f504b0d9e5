//! Who serves which slots, as a node tells clients and people. Knows nothing of how it came to be.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ShardName;
use crate::record::Epoch;
use crate::slots::{SLOTS, Slot, SlotSet};

/// A node that knows who serves what, and whether it is fit to be asked. Both answers are cheap and never wait.
pub trait Topology: Send + Sync + 'static {
    /// The map as this node knows it: a primary the whole; a secondary what it serves itself, and of the others what its
    /// primary has told it last.
    fn map(&self) -> Arc<MapView>;

    fn readiness(&self) -> Readiness;
}

impl<T: Topology> Topology for Arc<T> {
    fn map(&self) -> Arc<MapView> {
        T::map(self)
    }

    fn readiness(&self) -> Readiness {
        T::readiness(self)
    }
}

/// A slot map. No slot is in two places.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MapView {
    /// Zero before there is a map.
    pub epoch: Epoch,
    /// In the order of the primary's list, as far as this node knows it.
    pub shards: Vec<ShardView>,
}

/// One shard of a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    pub name: ShardName,
    /// Where clients reach it, as `host:port`.
    pub address: String,
    /// It is the node that answers.
    #[serde(skip)]
    pub is_me: bool,
    /// Under which it serves: the map's, or an older one while the map changes.
    pub epoch: Epoch,
    /// What it serves now.
    pub served: SlotSet,
    /// What it shall serve and does not, and why.
    pub unserved: Vec<Unserved>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unserved {
    pub slots: SlotSet,
    pub reason: String,
}

impl MapView {
    /// The shard that serves a slot, or shall: with the reason why it does not. `None` if this node does not know.
    pub fn shard_of(&self, slot: Slot) -> Option<(&ShardView, Result<(), &str>)> {
        self.shards.iter().find_map(|shard| {
            if shard.served.contains(slot) {
                return Some((shard, Ok(())));
            }
            let unserved = shard.unserved.iter().find(|unserved| unserved.slots.contains(slot))?;
            Some((shard, Err(unserved.reason.as_str())))
        })
    }

    /// The map of a node that is `me`, who knows best what it serves itself. What it has not been told is not in it.
    pub fn seen_by(&self, me: ShardView) -> Self {
        let own = me.unserved.iter().fold(me.served.clone(), |all, unserved| all.union(&unserved.slots));
        let others = |shard: &ShardView| {
            let unserved = shard.unserved.iter().map(|it| Unserved { slots: it.slots.difference(&own), ..it.clone() });
            ShardView {
                served: shard.served.difference(&own),
                unserved: unserved.filter(|unserved| !unserved.slots.is_empty()).collect(),
                ..shard.clone()
            }
        };
        let mut shards: Vec<ShardView> = self.shards.iter().map(others).collect();
        let epoch = self.epoch.max(me.epoch);
        match shards.iter_mut().find(|shard| shard.name == me.name) {
            // What it neither serves nor is to serve is on its way from it to others, or to it.
            Some(place) => {
                let mut unserved = me.unserved;
                let slots = place.served.clone();
                if !slots.is_empty() {
                    unserved.push(Unserved { slots, reason: "it is changing hands".to_owned() });
                }
                unserved.append(&mut place.unserved);
                *place = ShardView { unserved, ..me };
            }
            None => shards.push(me),
        }
        Self { epoch, shards }
    }

    /// The shard that is this node.
    pub fn me(&self) -> Option<&ShardView> {
        self.shards.iter().find(|shard| shard.is_me)
    }

    /// All slots that are served by shards of this map.
    pub fn served(&self) -> SlotSet {
        self.shards.iter().fold(SlotSet::empty(), |all, shard| all.union(&shard.served))
    }

    /// What is not served, with the reasons.
    pub fn unserved(&self) -> impl Iterator<Item = &Unserved> {
        self.shards.iter().flat_map(|shard| &shard.unserved)
    }

    /// Whether it says of every slot who serves it or shall.
    pub fn is_complete(&self) -> bool {
        let unserved = self.unserved().map(|unserved| unserved.slots.len()).sum::<usize>();
        self.served().len() + unserved == usize::from(SLOTS)
    }
}

/// Whether a node is fit to be asked, check by check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Readiness {
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// A word.
    pub name: &'static str,
    /// Without it the node is not ready.
    pub is_required: bool,
    /// A sentence in either case.
    pub outcome: Result<String, String>,
}

impl Readiness {
    pub fn is_ready(&self) -> bool {
        self.checks.iter().all(|check| check.outcome.is_ok() || !check.is_required)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(name: &str, served: &str, unserved: &str) -> ShardView {
        let reason = "it is away".to_owned();
        let unserved = Some(Unserved { slots: unserved.parse().unwrap(), reason }).filter(|it| !it.slots.is_empty());
        ShardView {
            name: ShardName::new(name).unwrap(),
            address: format!("{name}:1"),
            is_me: name == "b",
            epoch: Epoch(3),
            served: served.parse().unwrap(),
            unserved: unserved.into_iter().collect(),
        }
    }

    #[test]
    fn a_map_tells_of_every_slot_that_it_knows() {
        let shards = vec![shard("a", "0-99", "100-199"), shard("b", "200-16383", "")];
        let map = MapView { epoch: Epoch(3), shards };
        let told = |slot: u16| {
            let (shard, served) = map.shard_of(Slot::try_from(slot).unwrap()).unwrap();
            (shard.name.as_str(), served.err())
        };
        assert_eq!(told(99), ("a", None));
        assert_eq!(told(100), ("a", Some("it is away")));
        assert_eq!(told(200), ("b", None));
        assert_eq!(map.served().to_string(), "0-99,200-16383");
        assert_eq!(map.me().unwrap().name.as_str(), "b");
        assert!(map.is_complete());
        let part = MapView { epoch: Epoch(3), shards: vec![shard("a", "0-99", "100")] };
        assert!(!part.is_complete() && part.shard_of(Slot::LAST).is_none() && part.me().is_none());
    }

    #[test]
    fn a_node_knows_its_own_part_best_and_the_others_by_hearsay() {
        let told = MapView { epoch: Epoch(3), shards: vec![shard("a", "0-99", "100"), shard("b", "101-16383", "")] };
        let mut me = shard("b", "90-100,200-16383", "101-150");
        me.epoch = Epoch(4);
        let map = told.seen_by(me);
        assert_eq!(map.epoch, Epoch(4));
        let told: Vec<_> = map.shards.iter().map(|shard| (shard.name.as_str(), shard.served.to_string())).collect();
        assert_eq!(told, [("a", "0-89".to_owned()), ("b", "90-100,200-16383".to_owned())]);
        let unserved: Vec<_> = map.unserved().map(|it| (it.slots.to_string(), it.reason.as_str())).collect();
        let changing = ("151-199".to_owned(), "it is changing hands");
        assert_eq!(unserved, [("101-150".to_owned(), "it is away"), changing]);
        assert!(map.is_complete());

        let alone = MapView::default().seen_by(shard("b", "5", ""));
        assert_eq!((alone.me().unwrap().served.to_string(), alone.is_complete()), ("5".to_owned(), false));
    }

    #[test]
    fn only_what_is_required_decides() {
        let check = |is_required, is_ok: bool| Check {
            name: "x",
            is_required,
            outcome: if is_ok { Ok(String::new()) } else { Err(String::new()) },
        };
        assert!(Readiness { checks: vec![check(true, true), check(false, false)] }.is_ready());
        assert!(!Readiness { checks: vec![check(true, false), check(false, true)] }.is_ready());
    }
}
