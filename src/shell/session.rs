//! Runs requests against a service and writes what comes of them, batch by batch.

use std::io;
use std::iter::Peekable;
use std::time::Duration;

use crate::command::{Command, Cursor, Reply};
use crate::protocol::line::{Request, Show};
use crate::service::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, Batch, Error, Replies, Service};

use super::Status;
use super::failures::describe;
use super::help;
use super::output::Output;
use super::render::{Outcome, Renderer, Style, keys, line};

/// Keys in a page of KEYS.
const KEYS_PAGE: u32 = 1000;
/// Rendered bytes that are worth writing before the batch is through.
const WRITE_BYTES: usize = 1024 * 1024;
/// What a service is given beyond its timeout before we stop waiting for it.
const GRACE: Duration = Duration::from_secs(1);

pub(super) struct Session<S> {
    pub service: S,
    pub timeout: Duration,
    pub output: Output,
    pub style: Style,
    pub errors: Errors,
}

/// Where errors are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errors {
    /// `error: …` on standard error.
    Apart,
    /// `(error) …` among the replies.
    Inline,
}

/// What a request did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Done(Status),
    Exit,
}

impl<S: Service> Session<S> {
    /// Runs one request and writes its replies and errors.
    ///
    /// # Errors
    /// If standard output can't be written to; what the service answers is none.
    ///
    /// # Cancel safety
    /// Dropping the future stops between two batches or gives up the answer of one, which may then have been done.
    pub async fn run(&mut self, request: Request) -> io::Result<Step> {
        match request {
            Request::Run { commands, show } => self.commands(commands, show).await.map(Step::Done),
            Request::Keys => self.keys().await.map(Step::Done),
            Request::Help(spec) => {
                let mut out = Vec::new();
                help::render(spec, &mut out);
                self.output.out(out).await?;
                Ok(Step::Done(Status::Ok))
            }
            Request::Exit => Ok(Step::Exit),
        }
    }

    /// Tells an error, and that it was one.
    ///
    /// # Errors
    /// If standard output can't be written to.
    pub async fn fail(&mut self, error: &str) -> io::Result<Step> {
        let mut bytes = Vec::new();
        match self.errors {
            Errors::Apart => {
                line(&format!("error: {error}"), &mut bytes);
                self.output.err(bytes).await?;
            }
            Errors::Inline => {
                line(&format!("(error) {error}"), &mut bytes);
                self.output.out(bytes).await?;
            }
        }
        Ok(Step::Done(Status::Failed))
    }

    async fn commands(&mut self, commands: Vec<Command>, show: Show) -> io::Result<Status> {
        let mut renderer = Renderer::new(show, self.style, commands.len());
        let mut out = Vec::new();
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let batch = next_batch(&mut commands);
            let mut replies = self.execute(batch.clone()).await;
            for (i, command) in batch.iter().enumerate() {
                let mut left = batch.len();
                while left > 1 && replies.get(i) == Some(&Err(Error::ReplyTooLarge)) {
                    left = self.ask_again(&batch, i, left, &mut replies).await;
                }
                let reply = replies.get_mut(i).map(|reply| std::mem::replace(reply, Err(silence(command))));
                renderer.push(command, reply.unwrap_or_else(|| Err(silence(command))), &mut out);
                if out.len() >= WRITE_BYTES {
                    self.output.out(std::mem::take(&mut out)).await?;
                }
            }
        }
        let Outcome { status, errors } = renderer.finish(&mut out);
        self.output.out(out).await?;
        for error in errors {
            self.fail(&error).await?;
        }
        Ok(status)
    }

    /// Asks again for what was too large beside the others, from place `i` on: for all of it if that are fewer than `before`,
    /// and else for the first, which fits alone. Answers for how many it asked.
    async fn ask_again(&self, batch: &[Command], i: usize, before: usize, replies: &mut Replies) -> usize {
        let refused = replies.iter().enumerate().skip(i).filter(|(_, reply)| **reply == Err(Error::ReplyTooLarge));
        let mut places: Vec<usize> = refused.map(|(place, _)| place).collect();
        if places.len() >= before {
            places.truncate(1);
        }
        let commands: Vec<Command> = places.iter().filter_map(|&place| batch.get(place).cloned()).collect();
        let mut again = self.execute(commands).await.into_iter();
        for &place in &places {
            if let (Some(reply), Some(command)) = (replies.get_mut(place), batch.get(place)) {
                *reply = again.next().unwrap_or_else(|| Err(silence(command)));
            }
        }
        places.len()
    }

    async fn keys(&mut self) -> io::Result<Status> {
        let mut cursor = Cursor::START;
        let mut shown = 0;
        let error = loop {
            let command = Command::Scan { cursor: cursor.clone(), limit: KEYS_PAGE };
            let silent = silence(&command);
            let reply = self.execute(vec![command]).await.into_iter().next();
            let (page, next) = match reply {
                Some(Ok(Reply::Page { keys, next })) => (keys, next),
                Some(Ok(_)) => break "the answer does not fit the question".to_owned(),
                Some(Err(error)) => break describe(&error),
                None => break describe(&silent),
            };
            let mut out = Vec::new();
            keys(self.style, &page, shown, &mut out);
            shown += page.len() as u64;
            match next {
                None if shown == 0 && self.style == Style::Typed => line("(empty)", &mut out),
                None | Some(_) => {}
            }
            self.output.out(out).await?;
            match next {
                None => return Ok(Status::Ok),
                // A cursor that stands still would keep us here for ever.
                Some(next) if (next.slot, &next.after) <= (cursor.slot, &cursor.after) => {
                    break "the scan does not advance".to_owned();
                }
                Some(next) => cursor = next,
            }
        };
        self.fail(&error).await?;
        Ok(Status::Failed)
    }

    /// May answer too little: see [`silence`].
    async fn execute(&self, commands: Vec<Command>) -> Replies {
        let batch = Batch { commands, epoch: None, timeout: self.timeout };
        let answer = tokio::time::timeout(self.timeout.saturating_add(GRACE), self.service.execute(batch));
        answer.await.unwrap_or_default()
    }
}

/// What is known of a command that got no answer.
fn silence(command: &Command) -> Error {
    let text = "no answer in time".to_owned();
    if command.is_write() { Error::Unknown(text) } else { Error::Unavailable(text) }
}

/// As many commands as a batch may hold, at least one if there is one.
fn next_batch(commands: &mut Peekable<impl Iterator<Item = Command>>) -> Vec<Command> {
    let mut batch: Vec<Command> = Vec::new();
    let mut bytes = 0;
    let fits = |count: usize, bytes: usize| count == 0 || (count < BATCH_COMMANDS_MAX && bytes <= BATCH_BYTES_MAX);
    while let Some(command) = commands.next_if(|command| fits(batch.len(), bytes + command.size_bytes())) {
        bytes += command.size_bytes();
        batch.push(command);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Condition;
    use crate::record::{Key, Value};

    fn put(key: String, value_bytes: usize) -> Command {
        let value = Value::new(vec![0; value_bytes]).unwrap();
        Command::Put { key: Key::new(key).unwrap(), value, ttl: None, condition: Condition::Always }
    }

    fn batch_sizes(commands: Vec<Command>) -> Vec<usize> {
        let mut commands = commands.into_iter().peekable();
        let mut sizes = Vec::new();
        while commands.peek().is_some() {
            sizes.push(next_batch(&mut commands).len());
        }
        sizes
    }

    #[test]
    fn batches_are_bounded_in_commands_and_in_bytes() {
        let small = (0..BATCH_COMMANDS_MAX * 2 + 1).map(|i| put(i.to_string(), 0)).collect();
        assert_eq!(batch_sizes(small), [BATCH_COMMANDS_MAX, BATCH_COMMANDS_MAX, 1]);
        let half = (0..3).map(|i| put(i.to_string(), BATCH_BYTES_MAX / 2 - 100)).collect();
        assert_eq!(batch_sizes(half), [2, 1]);
        let large = (0..3).map(|i| put(i.to_string(), BATCH_BYTES_MAX * 2)).collect();
        assert_eq!(batch_sizes(large), [1, 1, 1]);
    }
}
