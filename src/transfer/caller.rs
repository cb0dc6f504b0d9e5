//! Asks a service until it has answered: what is busy or away is asked again, with pauses, and the person is told.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::command::{Command, Cursor, Found, Reply};
use crate::progress::Progress;
use crate::protocol::line::printable;
use crate::record::{Key, Timestamp};
use crate::service::{Batch, Error, Replies, Service};

use super::{Context, Failure};

/// What a service is given beyond its timeout before we stop waiting for it.
const GRACE: Duration = Duration::from_secs(1);
/// Between two lines that tell of the same trouble.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// How long the first question is asked: a wrong address should not take the whole patience.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of values that a batch of reads aims at. What it gets may be more: sizes are known from the last batch only.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Keys a batch: few enough that a batch of the largest values, after one of small ones, fits memory.
const READ_KEYS_MAX: usize = 256;
const READ_KEYS_FIRST: usize = 8;

pub(super) struct Caller<S> {
    service: S,
    context: Context,
    /// How many keys the next batch of reads has.
    read_keys: usize,
}

enum Answer {
    Reply(Reply),
    TooLarge,
    /// There was no command any more.
    Skipped,
}

impl<S: Service> Caller<S> {
    pub fn new(service: S, context: Context) -> Self {
        Self { service, context, read_keys: READ_KEYS_FIRST }
    }

    pub fn now(&self) -> Timestamp {
        self.context.clock.now()
    }

    pub fn progress(&mut self) -> &mut Progress {
        &mut self.context.progress
    }

    /// How many records there are, about. To be asked first: it fails sooner than the others do.
    pub async fn count(&mut self) -> Result<u64, Failure> {
        let patience = self.context.patience;
        self.context.patience = patience.min(FIRST_PATIENCE);
        let answer = self.one(Command::Count).await;
        self.context.patience = patience;
        match answer? {
            Reply::Count(count) => Ok(count),
            _ => Err(unexpected()),
        }
    }

    /// A page of keys, and where the next one begins.
    pub async fn scan(&mut self, cursor: &Cursor, limit: u32) -> Result<(Vec<Key>, Option<Cursor>), Failure> {
        let Reply::Page { keys, next } = self.one(Command::Scan { cursor: cursor.clone(), limit }).await? else {
            return Err(unexpected());
        };
        match next {
            // It would keep us here for ever.
            Some(next) if (next.slot, &next.after) <= (cursor.slot, &cursor.after) => {
                Err(Failure::Refused("the scan does not advance".to_owned()))
            }
            next => Ok((keys, next)),
        }
    }

    /// The records of the first of these keys, at least of one: as many as are fit to be held in memory at once.
    pub async fn get(&mut self, keys: &[Key]) -> Result<Vec<Option<Found>>, Failure> {
        let mut backoff = Backoff::new();
        let deadline = Instant::now() + self.context.patience;
        loop {
            let asked = self.read_keys.min(keys.len());
            let answers = self.ask(asked, |i| keys.get(i).map(|key| Command::Get { key: key.clone() })).await?;
            let mut found = Vec::with_capacity(asked);
            let mut bytes = 0;
            for answer in answers {
                match answer {
                    Answer::Reply(Reply::Found(reply)) => {
                        bytes += reply.as_ref().map_or(0, |found| found.value.as_bytes().len());
                        found.push(reply);
                    }
                    Answer::Reply(_) => return Err(unexpected()),
                    Answer::TooLarge | Answer::Skipped => break,
                }
            }
            if found.len() == asked {
                let fit = READ_BYTES.saturating_mul(asked).checked_div(bytes).unwrap_or(READ_KEYS_MAX);
                self.read_keys = fit.clamp(1, (asked * 2).max(self.read_keys).min(READ_KEYS_MAX));
            } else {
                self.read_keys = (asked / 2).max(1);
            }
            if !found.is_empty() || keys.is_empty() {
                return Ok(found);
            }
            // Alone it always fits, unless others ask for much at this moment.
            if asked == 1 {
                if Instant::now() >= deadline {
                    return Err(Failure::Unfinished(Error::ReplyTooLarge.to_string()));
                }
                self.pause(&mut backoff).await?;
            }
        }
    }

    /// Carries out `count` writes, which `write` makes; those that it no longer makes have no reply. They are made anew for each
    /// try, since a time to live goes on.
    ///
    /// A write of unknown outcome is done again, which nobody may do to any write (R4), but may to these: they put a fixed value
    /// that ends at a fixed time, so that twice is as once. If somebody else has written the key in between, it is overwritten,
    /// as it would have been had the first try come a moment later: an import promises no order with the writes of others.
    pub async fn write(
        &mut self,
        count: usize,
        write: impl Fn(usize, Timestamp) -> Option<Command>,
    ) -> Result<Vec<Option<Reply>>, Failure> {
        let clock = self.context.clock.clone();
        let answers = self.ask(count, |i| write(i, clock.now())).await?;
        let reply = |answer| match answer {
            Answer::Reply(reply) => Ok(Some(reply)),
            Answer::Skipped => Ok(None),
            Answer::TooLarge => Err(unexpected()),
        };
        answers.into_iter().map(reply).collect()
    }

    async fn one(&mut self, command: Command) -> Result<Reply, Failure> {
        match self.ask(1, |_| Some(command.clone())).await?.pop() {
            Some(Answer::Reply(reply)) => Ok(reply),
            Some(Answer::TooLarge | Answer::Skipped) | None => Err(unexpected()),
        }
    }

    /// Asks until every command is answered.
    ///
    /// # Errors
    /// [`Failure::Unfinished`] if nothing was answered for as long as the patience, or it was interrupted;
    /// [`Failure::Refused`] if a command is invalid.
    async fn ask(&mut self, count: usize, command: impl Fn(usize) -> Option<Command>) -> Result<Vec<Answer>, Failure> {
        let mut answers: Vec<Option<Answer>> = (0..count).map(|_| None).collect();
        let mut backoff = Backoff::new();
        let mut deadline = Instant::now() + self.context.patience;
        let mut tell_at = None;
        loop {
            let (mut asked, mut commands) = (Vec::new(), Vec::new());
            for (i, place) in answers.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
                match command(i) {
                    Some(command) => {
                        asked.push(place);
                        commands.push(command);
                    }
                    None => *place = Some(Answer::Skipped),
                }
            }
            if commands.is_empty() {
                return Ok(answers.into_iter().flatten().collect());
            }
            let mut replies = self.execute(commands.clone()).await?.into_iter();
            let (mut trouble, mut is_answered) = (None, false);
            for (place, command) in asked.into_iter().zip(&commands) {
                match replies.next() {
                    Some(Ok(reply)) => *place = Some(Answer::Reply(reply)),
                    Some(Err(Error::ReplyTooLarge)) => *place = Some(Answer::TooLarge),
                    Some(Err(error @ Error::Invalid(_))) => return Err(refused(command, &error)),
                    Some(Err(
                        error @ (Error::Busy(_) | Error::Unavailable(_) | Error::Unknown(_) | Error::WrongShard { .. }),
                    )) => trouble = Some(error.to_string()),
                    None => trouble = Some("no answer in time".to_owned()),
                }
                is_answered |= place.is_some();
            }
            let Some(trouble) = trouble else { continue };
            let trouble = printable(trouble.as_bytes(), 1024);
            let now = Instant::now();
            if is_answered {
                (backoff, deadline) = (Backoff::new(), now + self.context.patience);
            }
            if now >= deadline {
                let patience = humantime::format_duration(self.context.patience);
                return Err(Failure::Unfinished(format!("given up after {patience}: {trouble}")));
            }
            if tell_at.is_none_or(|at| now >= at) {
                self.context.progress.say(&format!("{trouble}: trying again"));
                tell_at = Some(now + TELL_INTERVAL);
            }
            self.pause(&mut backoff).await?;
        }
    }

    /// May answer too little.
    async fn execute(&self, commands: Vec<Command>) -> Result<Replies, Failure> {
        let timeout = self.context.timeout;
        let batch = Batch { commands, epoch: None, timeout };
        let answer = tokio::time::timeout(timeout.saturating_add(GRACE), self.service.execute(batch));
        tokio::select! {
            biased;
            () = self.context.stop.cancelled() => Err(interrupted()),
            replies = answer => Ok(replies.unwrap_or_default()),
        }
    }

    async fn pause(&self, backoff: &mut Backoff) -> Result<(), Failure> {
        backoff.wait(&self.context.stop).await.map_err(|_| interrupted())
    }

    /// Waits for something else, or until it is to end.
    pub async fn or_stop<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        self.context.stop.run_until_cancelled(work).await.ok_or_else(interrupted)
    }
}

fn interrupted() -> Failure {
    Failure::Unfinished("interrupted".to_owned())
}

fn refused(command: &Command, error: &Error) -> Failure {
    let text = printable(error.to_string().as_bytes(), 1024);
    Failure::Refused(match command.key() {
        Some(key) => format!("`{}`: {text}", printable(key.as_bytes(), 64)),
        None => text,
    })
}

pub(super) fn unexpected() -> Failure {
    Failure::Refused("the answer does not fit the question".to_owned())
}
