//! The replies to one request, which may come with several batches.

use crate::command::Reply;
use crate::protocol::redis::Shape;
use crate::rpc::answers::Held;

/// What one request may answer in all.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What has come of the replies to a request. Errors are in the words that the client reads.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    count: usize,
    answer: Answer,
    bytes: usize,
    /// The first error: it is the answer, whatever else comes.
    failed: Option<String>,
    /// What the replies take of the budget.
    pub held: Vec<Held>,
}

/// All replies of a request, none of which is an error.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Those that are told one by one.
    pub replies: Vec<Reply>,
    /// How many others were done.
    pub done: i64,
}

impl Gathered {
    /// How many have come.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether what comes will not be told.
    pub fn is_given_up(&self) -> bool {
        self.failed.is_some()
    }

    pub fn add(&mut self, shape: Shape, reply: Result<Reply, String>) {
        self.count += 1;
        match reply {
            Err(words) => self.give_up(words),
            Ok(_) if self.is_given_up() => {}
            Ok(reply) if matches!(shape, Shape::Sum { .. } | Shape::AllStored { .. }) => {
                self.answer.done += i64::from(reply == Reply::Done(true));
            }
            Ok(reply) => {
                self.bytes += reply.size_bytes();
                self.answer.replies.push(reply);
                if self.bytes > REPLY_BYTES_MAX && self.count > 1 {
                    self.give_up("ERR the answer is too large: ask for fewer keys at a time".to_owned());
                }
            }
        }
    }

    /// Answers with an error, unless there is one already, and drops what has come.
    pub fn give_up(&mut self, words: String) {
        self.failed.get_or_insert(words);
        self.answer = Answer::default();
        self.held.clear();
    }

    /// What to answer; the next request begins anew. What is held stays.
    ///
    /// # Errors
    /// The first error in the replies.
    pub fn finish(&mut self) -> Result<Answer, String> {
        (self.count, self.bytes) = (0, 0);
        let answer = std::mem::take(&mut self.answer);
        self.failed.take().map_or(Ok(answer), Err)
    }
}
