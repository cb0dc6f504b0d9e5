//! One hash a key: 128 seeded bits, shared out to partition, table and fingerprint.

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
    /// `partitions` is a power of two. Takes bits 48 and up; hashbrown uses the lowest and the topmost seven.
    pub fn partition(self, partitions: usize) -> usize {
        (self.low >> 48) as usize & (partitions - 1)
    }

    /// For the partition's table.
    pub fn table(self) -> u64 {
        self.low
    }

    /// Which of `tables` (a power of two) of the filter: bits 40 and up, which the partition does not use.
    pub fn filter_table(self, tables: usize) -> usize {
        (self.low >> 40) as usize & (tables - 1)
    }

    pub fn fingerprint(self) -> u64 {
        self.high
    }
}
