//! The store against models: small stores whose every bound is within reach, and what the tests share.

mod invariants;
mod model;
mod order;
mod rules;
mod world;

use super::partition::{Limits, Partition};
use super::*;
use crate::record::Value;

/// What an entry may cost here: a key, the longest value of a test, and the overhead.
const ENTRY_BYTES: usize = 1_250;

/// A store with bounds below those that [`Store::new`] allows.
#[derive(Debug, Clone, Copy)]
struct Small {
    policy: PolicyKind,
    spill: Spill,
    partitions: usize,
    /// Of each partition.
    capacity: usize,
    /// Of each partition.
    bytes_max: usize,
    /// Beyond the capacity of all partitions.
    backlog: usize,
}

impl Default for Small {
    fn default() -> Self {
        Self {
            policy: PolicyKind::Lru,
            spill: Spill::Evicted,
            partitions: 1,
            capacity: 5,
            bytes_max: 1 << 30,
            backlog: 1000,
        }
    }
}

impl Small {
    fn build(self) -> Store {
        let hasher = Hasher::with_seed(7);
        let bytes_max = self.partitions * self.bytes_max + self.backlog * ENTRY_BYTES;
        let budget = Budget::new(self.partitions * self.capacity + self.backlog, bytes_max);
        let limits = Limits { records_max: self.capacity, bytes_max: self.bytes_max, spill: self.spill };
        let partition = |_| RwLock::new(Partition::new(self.policy, limits, hasher, Arc::clone(&budget)));
        let partitions = (0..self.partitions).map(partition).collect();
        let store = Store { partitions, hasher, budget, next_spill: AtomicUsize::new(0), last_scan: AtomicU64::new(0) };
        if self.spill != Spill::Nothing {
            fill_filter(&store, &[]);
        }
        store
    }
}

fn store(spill: Spill) -> Store {
    Small { spill, ..Small::default() }.build()
}

/// Tells the store that these keys have rows, and no others.
fn fill_filter(store: &Store, keys: &[Key]) {
    let scan = store.restart_filter();
    store.extend_filter(scan, keys);
    store.finish_filter(scan);
}

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

fn version(lsn: u64) -> Version {
    Version::new(1, lsn)
}

fn record(name: &str, lsn: u64) -> Record {
    let value = Value::new(format!("{name} at {lsn}")).unwrap();
    Record { key: key(name), value, version: version(lsn), expires_at: None }
}

fn set(name: &str, lsn: u64) -> Effect {
    Effect::Set(record(name, lsn))
}

fn delete(name: &str, lsn: u64) -> Effect {
    Effect::Delete { key: key(name), version: version(lsn) }
}

fn apply(store: &Store, effect: &Effect) {
    let admission = store.admit(effect.size_bytes()).unwrap();
    store.apply(effect, admission);
}

fn put(store: &Store, name: &str, lsn: u64) {
    apply(store, &set(name, lsn));
}

fn take(store: &Store) -> Vec<Effect> {
    store.take_spill(usize::MAX, usize::MAX)
}

/// Puts a record where only the tier has it.
fn put_away(store: &Store, name: &str, lsn: u64) {
    put(store, name, lsn);
    store.vacate(&SlotSet::all());
    store.confirm(&take(store));
}

/// The version that a read is answered with; `Err` if only the tier can tell.
fn read(store: &Store, name: &str) -> Result<Option<Version>, ()> {
    match store.get(&key(name), store.hint(&key(name)), Timestamp(0)) {
        Lookup::Known(known) => Ok(known.found.map(|found| found.version)),
        Lookup::Unknown => Err(()),
    }
}

fn begin_fill(store: &Store, name: &str, ticket: u64) -> FillId {
    match store.begin_fill(&key(name), Ticket(ticket), Timestamp(0)) {
        Fill::Started(id) => id,
        other => panic!("no load was started: {other:?}"),
    }
}
