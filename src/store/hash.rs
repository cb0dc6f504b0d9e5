//! One hash a key: 128 seeded bits, shared out to partition, index and fingerprint.

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Hashes keys with a seed of the store's own, so that nobody can choose keys that collide.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hasher {
    seed: u64,
}

impl Hasher {
    pub fn with_seed(seed: u64) -> Self {
        Self { seed }
    }

    pub fn hash(self, key: &[u8]) -> KeyHash {
        let hash = xxh3_128_with_seed(key, self.seed);
        KeyHash { low: hash as u64, high: (hash >> 64) as u64 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyHash {
    low: u64,
    high: u64,
}

impl KeyHash {
    /// `partitions` is a power of two, at most 64. Takes bits 48 to 53.
    pub fn partition(self, partitions: usize) -> usize {
        (self.low >> 48) as usize & (partitions - 1)
    }

    /// Which of `tables` (a power of two, at most 1024) of the partition's index: the topmost bits.
    pub fn index_table(self, tables: usize) -> usize {
        (self.low >> 54) as usize & (tables - 1)
    }

    /// Which of `lines` (fewer than 2³²) of a table of the index: the low 32 bits as a fraction of 2³² (Lemire, "Fast
    /// random integer generation in an interval", 2019).
    pub fn index_line(self, lines: usize) -> usize {
        ((u64::from(self.low as u32) * lines as u64) >> 32) as usize
    }

    /// Tells keys of one line apart by the upper bits, 14 of which depend on none of the above: bits 32 to 45.
    pub fn index_tag(self) -> u32 {
        (self.low >> 16) as u32
    }

    /// Which of `tables` (a power of two) of the filter: bits 40 and up, which the partition does not use.
    pub fn filter_table(self, tables: usize) -> usize {
        (self.low >> 40) as usize & (tables - 1)
    }

    pub fn fingerprint(self) -> u64 {
        self.high
    }

    /// Whose bits a test wants to choose.
    #[cfg(test)]
    pub fn of_bits(low: u64) -> Self {
        Self { low, high: 0 }
    }
}
