//! Commands on several keys of one slot: all that they change is committed together.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tokio::time::{Instant, timeout_at};

use super::core::Core;
use super::evaluate::{evaluate_many, keys_of, looked_at};
use crate::command::{Command, Effect, Reply};
use crate::record::Key;
use crate::replication::{Mutation, ReplicatedLog};
use crate::service::Error;
use crate::slots::Slot;
use crate::store::{Admission, Known};

impl Core {
    /// As for a write of one key: waits for latches, loads, room and tier as it needs, until `deadline`.
    pub(super) async fn write_many(&self, command: Command, deadline: Instant) -> Result<Reply, Error> {
        command.check().map_err(|error| Error::Invalid(error.to_string()))?;
        let keys = keys_of(&command);
        if keys.iter().any(|key| Some(Slot::of(key)) != keys.first().map(Slot::of)) {
            return Err(Error::Invalid("the keys of this command are not in one slot".to_owned()));
        }
        // In the order of the keys, and whoever waits for the latch of one key only holds no other: there is no circle.
        let latches = async {
            let mut latches = Vec::with_capacity(keys.len());
            for key in &keys {
                latches.push(self.latches.acquire(key).await);
            }
            latches
        };
        let latches = timeout_at(deadline, latches)
            .await
            .map_err(|_| Error::Busy("other writes of these keys did not end in time".to_owned()))?;
        let mut now = self.clock.now();
        let mut known: HashMap<Key, Known, RandomState> = HashMap::default();
        for key in looked_at(&command) {
            let of_key = self.know(&key, now, deadline).await?;
            let is_enough = of_key.found.is_some() && matches!(command, Command::PutAllAbsent { .. });
            known.insert(key, of_key);
            if is_enough {
                break; // one refuses; the values of the others are not fetched (R9)
            }
        }
        let evaluate = |now| {
            let find = |key: &Key| known.get(key).and_then(|known| known.found.clone());
            let outcome = evaluate_many(&command, find, now);
            outcome.ok_or_else(|| Error::Invalid("this command is not a write of several keys".to_owned()))
        };
        let (mut reply, mut mutations) = evaluate(now)?;
        let mut admissions = Vec::new();
        if !mutations.is_empty() {
            let sizes: Vec<usize> = mutations.iter().map(Mutation::size_bytes).collect();
            admissions = self.room_for_all(&sizes, deadline).await?;
            // What is moved may have died while this waited; else it is as it was.
            now = self.clock.now();
            (reply, mutations) = evaluate(now)?;
        }
        let has_done_nothing = mutations.is_empty();
        let effects = self.commit_many(mutations, admissions, deadline).await?;
        drop(latches);
        for effect in &effects {
            self.wait_through(effect.key(), effect.version(), deadline).await?;
        }
        for (key, known) in &known {
            match known.unspilled {
                // The reply tells what the key is, and so does a copy.
                _ if has_done_nothing => self.wait_visible(key, known.unspilled, deadline).await?,
                Some(version) => self.wait_through(key, version, deadline).await?,
                None => {}
            }
        }
        reply.into_reply(None)
    }

    /// Commits and applies outcomes. In write-through without a journal, nothing but the tier survives, and that takes each key
    /// for itself: it must have the new values before any old one goes. A crash in between leaves both.
    async fn commit_many(
        &self,
        mutations: Vec<Mutation>,
        admissions: Vec<Admission>,
        deadline: Instant,
    ) -> Result<Vec<Effect>, Error> {
        let writes = mutations.into_iter().zip(admissions);
        let is_alone = self.is_write_through() && self.log.commits_at_once();
        let (first, then): (Vec<_>, Vec<_>) =
            writes.partition(|(mutation, _)| !is_alone || matches!(mutation, Mutation::Set { .. }));
        let mut effects = self.commit_together(first, deadline).await?;
        if !then.is_empty() {
            for effect in &effects {
                self.wait_through(effect.key(), effect.version(), deadline).await?;
            }
            effects.extend(self.commit_together(then, deadline).await?);
        }
        Ok(effects)
    }

    /// One append, so that all of it survives a crash or nothing.
    async fn commit_together(
        &self,
        writes: Vec<(Mutation, Admission)>,
        deadline: Instant,
    ) -> Result<Vec<Effect>, Error> {
        let (mutations, admissions): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
        let effects: Vec<Effect> = mutations.into_iter().map(|mutation| self.log.propose(mutation)).collect();
        if !effects.is_empty() {
            let appended = self.log.append(&effects);
            self.commit_all(&effects, admissions, appended, deadline).await?;
        }
        Ok(effects)
    }
}
