//! Where a key belongs: its slot, exactly as in Redis Cluster, and sets of slots.

mod crc16;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::record::Key;

/// How many slots there are.
pub const SLOTS: u16 = 16384;

/// A slot, 0 to [`SLOTS`] − 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Slot(u16);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{slot}` is not a slot: expected 0 to {last}", slot = .0, last = SLOTS - 1)]
pub struct SlotOutOfRange(u16);

impl Slot {
    pub const FIRST: Self = Self(0);
    pub const LAST: Self = Self(SLOTS - 1);

    /// The slot of a key: CRC16-XMODEM of the key, or of what stands between its first `{` and the next `}` if that
    /// is not empty, mod 16384. Source: the Redis Cluster specification, "Key distribution model" and "Hash tags".
    pub fn of(key: &Key) -> Self {
        Self::of_bytes(key.as_bytes())
    }

    /// Of the bytes of a key.
    pub fn of_bytes(key: &[u8]) -> Self {
        Self(crc16::checksum(hash_tag(key)) % SLOTS)
    }

    pub fn get(self) -> u16 {
        self.0
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).map(Self)
    }
}

impl TryFrom<u16> for Slot {
    type Error = SlotOutOfRange;

    fn try_from(slot: u16) -> Result<Self, SlotOutOfRange> {
        if slot < SLOTS { Ok(Self(slot)) } else { Err(SlotOutOfRange(slot)) }
    }
}

impl From<Slot> for u16 {
    fn from(slot: Slot) -> Self {
        slot.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn hash_tag(key: &[u8]) -> &[u8] {
    if !has_brace(key) {
        return key;
    }
    let tag = key.iter().position(|&b| b == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|&b| b == b'}')?;
        rest.get(..close)
    });
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// Whether there may be a tag, which hardly a key has. The compiler makes one comparison of sixteen bytes.
fn has_brace(key: &[u8]) -> bool {
    let (chunks, rest) = key.as_chunks::<16>();
    chunks.iter().any(|chunk| chunk.iter().fold(false, |has, &b| has | (b == b'{'))) || rest.contains(&b'{')
}

/// A set of slots, as sorted, disjoint, inclusive ranges. Written `0-8191,9000`; the empty set is the empty text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SlotSet {
    ranges: Vec<(Slot, Slot)>,
}

impl SlotSet {
    pub fn empty() -> Self {
        Self::default()
    }

    pub fn all() -> Self {
        Self { ranges: vec![(Slot::FIRST, Slot::LAST)] }
    }

    /// Equal shares of all slots for `shards` shards, in order; they differ by one slot at most.
    pub fn shares(shards: usize) -> Vec<Self> {
        let shards = shards.max(1);
        let start = |i: usize| (i * usize::from(SLOTS) / shards) as u16;
        let share = |i| match (start(i), start(i + 1)) {
            (first, next) if first < next => Self { ranges: vec![(Slot(first), Slot(next - 1))] },
            _ => Self::empty(), // more shards than slots
        };
        (0..shards).map(share).collect()
    }

    pub fn contains(&self, slot: Slot) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= slot);
        after.checked_sub(1).and_then(|i| self.ranges.get(i)).is_some_and(|&(_, last)| slot <= last)
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub fn len(&self) -> usize {
        self.ranges.iter().map(|&(first, last)| usize::from(last.0 - first.0) + 1).sum()
    }

    /// The inclusive ranges, ascending.
    pub fn ranges(&self) -> &[(Slot, Slot)] {
        &self.ranges
    }

    pub fn iter(&self) -> impl Iterator<Item = Slot> {
        self.ranges.iter().flat_map(|&(first, last)| (first.0..=last.0).map(Slot))
    }

    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && b)
    }

    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && !b)
    }

    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a || b)
    }

    pub fn is_subset(&self, of: &Self) -> bool {
        self.difference(of).is_empty()
    }

    /// The slots that `keep` chooses, told whether the slot is in either set. Looks only where a range begins or ends.
    fn combine(&self, other: &Self, keep: impl Fn(bool, bool) -> bool) -> Self {
        let edges = |set: &Self| -> Vec<u16> {
            set.ranges.iter().flat_map(|&(first, last)| [first.0, last.0 + 1]).filter(|&edge| edge < SLOTS).collect()
        };
        let mut starts = edges(self);
        starts.extend(edges(other));
        starts.push(Slot::FIRST.0);
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).map(|&next| next - 1).chain([Slot::LAST.0]);
        let mut set = Self::empty();
        for (first, last) in starts.iter().map(|&first| Slot(first)).zip(ends.map(Slot)) {
            if keep(self.contains(first), other.contains(first)) {
                set.push(first, last);
            }
        }
        set
    }

    /// Adds a range behind all others; neighbours become one.
    fn push(&mut self, first: Slot, last: Slot) {
        match self.ranges.last_mut() {
            Some((_, end)) if end.0 + 1 == first.0 => *end = last,
            _ => self.ranges.push((first, last)),
        }
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut slots: Vec<Slot> = slots.into_iter().collect();
        slots.sort_unstable();
        slots.dedup();
        let mut set = Self::empty();
        slots.into_iter().for_each(|slot| set.push(slot, slot));
        set
    }
}

impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a set of slots: expected ascending ranges, as in `0-8191,9000`")]
pub struct SlotSetParseError(String);

impl FromStr for SlotSet {
    type Err = SlotSetParseError;

    fn from_str(s: &str) -> Result<Self, SlotSetParseError> {
        let slot = |s: &str| s.parse::<u16>().ok().and_then(|n| Slot::try_from(n).ok());
        let mut set = Self::empty();
        for range in s.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            // Ascending only: so what comes off a wire can't grow when it is read.
            let is_behind = |first: Slot| set.ranges.last().is_none_or(|&(_, before)| before < first);
            match (slot(first), slot(last)) {
                (Some(first), Some(last)) if is_behind(first) && first <= last => set.push(first, last),
                _ => return Err(SlotSetParseError(s.chars().take(100).collect())),
            }
        }
        Ok(set)
    }
}

impl TryFrom<String> for SlotSet {
    type Error = SlotSetParseError;

    fn try_from(s: String) -> Result<Self, SlotSetParseError> {
        s.parse()
    }
}

impl From<SlotSet> for String {
    fn from(set: SlotSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot_of(key: &str) -> u16 {
        Slot::of(&Key::new(key.to_owned()).unwrap()).get()
    }

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(slot_of("123456789"), 0x31C3);
        assert_eq!(slot_of("foo"), 12182);
        assert_eq!(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
        assert_eq!(slot_of("foo{{bar}}zap"), slot_of("{bar"));
        assert_eq!(slot_of("foo{bar}{zap}"), slot_of("bar"));
        assert_ne!(slot_of("foo{}{bar}"), slot_of("bar"));
        for len in 0..40 {
            let before = "x".repeat(len);
            assert_eq!(slot_of(&format!("{before}{{bar}}")), slot_of("bar"), "a tag after {len} bytes");
        }
    }

    #[test]
    fn numbered_keys_spread_within_two_percent_of_even_over_four_shards() {
        let shares = SlotSet::shares(4);
        let mut counts = [0u32; 4];
        for i in 1..=100_000 {
            let slot = Slot::of(&Key::new(format!("user:{i}")).unwrap());
            counts[shares.iter().position(|share| share.contains(slot)).unwrap()] += 1;
        }
        for count in counts {
            assert!((24_500..=25_500).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn shares_cover_every_slot_once() {
        for shards in [1, 2, 3, 7, 1000, 20_000] {
            let shares = SlotSet::shares(shards);
            assert_eq!(shares.iter().map(SlotSet::len).sum::<usize>(), usize::from(SLOTS));
            assert_eq!(shares.iter().fold(SlotSet::empty(), |all, share| all.union(share)), SlotSet::all());
        }
        assert_eq!(SlotSet::shares(2)[0].to_string(), "0-8191");
    }

    #[test]
    fn sets_combine_like_sets_of_slots() {
        let sets = ["", "0-16383", "0", "16383", "0-99,200-299", "50-249,16000-16383", "100-199", "0-49,51-98,300"];
        let sets: Vec<SlotSet> = sets.iter().map(|set| set.parse().unwrap()).collect();
        for a in &sets {
            for b in &sets {
                let slow = |keep: fn(bool, bool) -> bool| -> SlotSet {
                    Slot::all().filter(|&slot| keep(a.contains(slot), b.contains(slot))).collect()
                };
                assert_eq!(a.intersection(b), slow(|a, b| a && b), "{a} and {b}");
                assert_eq!(a.difference(b), slow(|a, b| a && !b), "{a} without {b}");
                assert_eq!(a.union(b), slow(|a, b| a || b), "{a} or {b}");
            }
        }
    }

    #[test]
    fn sets_are_written_and_read_back() {
        let set: SlotSet = "0-2,5,6".parse().unwrap();
        assert_eq!(set.to_string(), "0-2,5-6");
        assert_eq!(set.len(), 5);
        assert_eq!(set.difference(&"2-5".parse().unwrap()).to_string(), "0-1,6");
        assert_eq!("".parse::<SlotSet>().unwrap(), SlotSet::empty());
        for bad in ["x", "1-", "16384", "3-1-2", "5,0-2", "0-9,9", "7-3"] {
            assert!(bad.parse::<SlotSet>().is_err(), "{bad}");
        }
    }
}
