//! Where a shard's effects get their order and become durable. Proposing, committing and applying are kept apart: what is
//! proposed belongs to the log, what is committed belongs to the store (R2).

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::command::Effect;
use crate::record::{Epoch, Key, Lsn, Record, Timestamp, Value, Version};

/// The outcome of a command before the log has given it a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    Set { key: Key, value: Value, expires_at: Option<Timestamp> },
    Delete { key: Key },
}

impl Mutation {
    fn at(self, version: Version) -> Effect {
        match self {
            Self::Set { key, value, expires_at } => Effect::Set(Record { key, value, version, expires_at }),
            Self::Delete { key } => Effect::Delete { key, version },
        }
    }
}

/// The order of a shard's effects.
pub trait ReplicatedLog: Send + Sync + 'static {
    /// Gives an outcome its place in the log. Versions rise from call to call; the caller holds the latch of the key, so
    /// that they rise for each key in the order of its outcomes.
    fn propose(&self, mutation: Mutation) -> Effect;

    /// Whether what is proposed is committed in the same moment: then there is nothing to wait for.
    fn commits_at_once(&self) -> bool;

    /// Returns once everything up to `lsn` is committed: durable at this shard's level.
    fn commit(&self, lsn: Lsn) -> impl Future<Output = ()> + Send;

    /// The last place given out.
    fn last_lsn(&self) -> Lsn;
}

/// A shard of one member without a journal: what is in memory is committed.
#[derive(Debug, Default)]
pub struct Solo {
    epoch: AtomicU64,
    last_lsn: AtomicU64,
}

// Relaxed: epoch and lsn are read and written under the key's latch or while no command runs; no other memory
// depends on them.
impl Solo {
    /// From now on effects belong to `epoch`, and their places lie above `lsn`.
    pub fn begin(&self, epoch: Epoch, lsn: Lsn) {
        self.epoch.store(epoch.0, Ordering::Relaxed);
        self.last_lsn.fetch_max(lsn.0, Ordering::Relaxed);
    }
}

impl ReplicatedLog for Solo {
    fn propose(&self, mutation: Mutation) -> Effect {
        let lsn = Lsn(self.last_lsn.fetch_add(1, Ordering::Relaxed) + 1);
        mutation.at(Version { epoch: Epoch(self.epoch.load(Ordering::Relaxed)), lsn })
    }

    fn commits_at_once(&self) -> bool {
        true
    }

    async fn commit(&self, _lsn: Lsn) {}

    fn last_lsn(&self) -> Lsn {
        Lsn(self.last_lsn.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise_within_and_across_epochs() {
        let log = Solo::default();
        let key = Key::new("k").unwrap();
        log.begin(Epoch(1), Lsn(41));
        let first = log.propose(Mutation::Delete { key: key.clone() }).version();
        assert_eq!(first, Version::new(1, 42));
        log.begin(Epoch(2), Lsn(7));
        assert_eq!(log.propose(Mutation::Delete { key }).version(), Version::new(2, 43), "an lsn is never used twice");
    }
}
