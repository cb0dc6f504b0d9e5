//! The one seam between doors and engines. A remote shard, a local shard and the router are all a [`Service`]: a door
//! can't tell which it talks to.

use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::{Command, Reply};
use crate::record::{Epoch, VALUE_BYTES_MAX};

/// Most commands in one batch; larger ones are split by whoever makes them.
pub const BATCH_COMMANDS_MAX: usize = 4096;
/// Most bytes of commands in one batch, unless a single command is larger (R9).
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// What a shard reads for one batch takes about so many bytes at most: the largest value and some more. Reads beyond it are
/// refused with [`Error::ReplyTooLarge`] (R9).
pub const REPLIES_BYTES_MAX: usize = VALUE_BYTES_MAX + BATCH_BYTES_MAX;
/// Most keys in a page: of the longest keys, they still fit a frame.
pub const PAGE_KEYS_MAX: usize = 4096;

/// Commands that travel together. Commands on the same key take effect in their order; others in any order. A batch
/// is not a transaction: each command succeeds or fails for itself.
#[derive(Debug, Clone)]
pub struct Batch {
    pub commands: Vec<Command>,
    /// The map that the sender split the batch by; `None` from clients, who know no map.
    pub epoch: Option<Epoch>,
    /// How long the sender waits for the answer.
    pub timeout: Duration,
}

/// One outcome for each command of the batch, in its order.
pub type Replies = Vec<Result<Reply, Error>>;

/// Something that executes commands.
pub trait Service: Send + Sync + 'static {
    /// Answers every command, within about `batch.timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the answer only: what has begun is finished.
    fn execute(&self, batch: Batch) -> impl Future<Output = Replies> + Send;

    /// Answers a read at once, as a batch of it alone would be answered. `None` if that takes any waiting, is an error, or is not
    /// for this service to do: then nothing has been counted, and a batch is to be made of it.
    fn answer_now(&self, _command: &Command) -> Option<Reply> {
        None
    }
}

impl<S: Service> Service for std::sync::Arc<S> {
    fn execute(&self, batch: Batch) -> impl Future<Output = Replies> + Send {
        S::execute(self, batch)
    }

    fn answer_now(&self, command: &Command) -> Option<Reply> {
        S::answer_now(self, command)
    }
}

/// Why a command was not answered. None of them means "not found".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// Not done: memory is full of records that the tier has not taken yet (R15).
    #[error("busy: {0}")]
    Busy(String),
    /// Not done: whoever could do it can't be reached, or can't serve now.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// A write whose outcome nobody knows: it may have happened or not.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Not done: the sender's slot map is not this shard's.
    #[error("wrong shard: {reason} (this shard is at epoch {epoch})")]
    WrongShard { epoch: Epoch, reason: String },
    /// Not done: a read whose answer, with those of its batch, would take too much memory. In a smaller batch it will fit.
    #[error("the answers to this batch are too large: ask for fewer keys at a time")]
    ReplyTooLarge,
    /// Not done, and never will be.
    #[error("{0}")]
    Invalid(String),
}

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Client,
    Shard,
    Tier,
}

impl Error {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Invalid(_) => Fault::Client,
            Self::Busy(_) => Fault::Tier,
            Self::Unavailable(_) | Self::Unknown(_) | Self::WrongShard { .. } | Self::ReplyTooLarge => Fault::Shard,
        }
    }

    /// Whether the same command may succeed later. A write that ended [`Error::Unknown`] may, but it may be done twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy(_) | Self::Unavailable(_) | Self::WrongShard { .. } | Self::ReplyTooLarge => true,
            Self::Unknown(_) | Self::Invalid(_) => false,
        }
    }
}
