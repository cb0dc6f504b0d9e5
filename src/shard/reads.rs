//! The reads of a batch that memory could not answer on the spot: they wait for the tier together, as one.

use tokio::time::Instant;

use super::batch::Waiting;
use super::core::{Core, Serving};
use super::group::Answered;
use super::replies::ReplyRoom;
use crate::command::{Command, Reply};
use crate::record::Key;
use crate::store::Known;

/// Whether a command reads a key, and does nothing else.
fn is_read((_, command): &Waiting) -> bool {
    matches!(command, Command::Get { .. } | Command::Exists { .. } | Command::Ttl { .. })
}

impl Core {
    /// Counts the reads that wait as misses, or hits that have to wait, which are as slow.
    pub fn note_misses(&self, waiting: &[Waiting]) {
        self.counters.misses.add(waiting.iter().filter(|waiting| is_read(waiting)).count() as u64);
    }

    /// Whether all that waits are reads of a key that the tier may answer, so that their order does not matter.
    pub fn may_read_together(&self, waiting: &[Waiting]) -> bool {
        waiting.iter().all(is_read) && self.check_rows().is_ok()
    }

    /// Reads keys, as many at a time as a load takes. Returns those that have to be read by themselves too: they wait for more than
    /// the tier, or there was no room to keep what they are until the last of them was known (R9).
    pub async fn read_together(
        &self,
        serving: &Serving,
        reads: Vec<Waiting>,
        replies: &ReplyRoom,
        deadline: Instant,
    ) -> (Vec<Answered>, Vec<Waiting>) {
        let (mut answers, mut others) = (Vec::with_capacity(reads.len()), Vec::new());
        let mut reads = reads.into_iter();
        while !reads.as_slice().is_empty() {
            let run = reads.by_ref().take(self.loader.keys_max());
            let (run, elsewhere): (Vec<Waiting>, Vec<Waiting>) =
                run.partition(|(_, command)| command.key().is_some_and(|key| serving.check_slot(key).is_ok()));
            others.extend(elsewhere);
            self.read_run(run, replies, deadline, &mut answers, &mut others).await;
        }
        (answers, others)
    }

    async fn read_run(
        &self,
        run: Vec<Waiting>,
        replies: &ReplyRoom,
        deadline: Instant,
        answers: &mut Vec<Answered>,
        others: &mut Vec<Waiting>,
    ) {
        if replies.is_over() {
            others.extend(run);
            return;
        }
        let keys: Vec<&Key> = run.iter().filter_map(|(_, command)| command.key()).collect();
        let now = self.clock.now();
        let are_written: Vec<bool> = keys.iter().map(|key| self.latches.is_held(key)).collect();
        let known = self.loader.load_all(self, &keys, now, deadline).await;
        for (((place, command), known), is_written) in run.into_iter().zip(known).zip(are_written) {
            // As when one is read by itself, which then goes on to wait.
            let must_wait = |known: &Known| {
                known.found.is_none() && is_written || known.unspilled.is_some() && self.is_write_through()
            };
            let reply = match known {
                Some(Ok(known)) if !must_wait(&known) && !replies.is_over() => {
                    Self::reply_read(&command, known.found, now)
                }
                Some(Err(error)) => Err(error),
                Some(Ok(_)) | None => {
                    others.push((place, command));
                    continue;
                }
            };
            replies.add(reply.as_ref().map_or(0, Reply::size_bytes));
            answers.push((place, reply));
        }
    }
}
