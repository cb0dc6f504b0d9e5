//! What becomes of the replies to the commands of a request.

/// How many replies a request takes, and how they are shown together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The value, or null.
    Value,
    /// `OK`, or null if a condition did not hold.
    Stored,
    /// 1, or 0 if a condition did not hold.
    StoredFlag,
    /// 1 or 0.
    Done,
    Number,
    Count,
    Length,
    Range {
        start: i64,
        end: i64,
    },
    Type,
    TtlSeconds,
    TtlMillis,
    ExpiresAtSeconds,
    ExpiresAtMillis,
    Renamed,
    RenamedFlag,
    Copied,
    Encoding,
    ReferenceCount,
    IdleTime,
    Frequency,
    MemoryUsage,
    Values {
        count: usize,
    },
    AllStored {
        count: usize,
    },
    /// How many were done.
    Sum {
        count: usize,
    },
}

impl Shape {
    /// Whether the one reply that it takes is told as it is.
    pub fn is_single(self) -> bool {
        !matches!(self, Self::Values { .. } | Self::AllStored { .. } | Self::Sum { .. })
    }

    /// How many replies it takes.
    pub fn replies(self) -> usize {
        match self {
            Self::Values { count } | Self::AllStored { count } | Self::Sum { count } => count,
            _ => 1,
        }
    }
}
