//! With one partition, what is handed out is what the textbook evicts, in its order.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// The textbook: keys in order of use (of arrival, for FIFO), the oldest first, with a count of uses.
struct Textbook {
    kind: PolicyKind,
    capacity: usize,
    list: Vec<(usize, u64)>,
}

impl Textbook {
    fn touch(&mut self, key: usize) {
        let Some(at) = self.list.iter().position(|&(other, _)| other == key) else { return };
        if self.kind != PolicyKind::Fifo {
            let (_, uses) = self.list.remove(at);
            self.list.push((key, uses + 1));
        }
    }

    /// A write, or a row that is read back. Answers who leaves.
    fn insert(&mut self, key: usize) -> Option<usize> {
        if self.list.iter().any(|&(other, _)| other == key) {
            self.touch(key);
            return None;
        }
        let leaves = (self.list.len() == self.capacity).then(|| self.evict());
        self.list.push((key, 1));
        leaves
    }

    fn evict(&mut self) -> usize {
        let is_lfu = self.kind == PolicyKind::Lfu;
        let coldest = (0..self.list.len()).min_by_key(|&at| (if is_lfu { self.list[at].1 } else { 0 }, at)).unwrap();
        self.list.remove(coldest).0
    }
}

fn check_order(kind: PolicyKind, capacity: usize, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let store = Small { policy: kind, capacity, ..Small::default() }.build();
    let mut textbook = Textbook { kind, capacity, list: Vec::new() };
    let name = |key: usize| format!("k{key}");
    for lsn in 1..300 {
        let key = rng.random_range(0..capacity * 2 + 1);
        if rng.random_bool(0.5) {
            let _ = read(&store, &name(key));
            textbook.touch(key);
            continue;
        }
        if rng.random_bool(0.1) {
            apply(&store, &delete(&name(key), lsn));
            textbook.list.retain(|&(other, _)| other != key);
            store.confirm(&take(&store));
            continue;
        }
        put(&store, &name(key), lsn);
        let expected: Vec<String> = textbook.insert(key).map(name).into_iter().collect();
        let taken = take(&store);
        let leaving: Vec<String> = taken.iter().map(|effect| effect.key().to_string()).collect();
        assert_eq!(leaving, expected, "{kind} at capacity {capacity}, seed {seed}, write {lsn} of {}", name(key));
        store.confirm(&taken);
    }
}

#[test]
fn records_are_handed_out_in_the_order_of_the_textbook() {
    for kind in PolicyKind::ALL {
        for capacity in [1, 2, 5, 17] {
            (0..40).for_each(|seed| check_order(kind, capacity, seed));
        }
    }
}

#[test]
fn a_backlog_is_handed_out_coldest_first() {
    for kind in PolicyKind::ALL {
        let store = Small { policy: kind, ..Small::default() }.build();
        (0..20).for_each(|lsn| put(&store, &format!("k{lsn}"), lsn + 1));
        let batches: Vec<Effect> = [4, 4, 100].into_iter().flat_map(|rows| store.take_spill(rows, 1 << 20)).collect();
        let expected: Vec<Effect> = (0..15).map(|lsn| set(&format!("k{lsn}"), lsn + 1)).collect();
        assert_eq!(batches, expected, "{kind}");
    }
}

#[test]
fn a_batch_stops_at_about_its_bytes() {
    let store = store(Spill::Everything);
    (1..=5).for_each(|lsn| put(&store, &format!("k{lsn}"), lsn));
    let size_bytes = set("k1", 1).size_bytes();
    assert_eq!(store.take_spill(100, size_bytes).len(), 1);
    assert_eq!(store.take_spill(100, size_bytes + 1).len(), 2);
    assert_eq!(store.take_spill(1, usize::MAX).len(), 1);
}
