//! The persistent store behind the shards: what a shard may ask of it, and nothing of how a shard decides.
//!
//! A tier holds `records` (one row a key), `fences` (one row a shard, and where it pays one more for each further lane) and
//! `dead_letters` (rows that the server would not take). Every implementation behaves alike; `tests/tier.rs` drives random
//! interleavings through all of them.
//!
//! A future of a tier is never dropped half way by its caller: a dropped query can corrupt a pooled connection (R5).
//! Implementations bound every statement in time themselves and close a connection that ran out of it.

mod batch;
mod contained;
pub mod memory;
pub mod mysql;
mod pool;
pub mod sqlite;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::runtime::Handle;

use self::contained::Contained;
use crate::cluster::{Fence, FenceToken, ShardName, TierId};
use crate::command::Effect;
use crate::record::{Key, Lsn, Record, Timestamp, Version};
use crate::slots::Slot;

/// Most rows in one flush or one load.
pub const ROWS_MAX: usize = 1000;

/// The version of the tables that this program makes and knows.
/// 2: fences tell the journal of their owner. 3: they have lanes.
const SCHEMA_VERSION: u32 = 3;

/// A part of a shard's fence: flushes in different lanes do not wait for each other, and all end with the token (R20).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane(pub u8);

impl Lane {
    pub const FIRST: Self = Self(0);
}

/// A key that has a row, as [`Tier::scan`] sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowKey {
    pub slot: Slot,
    pub key: Key,
    pub expires_at: Option<Timestamp>,
}

/// A row that the server would not take, set aside with everything it held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub effect: Effect,
    pub reason: String,
}

/// A tier that is ready for use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pub id: TierId,
    /// Settings that let the database lose what it acknowledged, a sentence each.
    pub warnings: Vec<String>,
}

/// Connections in use, and how many there may be; 0 of 0 for a tier that has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    pub used: u32,
    pub max: u32,
}

pub type TierFuture<'a, T> = BoxFuture<'a, Result<T, TierError>>;

/// A persistent store shared by all shards.
pub trait Tier: Send + Sync + 'static {
    /// What this is and where, for logs and STATS; without secrets.
    fn describe(&self) -> String;

    /// Creates what is missing (tables, view, schema version) and checks what is there. Idempotent; several nodes may do
    /// it at once.
    ///
    /// # Errors
    /// [`TierError::Rejected`] if the schema is newer than this program, or the database is unfit for it.
    fn prepare(&self) -> TierFuture<'_, Prepared>;

    /// The fence rows of all shards, by name.
    fn fences(&self) -> TierFuture<'_, Vec<Fence>>;

    /// Replaces a shard's fence row if its token is still `expected` (`None`: if there is no row), in a transaction of its
    /// own. Waits for the flushes under the old token in all lanes, or outdates them. `fence.lsn` never lowers the row's.
    /// Returns whether it did. (R20, R22)
    fn swap_fence<'a>(&'a self, expected: Option<FenceToken>, fence: &'a Fence) -> TierFuture<'a, bool>;

    /// How many lanes a shard's fence has, at least 1.
    fn lanes(&self) -> u8 {
        1
    }

    /// Writes effects in one transaction that begins by writing the lane's row of the shard's fence (R20) and raises the fence's lsn
    /// to `lsn`. Flushes in the same lane wait for each other.
    /// A row changes only if the effect's version is newer than its own; a row is deleted if the effect's version is
    /// not older (R19). At most [`ROWS_MAX`] effects, each key once.
    ///
    /// # Errors
    /// [`TierError::Fenced`] if the token is gone: nothing was written. [`TierError::OutcomeUnknown`] if the connection broke
    /// while committing: all or nothing was written, perhaps later (R26). All others: nothing was written.
    fn flush<'a>(
        &'a self,
        shard: &'a ShardName,
        lane: Lane,
        token: FenceToken,
        effects: &'a [Effect],
        lsn: Lsn,
    ) -> TierFuture<'a, ()>;

    /// The rows of some keys, in any order; keys without a row are left out. Autocommit, newest committed state (R16).
    /// At most [`ROWS_MAX`] keys.
    fn load<'a>(&'a self, keys: &'a [Key]) -> TierFuture<'a, Vec<Record>>;

    /// The keys with a row, in order of slot and key, from `first` (in that slot: after `after`) to `last`, at most `limit`.
    /// Expired rows too.
    fn scan<'a>(&'a self, first: Slot, after: Option<&'a Key>, last: Slot, limit: usize)
    -> TierFuture<'a, Vec<RowKey>>;

    /// Sets an effect aside for a person to look at, in place of an older one of the same key; does nothing if a newer one
    /// is there.
    fn bury<'a>(&'a self, shard: &'a ShardName, letter: &'a DeadLetter) -> TierFuture<'a, ()>;

    /// The dead letters of keys in `first..=last`, whichever shard buried them.
    fn buried(&self, first: Slot, last: Slot) -> TierFuture<'_, Vec<DeadLetter>>;

    /// Forgets the dead letter of a key, now that the effect of `version` has reached `records`; a letter of a newer version
    /// stays: it may be all that is left of it.
    fn unbury<'a>(&'a self, key: &'a Key, version: Version) -> TierFuture<'a, ()>;

    /// How many of its connections are in use.
    fn connections(&self) -> Connections {
        Connections::default()
    }

    /// Closes its connections, after what is running has ended.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Why the tier did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TierError {
    /// It can't be reached, or did not answer in time. Retry.
    #[error("the tier is unavailable: {0}")]
    Unavailable(String),
    /// The fence token is gone: another owner has taken over.
    #[error("the fence of this shard was taken over by another owner")]
    Fenced,
    /// Deadlock, lock wait, failed certification: the same transaction may go through now.
    #[error("the tier asks to try again: {0}")]
    Conflict(String),
    /// The connection broke while a transaction was committing (R26).
    #[error("the outcome of a commit is unknown: {0}")]
    OutcomeUnknown(String),
    /// The server refused the statement for what is in it, or (from [`Tier::prepare`]) the database is unfit. Errors that no
    /// row can be blamed for (a full disk, a missing privilege or table) are [`TierError::Unavailable`]: to
    /// bury rows for them would bury all.
    #[error("the tier rejected the request: {0}")]
    Rejected(String),
}

/// A tier that several tasks share.
#[derive(Clone)]
pub struct SharedTier {
    tier: Arc<dyn Tier>,
    home: Option<Handle>,
}

impl SharedTier {
    pub fn new(tier: impl Tier) -> Self {
        Self { tier: Arc::new(Contained(tier)), home: None }
    }

    /// The same, with its spiller on another runtime than the tasks that answer requests.
    pub fn at_home_on(self, runtime: &Handle) -> Self {
        Self { home: Some(runtime.clone()), ..self }
    }

    /// Where its spiller runs; `None`: wherever the shard is started.
    pub fn home(&self) -> Option<&Handle> {
        self.home.as_ref()
    }
}

impl std::ops::Deref for SharedTier {
    type Target = dyn Tier;

    fn deref(&self) -> &Self::Target {
        &*self.tier
    }
}

impl fmt::Debug for SharedTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedTier({})", self.describe())
    }
}

fn check_rows(rows: usize) -> Result<(), TierError> {
    if rows <= ROWS_MAX { Ok(()) } else { Err(TierError::Rejected(format!("{rows} rows at once: at most {ROWS_MAX}"))) }
}

fn schema_is_newer(version: u32) -> String {
    format!(
        "its tables have schema version {version}, and this program knows up to {SCHEMA_VERSION}: use a newer program"
    )
}
