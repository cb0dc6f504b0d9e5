//! The keys that may have a row in the tier, as fingerprints that can be deleted again (R17).
//!
//! A fingerprint is 64 bits of a seeded 128-bit hash; its table is chosen by other bits, and so is the partition. So two of
//! 100 million keys share one with a probability below 10⁻⁵, and nobody can aim for it. What is gained for that: a key
//! that was never spilled costs no SQL, for about 13 bytes a row, and a filter that grows by small steps.

use hashbrown::{HashSet, HashTable};

use super::hash::KeyHash;
use crate::mutants::{Rule, is_planted};

const TABLES: usize = 64;

/// Names one scan of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanId(pub(super) u64);

/// A set of fingerprints. Answers "maybe" for every key until [`SpilledKeys::finish`].
#[derive(Debug)]
pub(super) struct SpilledKeys {
    tables: Vec<HashTable<u64>>,
    is_complete: bool,
    /// The only scan that is listened to.
    scan: Option<ScanId>,
    /// Removed since the scan began, which may have read the row before and tell of it later.
    removed: HashSet<u64, foldhash::fast::RandomState>,
}

impl SpilledKeys {
    /// `is_complete`: nothing has been spilled before, so that it can be relied on at once.
    pub fn new(is_complete: bool) -> Self {
        let tables = (0..TABLES).map(|_| HashTable::new()).collect();
        Self { tables, is_complete, scan: None, removed: HashSet::default() }
    }

    /// `false` only if the key has no row.
    pub fn may_contain(&self, hash: KeyHash) -> bool {
        !self.is_complete || self.contains(hash) || is_planted(Rule::R17Maybe)
    }

    pub fn contains(&self, hash: KeyHash) -> bool {
        self.table(hash).is_some_and(|table| table.find(hash.fingerprint(), |&f| f == hash.fingerprint()).is_some())
    }

    pub fn insert(&mut self, hash: KeyHash) {
        let fingerprint = hash.fingerprint();
        if let Some(table) = self.tables.get_mut(hash.filter_table(TABLES)) {
            table.entry(fingerprint, |&f| f == fingerprint, |&f| f).or_insert(fingerprint);
        }
    }

    pub fn remove(&mut self, hash: KeyHash) {
        let fingerprint = hash.fingerprint();
        if self.scan.is_some() {
            self.removed.insert(fingerprint);
        }
        if let Some(table) = self.tables.get_mut(hash.filter_table(TABLES))
            && let Ok(found) = table.find_entry(fingerprint, |&f| f == fingerprint)
        {
            found.remove();
        }
    }

    pub fn len(&self) -> usize {
        self.tables.iter().map(HashTable::len).sum()
    }

    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Forgets all and answers "maybe" again, for a new scan.
    pub fn restart(&mut self, scan: ScanId) {
        *self = Self { scan: Some(scan), ..Self::new(false) };
    }

    /// The scan has found a row. It counts unless the row was removed since, or another scan has been started.
    pub fn extend(&mut self, scan: ScanId, hash: KeyHash) {
        if self.scan == Some(scan) && !self.removed.contains(&hash.fingerprint()) {
            self.insert(hash);
        }
    }

    /// Every row has been scanned. Returns whether the scan is the one that is listened to.
    pub fn finish(&mut self, scan: ScanId) -> bool {
        if self.scan != Some(scan) {
            return false;
        }
        self.scan = None;
        self.removed = HashSet::default();
        self.is_complete = true;
        true
    }

    fn table(&self, hash: KeyHash) -> Option<&HashTable<u64>> {
        self.tables.get(hash.filter_table(TABLES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::hash::Hasher;

    #[test]
    fn a_fingerprint_is_there_from_insert_to_remove() {
        let hasher = Hasher::with_seed(7);
        let mut filter = SpilledKeys::new(false);
        let hash = |i: u32| hasher.hash(&i.to_le_bytes());
        filter.restart(ScanId(1));
        assert!(filter.may_contain(hash(1)), "maybe, until it is complete");
        assert!(filter.finish(ScanId(1)));
        for i in 0..10_000 {
            filter.insert(hash(i));
            filter.insert(hash(i));
        }
        assert_eq!(filter.len(), 10_000);
        for i in (0..10_000).step_by(2) {
            filter.remove(hash(i));
        }
        for i in 0..20_000 {
            assert_eq!(filter.may_contain(hash(i)), i < 10_000 && i % 2 == 1);
        }
    }
}
