//! What a key is, and which answers it may give: the sequential specification, with time.

use overspill::command::Expiry;
use overspill::record::Version;

use crate::history::{Answer, Ask, Op, ValueId};

/// All that is known of a key at a point in an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    content: Content,
    version: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Content {
    /// Nothing is known of it.
    Anything,
    Absent,
    Present {
        /// `None`: not known which.
        value: Option<ValueId>,
        dies: Dies,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Dies {
    Never,
    /// At some moment from the first to the second.
    Within(u64, u64),
    /// Nothing is known of it.
    Perhaps,
}

/// What is known of the newest version of the key, deletions included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Bound {
    Is(Version),
    Above(Version),
}

impl Bound {
    fn floor(self) -> Version {
        match self {
            Self::Is(version) | Self::Above(version) => version,
        }
    }

    fn fits(self, version: Version) -> bool {
        match self {
            Self::Is(is) => is == version,
            Self::Above(floor) => version > floor,
        }
    }

    /// Something was written, and nobody was told its version.
    fn risen(self) -> Self {
        Self::Above(self.floor())
    }
}

impl State {
    pub fn new(is_anything: bool) -> Self {
        let content = if is_anything { Content::Anything } else { Content::Absent };
        Self { content, version: Bound::Above(Version::default()) }
    }

    /// The key if `op` takes effect now; `None` if it can't, or could not have been answered like this. An open operation
    /// takes the effect that changes something.
    pub fn after(self, op: &Op) -> Option<Self> {
        match op.answer {
            Some(answer) => self.answered(op, answer),
            None => self.open(op),
        }
    }

    fn answered(self, op: &Op, answer: Answer) -> Option<Self> {
        match (op.ask, answer) {
            (Ask::Get, Answer::Missing) => self.dead(op),
            (Ask::Get, Answer::Found { value, version, expires_at }) => {
                self.alive(op)?.at(version)?.holding(value)?.dying(expires_at.map(|at| (at, at)))
            }
            (Ask::Put { value, ttl_ms }, Answer::Stored(version)) => self.set(op, value, ttl_ms, Some(version)),
            (Ask::PutAbsent { value, ttl_ms }, Answer::Stored(version)) => {
                self.dead(op)?.set(op, value, ttl_ms, Some(version))
            }
            (Ask::PutAbsent { .. }, Answer::Conflict(Some(version))) => self.alive(op)?.at(version),
            (Ask::Cas { value, expected }, Answer::Stored(version)) => {
                self.alive(op)?.at(expected)?.set(op, value, None, Some(version))
            }
            (Ask::Cas { .. }, Answer::Conflict(None)) => self.dead(op),
            (Ask::Cas { expected, .. }, Answer::Conflict(Some(version))) if version != expected => {
                self.alive(op)?.at(version)
            }
            (Ask::Delete, Answer::Done(true)) => self.alive(op)?.removed(),
            (Ask::Exists, Answer::Done(true)) => self.alive(op),
            (Ask::Expire { ttl_ms }, Answer::Done(true)) => self.alive(op)?.expiring(op, ttl_ms),
            (Ask::Delete | Ask::Exists | Ask::Expire { .. }, Answer::Done(false))
            | (Ask::Ttl, Answer::Expiry(Expiry::Missing)) => self.dead(op),
            (Ask::Ttl, Answer::Expiry(Expiry::Never)) => self.alive(op)?.dying(None),
            (Ask::Ttl, Answer::Expiry(Expiry::InMillis(ms))) => {
                self.alive(op)?.dying(Some((op.clock.0 + ms, op.clock.1.saturating_add(ms))))
            }
            (Ask::Take, Answer::Missing) => self.dead(op),
            (Ask::Take, Answer::Found { value, version, expires_at }) => {
                self.alive(op)?.at(version)?.holding(value)?.dying(expires_at.map(|at| (at, at)))?.removed()
            }
            (Ask::Swap { value, ttl_ms }, Answer::Missing) => self.dead(op)?.set(op, value, ttl_ms, None),
            (Ask::Swap { value: new, ttl_ms }, Answer::Found { value, version, expires_at }) => {
                let old = self.alive(op)?.at(version)?.holding(value)?.dying(expires_at.map(|at| (at, at)))?;
                old.set(op, new, ttl_ms, None)
            }
            (Ask::Add { by }, Answer::Number(sum)) => {
                let of_none = self.dead(op).filter(|_| sum == by).and_then(|dead| dead.set(op, sum, None, None));
                of_none.or_else(|| Some(self.alive(op)?.holding(sum.checked_sub(by)?)?.holding_now(Some(sum))))
            }
            (Ask::Persist, Answer::Done(true)) => {
                let alive = self.alive(op)?;
                let Content::Present { value, dies } = alive.content else { return None };
                if dies == Dies::Never {
                    return None;
                }
                Some(Self { content: Content::Present { value, dies: Dies::Never }, version: alive.version.risen() })
            }
            (Ask::Persist, Answer::Done(false)) => match self.content {
                Content::Present { dies: Dies::Never, .. } | Content::Anything => Some(self),
                // Of two possibilities this is the one that says less.
                Content::Present { dies: Dies::Perhaps, .. } => Some(Self { content: Content::Anything, ..self }),
                Content::Absent | Content::Present { dies: Dies::Within(..), .. } => self.dead(op),
            },
            _ => None,
        }
    }

    fn open(self, op: &Op) -> Option<Self> {
        match op.ask {
            Ask::Put { value, ttl_ms } => self.set(op, value, ttl_ms, None),
            Ask::PutAbsent { value, ttl_ms } => self.dead(op)?.set(op, value, ttl_ms, None),
            Ask::Cas { value, expected } => self.alive(op)?.at(expected)?.set(op, value, None, None),
            Ask::Delete => self.alive(op)?.removed(),
            Ask::Expire { ttl_ms } => self.alive(op)?.expiring(op, ttl_ms),
            Ask::Persist => {
                let alive = self.alive(op)?;
                let Content::Present { value, .. } = alive.content else { return None };
                Some(Self { content: Content::Present { value, dies: Dies::Never }, version: alive.version.risen() })
            }
            Ask::Take => self.alive(op)?.removed(),
            Ask::Swap { value, ttl_ms } => self.set(op, value, ttl_ms, None),
            Ask::Add { by } => match self.content {
                Content::Absent => self.set(op, by, None, None),
                Content::Present { value, dies: Dies::Never } => Some(self.holding_now(value.map(|value| value + by))),
                // It may be the first of a sum, or one more: of two possibilities this is the one that says less.
                Content::Present { dies: Dies::Within(..) | Dies::Perhaps, .. } | Content::Anything => {
                    let content = Content::Present { value: None, dies: Dies::Perhaps };
                    Some(Self { content, version: self.version.risen() })
                }
            },
            Ask::Get | Ask::Exists | Ask::Ttl => None,
        }
    }

    /// It was written, and lives as long as before.
    fn holding_now(self, value: Option<ValueId>) -> Self {
        let Content::Present { dies, .. } = self.content else { return self };
        Self { content: Content::Present { value, dies }, version: self.version.risen() }
    }

    /// It exists at some moment of the operation.
    fn alive(self, op: &Op) -> Option<Self> {
        let content = match self.content {
            Content::Absent => return None,
            Content::Anything => Content::Present { value: None, dies: Dies::Perhaps },
            Content::Present { value, dies: Dies::Within(first, last) } => {
                // It was looked at when the clock showed less than the deadline.
                let first = first.max(op.clock.0 + 1);
                if first > last {
                    return None;
                }
                Content::Present { value, dies: Dies::Within(first, last) }
            }
            present @ Content::Present { dies: Dies::Never | Dies::Perhaps, .. } => present,
        };
        Some(Self { content, ..self })
    }

    /// It does not exist at some moment of the operation; from then on it does not.
    fn dead(self, op: &Op) -> Option<Self> {
        let may_be = match self.content {
            Content::Absent | Content::Anything => true,
            Content::Present { dies, .. } => match dies {
                Dies::Never => false,
                Dies::Within(first, _) => op.clock.1 >= first,
                Dies::Perhaps => true,
            },
        };
        may_be.then(|| self.absent())
    }

    fn absent(self) -> Self {
        // Whoever notices that it has expired deletes it, some time, under a version of its own.
        Self { content: Content::Absent, version: self.version.risen() }
    }

    fn removed(self) -> Option<Self> {
        Some(self.absent())
    }

    fn at(self, version: Version) -> Option<Self> {
        self.version.fits(version).then_some(Self { version: Bound::Is(version), ..self })
    }

    fn holding(self, read: ValueId) -> Option<Self> {
        let Content::Present { value, dies } = self.content else { return None };
        let fits = value.is_none_or(|value| value == read);
        fits.then_some(Self { content: Content::Present { value: Some(read), dies }, ..self })
    }

    /// It dies within these moments, or never.
    fn dying(self, seen: Option<(u64, u64)>) -> Option<Self> {
        let Content::Present { value, dies } = self.content else { return None };
        let dies = match (dies, seen) {
            (Dies::Never | Dies::Perhaps, None) => Dies::Never,
            (Dies::Perhaps, Some((first, last))) => Dies::Within(first, last),
            (Dies::Within(first, last), Some((seen_first, seen_last))) => {
                let (first, last) = (first.max(seen_first), last.min(seen_last));
                if first > last {
                    return None;
                }
                Dies::Within(first, last)
            }
            (Dies::Never, Some(_)) | (Dies::Within(..), None) => return None,
        };
        Some(Self { content: Content::Present { value, dies }, ..self })
    }

    fn set(self, op: &Op, value: ValueId, ttl_ms: Option<u64>, version: Option<Version>) -> Option<Self> {
        if version.is_some_and(|version| version <= self.version.floor()) {
            return None;
        }
        let version = version.map_or(self.version.risen(), Bound::Is);
        let dies = ttl_ms.map_or(Dies::Never, |ttl_ms| within(op, ttl_ms));
        Some(Self { content: Content::Present { value: Some(value), dies }, version })
    }

    fn expiring(self, op: &Op, ttl_ms: u64) -> Option<Self> {
        let Content::Present { value, .. } = self.content else { return None };
        Some(Self { content: Content::Present { value, dies: within(op, ttl_ms) }, version: self.version.risen() })
    }
}

fn within(op: &Op, ttl_ms: u64) -> Dies {
    Dies::Within(op.clock.0 + ttl_ms, op.clock.1.saturating_add(ttl_ms))
}
