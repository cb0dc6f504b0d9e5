//! Writes of one key that have come while it was being written: the next turn of the key is theirs together. They are evaluated
//! one after the other and committed at once, so that a hot key takes as many writes a sync as it has writers.
//!
//! Not in write-through, where a write sees nothing of what the tier has not confirmed; nor for commands that answer a value,
//! which have a budget of their own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::core::Core;
use super::evaluate::answers_a_value;
use super::group::{Group, Tried};
use crate::command::{Command, Reply};
use crate::gather::{Turns, gather};
use crate::record::Key;
use crate::service::Error;
use crate::sync::{Mutex, oneshot};

/// Most writes of one turn.
const TURN_MAX: usize = 1024;

type Outcome = Result<Reply, Error>;

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct Crowds(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of all keys: a place that was given up late must not be somebody else's in the next crowd.
    last_id: u64,
    /// A key is in it from the first who comes until its leader finds nobody left.
    crowds: HashMap<Key, Crowd, RandomState>,
}

#[derive(Debug, Default)]
struct Crowd {
    waiting: VecDeque<Waiting>,
    turns: Turns,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    command: Command,
    caller: Caller,
}

/// Whom a command is done for.
#[derive(Debug)]
struct Caller {
    deadline: Instant,
    answer: oneshot::Sender<Outcome>,
    /// Of its batch, if nothing else holds one.
    _in_flight: Option<TaskTrackerToken>,
}

/// A place in a crowd.
struct Joined {
    id: u64,
    answer: oneshot::Receiver<Outcome>,
    /// Whoever comes first must see to it that somebody leads.
    is_first: bool,
}

impl Crowds {
    fn join(&self, key: &Key, command: Command, deadline: Instant, in_flight: Option<TaskTrackerToken>) -> Joined {
        let (tx, answer) = oneshot::channel();
        let State { last_id, crowds } = &mut *self.0.lock();
        *last_id += 1;
        let id = *last_id;
        let is_first = !crowds.contains_key(key);
        let crowd = crowds.entry(key.clone()).or_default();
        let caller = Caller { deadline, answer: tx, _in_flight: in_flight };
        crowd.waiting.push_back(Waiting { id, command, caller });
        Joined { id, answer, is_first }
    }

    /// Gives a place up. Answers whether it was still waited on: then its command is not done, and never will be.
    fn leave(&self, key: &Key, id: u64) -> bool {
        let mut state = self.0.lock();
        let Some(crowd) = state.crowds.get_mut(key) else { return false };
        let before = crowd.waiting.len();
        crowd.waiting.retain(|waiting| waiting.id != id);
        crowd.waiting.len() < before
    }

    /// How many wait for the next turn, as long as more are likely to come.
    fn gathering(&self, key: &Key) -> Option<u64> {
        let state = self.0.lock();
        let crowd = state.crowds.get(key)?;
        let count = crowd.waiting.len() as u64;
        (count < crowd.turns.usual()).then_some(count)
    }

    /// The next turn; `None` if nobody waits, and then the crowd is no more.
    fn take(&self, key: &Key) -> Option<VecDeque<Waiting>> {
        let crowds = &mut self.0.lock().crowds;
        let crowd = crowds.get_mut(key)?;
        let rest = crowd.waiting.split_off(crowd.waiting.len().min(TURN_MAX));
        let turn = std::mem::replace(&mut crowd.waiting, rest);
        crowd.turns.note(turn.len() as u64);
        if turn.is_empty() {
            crowds.remove(key);
            return None;
        }
        Some(turn)
    }
}

/// Leads the crowd of a key. Should it end before its time, nobody waits for it in vain.
struct Leader<'a> {
    crowds: &'a Crowds,
    key: Key,
    is_done: bool,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let left = self.crowds.0.lock().crowds.remove(&self.key);
            drop(left); // whoever waits is told so
        }
    }
}

impl Core {
    /// Whether a command may be written with others.
    pub(super) fn may_join(&self, command: &Command) -> bool {
        command.is_write() && !command.has_many_keys() && !answers_a_value(command) && !self.is_write_through()
    }

    /// Writes a key whose latch is held, with all others who want to. Once it was polled, dropping the future stops the waiting
    /// only.
    pub(super) async fn write_in_crowd(
        self: &Arc<Self>,
        key: Key,
        command: Command,
        deadline: Instant,
        in_flight: Option<TaskTrackerToken>,
    ) -> Result<Reply, Error> {
        let Joined { id, mut answer, is_first } = self.crowds.join(&key, command, deadline, in_flight);
        if is_first {
            let (core, key) = (Arc::clone(self), key.clone());
            self.tasks.spawn("crowd", async move { core.lead(key).await });
        }
        let unanswered = |_| Err(Error::Unknown(super::batch::UNANSWERED.to_owned()));
        match timeout_at(deadline, &mut answer).await {
            Ok(answered) => answered.unwrap_or_else(unanswered),
            Err(_) if self.crowds.leave(&key, id) => {
                Err(Error::Busy("other writes of this key did not end in time".to_owned()))
            }
            Err(_) => answer.await.unwrap_or_else(unanswered), // it is being done
        }
    }

    /// Between turns the latch goes to whoever else waits for it.
    async fn lead(&self, key: Key) {
        let mut leader = Leader { crowds: &self.crowds, key, is_done: false };
        loop {
            let _latch = self.latches.acquire(&leader.key).await;
            gather(|| self.crowds.gathering(&leader.key)).await;
            match self.crowds.take(&leader.key) {
                Some(turn) => self.write_turn(&leader.key, turn).await,
                None => {
                    leader.is_done = true;
                    return;
                }
            }
        }
    }

    /// The caller holds the latch of the key.
    async fn write_turn(&self, key: &Key, mut turn: VecDeque<Waiting>) {
        while !turn.is_empty() {
            let mut group = Group::for_batch(1);
            let mut grouped = Vec::new();
            let mut deadline = Instant::now();
            let mut alone = None;
            while let Some(Waiting { id, mut command, caller }) = turn.pop_front() {
                let pending = group.find(key);
                match self.try_latched(&mut group, grouped.len(), &mut command, pending, None) {
                    Tried::Answered(outcome) => drop(caller.answer.send(outcome)), // or nobody waits any more
                    Tried::Grouped { .. } => {
                        deadline = deadline.max(caller.deadline);
                        grouped.push(caller);
                    }
                    Tried::MustWait | Tried::NoRoom if group.is_empty() => {
                        alone = Some((command, caller));
                        break;
                    }
                    Tried::MustWait | Tried::NoRoom => {
                        turn.push_front(Waiting { id, command, caller });
                        break;
                    }
                }
            }
            if let Some((command, caller)) = alone {
                let written = self.write_latched(key, command, None, caller.deadline).await;
                drop(caller.answer.send(written.and_then(|written| written.reply.into_reply(written.version))));
            }
            if group.is_empty() {
                continue;
            }
            let appended = group.append(&self.log);
            let outcomes = self.commit_group(group, appended, deadline).await;
            let mut callers: Vec<_> = grouped.into_iter().map(Some).collect();
            for (place, outcome) in outcomes {
                if let Some(caller) = callers.get_mut(place).and_then(Option::take) {
                    drop(caller.answer.send(outcome));
                }
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "shuttle")]
mod interleavings {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::command::Reply;
    use crate::sync::{check, future, thread};

    /// However many come and give up while leaders come and go: a command that was answered was done once, one that was given up
    /// never, and nobody waits in vain.
    #[test]
    fn whoever_joins_is_done_and_told_or_neither() {
        check(3_000, || {
            let crowds = Arc::new(Crowds::default());
            let done = Arc::new([const { AtomicUsize::new(0) }; 4]);
            let writers = [false, true, false, true].into_iter().enumerate().map(|(number, is_patient)| {
                let (crowds, done) = (crowds.clone(), done.clone());
                thread::spawn(move || {
                    let key = Key::new("hot").unwrap();
                    // The key of the command tells whose it is.
                    let command = Command::Persist { key: Key::new(number.to_string()).unwrap() };
                    let Joined { id, answer, is_first } = crowds.join(&key, command, Instant::now(), None);
                    let leader = is_first.then(|| {
                        let (crowds, key, done) = (crowds.clone(), key.clone(), done.clone());
                        thread::spawn(move || {
                            while let Some(turn) = crowds.take(&key) {
                                for Waiting { command, caller, .. } in turn {
                                    let whose = command.key().unwrap().as_bytes()[0] - b'0';
                                    done[usize::from(whose)].fetch_add(1, Ordering::SeqCst);
                                    drop(caller.answer.send(Ok(Reply::Done(true))));
                                }
                            }
                        })
                    });
                    let was_left = !is_patient && crowds.leave(&key, id);
                    if !was_left {
                        assert_eq!(future::block_on(answer), Ok(Ok(Reply::Done(true))));
                    }
                    if let Some(leader) = leader {
                        leader.join().unwrap();
                    }
                    assert_eq!(done[number].load(Ordering::SeqCst), usize::from(!was_left));
                })
            });
            for writer in writers.collect::<Vec<_>>() {
                writer.join().unwrap();
            }
            assert!(crowds.0.lock().crowds.is_empty(), "a crowd without a leader");
        });
    }
}
