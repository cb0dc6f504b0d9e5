//! The tier in MySQL, MariaDB, or what speaks their protocol.
//!
//! Connections are made when they are needed: a server that is down answers [`Unavailable`](super::TierError::Unavailable), within a bound.
//! Every statement has a deadline, and one that missed it takes its connection with it (see `pool`). All SQL here is
//! plain: no locking reads, named locks, triggers or procedures, so that it means the same on Galera, Group
//! Replication, Vitess and TiDB.

mod failure;
mod options;
mod read;
mod schema;
mod session;
mod sql;
mod write;

use futures::future::BoxFuture;

pub use options::{MySqlOptions, MySqlUrlError, TlsMode};

use super::pool::Pool;
use super::{Connections, DeadLetter, Lane, Prepared, RowKey, Tier, TierFuture};
use crate::cluster::{Fence, FenceToken, ShardName};
use crate::command::Effect;
use crate::record::{Key, Lsn, Record, Version};
use crate::slots::Slot;
use session::Server;

/// One core of the server is busy with the rows of one transaction; beyond three, they are in each other's way.
const LANES: u8 = 3;

/// A database on a MySQL server.
pub struct MySqlTier {
    pool: Pool<Server>,
}

impl MySqlTier {
    /// Connects when it is first used.
    pub fn new(options: MySqlOptions) -> Self {
        let (size, wait_max) = (options.connections_max, options.statement_timeout);
        Self { pool: Pool::new(Server { options }, size, wait_max) }
    }
}

impl Tier for MySqlTier {
    fn describe(&self) -> String {
        self.pool.connector().options.to_string()
    }

    fn connections(&self) -> Connections {
        self.pool.connections()
    }

    fn prepare(&self) -> TierFuture<'_, Prepared> {
        Box::pin(schema::prepare(&self.pool))
    }

    fn fences(&self) -> TierFuture<'_, Vec<Fence>> {
        Box::pin(read::fences(&self.pool))
    }

    fn swap_fence<'a>(&'a self, expected: Option<FenceToken>, fence: &'a Fence) -> TierFuture<'a, bool> {
        Box::pin(write::swap_fence(&self.pool, expected, fence))
    }

    fn lanes(&self) -> u8 {
        // The other half of the connections is for loads.
        u8::try_from(self.pool.connections().max / 2).unwrap_or(LANES).clamp(1, LANES)
    }

    fn flush<'a>(
        &'a self,
        shard: &'a ShardName,
        lane: Lane,
        token: FenceToken,
        effects: &'a [Effect],
        lsn: Lsn,
    ) -> TierFuture<'a, ()> {
        Box::pin(write::flush(&self.pool, shard, lane, token, effects, lsn))
    }

    fn load<'a>(&'a self, keys: &'a [Key]) -> TierFuture<'a, Vec<Record>> {
        Box::pin(read::load(&self.pool, keys))
    }

    fn scan<'a>(
        &'a self,
        first: Slot,
        after: Option<&'a Key>,
        last: Slot,
        limit: usize,
    ) -> TierFuture<'a, Vec<RowKey>> {
        Box::pin(read::scan(&self.pool, first, after, last, limit))
    }

    fn bury<'a>(&'a self, shard: &'a ShardName, letter: &'a DeadLetter) -> TierFuture<'a, ()> {
        Box::pin(write::bury(&self.pool, shard, letter))
    }

    fn buried(&self, first: Slot, last: Slot) -> TierFuture<'_, Vec<DeadLetter>> {
        Box::pin(read::buried(&self.pool, first, last))
    }

    fn unbury<'a>(&'a self, key: &'a Key, version: Version) -> TierFuture<'a, ()> {
        Box::pin(write::unbury(&self.pool, key, version))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.pool.close())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_connections_are_for_loads() {
        for (connections_max, lanes) in [(1, 1), (2, 1), (3, 1), (4, 2), (6, 3), (8, 3), (1000, 3)] {
            let options = MySqlOptions { connections_max, ..MySqlOptions::new("127.0.0.1", 3306) };
            assert_eq!(MySqlTier::new(options).lanes(), lanes, "{connections_max}");
        }
    }
}
