//! What is stored: keys, values, versions and expiry, with every size limit.
//!
//! The constructors check; after that the types are trusted. Nothing here knows of slots, commands or protocols.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use crate::clock::Timestamp;

/// Longest key, in bytes. An InnoDB index entry holds 3,072 bytes, so a key fits beside its slot.
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest value, in bytes: half of MariaDB's default `max_allowed_packet`, so that one row always fits a statement.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest time to live: a hundred years. Beyond it, an absolute deadline in milliseconds could overflow.
pub const TTL_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Why some bytes can't be part of a record. The client's fault; trying again won't help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("the key is empty: a key has 1 to {KEY_BYTES_MAX} bytes")]
    KeyEmpty,
    #[error("the key has {0} bytes: at most {KEY_BYTES_MAX} are allowed")]
    KeyTooLong(usize),
    #[error("the value has {0} bytes: at most {VALUE_BYTES_MAX} are allowed")]
    ValueTooLong(usize),
    #[error("the time to live must be between 1 ms and 100 years")]
    TtlOutOfRange,
}

/// A binary key of 1 to [`KEY_BYTES_MAX`] bytes. Short ones are held in place, so that they cost no memory of their own and nobody
/// counts references to them; longer ones are shared.
#[derive(Clone)]
pub struct Key(Place);

/// A key in place has at most so many bytes: a UUID in text fits.
const IN_PLACE_BYTES_MAX: usize = 38;

#[derive(Clone)]
enum Place {
    Here { len: u8, bytes: [u8; IN_PLACE_BYTES_MAX] },
    Shared(Bytes),
}

impl Key {
    /// # Errors
    /// [`LimitError`] if the key is empty or longer than [`KEY_BYTES_MAX`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, LimitError> {
        let bytes = bytes.into();
        match Self::here(&bytes) {
            Some(key) => Ok(key),
            None => Self::check(bytes.len()).map(|()| Self(Place::Shared(bytes))),
        }
    }

    /// Of bytes that are kept by somebody else.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn copy_from(bytes: &[u8]) -> Result<Self, LimitError> {
        match Self::here(bytes) {
            Some(key) => Ok(key),
            None => Self::check(bytes.len()).map(|()| Self(Place::Shared(Bytes::copy_from_slice(bytes)))),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Place::Here { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Place::Shared(bytes) => bytes,
        }
    }

    /// If it is short enough, and not empty.
    fn here(from: &[u8]) -> Option<Self> {
        let mut bytes = [0; IN_PLACE_BYTES_MAX];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        let len = from.len() as u8; // at most IN_PLACE_BYTES_MAX
        (len > 0).then_some(Self(Place::Here { len, bytes }))
    }

    fn check(len: usize) -> Result<(), LimitError> {
        match len {
            0 => Err(LimitError::KeyEmpty),
            1..=KEY_BYTES_MAX => Ok(()),
            _ => Err(LimitError::KeyTooLong(len)),
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl From<Key> for Bytes {
    fn from(key: Key) -> Self {
        match key.0 {
            Place::Here { .. } => Self::copy_from_slice(key.as_bytes()),
            Place::Shared(bytes) => bytes,
        }
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_bytes())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a key")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Key, E> {
                Key::copy_from(bytes).map_err(E::custom)
            }
        }

        deserializer.deserialize_bytes(Visitor)
    }
}

/// Escaped ASCII, as in `\xff`: keys are binary.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// A binary value of 0 to [`VALUE_BYTES_MAX`] bytes; empty is a value. Cloning counts a reference.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Value(Bytes);

impl Value {
    /// # Errors
    /// [`LimitError::ValueTooLong`] above [`VALUE_BYTES_MAX`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, LimitError> {
        let bytes = bytes.into();
        match bytes.len() {
            0..=VALUE_BYTES_MAX => Ok(Self(bytes)),
            len => Err(LimitError::ValueTooLong(len)),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What a clone shares.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl TryFrom<Bytes> for Value {
    type Error = LimitError;

    fn try_from(bytes: Bytes) -> Result<Self, LimitError> {
        Self::new(bytes)
    }
}

impl From<Value> for Bytes {
    fn from(value: Value) -> Self {
        value.0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.0.len())
    }
}

/// The number of a slot map. Every change of who owns what is a new, higher epoch; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in a shard's log; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Lsn(pub u64);

/// When a record was written, for deciding which of two is newer: first by the epoch of its shard, then by the
/// position in the shard's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version {
    pub epoch: Epoch,
    pub lsn: Lsn,
}

impl Version {
    pub fn new(epoch: u64, lsn: u64) -> Self {
        Self { epoch: Epoch(epoch), lsn: Lsn(lsn) }
    }
}

/// Which journal: random, made with it. 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct JournalId(pub u64);

/// Sixteen hexadecimal digits.
impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// `epoch.lsn`, as in `1.42`.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.0, self.lsn.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version: expected EPOCH.LSN, as in `1.42`")]
pub struct VersionParseError(String);

impl FromStr for Version {
    type Err = VersionParseError;

    fn from_str(s: &str) -> Result<Self, VersionParseError> {
        let parsed = s.split_once('.').and_then(|(epoch, lsn)| Some(Self::new(epoch.parse().ok()?, lsn.parse().ok()?)));
        parsed.ok_or_else(|| VersionParseError(s.to_owned()))
    }
}

impl Timestamp {
    /// When something that begins to live now is dead.
    pub fn after(self, ttl: Ttl) -> Self {
        Self(self.0.saturating_add(ttl.as_millis()))
    }
}

/// A time to live: 1 ms to [`TTL_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Ttl(u64);

impl Ttl {
    /// # Errors
    /// [`LimitError::TtlOutOfRange`] for zero or more than [`TTL_MAX`].
    pub fn from_millis(ms: u64) -> Result<Self, LimitError> {
        if ms == 0 || u128::from(ms) > TTL_MAX.as_millis() { Err(LimitError::TtlOutOfRange) } else { Ok(Self(ms)) }
    }

    pub fn as_millis(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Ttl {
    type Error = LimitError;

    fn try_from(ms: u64) -> Result<Self, LimitError> {
        Self::from_millis(ms)
    }
}

impl From<Ttl> for u64 {
    fn from(ttl: Ttl) -> Self {
        ttl.0
    }
}

/// A key with its newest committed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: Key,
    pub value: Value,
    pub version: Version,
    /// Dead from this moment on; `None` lives for ever.
    pub expires_at: Option<Timestamp>,
}

impl Record {
    pub fn is_expired(&self, now: Timestamp) -> bool {
        is_expired(self.expires_at, now)
    }
}

/// Whether a record that dies at `expires_at` is dead at `now`.
pub fn is_expired(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_some_and(|at| at <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked_at_their_edges() {
        assert_eq!(Key::new(""), Err(LimitError::KeyEmpty));
        assert!(Key::new(vec![0; KEY_BYTES_MAX]).is_ok());
        assert_eq!(Key::new(vec![0; KEY_BYTES_MAX + 1]), Err(LimitError::KeyTooLong(KEY_BYTES_MAX + 1)));
        assert_eq!(Key::copy_from(&[0; KEY_BYTES_MAX + 1]), Err(LimitError::KeyTooLong(KEY_BYTES_MAX + 1)));
        assert!(Value::new("").is_ok());
        assert!(Value::new(vec![0; VALUE_BYTES_MAX]).is_ok());
        assert_eq!(Value::new(vec![0; VALUE_BYTES_MAX + 1]), Err(LimitError::ValueTooLong(VALUE_BYTES_MAX + 1)));
        assert_eq!(Ttl::from_millis(0), Err(LimitError::TtlOutOfRange));
        assert_eq!(Ttl::from_millis(u64::MAX), Err(LimitError::TtlOutOfRange));
    }

    #[test]
    fn keys_are_alike_wherever_their_bytes_are() {
        assert_eq!(size_of::<Key>(), IN_PLACE_BYTES_MAX + 2);
        for len in [1, IN_PLACE_BYTES_MAX - 1, IN_PLACE_BYTES_MAX, IN_PLACE_BYTES_MAX + 1, KEY_BYTES_MAX] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (key, copy) = (Key::new(bytes.clone()).unwrap(), Key::copy_from(&bytes).unwrap());
            assert_eq!(
                (key.as_bytes(), &key, &Bytes::from(copy.clone())),
                (&*bytes, &copy, &Bytes::from(bytes.clone()))
            );
            let encoded = postcard::to_stdvec(&key).unwrap();
            assert_eq!(encoded, postcard::to_stdvec(&Bytes::from(bytes)).unwrap());
            assert_eq!(postcard::from_bytes::<Key>(&encoded), Ok(copy));
        }
        assert_eq!((Key::copy_from(b""), Key::new("")), (Err(LimitError::KeyEmpty), Err(LimitError::KeyEmpty)));
    }

    #[test]
    fn limits_hold_for_what_comes_off_the_wire() {
        let encoded = postcard::to_stdvec(&Bytes::from(vec![7; KEY_BYTES_MAX + 1])).unwrap();
        assert!(postcard::from_bytes::<Key>(&encoded).is_err());
        assert!(postcard::from_bytes::<Ttl>(&[0]).is_err());
    }

    #[test]
    fn versions_order_by_epoch_and_then_by_lsn() {
        assert!(Version::new(2, 1) > Version::new(1, 99));
        assert!(Version::new(2, 2) > Version::new(2, 1));
        assert_eq!("1.42".parse(), Ok(Version::new(1, 42)));
        assert!("42".parse::<Version>().is_err());
    }
}
