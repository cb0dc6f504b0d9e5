//! What the journal says of the shard that it belongs to, so that a restart knows what it still holds (R22).
//!
//! Always written before it is relied on: slots are given up here first and then in the fence; they are gained in the fence
//! first, and then here, before anything of them is acknowledged.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::{Assignment, Fence, Holding, Incarnation, ShardName, TierId};
use crate::command::Effect;
use crate::journal::Journal;
use crate::mutants::{Rule, is_planted};
use crate::record::{Epoch, JournalId, Lsn, Version};
use crate::replication::LogError;
use crate::slots::{Slot, SlotSet};
use crate::sync::Mutex;
use crate::task::Blocking;

/// The note in the journal, as postcard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    pub shard: Option<ShardName>,
    pub tier: Option<TierId>,
    pub epoch: Epoch,
    /// The slots that it holds, and since which version. Older effects of a slot belong to an earlier tenure: they have reached
    /// the tier or were given up, and others may have written the slot since.
    pub shares: Vec<(Version, SlotSet)>,
    /// The lives of the process that may stand in the fence.
    pub incarnations: Vec<Incarnation>,
}

impl Tenure {
    /// What a journal's note says; nothing, if there is none.
    ///
    /// # Errors
    /// If it is of a newer program.
    pub fn decode(note: Option<&[u8]>) -> Result<Self, postcard::Error> {
        note.map_or_else(|| Ok(Self::default()), postcard::from_bytes)
    }

    pub fn slots(&self) -> SlotSet {
        self.shares.iter().fold(SlotSet::empty(), |all, (_, slots)| all.union(slots))
    }

    /// No version up to here may be given out again: others gave it, or it was lost.
    pub(super) fn last(&self) -> Lsn {
        self.shares.iter().map(|(since, _)| since.lsn).max().unwrap_or_default()
    }

    /// What is held, if anything is.
    pub(super) fn holding(&self) -> Option<Holding> {
        let (shard, slots) = (self.shard.clone()?, self.slots());
        (!slots.is_empty()).then_some(Holding { shard, epoch: self.epoch, slots })
    }

    /// Whether an effect in the journal is of this tenure.
    pub fn covers(&self, effect: &Effect) -> bool {
        let slot = Slot::of(effect.key());
        let is_since = |since: Version| since < effect.version() || is_planted(Rule::R42Tenure);
        self.shares.iter().any(|(since, slots)| is_since(*since) && slots.contains(slot))
    }

    fn keep(&mut self, kept: &SlotSet) {
        for (_, slots) in &mut self.shares {
            *slots = slots.intersection(kept);
        }
        self.shares.retain(|(_, slots)| !slots.is_empty());
    }
}

/// Keeps the note up to date. Without a journal there is none.
pub(super) struct TenureKeeper {
    journal: Option<(Journal, Arc<dyn Blocking>)>,
    tenure: Mutex<Tenure>,
    has_inherited: bool,
}

impl TenureKeeper {
    pub fn new(journal: Option<(Journal, Arc<dyn Blocking>)>, tenure: Tenure, has_inherited: bool) -> Self {
        Self { journal, tenure: Mutex::new(tenure), has_inherited }
    }

    /// Zero without a journal.
    pub fn journal_id(&self) -> JournalId {
        self.journal.as_ref().map_or(JournalId(0), |(journal, _)| journal.id())
    }

    /// Whether there were records in the journal that the tier did not have when the process started.
    pub fn has_inherited(&self) -> bool {
        self.has_inherited
    }

    /// Whether this journal is the one that served last under a fence: what the fence's owner acknowledged is in it.
    pub fn owns(&self, row: &Fence) -> bool {
        let is_known = |life| life == Incarnation::default() || self.tenure.lock().incarnations.contains(&life);
        row.journal != JournalId(0) && row.journal == self.journal_id() && is_known(row.incarnation)
    }

    pub fn is_of_tier(&self, tier: TierId) -> bool {
        self.tenure.lock().tier.is_none_or(|own| own == tier)
    }

    pub fn tier(&self) -> Option<TierId> {
        self.tenure.lock().tier
    }

    /// This life of the process is about to stand in the fence.
    pub async fn announce(&self, life: Incarnation) -> Result<(), LogError> {
        let is_known = self.tenure.lock().incarnations.contains(&life);
        if is_known {
            return Ok(());
        }
        self.write(|tenure| tenure.incarnations.push(life)).await
    }

    /// The fence says that this life holds what is wanted; `kept` of it it held before. Whatever it writes to the rest comes
    /// after `last`.
    pub async fn hold(
        &self,
        tier: TierId,
        wanted: &Assignment,
        kept: &SlotSet,
        last: Lsn,
        life: Incarnation,
    ) -> Result<(), LogError> {
        self.write(|tenure| {
            tenure.keep(kept);
            let gained = wanted.slots.difference(&tenure.slots());
            if !gained.is_empty() {
                tenure.shares.push((Version { epoch: wanted.epoch, lsn: last }, gained));
            }
            tenure.shard = Some(wanted.shard.clone());
            tenure.tier = Some(tier);
            tenure.epoch = wanted.epoch;
            tenure.incarnations = vec![life];
        })
        .await
    }

    /// Of these slots, those that the journal does not say to be given up: an assignment may want back what one before it began to
    /// hand over. They are gained again then.
    pub fn still_held(&self, slots: &SlotSet) -> SlotSet {
        match &self.journal {
            Some(_) => slots.intersection(&self.tenure.lock().slots()),
            None => slots.clone(),
        }
    }

    /// Everything but this is given up.
    pub async fn keep(&self, kept: &SlotSet) -> Result<(), LogError> {
        self.write(|tenure| tenure.keep(kept)).await
    }

    async fn write(&self, change: impl FnOnce(&mut Tenure)) -> Result<(), LogError> {
        let Some((journal, blocking)) = &self.journal else { return Ok(()) };
        let mut tenure = self.tenure.lock().clone();
        change(&mut tenure);
        if *self.tenure.lock() == tenure {
            return Ok(());
        }
        let note = postcard::to_stdvec(&tenure).map_err(|error| LogError::Broken(error.to_string()))?;
        let pending = journal.append_note(&note)?;
        pending.durable().await?;
        journal.sync(&**blocking).await?; // also where writes don't wait for that
        *self.tenure.lock() = tenure;
        Ok(())
    }
}
