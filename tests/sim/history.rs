//! What was asked of each key and answered, as seen at the shard's door: between delivery and answer an operation takes effect,
//! once. What came back as "not done" is left out, so that it counts as a lie if it was; what never came back stays open for
//! ever.

use overspill::command::{Expiry, Reply};
use overspill::record::Version;
use overspill::service::Error;

/// Names a written value: unique in a run.
pub type ValueId = u64;

/// A point in the one order of everything that happened.
pub type Moment = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Get,
    Put { value: ValueId, ttl_ms: Option<u64> },
    PutAbsent { value: ValueId, ttl_ms: Option<u64> },
    Cas { value: ValueId, expected: Version },
    Delete,
    Exists,
    Ttl,
    Expire { ttl_ms: u64 },
    Persist,
    Swap { value: ValueId, ttl_ms: Option<u64> },
    Take,
    Add { by: u64 },
}

/// How often an addition of its own place is part of a sum. See [`crate::world::World::next_addition`].
pub fn additions_in(sum: u64, by: u64) -> u64 {
    sum / by % 4
}

impl Ask {
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::Exists | Self::Ttl)
    }

    pub fn value(self) -> Option<ValueId> {
        match self {
            Self::Put { value, .. }
            | Self::PutAbsent { value, .. }
            | Self::Cas { value, .. }
            | Self::Swap { value, .. } => Some(value),
            Self::Get
            | Self::Delete
            | Self::Exists
            | Self::Ttl
            | Self::Expire { .. }
            | Self::Persist
            | Self::Take
            | Self::Add { .. } => None,
        }
    }

    /// Whether the key may cease to exist by this.
    pub fn may_remove(self) -> bool {
        match self {
            Self::Delete | Self::Expire { .. } | Self::Take => true,
            Self::Put { ttl_ms, .. } | Self::PutAbsent { ttl_ms, .. } | Self::Swap { ttl_ms, .. } => ttl_ms.is_some(),
            Self::Get | Self::Cas { .. } | Self::Exists | Self::Ttl | Self::Persist | Self::Add { .. } => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Missing,
    Found { value: ValueId, version: Version, expires_at: Option<u64> },
    Stored(Version),
    Conflict(Option<Version>),
    Done(bool),
    Expiry(Expiry),
    Number(u64),
}

impl Answer {
    /// What it tells of the value.
    pub fn value(self) -> Option<ValueId> {
        match self {
            Self::Found { value, .. } | Self::Number(value) => Some(value),
            Self::Missing | Self::Stored(_) | Self::Conflict(_) | Self::Done(_) | Self::Expiry(_) => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Op {
    pub ask: Ask,
    /// `None`: nobody knows what became of it, or will.
    pub answer: Option<Answer>,
    pub begin: Moment,
    /// [`Moment::MAX`] without an answer.
    pub end: Moment,
    /// What the wall clock showed at begin and end.
    pub clock: (u64, u64),
    /// What came before was lost, with leave (R22).
    pub segment: u32,
}

impl Op {
    /// It may take effect at any time from its begin on, or never.
    pub fn is_open(&self) -> bool {
        self.end == Moment::MAX
    }
}

/// The operations of all keys.
#[derive(Default)]
pub struct History {
    pub keys: Vec<Vec<Op>>,
    segments: Vec<u32>,
    now: Moment,
}

/// An operation that was delivered and not answered yet.
#[derive(Debug, Clone, Copy)]
pub struct OpId {
    key: usize,
    at: usize,
}

impl History {
    pub fn new(keys: usize) -> Self {
        Self { keys: vec![Vec::new(); keys], segments: vec![0; keys], now: 0 }
    }

    pub fn begin(&mut self, key: usize, ask: Ask, clock: u64) -> OpId {
        self.now += 1;
        let segment = self.segments[key];
        let op = Op { ask, answer: None, begin: self.now, end: Moment::MAX, clock: (clock, u64::MAX), segment };
        self.keys[key].push(op);
        OpId { key, at: self.keys[key].len() - 1 }
    }

    pub fn end(&mut self, id: OpId, answer: Answer, clock: u64) {
        self.now += 1;
        let op = &mut self.keys[id.key][id.at];
        op.answer = Some(answer);
        op.end = self.now;
        op.clock.1 = clock;
    }

    /// It was not done: it turns into a read that nobody answered, which says nothing.
    pub fn not_done(&mut self, id: OpId) {
        self.keys[id.key][id.at].ask = Ask::Get;
    }

    /// Whatever the key was, it may be anything older now, or nothing.
    pub fn forget(&mut self, key: usize) {
        self.segments[key] += 1;
    }

    pub fn operations(&self) -> usize {
        self.keys.iter().map(Vec::len).sum()
    }
}

/// What a reply says about a key; an error if it says that nothing was done, or (`None`) that nobody knows.
pub fn answer_of(reply: &Result<Reply, Error>, value_of: impl Fn(&[u8]) -> ValueId) -> Result<Answer, Option<Error>> {
    Ok(match reply {
        Ok(Reply::Found(None)) => Answer::Missing,
        Ok(Reply::Found(Some(found))) => Answer::Found {
            value: value_of(found.value.as_bytes()),
            version: found.version,
            expires_at: found.expires_at.map(|at| at.0),
        },
        Ok(Reply::Stored(version)) => Answer::Stored(*version),
        Ok(Reply::Conflict(version)) => Answer::Conflict(*version),
        Ok(Reply::Done(done)) => Answer::Done(*done),
        Ok(Reply::Expiry(expiry)) => Answer::Expiry(*expiry),
        Ok(Reply::Number(number)) => Answer::Number(u64::try_from(*number).expect("only positive numbers are added")),
        Ok(other) => panic!("not an answer about a key: {other:?}"),
        Err(Error::Unknown(_)) => return Err(None),
        Err(error) => return Err(Some(error.clone())),
    })
}
