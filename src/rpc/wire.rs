//! What travels between nodes: the tarpc service and its arguments. The order of methods, arguments and variants is
//! the format (`docs/formats.md`): new ones go to the end, and a change of one that exists is a new
//! [`VERSION`](crate::rpc::hello::VERSION).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cluster::{Assignment, ControlError, Fence, MapView, MemberStatus, ShardName};
use crate::command::Command;
use crate::record::Epoch;
use crate::request::Trace;
use crate::rpc::answers::Held;
use crate::rpc::queue::Submitted;
use crate::service::{BATCH_COMMANDS_MAX, Replies};
use crate::slots::SlotSet;

/// A batch's timeout counts as this if it is longer.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// A node, as another node calls it.
#[tarpc::service(derive = [Serialize, Deserialize])]
pub trait Node {
    /// Executes a batch, split by the map of `epoch`.
    async fn execute(epoch: Option<Epoch>, timeout_ms: u32, commands: Commands) -> Answer;

    /// What did not fit the frame of an earlier answer.
    async fn more(token: u64) -> Answer;

    async fn status() -> Result<MemberStatus, ControlError>;
    async fn assign(assignment: Assignment) -> Result<MemberStatus, ControlError>;
    async fn fences() -> Result<Vec<Fence>, ControlError>;
    async fn retire(expected: Fence, slots: SlotSet, epoch: Epoch) -> Result<bool, ControlError>;
    async fn resign(list: Vec<ShardName>) -> Result<(), ControlError>;
    async fn inform(map: MapView) -> Result<(), ControlError>;
}

/// The replies to a batch, in its order, or as many of them as fit a frame.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    pub replies: Replies,
    /// Ask [`Node::more`] for the rest with this; `None` when this is all.
    pub more: Option<u64>,
    /// At its sender: what it takes of the budget, unless that is little.
    #[serde(skip)]
    pub held: Option<Arc<Held>>,
}

/// The commands of a call. The sender sends parts of its callers' batches, which are neither moved nor copied; the
/// receiver gets them as one.
#[derive(Debug, Clone)]
pub struct Commands {
    made_of: MadeOf,
    /// What they belong to. Travels in the envelope.
    pub trace: Option<Trace>,
}

#[derive(Debug, Clone)]
enum MadeOf {
    Parts(Vec<Part>),
    Whole(Vec<Command>),
}

/// Some consecutive commands of a batch.
#[derive(Debug, Clone)]
pub struct Part {
    submitted: Arc<Submitted>,
    range: Range<usize>,
}

impl Part {
    pub(in crate::rpc) fn new(submitted: Arc<Submitted>, range: Range<usize>) -> Self {
        Self { submitted, range }
    }

    fn commands(&self) -> &[Command] {
        self.submitted.commands().get(self.range.clone()).unwrap_or_default()
    }
}

impl Commands {
    pub(in crate::rpc) fn of_parts(parts: Vec<Part>, trace: Option<Trace>) -> Self {
        Self { made_of: MadeOf::Parts(parts), trace }
    }

    fn whole(commands: Vec<Command>) -> Self {
        Self { made_of: MadeOf::Whole(commands), trace: None }
    }

    pub fn size_bytes(&self) -> usize {
        match &self.made_of {
            MadeOf::Parts(parts) => parts.iter().flat_map(Part::commands).map(Command::size_bytes).sum(),
            MadeOf::Whole(commands) => commands.iter().map(Command::size_bytes).sum(),
        }
    }

    pub fn into_vec(self) -> Vec<Command> {
        match self.made_of {
            MadeOf::Parts(parts) => parts.iter().flat_map(Part::commands).cloned().collect(),
            MadeOf::Whole(commands) => commands,
        }
    }
}

impl Serialize for Commands {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.made_of {
            MadeOf::Parts(parts) => {
                let len = parts.iter().map(|part| part.commands().len()).sum();
                let mut seq = serializer.serialize_seq(Some(len))?;
                for command in parts.iter().flat_map(Part::commands) {
                    seq.serialize_element(command)?;
                }
                seq.end()
            }
            MadeOf::Whole(commands) => commands.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Commands {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(CommandsVisitor).map(Self::whole)
    }
}

/// Refuses more than [`BATCH_COMMANDS_MAX`]: the shortest command has one byte on the wire and a hundred in memory.
struct CommandsVisitor;

impl<'de> Visitor<'de> for CommandsVisitor {
    type Value = Vec<Command>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {BATCH_COMMANDS_MAX} commands")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Command>, A::Error> {
        let mut commands = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(BATCH_COMMANDS_MAX));
        while let Some(command) = seq.next_element()? {
            if commands.len() == BATCH_COMMANDS_MAX {
                return Err(A::Error::invalid_length(BATCH_COMMANDS_MAX + 1, &self));
            }
            commands.push(command);
        }
        Ok(commands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Key;

    #[test]
    fn parts_travel_as_one_sequence() {
        let get = |key: &str| Command::Get { key: Key::new(key.to_owned()).unwrap() };
        let first = Arc::new(Submitted::new(vec![get("a"), get("b"), get("c")]));
        let second = Arc::new(Submitted::new(vec![Command::Count]));
        let sent = Commands::of_parts(vec![Part::new(first, 1..3), Part::new(second, 0..1)], None);
        let bytes = postcard::to_stdvec(&sent).unwrap();
        let received: Commands = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(received.size_bytes(), sent.size_bytes());
        assert_eq!(received.into_vec(), [get("b"), get("c"), Command::Count]);
    }

    #[test]
    fn more_commands_than_a_batch_may_have_are_refused() {
        let encode = |len| postcard::to_stdvec(&Commands::whole(vec![Command::Count; len])).unwrap();
        assert!(postcard::from_bytes::<Commands>(&encode(BATCH_COMMANDS_MAX)).is_ok());
        assert!(postcard::from_bytes::<Commands>(&encode(BATCH_COMMANDS_MAX + 1)).is_err());
    }
}
