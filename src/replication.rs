//! Where a shard's effects get their order and become durable. Proposing, committing and applying are kept apart: what is
//! proposed belongs to the log, what is committed belongs to the store (R2).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::command::Effect;
use crate::journal::{self, AppendError, Journal, JournalError};
use crate::mutants::{Rule, is_planted};
use crate::record::{Epoch, Key, Lsn, Record, Timestamp, Value, Version};
use crate::task::Blocking;

/// The outcome of a command before the log has given it a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    Set { key: Key, value: Value, expires_at: Option<Timestamp> },
    Delete { key: Key },
}

impl Mutation {
    /// Payload bytes: key and value.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Set { key, value, .. } => key.as_bytes().len() + value.as_bytes().len(),
            Self::Delete { key } => key.as_bytes().len(),
        }
    }

    fn at(self, version: Version) -> Effect {
        match self {
            Self::Set { key, value, expires_at } => Effect::Set(Record { key, value, version, expires_at }),
            Self::Delete { key } => Effect::Delete { key, version },
        }
    }
}

/// Why effects were not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// They never will be: the log has no room now.
    #[error("{0}")]
    NoRoom(String),
    /// Nobody knows whether they are, and the log takes no more (R23).
    #[error("{0}")]
    Broken(String),
}

impl From<JournalError> for LogError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Refused(reason) => Self::NoRoom(reason),
            JournalError::Failed(reason) => Self::Broken(reason),
        }
    }
}

impl From<AppendError> for LogError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full(reason) => Self::NoRoom(reason),
            AppendError::Failed(reason) => Self::Broken(reason),
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

    /// Hands over what was proposed, to be committed together. Does not wait.
    ///
    /// # Errors
    /// Nothing was handed over; after [`LogError::NoRoom`] it may be tried again.
    fn append(&self, effects: &[Effect]) -> Result<Appended, LogError>;

    /// Returns once what is committed would survive all that the tier's rows survive: only then may it be spilled (R10).
    /// Else a shard that lost its last moments would come back with older records than the tier has.
    ///
    /// # Errors
    /// [`LogError::Broken`].
    fn harden(&self) -> impl Future<Output = Result<(), LogError>> + Send;

    /// The last place given out.
    fn last_lsn(&self) -> Lsn;
}

/// Effects on their way to being committed. Kept until they are applied: what is trimmed from the log waits for that.
#[derive(Debug)]
pub struct Appended(Option<journal::Pending>);

impl Appended {
    /// Returns once the effects are committed: durable at the shard's level.
    ///
    /// # Errors
    /// See [`LogError`].
    ///
    /// # Cancel safety
    /// A dropped future stops the waiting only.
    pub async fn committed(&self) -> Result<(), LogError> {
        let Some(pending) = &self.0 else { return Ok(()) };
        pending.durable().await.map_err(LogError::from)
    }
}

/// A shard of one member: an effect is committed once its journal has it; without a journal, at once.
#[derive(Default)]
pub struct Solo {
    epoch: AtomicU64,
    last_lsn: AtomicU64,
    journal: Option<(Journal, Arc<dyn Blocking>)>,
}

// Relaxed: epoch and lsn are read and written under the key's latch or while no command runs; no other memory
// depends on them.
impl Solo {
    pub fn with_journal(journal: Journal, blocking: Arc<dyn Blocking>) -> Self {
        Self { journal: Some((journal, blocking)), ..Self::default() }
    }

    /// From now on effects belong to `epoch`, and their places lie above `lsn`.
    pub fn begin(&self, epoch: Epoch, lsn: Lsn) {
        self.epoch.store(epoch.0, Ordering::Relaxed);
        self.last_lsn.fetch_max(lsn.0, Ordering::Relaxed);
    }

    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref().map(|(journal, _)| journal)
    }
}

impl ReplicatedLog for Solo {
    fn propose(&self, mutation: Mutation) -> Effect {
        let lsn = Lsn(self.last_lsn.fetch_add(1, Ordering::Relaxed) + 1);
        mutation.at(Version { epoch: Epoch(self.epoch.load(Ordering::Relaxed)), lsn })
    }

    fn commits_at_once(&self) -> bool {
        self.journal.is_none()
    }

    fn append(&self, effects: &[Effect]) -> Result<Appended, LogError> {
        let pending = self.journal().map(|journal| journal.append(effects)).transpose();
        pending.map(Appended).map_err(LogError::from)
    }

    async fn harden(&self) -> Result<(), LogError> {
        let Some((journal, blocking)) = self.journal.as_ref().filter(|_| !is_planted(Rule::R10Harden)) else {
            return Ok(());
        };
        journal.sync(&**blocking).await.map_err(LogError::from)
    }

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
