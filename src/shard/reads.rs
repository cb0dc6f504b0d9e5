//! The reads of a batch that memory could not answer on the spot: they wait for the tier together, as one.

use tokio::time::Instant;

use super::batch::{Waiting, is_refusable};
use super::core::{Core, Serving};
use super::group::Answered;
use super::replies::ReplyRoom;
use crate::command::{Command, Reply};
use crate::record::Key;
use crate::service::Error;

impl Core {
    /// Whether all that waits are reads of a key that the tier may answer, so that their order does not matter.
    pub fn may_read_together(&self, waiting: &[Waiting]) -> bool {
        let is_read = |command: &Command| match command {
            Command::Get { .. } | Command::Exists { .. } | Command::Ttl { .. } => true,
            Command::Put { .. }
            | Command::Delete { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::Scan { .. }
            | Command::Count
            | Command::Stats
            | Command::Explain { .. }
            | Command::Update { .. }
            | Command::Move { .. }
            | Command::PutAllAbsent { .. } => false,
        };
        waiting.iter().all(|(_, command)| is_read(command)) && self.check_rows().is_ok()
    }

    /// Reads keys, as many at a time as a load takes: what they are is kept until the last of them is known, and values may be large.
    pub async fn read_together(
        &self,
        serving: &Serving,
        reads: Vec<Waiting>,
        replies: &ReplyRoom,
        deadline: Instant,
    ) -> Vec<Answered> {
        let mut answers = Vec::with_capacity(reads.len());
        let mut reads = reads.into_iter();
        while !reads.as_slice().is_empty() {
            let run: Vec<Waiting> = reads.by_ref().take(self.loader.keys_max()).collect();
            self.read_run(serving, run, replies, deadline, &mut answers).await;
        }
        answers
    }

    async fn read_run(
        &self,
        serving: &Serving,
        run: Vec<Waiting>,
        replies: &ReplyRoom,
        deadline: Instant,
        answers: &mut Vec<Answered>,
    ) {
        let refusal = |command: &Command| {
            let refused = (is_refusable(command) && replies.is_over()).then_some(Error::ReplyTooLarge);
            refused.or_else(|| serving.check_slot(command.key()?).err())
        };
        let mut open = Vec::with_capacity(run.len());
        for (place, command) in run {
            match refusal(&command) {
                Some(error) => answers.push((place, Err(error))),
                None => open.push((place, command)),
            }
        }
        let keys: Vec<&Key> = open.iter().filter_map(|(_, command)| command.key()).collect();
        self.counters.misses.add(keys.len() as u64); // or hits that have to wait for the tier, which is as slow
        let now = self.clock.now();
        let are_written: Vec<bool> = keys.iter().map(|key| self.latches.is_held(key)).collect();
        let known = self.loader.load_all(self, &keys, now, deadline).await;
        for (((place, command), known), is_written) in open.into_iter().zip(known).zip(are_written) {
            let reply = match known {
                _ if is_refusable(&command) && replies.is_over() => Err(Error::ReplyTooLarge),
                Ok(known) => self.tell(command, known, now, is_written, deadline).await,
                Err(error) => Err(error),
            };
            replies.add(reply.as_ref().map_or(0, Reply::size_bytes));
            answers.push((place, reply));
        }
    }
}
