//! Finds an entry's handle by the hash of its key, for about five and a half bytes an entry.
//!
//! The index is a hash table of lines of sixteen slots, a cache line each. A search reads whole lines, from the key's
//! home line to the first that isn't full (linear probing with buckets: Knuth, "The Art of Computer Programming",
//! vol. 3, 6.4). A removal moves entries back to where they were, had the removed one never been there (his Algorithm
//! R): there are no markers of deleted entries, which would make searches longer until somebody clears them away.
//!
//! A slot holds, from its lowest bit on: a handle, in as many bits as the largest one needs; a tag, which is bits of the
//! hash that tell most keys of a line apart; and how many lines from home it is. So a search hardly looks at a wrong
//! entry, and a removal at none.
//!
//! So that nobody waits long for a table that grows, there are [`TABLES`] of them. They grow by two fifths or so, one at a
//! time, and one half of them at other sizes than the other; that also keeps the index about as full at any size as at any
//! other. It never shrinks: as with the slab, the room is for the entries that come next.
//!
//! The index knows hashes and handles; keys and entries are the caller's.

use prefetch_index::prefetch_index;

use super::hash::KeyHash;
use crate::policy::Handle;

const TABLES: usize = 16;
const LINE_SLOTS: usize = 16;
/// How many entries there are to a line, at most, on average. With more, many lines are full and searches go on.
const LINE_ENTRIES_MAX: usize = 14;

/// No entry's slot: its handle would be the largest of its width, for which handles are kept too small.
const EMPTY: u32 = u32::MAX;
/// The bits of a slot from here on are its distance from home, in lines.
const DISTANCE_SHIFT: u32 = 30;
/// The largest distance that a slot can tell: this far or farther.
const DISTANCE_FAR: usize = 3;
/// Leaves the tag nothing. So many entries would take 64 GiB.
const HANDLE_MAX: Handle = (1 << DISTANCE_SHIFT) - 2;
/// Leaves the tag 14 bits, more than enough.
const HANDLE_MASK_MIN: u32 = 0xFFFF;

#[derive(Debug, Default)]
pub(super) struct Index {
    tables: [Table; TABLES],
}

impl Index {
    pub fn new() -> Self {
        Self::default()
    }

    /// The handle of this hash that `is_it` confirms. It is seldom asked about another.
    pub fn find(&self, hash: KeyHash, is_it: impl FnMut(Handle) -> bool) -> Option<Handle> {
        self.table(hash).find(hash, is_it)
    }

    /// Asks the processor for the line where a search begins.
    pub fn prefetch(&self, hash: KeyHash) {
        let lines = &self.table(hash).lines;
        prefetch_index(lines, hash.index_line(lines.len()));
    }

    /// The handle that is most likely the one of this hash.
    pub fn first(&self, hash: KeyHash) -> Option<Handle> {
        self.find(hash, |_| true)
    }

    /// Inserts a handle that isn't there. `rehash` is asked for the hashes of those that are, by a table that grows.
    ///
    /// # Panics
    /// If the handle is larger than any slot can hold, which takes 64 GiB of entries: going on would lose data.
    pub fn insert(&mut self, hash: KeyHash, handle: Handle, rehash: impl Fn(Handle) -> KeyHash) {
        assert!(handle <= HANDLE_MAX, "the handle {handle} is too large for the index");
        let number = hash.index_table(TABLES);
        let table = self.table_mut(hash);
        if table.len >= table.lines.len() * LINE_ENTRIES_MAX {
            *table = table.grown(lines_after(table.lines.len(), number), rehash);
        }
        table.widen(handle);
        table.insert(hash, handle);
    }

    /// Removes the handle that was inserted with this hash. `rehash` is asked about others that are far from home.
    pub fn remove(&mut self, hash: KeyHash, handle: Handle, rehash: impl Fn(Handle) -> KeyHash) {
        self.table_mut(hash).remove(hash, handle, rehash);
    }

    #[expect(clippy::indexing_slicing, reason = "reduced by the number of tables")]
    fn table(&self, hash: KeyHash) -> &Table {
        &self.tables[hash.index_table(TABLES)]
    }

    #[expect(clippy::indexing_slicing, reason = "reduced by the number of tables")]
    fn table_mut(&mut self, hash: KeyHash) -> &mut Table {
        &mut self.tables[hash.index_table(TABLES)]
    }
}

/// The size that follows `lines` for this table. All are 4, 5, 6 or 7 times a power of two, as are the size classes of
/// allocators, so that nothing is lost to rounding; every other table has the even ones, and its neighbours the odd.
fn lines_after(lines: usize, number: usize) -> usize {
    let of_doubling = |i| [4, 6].map(|quarters| (quarters + number % 2) << i >> 2);
    (0..usize::BITS - 3).flat_map(of_doubling).find(|&size| size > lines).unwrap_or(lines)
}

#[derive(Debug)]
struct Table {
    lines: Box<[Line]>,
    len: usize,
    /// The bits of a slot that hold its handle.
    handle_mask: u32,
}

impl Default for Table {
    fn default() -> Self {
        Self::new(0, HANDLE_MASK_MIN)
    }
}

impl Table {
    fn new(lines: usize, handle_mask: u32) -> Self {
        Self { lines: vec![Line([EMPTY; LINE_SLOTS]); lines].into(), len: 0, handle_mask }
    }

    fn find(&self, hash: KeyHash, mut is_it: impl FnMut(Handle) -> bool) -> Option<Handle> {
        let tag = self.slot(hash, 0);
        let (before, from_home) = self.lines.split_at(hash.index_line(self.lines.len()));
        for (distance, line) in from_home.iter().chain(before).enumerate() {
            let wanted = at_distance(tag, distance);
            for i in line.matches(|slot| slot & !self.handle_mask == wanted) {
                let slot = line.get(i);
                if slot != EMPTY && is_it(slot & self.handle_mask) {
                    return Some(slot & self.handle_mask);
                }
            }
            if !line.is_full() {
                return None;
            }
        }
        None
    }

    /// The caller has seen to it that there is room.
    fn insert(&mut self, hash: KeyHash, handle: Handle) {
        let slot = self.slot(hash, handle);
        let (before, from_home) = self.lines.split_at_mut(hash.index_line(self.lines.len()));
        let mut path = from_home.iter_mut().chain(before).enumerate();
        if let Some((distance, line)) = path.find(|(_, line)| !line.is_full()) {
            line.push(at_distance(slot, distance));
            self.len += 1;
        }
    }

    fn remove(&mut self, hash: KeyHash, handle: Handle, rehash: impl Fn(Handle) -> KeyHash) {
        if handle >= self.handle_mask {
            return; // such a one would have widened it
        }
        let home = hash.index_line(self.lines.len());
        let slot = self.slot(hash, handle);
        for (distance, at) in (home..self.lines.len()).chain(0..home).enumerate() {
            let Some(line) = self.lines.get_mut(at) else { return };
            let (wanted, was_full) = (at_distance(slot, distance), line.is_full());
            if let Some(i) = line.matches(|slot| slot == wanted).next() {
                line.swap_remove(i);
                self.len -= 1;
                return if was_full {
                    self.close(at, rehash)
                };
            }
            if !was_full {
                return;
            }
        }
    }

    /// Fills the gap in a line that was full with an entry that had to go on from it, and so on where that one was.
    fn close(&mut self, mut gap: usize, rehash: impl Fn(Handle) -> KeyHash) {
        let mut step = 1;
        while step < self.lines.len() {
            let at = (gap + step) % self.lines.len();
            let Some(&line) = self.lines.get(at) else { return };
            if let Some((i, slot)) = self.that_came_by(step, &line, at, &rehash) {
                self.lines.get_mut(gap).into_iter().for_each(|line| line.push(slot));
                self.lines.get_mut(at).into_iter().for_each(|line| line.swap_remove(i));
                (gap, step) = (at, 0);
            }
            if !line.is_full() {
                return;
            }
            step += 1;
        }
    }

    /// An entry of the line that is at least so many steps from home: its place, and its slot when it is back by those.
    fn that_came_by(
        &self,
        steps: usize,
        line: &Line,
        at: usize,
        rehash: impl Fn(Handle) -> KeyHash,
    ) -> Option<(usize, u32)> {
        let least = at_distance(0, steps);
        line.matches(|slot| slot >= least && slot != EMPTY).find_map(|i| {
            let slot = line.get(i);
            let nearer = self.distance(slot, at, &rehash).checked_sub(steps)?;
            Some((i, at_distance(slot, nearer)))
        })
    }

    fn distance(&self, slot: u32, at: usize, rehash: impl Fn(Handle) -> KeyHash) -> usize {
        match (slot >> DISTANCE_SHIFT) as usize {
            DISTANCE_FAR => {
                let home = rehash(slot & self.handle_mask).index_line(self.lines.len());
                (at + self.lines.len() - home) % self.lines.len()
            }
            near => near,
        }
    }

    /// The same entries in more lines.
    fn grown(&self, lines: usize, rehash: impl Fn(Handle) -> KeyHash) -> Self {
        let mut grown = Self::new(lines, self.handle_mask);
        for slot in self.lines.iter().flat_map(Line::taken) {
            let handle = slot & self.handle_mask;
            grown.insert(rehash(handle), handle);
        }
        grown
    }

    /// Makes a handle fit. Handles take the lowest bits of the tags, which leaves the others as they are.
    fn widen(&mut self, handle: Handle) {
        if handle < self.handle_mask {
            return;
        }
        let handle_mask = (handle + 2).next_power_of_two() - 1;
        for slot in self.lines.iter_mut().flat_map(|line| &mut line.0).filter(|slot| **slot != EMPTY) {
            *slot = *slot & !handle_mask | *slot & self.handle_mask;
        }
        self.handle_mask = handle_mask;
    }

    /// The slot of an entry that is at home.
    fn slot(&self, hash: KeyHash, handle: Handle) -> u32 {
        at_distance(hash.index_tag() & !self.handle_mask | handle, 0)
    }
}

fn at_distance(slot: u32, lines: usize) -> u32 {
    let rest = slot & ((1 << DISTANCE_SHIFT) - 1);
    rest | (lines.min(DISTANCE_FAR) as u32) << DISTANCE_SHIFT
}

/// A cache line of slots, of which the taken ones come first.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line([u32; LINE_SLOTS]);

impl Line {
    /// Looks at all slots, so that the compiler makes a few vector instructions of it. The bits start at 2¹⁶: with
    /// the lowest, which stands for `true` itself, it would treat the first slot apart from the others.
    fn matches(&self, is_match: impl Fn(u32) -> bool) -> Matches {
        let mut bit = 1 << (LINE_SLOTS - 1);
        let add = |bits, &slot: &u32| {
            bit <<= 1;
            bits | if is_match(slot) { bit } else { 0 }
        };
        Matches(self.0.iter().fold(0, add))
    }

    fn taken(&self) -> impl Iterator<Item = u32> {
        self.0.into_iter().take_while(|&slot| slot != EMPTY)
    }

    fn is_full(&self) -> bool {
        let [.., last] = self.0;
        last != EMPTY
    }

    fn push(&mut self, slot: u32) {
        if let Some(i) = self.matches(|slot| slot == EMPTY).next() {
            self.set(i, slot);
        }
    }

    fn swap_remove(&mut self, i: usize) {
        let free = self.matches(|slot| slot == EMPTY).next().unwrap_or(LINE_SLOTS);
        self.set(i, self.get(free - 1));
        self.set(free - 1, EMPTY);
    }

    fn get(&self, i: usize) -> u32 {
        self.0.get(i).copied().unwrap_or(EMPTY)
    }

    fn set(&mut self, i: usize, slot: u32) {
        if let Some(place) = self.0.get_mut(i) {
            *place = slot;
        }
    }
}

/// The places in a line of the slots that match, as the bits from 16 to 31.
struct Matches(u32);

impl Iterator for Matches {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let place = (self.0 != 0).then_some(self.0.trailing_zeros() as usize % LINE_SLOTS);
        self.0 &= self.0.wrapping_sub(1);
        place
    }
}

#[cfg(test)]
impl Index {
    pub fn len(&self) -> usize {
        self.tables.iter().map(|table| table.len).sum()
    }

    /// Asserts all that must hold between two calls.
    pub fn check(&self, rehash: impl Fn(Handle) -> KeyHash) {
        for (number, table) in self.tables.iter().enumerate() {
            assert!(table.len <= table.lines.len() * LINE_ENTRIES_MAX, "a table is too full");
            assert_eq!(table.len, table.lines.iter().flat_map(Line::taken).count());
            for (at, line) in table.lines.iter().enumerate() {
                assert!(line.0.is_sorted_by_key(|&slot| slot == EMPTY), "a free slot before a taken one");
                for slot in line.taken() {
                    let handle = slot & table.handle_mask;
                    assert_eq!(rehash(handle).index_table(TABLES), number);
                    table.check_slot(slot, rehash(handle), at);
                }
            }
        }
    }

    fn lines(&self) -> usize {
        self.tables.iter().map(|table| table.lines.len()).sum()
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.lines() * size_of::<Line>()
    }
}

#[cfg(test)]
impl Table {
    fn check_slot(&self, slot: u32, hash: KeyHash, at: usize) {
        let home = hash.index_line(self.lines.len());
        let path = (home..self.lines.len()).chain(0..home).take_while(|&on_the_way| on_the_way != at);
        assert_eq!(slot, at_distance(self.slot(hash, slot & self.handle_mask), path.clone().count()));
        assert!(path.into_iter().all(|line| self.lines[line].is_full()), "a search would end before this entry");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashMap;

    use proptest::prelude::*;
    use proptest::sample::{Index as Choice, select};

    use super::*;
    use crate::store::hash::Hasher;

    fn hash(handle: Handle) -> KeyHash {
        Hasher::with_seed(7).hash(&handle.to_le_bytes())
    }

    /// Puts all into the first table.
    fn hash_in_one_table(i: u32) -> KeyHash {
        KeyHash::of_bits(hash(i).fingerprint() & (u64::MAX >> 10))
    }

    fn filled(entries: u32) -> Index {
        let mut index = Index::new();
        (0..entries).for_each(|handle| index.insert(hash(handle), handle, hash));
        index
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(KeyHash, Handle),
        Remove(Choice),
        RemoveAbsent(KeyHash, Handle),
    }

    /// Few, so that many are equal in whole or in part. The homes are first, middle and last lines.
    fn few_hashes() -> impl Strategy<Value = KeyHash> {
        let homes = select(vec![0, 1 << 31, (1 << 31) + (1 << 29), u64::from(u32::MAX)]);
        let tags = select(vec![0, 1 << 32, 0xFFFF << 32]);
        (homes, tags, select(vec![0, 5 << 54])).prop_map(|(home, tag, table)| KeyHash::of_bits(home | tag | table))
    }

    /// Few, and of all widths.
    fn few_handles() -> impl Strategy<Value = Handle> {
        let base = prop_oneof![8 => Just(0), 1 => Just(65_400), 1 => Just(1 << 20), 1 => Just(HANDLE_MAX - 199)];
        (base, 0_u32..200).prop_map(|(base, handle)| base + handle)
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let insert = (few_hashes(), few_handles()).prop_map(|(hash, handle)| Step::Insert(hash, handle));
        let absent = (few_hashes(), few_handles()).prop_map(|(hash, handle)| Step::RemoveAbsent(hash, handle));
        let step = prop_oneof![6 => insert, 4 => any::<Choice>().prop_map(Step::Remove), 1 => absent];
        prop::collection::vec(step, 0..600)
    }

    proptest! {
        #[test]
        fn finds_exactly_what_is_there(steps in steps()) {
            let (mut index, mut model) = (Index::new(), HashMap::<Handle, KeyHash>::new());
            for step in steps {
                match step {
                    Step::Insert(hash, handle) => {
                        if !model.contains_key(&handle) {
                            index.insert(hash, handle, |handle| model[&handle]);
                            model.insert(handle, hash);
                        }
                    }
                    Step::Remove(choice) => {
                        let mut handles: Vec<_> = model.keys().copied().collect();
                        handles.sort_unstable();
                        if !handles.is_empty() {
                            let handle = *choice.get(&handles);
                            let hash = model.remove(&handle).unwrap();
                            index.remove(hash, handle, |handle| model[&handle]);
                            prop_assert_eq!(index.find(hash, |other| other == handle), None);
                        }
                    }
                    Step::RemoveAbsent(hash, handle) => {
                        if !model.contains_key(&handle) {
                            index.remove(hash, handle, |handle| model[&handle]);
                        }
                    }
                }
                index.check(|handle| model[&handle]);
                prop_assert_eq!(index.len(), model.len());
            }
            for (&handle, &hash) in &model {
                prop_assert_eq!(index.find(hash, |other| other == handle), Some(handle));
                prop_assert!(index.first(hash).is_some());
            }
        }
    }

    /// Its bits beyond those of the others are the tag's.
    #[test]
    fn a_handle_that_was_never_there_is_not_taken_for_another_when_it_is_removed() {
        let (hash, mut index) = (KeyHash::of_bits(0xFFFF << 32), Index::new());
        index.insert(hash, 196, |_| hash);
        index.remove(hash, (1 << 20) + 196, |_| hash);
        assert_eq!(index.find(hash, |other| other == 196), Some(196));
    }

    #[test]
    fn entries_of_one_home_fill_many_lines_and_leave_them() {
        let (hash, mut index) = (KeyHash::of_bits(u64::from(u32::MAX)), Index::new());
        (0..1000).for_each(|handle| index.insert(hash, handle, |_| hash));
        for handle in 0..1000 {
            index.check(|_| hash);
            assert_eq!(index.find(hash, |other| other == handle), Some(handle));
            index.remove(hash, handle, |_| hash);
            assert_eq!(index.find(hash, |other| other == handle), None);
        }
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn empty_index_has_no_lines_and_finds_nothing() {
        let mut index = Index::new();
        index.remove(hash(1), 1, hash);
        assert_eq!((index.first(hash(1)), index.len(), index.lines()), (None, 0, 0));
    }

    #[test]
    fn entry_takes_less_than_seven_bytes_at_any_size() {
        let mut index = Index::new();
        for handle in 0..300_000 {
            index.insert(hash(handle), handle, hash);
            let (entries, bytes) = (index.len(), index.bytes());
            assert!(entries < 1000 || bytes < 7 * entries, "{bytes} bytes for {entries} entries");
        }
        index.check(hash);
    }

    #[test]
    fn insertion_that_grows_moves_a_small_part_of_the_entries() {
        let mut index = Index::new();
        for handle in 0..100_000 {
            let moved = Cell::new(0);
            index.insert(hash(handle), handle, |handle| {
                moved.set(moved.get() + 1);
                hash(handle)
            });
            assert!(handle < 1000 || moved.get() < handle / 8, "{} of {handle}", moved.get());
        }
    }

    #[test]
    fn churn_at_constant_size_leaves_the_index_as_good_as_new() {
        const ENTRIES: u32 = 5000;
        let away = |index: &Index| {
            let slots = index.tables.iter().flat_map(|table| &table.lines).flat_map(Line::taken);
            slots.filter(|slot| slot >> DISTANCE_SHIFT > 0).count()
        };
        let mut hashes: Vec<_> = (0..ENTRIES).map(hash_in_one_table).collect();
        let mut index = Index::new();
        (0..ENTRIES).for_each(|handle| index.insert(hashes[handle as usize], handle, |handle| hashes[handle as usize]));
        let (lines, away_before) = (index.lines(), away(&index));
        for i in ENTRIES..20 * ENTRIES {
            let handle = i % ENTRIES;
            index.remove(hashes[handle as usize], handle, |handle| hashes[handle as usize]);
            hashes[handle as usize] = hash_in_one_table(i);
            index.insert(hashes[handle as usize], handle, |handle| hashes[handle as usize]);
        }
        index.check(|handle| hashes[handle as usize]);
        assert_eq!(index.lines(), lines);
        assert!(away(&index) < away_before + ENTRIES as usize / 50, "{} away from home", away(&index));
    }

    #[test]
    fn search_hardly_asks_about_wrong_entries() {
        let index = filled(100_000);
        let wrong = Cell::new(0);
        for handle in 0..200_000 {
            let found = index.find(hash(handle), |other| {
                wrong.set(wrong.get() + u32::from(other != handle));
                other == handle
            });
            assert_eq!(found, (handle < 100_000).then_some(handle));
        }
        assert!(wrong.get() < 1500, "{} wrong entries", wrong.get());
    }
}
