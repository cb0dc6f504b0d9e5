//! Memory for many small blocks: no allocator's header, no rounding up to its classes, and an address of four bytes.
//!
//! Blocks are put one behind the other into segments, as a log, and stay where they are until they are freed. What they leave
//! is not filled block by block: once the dead are an eighth of the living, a segment with few living is cleaned, which means that
//! these move to the end of the log, and the whole segment is free. Source: Rosenblum and Ousterhout 1992, "The design and
//! implementation of a log-structured file system", and for memory Rumble, Kejriwal and Ousterhout 2014, "Log-structured memory for
//! DRAM-based storage", without its second level, and greedy: records of a cache that die together mostly came together.

use prefetch_index::prefetch_index;

/// One allocation of the system's allocator, and what one cleaning moves at most. Each arena has an open one, half of it free.
const SEGMENT_BYTES: usize = 16 * 1024;
/// Blocks begin at multiples of this.
const GRANULE_BYTES: usize = 4;
const GRANULES: u32 = (SEGMENT_BYTES / GRANULE_BYTES) as u32;
/// An address has 31 bits: its owner has a use for the last one.
const SEGMENTS_MAX: usize = (1 << 31) / GRANULES as usize;
/// Before each block: its length, and whether it is dead.
type Header = [u8; HEADER_BYTES];
const HEADER_BYTES: usize = 2;
const DEAD: u16 = 1 << 15;
/// Of the living, before segments are cleaned.
const DEAD_SHARE: usize = 8;
/// So much may be dead without being worth the work.
const DEAD_BYTES_MIN: usize = SEGMENT_BYTES;
/// More than this share of a segment must be dead, else its blocks are not worth moving.
const GAIN_SHARE: usize = 16;
/// A cleaning takes the best of so many segments: nearly the best of all, and found in the same time however many there are.
const LOOKED_AT: usize = 64;
/// Of the processor's cache.
const LINE_BYTES: usize = 64;

/// The longest block: short enough that the end of a segment, where the next one does not fit, is a small part of it.
pub(super) const BLOCK_BYTES_MAX: usize = 2048;

/// Where a block is. Below 2^31.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address(pub u32);

impl Address {
    fn new(segment: usize, offset: usize) -> Self {
        Self(segment as u32 * GRANULES + (offset / GRANULE_BYTES) as u32) // bounded by SEGMENTS_MAX
    }

    fn segment(self) -> usize {
        (self.0 / GRANULES) as usize
    }

    fn offset(self) -> usize {
        (self.0 % GRANULES) as usize * GRANULE_BYTES
    }
}

#[derive(Debug, Default)]
struct Segment {
    /// Empty while it is not in use.
    bytes: Box<[u8]>,
    /// From the start: blocks, the living and the dead.
    used: usize,
    /// Of these, what is in living blocks.
    live: usize,
}

impl Segment {
    fn block(&self, offset: usize) -> Option<&[u8]> {
        let (header, behind) = self.bytes.get(offset..)?.split_first_chunk()?;
        behind.get(..length(*header))
    }

    fn block_mut(&mut self, offset: usize) -> Option<&mut [u8]> {
        let (header, behind) = self.bytes.get_mut(offset..)?.split_first_chunk_mut()?;
        behind.get_mut(..length(*header))
    }

    fn header(&self, offset: usize) -> Header {
        self.bytes.get(offset..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or_default()
    }

    fn set_header(&mut self, offset: usize, header: u16) {
        if let Some(place) = self.bytes.get_mut(offset..).and_then(|bytes| bytes.first_chunk_mut::<HEADER_BYTES>()) {
            *place = header.to_le_bytes();
        }
    }

    /// The offset of its first living block from `offset` on.
    fn next_live(&self, mut offset: usize) -> Option<usize> {
        while offset < self.used {
            let header = self.header(offset);
            if !is_dead(header) {
                return Some(offset);
            }
            offset += size_of_block(length(header));
        }
        None
    }
}

fn length(header: Header) -> usize {
    usize::from(u16::from_le_bytes(header) & !DEAD)
}

fn is_dead(header: Header) -> bool {
    u16::from_le_bytes(header) & DEAD != 0
}

/// What a block takes of its segment.
fn size_of_block(len: usize) -> usize {
    (HEADER_BYTES + len).next_multiple_of(GRANULE_BYTES)
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Arena {
    segments: Vec<Segment>,
    /// Which of them takes new blocks.
    open: usize,
    /// Those not in use.
    gaps: Vec<usize>,
    /// Where the next cleaning begins to look.
    next_victim: usize,
    live: usize,
    dead: usize,
}

impl Arena {
    /// A new block of `len` bytes, whatever they are; `None` if it is too long, or there is no address left.
    pub fn allocate(&mut self, len: usize) -> Option<Address> {
        if len > BLOCK_BYTES_MAX {
            return None;
        }
        let size = size_of_block(len);
        if self.segments.get(self.open).is_none_or(|open| open.used + size > open.bytes.len()) {
            self.open_another()?;
        }
        let segment = self.segments.get_mut(self.open)?;
        let offset = segment.used;
        segment.used += size;
        segment.live += size;
        self.live += size;
        segment.set_header(offset, len as u16); // at most BLOCK_BYTES_MAX
        Some(Address::new(self.open, offset))
    }

    pub fn get(&self, address: Address) -> &[u8] {
        self.segments.get(address.segment()).and_then(|segment| segment.block(address.offset())).unwrap_or_default()
    }

    pub fn get_mut(&mut self, address: Address) -> &mut [u8] {
        let segment = self.segments.get_mut(address.segment());
        segment.and_then(|segment| segment.block_mut(address.offset())).unwrap_or_default()
    }

    /// Asks the processor for the first lines of a block: for as much of it as it does not fetch by itself.
    pub fn prefetch(&self, address: Address) {
        if let Some(segment) = self.segments.get(address.segment()) {
            prefetch_index(&segment.bytes, address.offset());
            prefetch_index(&segment.bytes, address.offset() + LINE_BYTES);
        }
    }

    pub fn free(&mut self, address: Address) {
        let Some(segment) = self.segments.get_mut(address.segment()) else { return };
        let header = segment.header(address.offset());
        debug_assert!(!is_dead(header), "a block is freed twice");
        segment.set_header(address.offset(), u16::from_le_bytes(header) | DEAD);
        let size = size_of_block(length(header));
        segment.live -= size;
        self.live -= size;
        self.dead += size;
        if segment.live == 0 {
            self.give_up(address.segment());
        }
    }

    /// What all blocks take, the dead too.
    #[cfg(test)]
    pub fn used_bytes(&self) -> usize {
        self.live + self.dead
    }

    /// Moves the living blocks of one segment if too much is dead. `moved` is told of each where it was and where it is; it must
    /// not need the old place any more.
    pub fn clean(&mut self, mut moved: impl FnMut(&[u8], Address, Address)) {
        if self.dead <= (self.live / DEAD_SHARE).max(DEAD_BYTES_MIN) {
            return;
        }
        let Some(victim) = self.victim() else { return };
        let mut next = 0;
        while let Some(offset) = self.segments.get(victim).and_then(|segment| segment.next_live(next)) {
            let from = Address::new(victim, offset);
            let len = self.get(from).len();
            let Some(to) = self.allocate(len) else { return }; // no address is left; the rest stays where it is
            self.copy(from, to);
            moved(self.get(to), from, to);
            self.free(from);
            next = offset + size_of_block(len);
        }
    }

    /// A segment with few living blocks; `None` if all that are looked at this time have too many.
    fn victim(&mut self) -> Option<usize> {
        let (first, count) = (self.next_victim, self.segments.len());
        self.next_victim = (first + LOOKED_AT) % count.max(1);
        let looked_at = (first..first + LOOKED_AT.min(count)).map(|i| i % count);
        let with_few = looked_at.filter_map(|i| {
            let segment = self.segments.get(i)?;
            let is_worth_it = i != self.open && segment.used - segment.live > segment.used / GAIN_SHARE;
            is_worth_it.then_some((segment.live, i))
        });
        with_few.min().map(|(_, victim)| victim)
    }

    /// Between blocks of one length, in different segments.
    fn copy(&mut self, from: Address, to: Address) {
        if let Ok([source, target]) = self.segments.get_disjoint_mut([from.segment(), to.segment()])
            && let (Some(source), Some(target)) = (source.block(from.offset()), target.block_mut(to.offset()))
        {
            target.copy_from_slice(source);
        }
    }

    /// Another segment takes the new blocks.
    fn open_another(&mut self) -> Option<()> {
        self.open = match self.gaps.pop() {
            Some(gap) => gap,
            None if self.segments.len() < SEGMENTS_MAX => {
                self.segments.push(Segment::default());
                self.segments.len() - 1
            }
            None => return None,
        };
        let segment = self.segments.get_mut(self.open)?;
        *segment = Segment { bytes: vec![0; SEGMENT_BYTES].into(), used: 0, live: 0 };
        Some(())
    }

    /// A segment has no living block any more.
    fn give_up(&mut self, segment: usize) {
        let Some(emptied) = self.segments.get_mut(segment) else { return };
        self.dead -= emptied.used;
        emptied.used = 0; // the open one goes on from its start
        if segment != self.open {
            emptied.bytes = Box::default();
            self.gaps.push(segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// An arena, and what must be in it.
    #[derive(Default)]
    struct World {
        arena: Arena,
        blocks: BTreeMap<u32, Vec<u8>>,
        /// Blocks know who they are by their first bytes.
        places: BTreeMap<u32, Address>,
        last_name: u32,
        moves: usize,
    }

    impl World {
        fn allocate(&mut self, len: usize) {
            self.last_name += 1;
            let name = self.last_name;
            let mut block = name.to_le_bytes().to_vec();
            block.resize(len.max(4), name as u8);
            let address = self.arena.allocate(block.len()).unwrap();
            self.arena.get_mut(address).copy_from_slice(&block);
            self.blocks.insert(name, block);
            self.places.insert(name, address);
            self.clean();
        }

        /// The first from `name` on, or else the first of all.
        fn free(&mut self, name: u32) {
            let Some(&name) = self.blocks.range(name..).chain(&self.blocks).map(|(name, _)| name).next() else {
                return;
            };
            self.blocks.remove(&name);
            self.arena.free(self.places.remove(&name).unwrap());
        }

        fn clean(&mut self) {
            let (places, moves) = (&mut self.places, &mut self.moves);
            self.arena.clean(|block, from, to| {
                let name = u32::from_le_bytes(*block.first_chunk().unwrap());
                assert_eq!(places.insert(name, to), Some(from));
                *moves += 1;
            });
        }

        fn check(&self) {
            for (name, block) in &self.blocks {
                assert_eq!(self.arena.get(self.places[name]), block, "block {name}");
            }
            let live: usize = self.blocks.values().map(|block| size_of_block(block.len())).sum();
            let of_segments = |of: fn(&Segment) -> usize| self.arena.segments.iter().map(of).sum::<usize>();
            assert_eq!((self.arena.live, of_segments(|segment| segment.live)), (live, live));
            assert_eq!(self.arena.used_bytes(), of_segments(|segment| segment.used));
            for (i, segment) in self.arena.segments.iter().enumerate() {
                assert_eq!(self.arena.gaps.contains(&i), segment.bytes.is_empty());
                assert!(segment.live > 0 || segment.used == 0, "dead and not given up");
            }
        }
    }

    #[test]
    fn what_is_too_long_has_no_place() {
        let mut arena = Arena::default();
        assert_eq!(arena.allocate(BLOCK_BYTES_MAX + 1), None);
        let address = arena.allocate(BLOCK_BYTES_MAX).unwrap();
        assert_eq!(arena.get(address).len(), BLOCK_BYTES_MAX);
        assert!(arena.get(Address(u32::MAX >> 1)).is_empty());
    }

    #[test]
    fn blocks_that_die_at_random_leave_little_behind_and_move_seldom() {
        let mut world = World::default();
        (0..20_000).for_each(|i| world.allocate(100 + i % 50));
        let mut rng = SmallRng::seed_from_u64(7);
        for i in 0..60_000 {
            world.free(rng.random_range(0..world.last_name));
            world.allocate(100 + i % 50);
        }
        world.check();
        let (live, moves) = (world.arena.live, world.moves);
        assert!(world.arena.used_bytes() < live + live / DEAD_SHARE + 2 * SEGMENT_BYTES);
        assert!((1..60_000 * 6).contains(&moves), "{moves} moves");
    }

    #[test]
    fn what_dies_in_the_order_it_came_is_never_moved() {
        let mut world = World::default();
        for i in 0..50_000 {
            world.allocate(120);
            if i >= 5_000 {
                world.free(0);
            }
        }
        world.check();
        assert_eq!(world.moves, 0);
        // Nothing but the oldest segment is ever partly dead.
        assert!(world.arena.dead <= SEGMENT_BYTES, "{}", world.arena.dead);
        while !world.blocks.is_empty() {
            world.free(0);
        }
        world.check();
        assert_eq!(world.arena.used_bytes(), 0);
    }

    proptest! {
        #[test]
        fn blocks_keep_what_is_in_them(
            steps in prop::collection::vec((any::<bool>(), 4..BLOCK_BYTES_MAX, 0..2_000_u32), 0..600),
        ) {
            let mut world = World::default();
            for (is_new, len, name) in steps {
                match is_new {
                    true => (0..4).for_each(|_| world.allocate(len)),
                    false => (0..3).for_each(|_| world.free(name)),
                }
            }
            world.check();
        }
    }
}
