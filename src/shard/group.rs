//! The commands of a batch that need not wait for each other: reads of what memory knows, answered on the spot, and writes
//! that are proposed together, committed once and then applied. Everything here is synchronous up to the commit.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use futures::future::join_all;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::core::{Core, Serving, payload_bytes};
use super::counters::Counters;
use super::evaluate::{Answer, Outcome, evaluate, is_blind, keys_of};
use super::latches::Latch;
use crate::command::{Command, Effect, Found, Reply};
use crate::mutants::{Rule, is_planted};
use crate::record::{Key, Timestamp, VALUE_BYTES_MAX, Version};
use crate::replication::{Appended, LogError, ReplicatedLog};
use crate::service::{BATCH_BYTES_MAX, Error};
use crate::store::{Admission, Hint, Known, Lookup};

/// A command's place in its batch, and its outcome.
pub(super) type Answered = (usize, Result<Reply, Error>);

/// What became of a command that was tried without waiting. A write that was evaluated has been taken; all else is still there.
pub(super) enum Tried {
    Answered(Result<Reply, Error>),
    /// It will be answered when its group is committed, with about so many bytes.
    Grouped {
        bytes: usize,
    },
    /// It has to wait for a latch or the tier, or for a group that has room for it.
    MustWait,
    /// It has to wait for room in memory, and so have all writes after it.
    NoRoom,
}

/// The reads of a batch, which are of one moment, and how many were answered without waiting: counted at once.
pub(super) struct Reads {
    /// Not before the batch came.
    now: Timestamp,
    hits: u64,
    misses: u64,
    /// Misses that the tier might have been asked for.
    avoided: u64,
}

impl Reads {
    pub fn at(now: Timestamp) -> Self {
        Self { now, hits: 0, misses: 0, avoided: 0 }
    }

    fn note(&mut self, is_hit: bool) {
        self.hits += u64::from(is_hit);
        self.misses += u64::from(!is_hit);
    }

    pub fn count(self, counters: &Counters) {
        counters.hits.add(self.hits);
        counters.misses.add(self.misses);
        counters.loads_avoided.add(self.avoided);
    }
}

/// Outcomes that are proposed and not committed. Holds the latches of their keys.
pub(super) struct Group {
    /// None before the first one: most batches only read.
    writes: Option<Box<Writes>>,
    /// For so many writes there is room from the first on.
    room: usize,
}

/// Moved often, and so by its address. That of one command takes no other room.
#[derive(Default)]
struct Writes {
    /// One a key, its newest: the group is committed as a whole, so those before will never have been.
    effects: SmallVec<[Effect; 1]>,
    /// Beside each effect.
    admissions: SmallVec<[Admission; 1]>,
    /// Whose each write is, and what to answer.
    answers: SmallVec<[(usize, Answer, Version); 1]>,
    /// Writes and deletions whose effects are not among them.
    superseded: (u64, u64),
    /// Commands of the batch that have seen what is not committed yet.
    followers: Vec<Answered>,
    /// Of the effects, up to the last one that was there when one was looked for.
    places: HashMap<Key, usize, RandomState>,
    latches: SmallVec<[Latch; 1]>,
    /// Of the keys and values in the effects.
    bytes: usize,
}

/// What the effects of a group take at most, unless it is one: a short command may keep or lengthen a long value (R9).
const EFFECTS_BYTES_MAX: usize = VALUE_BYTES_MAX + BATCH_BYTES_MAX;

/// Room is made for so many writes, or all commands of the batch if they are fewer.
const ROOM: usize = 4;

/// Most groups are small: so many effects are looked through one by one.
const SCANNED: usize = 8;

impl Group {
    /// For a batch of so many commands.
    pub fn for_batch(commands: usize) -> Self {
        Self { writes: None, room: commands.min(ROOM) }
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_none()
    }

    pub fn effects(&self) -> &[Effect] {
        self.writes.as_ref().map_or(&[], |writes| &writes.effects)
    }

    /// What a key will be once the group is committed, if the group changes it.
    pub fn find(&mut self, key: &Key) -> Option<Option<Found>> {
        let writes = self.writes.as_mut()?;
        let place = writes.place_of(key)?;
        let found = match writes.effects.get(place)? {
            Effect::Set(record) => {
                let (value, version, expires_at) = (record.value.clone(), record.version, record.expires_at);
                Some(Found { value, version, expires_at })
            }
            Effect::Delete { .. } => None,
        };
        Some(found)
    }

    /// Whether a command is about a key that the group changes.
    pub fn concerns(&mut self, command: &Command) -> bool {
        let Some(writes) = self.writes.as_mut() else { return false };
        keys_of(command).iter().any(|key| writes.place_of(key).is_some())
    }

    fn has_room(&self, payload_bytes: usize) -> bool {
        self.writes.as_ref().is_none_or(|writes| writes.bytes + payload_bytes <= EFFECTS_BYTES_MAX)
    }

    /// For a write that is about to be pushed.
    fn writes(&mut self) -> &mut Writes {
        self.writes.get_or_insert_with(|| Box::new(Writes::with_room(self.room)))
    }

    /// Answers once the group is committed what was evaluated against what is not.
    fn follow(&mut self, place: usize, reply: Result<Reply, Error>) -> Tried {
        let bytes = reply.as_ref().map_or(0, Reply::size_bytes);
        if let Some(writes) = self.writes.as_mut() {
            writes.followers.push((place, reply));
        }
        Tried::Grouped { bytes }
    }

    /// Hands the effects to the log.
    pub fn append(&self, log: &impl ReplicatedLog) -> Result<Appended, LogError> {
        log.append(self.effects())
    }
}

impl Writes {
    fn with_room(writes: usize) -> Self {
        Self {
            effects: SmallVec::with_capacity(writes),
            admissions: SmallVec::with_capacity(writes),
            answers: SmallVec::with_capacity(writes),
            latches: SmallVec::with_capacity(writes),
            ..Self::default()
        }
    }

    fn place_of(&mut self, key: &Key) -> Option<usize> {
        if self.effects.len() <= SCANNED {
            return self.effects.iter().position(|effect| effect.key() == key);
        }
        let unnoted = self.effects.iter().enumerate().skip(self.places.len());
        self.places.extend(unnoted.map(|(place, effect)| (effect.key().clone(), place)));
        self.places.get(key).copied()
    }

    fn push(&mut self, place: usize, effect: Effect, admission: Admission, answer: Answer) {
        self.answers.push((place, answer, effect.version()));
        self.bytes += effect.size_bytes();
        self.effects.push(effect);
        self.admissions.push(admission);
    }

    /// In place of the effect that the group has on its key.
    fn push_newer(&mut self, place: usize, effect: Effect, admission: Admission, answer: Answer) {
        let known = self.place_of(effect.key());
        let old = known.and_then(|at| self.effects.get_mut(at).zip(self.admissions.get_mut(at)));
        let Some((old, old_admission)) = old else { return self.push(place, effect, admission, answer) };
        self.answers.push((place, answer, effect.version()));
        self.bytes += effect.size_bytes();
        self.bytes -= old.size_bytes();
        match old {
            Effect::Set(_) => self.superseded.0 += 1,
            Effect::Delete { .. } => self.superseded.1 += 1,
        }
        (*old, *old_admission) = (effect, admission);
    }
}

impl Core {
    /// Answers a command if it needs no waiting at all, or takes it into the group. `hint`: of its key, if somebody has looked.
    pub fn try_execute(
        &self,
        serving: &Serving,
        group: &mut Group,
        place: usize,
        command: &mut Command,
        hint: Option<Hint>,
        reads: &mut Reads,
    ) -> Tried {
        let (key, is_write) = match &*command {
            Command::Get { key } | Command::Exists { key } | Command::Ttl { key } => (key, false),
            Command::Put { key, .. }
            | Command::Delete { key }
            | Command::Expire { key, .. }
            | Command::Persist { key }
            | Command::Update { key, .. } => (key, true),
            Command::Scan { .. }
            | Command::Count
            | Command::Stats
            | Command::Explain { .. }
            | Command::Move { .. }
            | Command::PutAllAbsent { .. } => return Tried::MustWait,
        };
        if let Err(error) = serving.check_slot(key) {
            return Tried::Answered(Err(error));
        }
        if is_write {
            self.try_write(group, place, command)
        } else {
            self.try_read(group, place, command, key, hint, reads)
        }
    }

    /// Answers a read that needs no waiting, and is for this shard.
    pub fn read_now(&self, serving: &Serving, command: &Command, reads: &mut Reads) -> Option<Reply> {
        let (Command::Get { key } | Command::Exists { key } | Command::Ttl { key }) = command else { return None };
        serving.check_slot(key).ok()?;
        match self.try_read(&mut Group::for_batch(0), 0, command, key, None, reads) {
            Tried::Answered(reply) => reply.ok(),
            Tried::Grouped { .. } | Tried::MustWait | Tried::NoRoom => None,
        }
    }

    fn try_read(
        &self,
        group: &mut Group,
        place: usize,
        command: &Command,
        key: &Key,
        hint: Option<Hint>,
        reads: &mut Reads,
    ) -> Tried {
        let now = reads.now;
        if let Some(found) = group.find(key) {
            if self.is_write_through() {
                return Tried::MustWait; // until the tier has it
            }
            reads.note(found.is_some());
            return group.follow(place, Self::reply_read(command, found, now));
        }
        let hint = hint.unwrap_or_else(|| self.store.hint(key));
        let Lookup::Known(mut known) = self.store.get(key, hint, now) else { return Tried::MustWait };
        if known.found.is_none() {
            // It may have expired under a write that saw it alive, and is being committed: that comes first (ADR 6).
            if self.latches.is_held(key) {
                return Tried::MustWait;
            }
            // Or was committed just now.
            let Lookup::Known(again) = self.store.peek(key, now) else { return Tried::MustWait };
            known = again;
        }
        if known.unspilled.is_some() && self.is_write_through() && !is_planted(Rule::R18Visible) {
            return Tried::MustWait; // not acknowledged yet, so not to be seen yet
        }
        reads.note(known.found.is_some());
        reads.avoided += u64::from(known.found.is_none() && self.tier.is_some());
        Tried::Answered(Self::reply_read(command, known.found, now))
    }

    fn try_write(&self, group: &mut Group, place: usize, command: &mut Command) -> Tried {
        let Some(key) = command.key() else { return Tried::MustWait };
        let latch = self.latches.try_acquire(key);
        // Whoever holds it: the group, if it changes the key.
        let pending = if latch.is_some() { None } else { group.find(key) };
        if latch.is_none() && (pending.is_none() || self.is_write_through()) {
            return Tried::MustWait;
        }
        self.try_latched(group, place, command, pending, latch)
    }

    /// Tries a write whose key nobody else may write. `pending`: what the key will be once the group is committed.
    pub(super) fn try_latched(
        &self,
        group: &mut Group,
        place: usize,
        command: &mut Command,
        pending: Option<Option<Found>>,
        latch: Option<Latch>,
    ) -> Tried {
        let Some(key) = command.key() else { return Tried::MustWait };
        let now = self.clock.now(); // under the latch: what others were told before counts
        let is_follower = pending.is_some();
        let known = match pending {
            Some(found) => Known { found, unspilled: None },
            None if is_blind(command) => Known::default(),
            None => match self.store.peek(key, now) {
                Lookup::Known(known) => known,
                Lookup::Unknown => return Tried::MustWait,
            },
        };
        if known.unspilled.is_some() && self.is_write_through() {
            return Tried::MustWait; // a refusal would tell what is not acknowledged yet
        }
        // Room first: once proposed, an effect must be applied.
        let payload_bytes = payload_bytes(command, known.found.as_ref());
        if !group.has_room(payload_bytes) {
            return Tried::MustWait;
        }
        let Some(admission) = self.store.admit(payload_bytes) else { return Tried::NoRoom };
        let Some(Outcome { reply, mutation }) = evaluate(command.take(), known.found, now) else {
            return Tried::Answered(Err(Error::Invalid("this command is not about a key".to_owned())));
        };
        let Some(mutation) = mutation else {
            let reply = reply.into_reply(None);
            return if is_follower { group.follow(place, reply) } else { Tried::Answered(reply) };
        };
        let effect = self.log.propose(mutation);
        if self.log.commits_at_once() && !self.is_write_through() {
            let version = effect.version();
            self.apply(&effect, admission);
            return Tried::Answered(reply.into_reply(Some(version)));
        }
        let bytes = reply.size_bytes();
        let writes = group.writes();
        writes.latches.extend(latch);
        match is_follower {
            true => writes.push_newer(place, effect, admission, reply),
            false => writes.push(place, effect, admission, reply),
        }
        Tried::Grouped { bytes }
    }

    /// Waits for the commit of a group, applies it, and gives its answers.
    pub async fn commit_group(
        &self,
        group: Group,
        appended: Result<Appended, LogError>,
        deadline: Instant,
    ) -> Vec<Answered> {
        let committed = self.until_committed(group.effects(), appended, deadline).await;
        if !self.is_write_through() || committed.is_err() {
            return self.end_group(group, committed);
        }
        let Some(mut writes) = group.writes else { return Vec::new() };
        self.apply_group(&mut writes);
        drop(committed);
        let Writes { effects, answers, followers, .. } = *writes;
        // Here a group has one write a key.
        let confirmed = effects.iter().zip(answers).map(async |(effect, (place, reply, version))| {
            let through = self.wait_through(effect.key(), version, deadline).await;
            (place, through.and_then(|()| reply.into_reply(Some(version))))
        });
        join_all(confirmed).await.into_iter().chain(followers).collect()
    }

    /// Applies a group if it was committed, and gives its answers. If it was, not in write-through, where they wait for the tier.
    pub fn end_group(&self, group: Group, committed: Result<Appended, Error>) -> Vec<Answered> {
        let Some(mut writes) = group.writes else { return Vec::new() };
        let mut answers: Vec<Answered>;
        match committed {
            Ok(_appended) => {
                self.apply_group(&mut writes);
                let answered = |(place, reply, version): (_, Answer, _)| (place, reply.into_reply(Some(version)));
                answers = writes.answers.into_iter().map(answered).collect();
                answers.extend(writes.followers);
            }
            Err(error) => {
                writes.admissions.clear(); // whoever is next on a key needs room
                writes.latches.clear();
                answers = writes.answers.into_iter().map(|(place, ..)| (place, Err(error.clone()))).collect();
                answers.extend(writes.followers.into_iter().map(|(place, _)| (place, Err(unseen(&error)))));
            }
        }
        answers
    }

    /// Makes what a group has committed visible, and lets others write its keys.
    fn apply_group(&self, writes: &mut Writes) {
        self.apply_all(&writes.effects, writes.admissions.drain(..));
        self.counters.puts.add(writes.superseded.0);
        self.counters.deletes.add(writes.superseded.1);
        writes.latches.clear();
    }
}

/// What to tell whoever changed nothing, and saw what was not committed then: whatever became of that, nothing was done here.
fn unseen(error: &Error) -> Error {
    match error {
        Error::Unknown(reason) => Error::Unavailable(format!("a write before it has failed: {reason}")),
        error => error.clone(),
    }
}
