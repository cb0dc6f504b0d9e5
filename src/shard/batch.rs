//! A batch: what needs no waiting is answered on the spot or grouped, and the rest waits as it must.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use futures::future::{join, join_all};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::applier::{self, Work};
use super::core::{Core, Serving, payload_bytes};
use super::evaluate::{answers_a_value, keys_of};
use super::group::{Answered, Group, Reads, Tried};
use super::replies::ReplyRoom;
use super::{Shard, scan};
use crate::command::{Command, Reply};
use crate::record::Key;
use crate::replication::{Appended, LogError};
use crate::request;
use crate::service::{Batch, Error, REPLIES_BYTES_MAX, Replies, Service};
use crate::store::{Hints, PREFETCHED};
use crate::sync::oneshot;

/// Stands for a reply until it comes.
const TO_COME: Error = Error::Unknown(String::new());
/// Why it never came: a panic.
pub(super) const UNANSWERED: &str = "the work on this command ended without an answer";

fn is_to_come(reply: &Result<Reply, Error>) -> bool {
    matches!(reply, Err(Error::Unknown(reason)) if reason.is_empty())
}

impl Service for Shard {
    async fn execute(&self, batch: Batch) -> Replies {
        let (serving, in_flight) = self.core.enter();
        if let Err(error) = serving.check_epoch(batch.epoch) {
            return batch.commands.iter().map(|_| Err(error.clone())).collect();
        }
        let commands = batch.commands.len();
        let turn = self.core.courtesy.first_turn(&batch.commands).await;
        let Sorted { mut replies, group, waiting, held, bytes } = self.sort_out(&serving, batch.commands, 0);
        if let Some(request) = request::current() {
            let waiting = waiting.len() + held.len();
            tracing::debug!(target: request::TARGET, %request, commands, waiting, "executed");
        }
        if group.is_empty() && waiting.is_empty() && held.is_empty() {
            return replies;
        }
        let deadline = turn.as_ref().map_or_else(Instant::now, |turn| turn.since) + batch.timeout;
        let waiting = match alone_in_crowd(&self.core, commands, waiting) {
            Ok((key, command)) => {
                return vec![self.core.write_in_crowd(key, command, deadline, Some(in_flight)).await];
            }
            Err(waiting) => waiting,
        };
        let appended = group.append(&self.core.log);
        drop(turn);
        // R5: from here on nothing may be cancelled by the caller.
        let answers = match appended {
            Ok(appended) if waiting.is_empty() && held.is_empty() && !self.core.is_write_through() => {
                self.apply_in_order(group, appended, deadline, in_flight).await
            }
            appended => {
                let shard = self.clone();
                let work = self.core.tasks.spawn_work(request::within(request::trace(), async move {
                    let _in_flight = in_flight;
                    let (mut answers, more) =
                        shard.commit_and_execute(&serving, group, appended, waiting, bytes, deadline).await;
                    let bytes = bytes + bytes_of(&more);
                    answers.extend(more);
                    answers.extend(shard.execute_held(&serving, held, bytes, deadline).await);
                    answers
                }));
                work.await.unwrap_or_default()
            }
        };
        for (i, answer) in answers {
            if let Some(place) = replies.get_mut(i) {
                *place = answer;
            }
        }
        for reply in replies.iter_mut().filter(|reply| is_to_come(reply)) {
            *reply = Err(Error::Unknown(UNANSWERED.to_owned()));
        }
        replies
    }

    fn answer_now(&self, command: &Command) -> Option<Reply> {
        let (serving, _in_flight) = self.core.enter();
        let mut reads = Reads::at(self.core.clock.now());
        let reply = self.core.read_now(&serving, command, &mut reads)?;
        self.core.courtesy.note_short();
        reads.count(&self.core.counters);
        Some(reply)
    }
}

/// Whether a command waits with those that found no room: another write, which would overtake them, or one on a key of theirs.
fn is_held_back(command: &Command, held_keys: &HashSet<Key, RandomState>) -> bool {
    command.is_write() || keys_of(command).iter().any(|key| held_keys.contains(key))
}

fn bytes_of(answers: &[Answered]) -> usize {
    answers.iter().flat_map(|(_, reply)| reply).map(Reply::size_bytes).sum()
}

/// The only command of a batch, if it is a write of a key that is being written.
fn alone_in_crowd(core: &Core, commands: usize, mut waiting: Vec<Waiting>) -> Result<(Key, Command), Vec<Waiting>> {
    let is_alone =
        |command: &Command| core.may_join(command) && command.key().is_some_and(|key| core.latches.is_held(key));
    let alone = waiting.pop_if(|(_, command)| commands == 1 && is_alone(command));
    let key = alone.as_ref().and_then(|(_, command)| command.key().cloned());
    key.zip(alone.map(|(_, command)| command)).ok_or(waiting)
}

/// A command that has to wait, with its place in the batch.
pub(super) type Waiting = (usize, Command);

/// A batch after everything was tried that needs no waiting.
struct Sorted {
    /// In their places; an error stands where a reply is still to come.
    replies: Replies,
    group: Group,
    waiting: Vec<Waiting>,
    /// Writes that there is no room for, with those after them, and what comes behind one of these on its key.
    held: Vec<Waiting>,
    /// Of all replies of the batch so far.
    bytes: usize,
}

/// Whether the reply may be large, and nothing is lost if it is not given.
fn is_refusable(command: &Command) -> bool {
    matches!(command, Command::Get { .. } | Command::Scan { .. })
}

impl Shard {
    /// Has a group that waits for nothing but its commit applied. No answers come if the work on it broke off.
    async fn apply_in_order(
        &self,
        group: Group,
        appended: Appended,
        deadline: Instant,
        in_flight: TaskTrackerToken,
    ) -> Vec<Answered> {
        let (answers, answered) = oneshot::channel();
        let work = Work { group, appended, deadline, in_flight, answers };
        if let Err(mpsc::error::SendError(work)) = self.applier.send(work) {
            // The shard is being stopped.
            let core = Arc::clone(&self.core);
            self.core.tasks.spawn("late write", async move { applier::apply(&core, work).await });
        }
        answered.await.unwrap_or_default()
    }

    /// Tries all commands. One goes to those that wait if an earlier one on its key did: commands on one key keep their order, as
    /// those on several keys do, which always wait. Behind a write that finds no room all writes are held back, and what is about
    /// their keys. `bytes`: of the batch's replies before.
    fn sort_out(&self, serving: &Serving, mut commands: Vec<Command>, mut bytes: usize) -> Sorted {
        let mut replies = Vec::with_capacity(commands.len());
        let mut group = Group::for_batch(commands.len());
        let (mut waiting, mut held) = (Vec::new(), Vec::new());
        let mut waiting_keys: HashSet<Key, RandomState> = HashSet::default();
        let mut held_keys: HashSet<Key, RandomState> = HashSet::default();
        let mut is_too_much = bytes > REPLIES_BYTES_MAX;
        let mut reads = Reads::at(self.core.clock.now());
        let mut hints = Hints::new();
        for i in 0..commands.len() {
            if i % PREFETCHED == 0 {
                let keys = commands.get(i..).unwrap_or_default().iter().map(Command::key);
                self.core.store.look_ahead(keys, &mut hints);
            }
            let Some(command) = commands.get_mut(i) else { break };
            if !held.is_empty() && is_held_back(command, &held_keys) {
                held_keys.extend(keys_of(command));
                held.push((i, command.take()));
                replies.push(Err(TO_COME));
                continue;
            }
            let must_wait = !waiting_keys.is_empty() && command.key().is_some_and(|key| waiting_keys.contains(key));
            let is_refusable = is_refusable(command);
            let tried = match must_wait {
                _ if is_too_much && (is_refusable || answers_a_value(command)) => {
                    Tried::Answered(Err(Error::ReplyTooLarge))
                }
                true => Tried::MustWait,
                false => {
                    let hint = hints.get(i % PREFETCHED).copied().flatten();
                    self.core.try_execute(serving, &mut group, i, command, hint, &mut reads)
                }
            };
            match tried {
                Tried::Answered(reply) => {
                    let size = reply.as_ref().map_or(0, Reply::size_bytes);
                    is_too_much |= bytes + size > REPLIES_BYTES_MAX;
                    let is_refused = is_refusable && is_too_much;
                    bytes += if is_refused { 0 } else { size };
                    replies.push(if is_refused { Err(Error::ReplyTooLarge) } else { reply });
                }
                Tried::Grouped { bytes: size } => {
                    bytes += size;
                    is_too_much |= bytes > REPLIES_BYTES_MAX;
                    replies.push(Err(TO_COME));
                }
                Tried::MustWait => {
                    waiting_keys.extend(keys_of(command));
                    waiting.push((i, command.take()));
                    replies.push(Err(TO_COME));
                }
                Tried::NoRoom => {
                    held_keys.extend(keys_of(command));
                    held.push((i, command.take()));
                    replies.push(Err(TO_COME));
                }
            }
        }
        reads.count(&self.core.counters);
        Sorted { replies, group, waiting, held, bytes }
    }

    /// Waits for room in memory (R15), and then tries what was held back as it tried the batch: so many writers wait for room at a
    /// time that each must cost little. At the deadline the writes are busy, and what is behind them is done without them.
    async fn execute_held(
        &self,
        serving: &Serving,
        mut held: Vec<Waiting>,
        mut bytes: usize,
        deadline: Instant,
    ) -> Vec<Answered> {
        let (mut answers, mut has_moved) = (Vec::new(), true);
        while let Some((_, first)) = held.first() {
            let progress = self.core.progress.notified();
            let may_fit = self.core.store.admit(payload_bytes(first, None)).is_some();
            if !has_moved || !may_fit {
                if self.core.until_progress(progress, deadline).await {
                    has_moved = true;
                    continue;
                }
                let (writes, reads): (Vec<_>, Vec<_>) = held.into_iter().partition(|(_, command)| command.is_write());
                answers.extend(writes.into_iter().map(|(place, _)| (place, Err(self.core.busy()))));
                held = reads;
            }
            let (places, commands): (Vec<usize>, Vec<Command>) = held.into_iter().unzip();
            let of_batch = |(i, answer): Answered| places.get(i).map(|place| (*place, answer));
            let turn = self.core.courtesy.turn(&commands).await;
            let sorted = self.sort_out(serving, commands, bytes);
            has_moved = sorted.held.len() < places.len();
            held = sorted.held.into_iter().filter_map(|(i, command)| Some((*places.get(i)?, command))).collect();
            let tried = sorted.replies.into_iter().enumerate().filter(|(_, reply)| !is_to_come(reply));
            let appended = sorted.group.append(&self.core.log);
            drop(turn);
            let Sorted { group, waiting, .. } = sorted;
            let (grouped, waiting) =
                self.commit_and_execute(serving, group, appended, waiting, sorted.bytes, deadline).await;
            bytes = sorted.bytes + bytes_of(&waiting);
            answers.extend(tried.chain(grouped).chain(waiting).filter_map(of_batch));
        }
        answers
    }

    /// Commits a group and executes what waits, side by side unless some of that is about what the group changes. Returns the
    /// answers of both.
    async fn commit_and_execute(
        &self,
        serving: &Serving,
        mut group: Group,
        appended: Result<Appended, LogError>,
        waiting: Vec<Waiting>,
        bytes: usize,
        deadline: Instant,
    ) -> (Vec<Answered>, Vec<Answered>) {
        let is_behind = waiting.iter().any(|(_, command)| group.concerns(command));
        let grouped = self.core.commit_group(group, appended, deadline);
        let waiting = self.execute_waiting(serving, waiting, bytes, deadline);
        if is_behind {
            return (grouped.await, waiting.await);
        }
        join(grouped, waiting).await
    }

    /// `bytes`: of what the batch is answered already.
    async fn execute_waiting(
        &self,
        serving: &Serving,
        waiting: Vec<Waiting>,
        bytes: usize,
        deadline: Instant,
    ) -> Vec<Answered> {
        self.core.note_misses(&waiting);
        let replies = ReplyRoom::new(bytes);
        let (mut answers, waiting) = if self.core.may_read_together(&waiting) {
            self.core.read_together(serving, waiting, &replies, deadline).await
        } else {
            (Vec::new(), waiting)
        };
        let chains = chains(waiting).into_iter().map(async |commands| {
            let mut answers = Vec::with_capacity(commands.len());
            for (i, command) in commands {
                let (is_refusable, is_reserved) = (is_refusable(&command), answers_a_value(&command));
                let executed = self.execute_one(serving, command, &replies, deadline);
                let answer = if is_refusable {
                    // It may be given up half way: its load goes on by itself.
                    replies.unless_over(executed).await.unwrap_or(Err(Error::ReplyTooLarge))
                } else {
                    executed.await
                };
                if !is_reserved {
                    replies.add(answer.as_ref().map_or(0, Reply::size_bytes));
                }
                answers.push((i, answer));
            }
            answers
        });
        answers.extend(join_all(chains).await.into_iter().flatten());
        answers
    }

    async fn execute_one(
        &self,
        serving: &Serving,
        command: Command,
        replies: &ReplyRoom,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        match command {
            Command::Scan { cursor, limit } => scan::page(&self.core, serving, cursor, limit).await,
            Command::Count => self.count(),
            Command::Stats => Ok(Reply::Stats(vec![self.stats(serving)])),
            Command::Explain { key } => self.explain(serving, &key).await,
            command @ (Command::Get { .. }
            | Command::Put { .. }
            | Command::Delete { .. }
            | Command::Exists { .. }
            | Command::Ttl { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::Update { .. }
            | Command::Move { .. }
            | Command::PutAllAbsent { .. }) => self.core.execute(serving, command, replies, deadline).await,
        }
    }
}

/// Commands that wait, in chains: those that have a key in common one after the other, in the order of the batch.
fn chains(waiting: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut chain_of: HashMap<Option<Key>, usize, RandomState> = HashMap::default();
    let mut chains: Vec<Vec<Waiting>> = Vec::new();
    for (i, command) in waiting {
        let keys: Vec<Option<Key>> = match command.key() {
            Some(_) => keys_of(&command).into_iter().map(Some).collect(),
            None => vec![None],
        };
        let mut joined: Vec<usize> = keys.iter().filter_map(|key| chain_of.get(key).copied()).collect();
        joined.sort_unstable();
        joined.dedup();
        let at = joined.first().copied().unwrap_or(chains.len());
        let mut chain = chains.get_mut(at).map(std::mem::take).unwrap_or_default();
        for other in joined.iter().skip(1) {
            chain.extend(chains.get_mut(*other).map(std::mem::take).unwrap_or_default());
            chain_of.values_mut().filter(|of| **of == *other).for_each(|of| *of = at);
        }
        if joined.len() > 1 {
            chain.sort_unstable_by_key(|(i, _)| *i);
        }
        chain.push((i, command));
        match chains.get_mut(at) {
            Some(place) => *place = chain,
            None => chains.push(chain),
        }
        chain_of.extend(keys.into_iter().map(|key| (key, at)));
    }
    chains
}
