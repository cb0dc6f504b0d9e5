//! What can be asked of Overspill and what it answers, free of any protocol; and [`Effect`], what a log carries.

mod pairs;
mod update;

use serde::{Deserialize, Serialize};

use crate::record::{Key, Record, Timestamp, Ttl, Value, Version};

pub use pairs::{PAIRS_MAX, TooManyPairs};
pub use update::{Existence, ExpireWhen, NewExpiry, Update};

/// One thing to do. Commands with a key go to the shard that owns its slot; the others go to every shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The value with its version and expiry. Answered by [`Reply::Found`].
    Get { key: Key },
    /// Stores a value; an earlier expiry is forgotten. Answered by [`Reply::Stored`] or [`Reply::Conflict`].
    Put { key: Key, value: Value, ttl: Option<Ttl>, condition: Condition },
    /// Removes a key. Answered by [`Reply::Done`]: whether it existed.
    Delete { key: Key },
    /// Answered by [`Reply::Done`]: whether the key exists.
    Exists { key: Key },
    /// What is left of the time to live. Answered by [`Reply::Expiry`].
    Ttl { key: Key },
    /// Sets the time to live. Answered by [`Reply::Done`]: whether the key exists.
    Expire { key: Key, ttl: Ttl },
    /// Takes the expiry away. Answered by [`Reply::Done`]: whether there was one.
    Persist { key: Key },
    /// A page of keys, in order of slot and key, from memory and tier alike. Answered by [`Reply::Page`]. Keys that exist
    /// from the first page to the last come exactly once.
    Scan { cursor: Cursor, limit: u32 },
    /// How many keys exist. Those in the tier count until their expiry is noticed. Answered by [`Reply::Count`].
    Count,
    /// Answered by [`Reply::Stats`], one entry a shard.
    Stats,
    /// Where a key lives and what will become of it. Answered by [`Reply::Explained`].
    Explain { key: Key },
    /// Changes a key by what it is, in one step. Answered as its [`Update`] says.
    Update { key: Key, update: Update },
    /// Gives the value and expiry of a key to another one of its slot, in one step; it goes, unless it is copied. Answered by
    /// [`Reply::Moved`]. Without a journal a crash may leave both keys, or lose what was not spilled with both.
    Move { from: Key, to: Key, is_copy: bool, existence: Existence },
    /// Stores values for keys of one slot if none of them exists, in one step. Of a key that comes twice the last value counts.
    /// At most [`PAIRS_MAX`] keys, and values that together are no longer than one may be. Answered by [`Reply::Done`]: whether it
    /// did.
    PutAllAbsent {
        first: (Key, Value),
        #[serde(deserialize_with = "pairs::deserialize")]
        more: Vec<(Key, Value)>,
    },
}

/// What must hold for a [`Command::Put`] to store its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    Always,
    /// The key does not exist.
    Absent,
    /// The key exists and has this version (compare-and-swap).
    Version(Version),
}

impl Command {
    /// Takes it away. What is left in its place is not to be done.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Count)
    }

    /// The key that decides which shard the command goes to; `None` for those that go to all.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Get { key }
            | Self::Put { key, .. }
            | Self::Delete { key }
            | Self::Exists { key }
            | Self::Ttl { key }
            | Self::Expire { key, .. }
            | Self::Persist { key }
            | Self::Explain { key }
            | Self::Update { key, .. }
            | Self::Move { from: key, .. }
            | Self::PutAllAbsent { first: (key, _), .. } => Some(key),
            Self::Scan { .. } | Self::Count | Self::Stats => None,
        }
    }

    /// Whether the command may change something, so that it must not be sent twice.
    pub fn is_write(&self) -> bool {
        match self {
            Self::Put { .. }
            | Self::Delete { .. }
            | Self::Expire { .. }
            | Self::Persist { .. }
            | Self::Update { .. }
            | Self::Move { .. }
            | Self::PutAllAbsent { .. } => true,
            Self::Get { .. }
            | Self::Exists { .. }
            | Self::Ttl { .. }
            | Self::Scan { .. }
            | Self::Count
            | Self::Stats
            | Self::Explain { .. } => false,
        }
    }

    /// All its keys, which are in one slot.
    pub fn keys(&self) -> Vec<&Key> {
        match self {
            Self::Move { from, to, .. } => vec![from, to],
            Self::PutAllAbsent { first: (key, _), more } => {
                std::iter::once(key).chain(more.iter().map(|(key, _)| key)).collect()
            }
            _ => self.key().into_iter().collect(),
        }
    }

    /// Whether the command acts on several keys.
    pub fn has_many_keys(&self) -> bool {
        match self {
            Self::Move { .. } | Self::PutAllAbsent { .. } => true,
            Self::Get { .. }
            | Self::Put { .. }
            | Self::Delete { .. }
            | Self::Exists { .. }
            | Self::Ttl { .. }
            | Self::Expire { .. }
            | Self::Persist { .. }
            | Self::Scan { .. }
            | Self::Count
            | Self::Stats
            | Self::Explain { .. }
            | Self::Update { .. } => false,
        }
    }

    /// What the types of its parts don't see to.
    ///
    /// # Errors
    /// [`TooManyPairs`].
    pub fn check(&self) -> Result<(), TooManyPairs> {
        match self {
            Self::PutAllAbsent { first, more } => pairs::check(first, more),
            Self::Get { .. }
            | Self::Put { .. }
            | Self::Delete { .. }
            | Self::Exists { .. }
            | Self::Ttl { .. }
            | Self::Expire { .. }
            | Self::Persist { .. }
            | Self::Scan { .. }
            | Self::Count
            | Self::Stats
            | Self::Explain { .. }
            | Self::Update { .. }
            | Self::Move { .. } => Ok(()),
        }
    }

    /// About how many bytes the command takes on a wire or in a queue.
    pub fn size_bytes(&self) -> usize {
        const FIXED: usize = 32;
        let more = match self {
            Self::Put { value, .. } => value.as_bytes().len(),
            Self::Update { update, .. } => update.size_bytes(),
            Self::Move { to, .. } => to.as_bytes().len(),
            Self::PutAllAbsent { first: (_, value), more } => {
                let pair = |(key, value): &(Key, Value)| FIXED + key.as_bytes().len() + value.as_bytes().len();
                value.as_bytes().len() + more.iter().map(pair).sum::<usize>()
            }
            Self::Get { .. }
            | Self::Delete { .. }
            | Self::Exists { .. }
            | Self::Ttl { .. }
            | Self::Expire { .. }
            | Self::Persist { .. }
            | Self::Scan { .. }
            | Self::Count
            | Self::Stats
            | Self::Explain { .. } => 0,
        };
        FIXED + more + self.key().map_or(0, |key| key.as_bytes().len())
    }
}

/// Where a scan goes on: everything up to and including `after` in `slot` has been seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub slot: u16,
    pub after: Option<Key>,
}

impl Cursor {
    pub const START: Self = Self { slot: 0, after: None };
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Found(Option<Found>),
    Stored(Version),
    /// The condition of a put did not hold; the version that the key has, if it exists.
    Conflict(Option<Version>),
    /// Whether the command found what it acts on.
    Done(bool),
    Expiry(Expiry),
    /// Keys in order, and where to go on; `None` at the end.
    Page {
        keys: Vec<Key>,
        next: Option<Cursor>,
    },
    Count(u64),
    Stats(Vec<ShardStats>),
    Explained(Box<Explanation>),
    Number(i64),
    Moved(Moved),
}

impl Reply {
    /// About how many bytes the reply takes on a wire.
    pub fn size_bytes(&self) -> usize {
        const FIXED: usize = 32;
        match self {
            Self::Found(Some(found)) => FIXED + found.value.as_bytes().len(),
            Self::Page { keys, .. } => FIXED + keys.iter().map(|key| key.as_bytes().len() + 2).sum::<usize>(),
            Self::Stats(shards) => FIXED + shards.len() * 1024,
            Self::Explained(_) => 1024 + crate::record::KEY_BYTES_MAX,
            Self::Found(None)
            | Self::Stored(_)
            | Self::Conflict(_)
            | Self::Done(_)
            | Self::Expiry(_)
            | Self::Count(_)
            | Self::Number(_)
            | Self::Moved(_) => FIXED,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub value: Value,
    pub version: Version,
    pub expires_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// The key does not exist.
    Missing,
    Never,
    /// Milliseconds left, at least 1.
    InMillis(u64),
}

/// What came of a [`Command::Move`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moved {
    /// There was nothing to move.
    Missing,
    /// The other key exists, or not, against the condition.
    Refused,
    Done,
}

/// What [`Command::Explain`] tells about a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub slot: u16,
    pub shard: String,
    pub place: Place,
    /// Of the record, or of the deletion that waits to reach the tier; `None` for a key that lives nowhere.
    pub version: Option<Version>,
    pub expires_at: Option<Timestamp>,
    pub value_bytes: Option<u64>,
    /// How many records of its partition leave memory before it; `None` when it is not resident.
    pub rank: Option<u64>,
    /// The eviction policy's name.
    pub policy: String,
}

/// Where a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In memory; the tier has this version too (`clean`) or not yet.
    Memory {
        clean: bool,
    },
    /// On its way to the tier, and served from memory until it is there.
    Spilling,
    /// Deleted; the tier is still to be told.
    Deleting,
    /// In the tier only.
    Tier,
    Nowhere,
}

/// The figures of one shard. Counts since start unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStats {
    pub shard: String,
    pub epoch: u64,
    /// Slots that it serves.
    pub slots: u64,
    pub policy: String,
    pub write_mode: String,
    /// The tier's kind and server, without secrets; `none` for a pure cache.
    pub tier: String,
    pub tier_up: bool,
    pub uptime_ms: u64,
    /// Live records in memory now, and how many may be.
    pub records: u64,
    pub records_max: u64,
    /// Of `records`, those on their way out to the tier.
    pub records_spilling: u64,
    /// Records and tombstones whose version the tier does not have yet, now.
    pub unspilled: u64,
    /// Deletions that the tier does not know of yet, now.
    pub tombstones: u64,
    /// Keys that have a row in the tier, now; 0 until `filter_ready`.
    pub tier_records: u64,
    pub filter_ready: bool,
    /// Accounted bytes in memory now, and their bound.
    pub memory_bytes: u64,
    pub memory_bytes_max: u64,
    /// Reads answered with a value from memory, at once.
    pub hits: u64,
    /// All other reads.
    pub misses: u64,
    pub puts: u64,
    pub deletes: u64,
    pub expired: u64,
    pub evicted: u64,
    /// Evicted and gone, which only a pure cache does.
    pub dropped: u64,
    pub spilled_rows: u64,
    pub spilled_batches: u64,
    pub spill_errors: u64,
    pub loaded_rows: u64,
    pub load_batches: u64,
    pub load_errors: u64,
    /// Misses that the filter of spilled keys answered without the tier.
    pub loads_avoided: u64,
    /// Misses that joined a load already in flight.
    pub loads_joined: u64,
    /// Writes refused because unspilled records had filled the memory.
    pub busy: u64,
    pub dead_letters: u64,
    /// Starts that accepted the loss of unspilled records.
    pub losses_accepted: u64,
    /// Bytes of the journal now, and their bound; 0 without one.
    pub journal_bytes: u64,
    pub journal_bytes_max: u64,
    /// Writes that were committed together count as one group.
    pub journal_groups: u64,
    pub journal_syncs: u64,
    /// How long the last sync took, in microseconds.
    pub journal_sync_us: u64,
    /// Accounted bytes of `unspilled`, now.
    pub unspilled_bytes: u64,
    /// Of `unspilled`, what is on its way to the tier now: the others stay in memory for as long as it has room.
    pub spill_queue: u64,
    /// The oldest of the spill queue has waited at least so long.
    pub spill_queue_age_ms: u64,
    /// Connections to the tier in use now, and how many there may be; 0 of 0 where there are none.
    pub tier_pool_used: u64,
    pub tier_pool_max: u64,
}

/// An outcome, with its version: what a log carries and the tier stores (R1). Applying one never needs I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Set(Record),
    Delete { key: Key, version: Version },
}

impl Effect {
    pub fn key(&self) -> &Key {
        match self {
            Self::Set(record) => &record.key,
            Self::Delete { key, .. } => key,
        }
    }

    pub fn version(&self) -> Version {
        match self {
            Self::Set(record) => record.version,
            Self::Delete { version, .. } => *version,
        }
    }

    /// Payload bytes: key and value.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Set(record) => record.key.as_bytes().len() + record.value.as_bytes().len(),
            Self::Delete { key, .. } => key.as_bytes().len(),
        }
    }
}
