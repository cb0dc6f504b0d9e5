//! Eviction policies over opaque handles: which record leaves memory next.
//!
//! A policy sees handles only, never keys, values or locks. Its owner calls [`Policy::hit`] under a shared lock and
//! everything else under an exclusive one. Each policy is one file with its paper and its tests; what they have in
//! common is in `order`.

mod coldest;
mod fifo;
#[cfg(test)]
#[cfg(feature = "shuttle")]
mod interleavings;
mod lfu;
mod lru;
#[cfg(test)]
mod model;
mod order;
mod stamps;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A record's place in its partition's slab: small, dense and reused.
pub type Handle = u32;

/// Whether [`Policy::settle`] has something to do.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settling {
    Due,
    NotDue,
}

/// An eviction order over handles.
///
/// The order is exact: after any sequence of calls from one thread, [`Policy::evict`] returns what the textbook's
/// algorithm would. Hits that race each other are ordered arbitrarily, as they were. So are hits that come more than
/// 2^30 after settling was due.
pub trait Policy: Send + Sync {
    /// Takes a new record in, as just used. `handle` is not in the policy.
    fn insert(&mut self, handle: Handle);

    /// A read of a record, under a shared lock: a few relaxed atomic operations, no waiting. Nothing happens if it is
    /// not in the policy. When told so, the caller has to see to an exclusive call soon: each of them settles.
    fn hit(&self, handle: Handle) -> Settling;

    /// Asks the processor for what [`Policy::hit`] will touch.
    fn prefetch(&self, handle: Handle);

    /// A write to a record that is in the policy already.
    fn update(&mut self, handle: Handle);

    /// Takes a record out, whatever its rank; nothing happens if it is not in the policy.
    fn remove(&mut self, handle: Handle);

    /// Takes the coldest record out. `None` when empty.
    fn evict(&mut self) -> Option<Handle>;

    /// Does what hits have made due, if anything, as every exclusive call does first. At worst O(n log n).
    fn settle(&mut self);

    /// How many records would leave before this one; `None` if it is not in the policy. Takes time linear in the
    /// number of records: for explanations only.
    fn rank(&self, handle: Handle) -> Option<usize>;

    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The policies there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyKind {
    /// Least recently used.
    Lru,
    /// Least frequently used, aged; among equals the least recently used.
    Lfu,
    /// First in, first out: neither reads nor overwrites matter.
    Fifo,
}

impl PolicyKind {
    pub const ALL: [Self; 3] = [Self::Lru, Self::Lfu, Self::Fifo];

    pub fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Lfu => "lfu",
            Self::Fifo => "fifo",
        }
    }

    /// A policy for up to about `capacity` records.
    pub fn build(self, capacity: usize) -> Box<dyn Policy> {
        match self {
            Self::Lru => Box::new(lru::Lru::new()),
            Self::Lfu => Box::new(lfu::Lfu::new(capacity)),
            Self::Fifo => Box::new(fifo::Fifo::new()),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an eviction policy: expected 1 or lru, 2 or lfu, 3 or fifo")]
pub struct UnknownPolicy(String);

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(s: &str) -> Result<Self, UnknownPolicy> {
        match s.to_ascii_lowercase().as_str() {
            "1" | "lru" => Ok(Self::Lru),
            "2" | "lfu" => Ok(Self::Lfu),
            "3" | "fifo" => Ok(Self::Fifo),
            _ => Err(UnknownPolicy(s.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_known_by_its_number_and_by_its_name() {
        let table = [
            ("1", PolicyKind::Lru),
            ("lru", PolicyKind::Lru),
            ("LRU", PolicyKind::Lru),
            ("2", PolicyKind::Lfu),
            ("lfu", PolicyKind::Lfu),
            ("Lfu", PolicyKind::Lfu),
            ("3", PolicyKind::Fifo),
            ("fifo", PolicyKind::Fifo),
            ("FiFo", PolicyKind::Fifo),
        ];
        for (text, kind) in table {
            assert_eq!(text.parse(), Ok(kind), "{text}");
        }
        for text in ["", "0", "4", "01", "mru", " lru", "lru ", "ＬＲＵ"] {
            assert_eq!(text.parse::<PolicyKind>(), Err(UnknownPolicy(text.to_owned())));
        }
    }

    #[test]
    fn a_policys_name_parses_back_to_it() {
        for kind in PolicyKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
    }

    #[test]
    fn an_unknown_policy_is_told_what_there_is() {
        let error = "Mru".parse::<PolicyKind>().unwrap_err();
        assert_eq!(error.to_string(), "`Mru` is not an eviction policy: expected 1 or lru, 2 or lfu, 3 or fifo");
    }

    #[test]
    fn each_kind_builds_its_own_order() {
        let evicted = PolicyKind::ALL.map(|kind| {
            let mut policy = kind.build(3);
            (0..3).for_each(|handle| policy.insert(handle));
            // Used most: 0. Used last: 1. In first: 0.
            model::hit_all(policy.as_ref(), [0, 0, 0, 2, 1, 1]);
            model::drain(policy.as_mut())
        });
        assert_eq!(evicted, [[0, 2, 1], [2, 1, 0], [0, 1, 2]]);
    }
}
