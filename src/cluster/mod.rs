//! Who owns which slots: names, fences and the primary's plan for a list of secondaries, as pure functions.

mod plan;
mod topology;

use std::fmt;
use std::future::Future;

use serde::{Deserialize, Serialize};

use crate::record::{Epoch, JournalId, Lsn};
use crate::slots::SlotSet;

pub use plan::{OrderAnswer, Plan, Retirement, Route, Seen, View, plan, readers};
pub use topology::{Check, MapView, Readiness, ShardView, Topology, Unserved};

/// A shard's name: the address that the primary knows it by, as in `localhost:8081`. 1 to [`ShardName::BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShardName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a shard's name has 1 to {} bytes", ShardName::BYTES_MAX)]
pub struct ShardNameError;

impl ShardName {
    /// The longest DNS name with a port.
    pub const BYTES_MAX: usize = 260;

    /// # Errors
    /// [`ShardNameError`] if the name is empty or too long.
    pub fn new(name: impl Into<String>) -> Result<Self, ShardNameError> {
        let name = name.into();
        if (1..=Self::BYTES_MAX).contains(&name.len()) { Ok(Self(name)) } else { Err(ShardNameError) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ShardName {
    type Error = ShardNameError;

    fn try_from(name: String) -> Result<Self, ShardNameError> {
        Self::new(name)
    }
}

impl From<ShardName> for String {
    fn from(name: ShardName) -> Self {
        name.0
    }
}

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Held by the one process that may write a shard's records into the tier (R20). Rises with every owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct FenceToken(pub u64);

impl FenceToken {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One life of a secondary's process; random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// A shard's row in the tier: who may write, what it serves, and whether all it acknowledged is in the tier (R20, R22).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub shard: ShardName,
    pub token: FenceToken,
    pub incarnation: Incarnation,
    /// Where the owner keeps what is not in the tier yet; zero: in memory only.
    pub journal: JournalId,
    /// The map under which it was given its slots.
    pub epoch: Epoch,
    pub slots: SlotSet,
    /// At least the highest lsn among the shard's rows.
    pub lsn: Lsn,
    /// Nothing acknowledged lives in the shard's memory only: it stopped cleanly, or writes through.
    pub clean: bool,
}

/// Which tier this is, wherever it is reached: made once, when its tables are created. Random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TierId(pub u64);

/// What a primary wants a secondary to be. Declarative: sent again and again, it is both order and heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The secondary's own name.
    pub shard: ShardName,
    pub epoch: Epoch,
    /// All it shall serve. What it serves beyond that, it spills and lets go first.
    pub slots: SlotSet,
    /// All secondaries that the primary was started with, in order: two primaries agree only if these do.
    pub list: Vec<ShardName>,
    /// Serve although unspilled records of an unclean stop are lost (R22).
    pub accept_loss: bool,
}

/// What a secondary is, in answer to a question or an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    pub incarnation: Incarnation,
    /// `None` for a pure cache, or while the tier was never reached.
    pub tier_id: Option<TierId>,
    /// A pure cache: it has no fences, and what it lets go is gone.
    pub is_pure_cache: bool,
    /// The name, epoch and slots that it holds now; a slot that it is still spilling away counts as held.
    pub held: Option<Holding>,
    pub state: MemberState,
    /// Where clients are to reach it, if it says so itself.
    pub announced: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    pub shard: ShardName,
    pub epoch: Epoch,
    pub slots: SlotSet,
}

impl Holding {
    /// Whether it is all that an assignment wants.
    pub fn is(&self, wanted: &Assignment) -> bool {
        (&self.shard, self.epoch, &self.slots) == (&wanted.shard, wanted.epoch, &wanted.slots)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// No primary has told it what it is.
    Unassigned,
    /// It works towards its assignment; what it waits for.
    Starting(String),
    /// It serves all of its assignment and nothing else.
    Serving,
    /// It will not serve, and why; a person must act.
    Refusing(String),
    /// It is stopping.
    Draining,
}

/// Why a secondary did not do what a primary told it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ControlError {
    /// It can't be reached.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// Another primary, alive, leads it with another list of secondaries.
    #[error("another primary leads this secondary with another list of secondaries: {0}")]
    OtherList(String),
    /// The assignment's epoch is behind what it has.
    #[error("the assignment is outdated: this secondary is at epoch {0}")]
    StaleEpoch(Epoch),
    #[error("the tier can't be asked: {0}")]
    Tier(String),
    #[error("not possible: {0}")]
    Refused(String),
}

/// A secondary, as the primary that leads it sees it: here or at the other end of a connection.
pub trait Member: Send + Sync + 'static {
    fn status(&self) -> impl Future<Output = Result<MemberStatus, ControlError>> + Send;

    /// Tells the secondary what it shall be, and answers what it is so far.
    fn assign(&self, assignment: Assignment) -> impl Future<Output = Result<MemberStatus, ControlError>> + Send;

    /// The fences of all shards in its tier; none for a pure cache.
    fn fences(&self) -> impl Future<Output = Result<Vec<Fence>, ControlError>> + Send;

    /// Takes `slots` from a shard that is gone: raises its token, so that it can never spill again, and rewrites its row.
    /// `expected` is the row that the decision was made on; answers whether it was still that.
    fn retire(
        &self,
        expected: Fence,
        slots: SlotSet,
        epoch: Epoch,
    ) -> impl Future<Output = Result<bool, ControlError>> + Send;

    /// Tells the secondary who serves what, for its clients.
    fn inform(&self, map: MapView) -> impl Future<Output = Result<(), ControlError>> + Send;

    /// A primary that stops says so, and another list may lead at once.
    fn resign(&self, list: Vec<ShardName>) -> impl Future<Output = Result<(), ControlError>> + Send;
}
