//! What waits to be sent, made into calls, and answers given back to whom they belong. Pure: no I/O, no timers.
//!
//! **Invariant:** of one caller's batch, at most one piece is on its way at a time, so that commands on the same key
//! take effect in their order.

use std::collections::VecDeque;
use std::mem::take;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::command::{Command, Reply};
use crate::record::Epoch;
use crate::request::{self, Trace};
use crate::rpc::wire::{Commands, Part};
use crate::service::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, Error, REPLIES_BYTES_MAX, Replies};

/// A job that got as much from a call that it shared was not cut for the sake of others.
const FAIR_BYTES: usize = REPLIES_BYTES_MAX / 2;

/// The commands of a caller. They never change, and are neither moved nor copied on their way.
#[derive(Debug)]
pub struct Submitted {
    commands: Vec<Command>,
    /// What they belong to, if that is logged or traced.
    trace: Option<Trace>,
}

impl Submitted {
    pub fn new(commands: Vec<Command>) -> Self {
        Self { commands, trace: request::trace() }
    }

    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// The answers from `start` on, if no others will come: only up to `sent` may have been delivered (R4).
    pub fn lost(&self, start: usize, sent: usize, reason: &str) -> impl Iterator<Item = Result<Reply, Error>> {
        self.commands.iter().enumerate().skip(start).map(move |(i, command)| {
            let unknown = i < sent && command.is_write();
            Err(if unknown { Error::Unknown(reason.to_owned()) } else { Error::Unavailable(reason.to_owned()) })
        })
    }
}

/// A caller's batch on its way.
#[derive(Debug)]
pub struct Job {
    submitted: Arc<Submitted>,
    epoch: Option<Epoch>,
    timeout: Duration,
    pub deadline: Instant,
    /// `None` once it is used.
    answer: Option<oneshot::Sender<Replies>>,
    /// Of what is not sent yet.
    pub left_bytes: usize,
    /// So many commands have been sent.
    sent: usize,
    /// Answered so far.
    replies: Replies,
    /// The job's share of the queue.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Job {
    pub fn new(
        submitted: Arc<Submitted>,
        epoch: Option<Epoch>,
        timeout: Duration,
        now: Instant,
        answer: oneshot::Sender<Replies>,
    ) -> Self {
        let left_bytes = submitted.commands.iter().map(Command::size_bytes).sum();
        let (deadline, answer) = (now + timeout, Some(answer));
        Self { submitted, epoch, timeout, deadline, answer, left_bytes, sent: 0, replies: Vec::new(), permit: None }
    }

    /// Nobody waits for it any more.
    pub fn is_over(&self) -> bool {
        self.answer.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn left(&self) -> &[Command] {
        self.submitted.commands.get(self.sent..).unwrap_or_default()
    }

    /// How many commands go into a call that is still empty, and their bytes. At least one, however large.
    fn first_piece(&self) -> (usize, usize) {
        if self.left_bytes <= BATCH_BYTES_MAX && self.left().len() <= BATCH_COMMANDS_MAX {
            return (self.left().len(), self.left_bytes);
        }
        let (mut count, mut bytes) = (0, 0);
        for command in self.left().iter().take(BATCH_COMMANDS_MAX) {
            let size = command.size_bytes();
            if count > 0 && bytes + size > BATCH_BYTES_MAX {
                break;
            }
            count += 1;
            bytes += size;
        }
        (count, bytes)
    }

    /// If some commands of its last piece were refused for the sake of the others in the call: they and what came after them
    /// will be sent again, unless something was written after them.
    fn take_back(&mut self, piece: &Range<usize>) {
        let refused = |reply: &Result<Reply, Error>| matches!(reply, Err(Error::ReplyTooLarge));
        let Some(first) = self.replies.iter().skip(piece.start).position(refused).map(|i| piece.start + i) else {
            return;
        };
        let got_bytes: usize = self.replies.iter().take(first).flatten().map(Reply::size_bytes).sum();
        let again = self.submitted.commands().get(first..piece.end).unwrap_or_default();
        // What was refused was not done, be it a write that answers a value.
        let may_be_written = again.iter().zip(self.replies.iter().skip(first));
        let may_be_written = may_be_written.filter(|(command, _)| command.is_write()).any(|(_, reply)| !refused(reply));
        if got_bytes >= FAIR_BYTES || may_be_written {
            return;
        }
        self.left_bytes += again.iter().map(Command::size_bytes).sum::<usize>();
        self.replies.truncate(first);
        self.sent = first;
    }

    /// Answers the caller; what has no reply yet is lost for `reason`.
    pub fn fail(&mut self, reason: &str) {
        let rest = self.submitted.lost(self.replies.len(), self.sent, reason);
        self.replies.extend(rest);
        self.finish();
    }

    /// Answers the caller, `peer` being asked, if its time is over: nothing more of it is sent.
    pub fn expire(&mut self, now: Instant, peer: &str) {
        if self.deadline <= now && !self.is_over() {
            self.fail(&format!("{peer}: no answer within {:?}", self.timeout));
        }
    }

    fn finish(&mut self) {
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(take(&mut self.replies)); // the caller may be gone
        }
    }
}

/// Commands that travel together: pieces of some jobs.
#[derive(Debug)]
pub struct Call {
    pub epoch: Option<Epoch>,
    /// The latest of its jobs' deadlines.
    pub deadline: Instant,
    pieces: Vec<(Job, Range<usize>)>,
}

impl Call {
    /// The requests that it carries parts of, if they are logged or traced. Not each of them once.
    pub fn traces(&self) -> impl Iterator<Item = Trace> + Clone {
        self.jobs().filter_map(|job| job.submitted.trace)
    }

    /// Makes a call to `peer` of what waits, in order, as much as a batch may hold. `None` if nothing waits. Those whose time is
    /// over are told so.
    pub fn assemble(queue: &mut VecDeque<Job>, now: Instant, peer: &str) -> Option<Self> {
        let mut call: Option<Self> = None;
        let (mut commands, mut bytes) = (0, 0);
        while let Some(mut job) = queue.pop_front() {
            job.expire(now, peer);
            if job.is_over() {
                continue;
            }
            let (count, size) = match &call {
                None => job.first_piece(),
                Some(_) => (job.left().len(), job.left_bytes),
            };
            let fits = commands + count <= BATCH_COMMANDS_MAX && bytes + size <= BATCH_BYTES_MAX;
            if call.as_ref().is_some_and(|call| call.epoch != job.epoch || !fits) {
                queue.push_front(job);
                break;
            }
            let range = job.sent..job.sent + count;
            job.sent = range.end;
            job.left_bytes = job.left_bytes.saturating_sub(size);
            commands += count;
            bytes += size;
            let call = call.get_or_insert(Self { epoch: job.epoch, deadline: job.deadline, pieces: Vec::new() });
            call.deadline = call.deadline.max(job.deadline);
            call.pieces.push((job, range));
        }
        call
    }

    /// Those whose commands it carries.
    pub fn jobs(&self) -> impl ExactSizeIterator<Item = &Job> + Clone {
        self.pieces.iter().map(|(job, _)| job)
    }

    pub fn jobs_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.pieces.iter_mut().map(|(job, _)| job)
    }

    /// What is sent, as belonging to `trace`.
    pub fn commands(&self, trace: Option<Trace>) -> Commands {
        let part = |(job, range): &(Job, Range<usize>)| Part::new(Arc::clone(&job.submitted), range.clone());
        Commands::of_parts(self.pieces.iter().map(part).collect(), trace)
    }

    pub fn len(&self) -> usize {
        self.pieces.iter().map(|(_, range)| range.len()).sum()
    }

    /// Gives the replies to the jobs. Those with commands left go back to the head of the queue, and so do those of which
    /// reads were refused because of what the others read: alone, they might fit. If there are too few replies, the call has
    /// failed for `reason`, and so have its jobs.
    pub fn settle(self, replies: Replies, reason: &str, queue: &mut VecDeque<Job>) {
        let mut replies = replies.into_iter();
        let is_shared = self.pieces.len() > 1;
        let mut unfinished = Vec::new();
        for (mut job, range) in self.pieces {
            job.replies.extend(replies.by_ref().take(range.len()));
            if job.replies.len() < range.end {
                job.fail(reason);
                continue;
            }
            if is_shared {
                job.take_back(&range);
            }
            if job.left().is_empty() {
                job.finish();
            } else {
                unfinished.push(job);
            }
        }
        // Who asks for little does not wait for all those who ask for much.
        unfinished.sort_by_key(|job: &Job| job.left().len());
        for job in unfinished.into_iter().rev() {
            queue.push_front(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::record::{Key, Value, Version};
    use crate::service::Error::{Unavailable, Unknown};

    fn get() -> Command {
        Command::Get { key: Key::new("key").unwrap() }
    }

    fn put(bytes: usize) -> Command {
        let (key, value) = (Key::new("key").unwrap(), Value::new(vec![0; bytes]).unwrap());
        Command::Put { key, value, ttl: None, condition: crate::command::Condition::Always }
    }

    const TIMEOUT: Duration = Duration::from_secs(9);

    fn job(epoch: u64, commands: Vec<Command>) -> (Job, oneshot::Receiver<Replies>) {
        let (answer, answered) = oneshot::channel();
        (Job::new(Arc::new(Submitted::new(commands)), Some(Epoch(epoch)), TIMEOUT, Instant::now(), answer), answered)
    }

    fn assemble(queue: &mut VecDeque<Job>) -> Option<Call> {
        Call::assemble(queue, Instant::now(), "peer")
    }

    fn done(count: usize) -> Replies {
        (0..count).map(|i| Ok(Reply::Stored(Version::new(1, i as u64)))).collect()
    }

    #[tokio::test]
    async fn waiting_jobs_travel_together_and_each_gets_its_own_replies() {
        let (a, mut a_answered) = job(1, vec![get(), get()]);
        let (b, mut b_answered) = job(1, vec![put(1)]);
        let mut queue = VecDeque::from([a, b]);
        let call = assemble(&mut queue).unwrap();
        assert_eq!(call.len(), 3);
        call.settle(done(3), "", &mut queue);
        assert_eq!(a_answered.try_recv().unwrap(), done(3)[..2]);
        assert_eq!(b_answered.try_recv().unwrap(), done(3)[2..]);
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn jobs_of_another_epoch_travel_apart() {
        let (a, _a) = job(1, vec![get()]);
        let (b, _b) = job(2, vec![get()]);
        let mut queue = VecDeque::from([a, b]);
        assert_eq!(assemble(&mut queue).unwrap().epoch, Some(Epoch(1)));
        assert_eq!(assemble(&mut queue).unwrap().epoch, Some(Epoch(2)));
        assert!(assemble(&mut queue).is_none());
    }

    #[tokio::test]
    async fn a_large_batch_travels_piece_by_piece_and_a_large_command_alone() {
        let (a, mut answered) = job(1, vec![put(10), put(BATCH_BYTES_MAX), put(10), get()]);
        let mut queue = VecDeque::from([a]);
        for expected in [1, 1, 2] {
            let call = assemble(&mut queue).unwrap();
            assert_eq!(call.len(), expected);
            assert!(assemble(&mut queue).is_none(), "one piece at a time");
            call.settle(done(expected), "", &mut queue);
        }
        assert_eq!(answered.try_recv().unwrap().len(), 4);

        let (a, _answered) = job(1, vec![get(); BATCH_COMMANDS_MAX + 1]);
        let call = assemble(&mut VecDeque::from([a])).unwrap();
        assert_eq!(call.len(), BATCH_COMMANDS_MAX);
    }

    fn read(bytes: usize) -> Result<Reply, Error> {
        let (value, version) = (Value::new(vec![0; bytes]).unwrap(), Version::new(1, 1));
        Ok(Reply::Found(Some(crate::command::Found { value, version, expires_at: None })))
    }

    const TOO_LARGE: Result<Reply, Error> = Err(Error::ReplyTooLarge);

    #[tokio::test]
    async fn reads_refused_for_the_sake_of_others_are_sent_again_the_shortest_first() {
        let (large, mut large_answered) = job(1, vec![get(), get()]);
        let (small, mut small_answered) = job(1, vec![put(1), get(), get()]);
        let (mixed, mut mixed_answered) = job(1, vec![get(), put(1)]);
        let (single, mut single_answered) = job(1, vec![get()]);
        let left_bytes = get().size_bytes();
        let mut queue = VecDeque::from([large, small, mixed, single]);
        let call = assemble(&mut queue).unwrap();
        let stored = done(1).remove(0);
        let replies = [
            &[read(FAIR_BYTES), TOO_LARGE][..],
            &[stored.clone(), TOO_LARGE, read(1)],
            &[TOO_LARGE, stored.clone()],
            &[TOO_LARGE],
        ];
        call.settle(replies.concat(), "", &mut queue);
        assert_eq!(large_answered.try_recv().unwrap()[1], TOO_LARGE, "by itself it was too large");
        assert_eq!(mixed_answered.try_recv().unwrap(), replies[2], "what was written is not written again");
        assert_eq!(
            queue.iter().map(|job| (job.sent, job.left_bytes)).collect::<Vec<_>>(),
            [(0, left_bytes), (1, 2 * left_bytes)]
        );
        let call = assemble(&mut queue).unwrap();
        assert_eq!(call.len(), 3);
        call.settle(vec![read(4), read(2), read(3)], "", &mut queue);
        assert_eq!(small_answered.try_recv().unwrap(), [stored, read(2), read(3)]);
        assert_eq!(single_answered.try_recv().unwrap(), [read(4)]);
    }

    #[tokio::test]
    async fn what_is_sent_twice_counts_once() {
        let (a, mut answered) = job(1, vec![get(), put(BATCH_BYTES_MAX)]);
        let (b, _b_answered) = job(1, vec![get()]);
        let mut queue = VecDeque::from([a, b]);
        assemble(&mut queue).unwrap().settle(vec![TOO_LARGE, read(1)], "", &mut queue);
        let call = assemble(&mut queue).unwrap();
        call.settle(Vec::new(), "gone", &mut queue);
        let unavailable = Err(Unavailable("gone".into()));
        assert_eq!(answered.try_recv().unwrap(), [unavailable.clone(), unavailable], "the write was never sent");
    }

    /// A write that answers a value is refused undone, so it may be sent again, unless another one was done behind it.
    #[tokio::test]
    async fn refused_writes_are_sent_again_too() {
        let take = || {
            let update = crate::command::Update::Take;
            Command::Update { key: Key::new("key").unwrap(), update }
        };
        let (a, _a_answered) = job(1, vec![take(), get()]);
        let (b, mut b_answered) = job(1, vec![take(), take()]);
        let mut queue = VecDeque::from([a, b]);
        let call = assemble(&mut queue).unwrap();
        call.settle(vec![TOO_LARGE, read(1), TOO_LARGE, read(1)], "", &mut queue);
        assert_eq!(b_answered.try_recv().unwrap(), [TOO_LARGE, read(1)], "the second was done");
        assert_eq!(queue.iter().map(|job| job.sent).collect::<Vec<_>>(), [0]);
    }

    #[tokio::test]
    async fn who_travels_alone_is_told_that_it_was_too_large() {
        let (a, mut answered) = job(1, vec![get(), get()]);
        let mut queue = VecDeque::from([a]);
        let call = assemble(&mut queue).unwrap();
        call.settle(vec![read(1), TOO_LARGE], "", &mut queue);
        assert_eq!(answered.try_recv().unwrap(), [read(1), TOO_LARGE]);
    }

    #[tokio::test]
    async fn a_broken_call_leaves_only_delivered_writes_unknown() {
        let (a, mut answered) = job(1, vec![get(), put(BATCH_BYTES_MAX / 2), put(BATCH_BYTES_MAX), get()]);
        let mut queue = VecDeque::from([a]);
        assemble(&mut queue).unwrap().settle(done(1), "gone", &mut queue);
        let (unknown, unavailable) = (Err(Unknown("gone".into())), Err(Unavailable("gone".into())));
        let expected = [done(1)[0].clone(), unknown, unavailable.clone(), unavailable];
        assert_eq!(answered.try_recv().unwrap(), expected);
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn what_its_caller_gave_up_is_not_sent() {
        let (a, dropped) = job(1, vec![put(1)]);
        drop(dropped);
        assert!(assemble(&mut VecDeque::from([a])).is_none());
    }

    #[tokio::test]
    async fn what_waited_for_too_long_is_not_sent_and_not_unknown() {
        let (mut a, mut answered) = job(1, vec![put(1), get()]);
        let deadline = a.deadline;
        a.expire(deadline - Duration::from_nanos(1), "peer");
        assert!(!a.is_over());
        assert!(Call::assemble(&mut VecDeque::from([a]), deadline, "peer").is_none());
        let unavailable = Err(Unavailable("peer: no answer within 9s".into()));
        assert_eq!(answered.try_recv().unwrap(), [unavailable.clone(), unavailable]);
    }

    #[tokio::test]
    async fn a_write_whose_answer_is_late_is_unknown_and_the_rest_is_not_sent() {
        let (late, mut answered) = job(1, vec![put(1), get(), put(BATCH_BYTES_MAX)]);
        let (mut other, mut other_answered) = job(1, vec![put(1), get()]);
        other.deadline += TIMEOUT;
        let now = late.deadline;
        let mut queue = VecDeque::from([late, other]);
        let mut call = assemble(&mut queue).unwrap();
        call.jobs_mut().for_each(|job| job.expire(now, "peer"));
        let reason = || "peer: no answer within 9s".to_owned();
        let expected = [Err(Unknown(reason())), Err(Unavailable(reason())), Err(Unavailable(reason()))];
        assert_eq!(answered.try_recv().unwrap(), expected);
        call.settle(done(4), "", &mut queue);
        assert_eq!(other_answered.try_recv().unwrap(), done(4)[2..], "answers that nobody waits for are nobody else's");
        assert!(assemble(&mut queue).is_none());
    }
}
