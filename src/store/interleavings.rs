//! The budget, evictions and fill tokens, under a scheduler that tries their interleavings.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize as Plain;

use super::*;
use crate::record::Value;
use crate::sync::{Mutex, check, thread};

const NOW: Timestamp = Timestamp(1_000);

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

fn set(name: &str, lsn: u64) -> Effect {
    let value = Value::new("v".to_owned()).unwrap();
    Effect::Set(Record { key: key(name), value, version: Version::new(1, lsn), expires_at: None })
}

/// One partition for `capacity` records, with room for all that is on its way out.
fn store(capacity: usize) -> Store {
    let (hasher, budget) = (Hasher::with_seed(7), Budget::new(capacity + 10, 1 << 20));
    let limits = Limits { records_max: capacity, bytes_max: 1 << 20, spill: Spill::Evicted };
    let partition = Partition::new(PolicyKind::Lru, limits, hasher, Arc::clone(&budget));
    let partitions = [RwLock::new(partition)].into();
    let store = Store { partitions, hasher, budget, next_spill: AtomicUsize::new(0), last_scan: AtomicU64::new(0) };
    let scan = store.restart_filter();
    store.finish_filter(scan);
    store
}

/// A store with the rows behind it, and what is known of it. What only watches is plain: to watch is no step.
struct World {
    store: Store,
    rows: Mutex<BTreeMap<Key, Record>>,
    /// What was applied.
    newest: std::sync::Mutex<BTreeMap<Key, Version>>,
    /// Who waits for a load, and what had been applied when they began to.
    waiting: std::sync::Mutex<BTreeMap<u64, Option<Version>>>,
    last_ticket: Plain,
}

impl World {
    fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            store: store(capacity),
            rows: Mutex::default(),
            newest: std::sync::Mutex::default(),
            waiting: std::sync::Mutex::default(),
            last_ticket: Plain::new(0),
        })
    }

    fn put(&self, effect: &Effect) {
        let admission = self.store.admit(effect.size_bytes()).expect("the bound is far");
        self.store.apply(effect, admission);
        self.newest.lock().unwrap().insert(effect.key().clone(), effect.version());
    }

    /// One flush, as the spiller does it.
    fn flush(&self) {
        let effects = self.store.take_spill(10, 1 << 20);
        for effect in &effects {
            let Effect::Set(record) = effect else { unreachable!("nothing is deleted here") };
            self.rows.lock().insert(record.key.clone(), record.clone());
        }
        self.store.confirm(&effects);
    }

    /// One read, as the shard does it: what it says is never older than what had been applied when it began.
    fn get(&self, name: &str) {
        let key = key(name);
        let before = self.newest.lock().unwrap().get(&key).copied();
        let check = |known: Known| {
            let version = known.found.map(|found| found.version);
            assert!(version >= before, "{name} is {version:?} in memory, and had been {before:?}");
        };
        if let Lookup::Known(known) = self.store.get(&key, self.store.hint(&key), NOW) {
            return check(known);
        }
        let ticket = self.last_ticket.fetch_add(1, Ordering::SeqCst) as u64;
        self.waiting.lock().unwrap().insert(ticket, before);
        match self.store.begin_fill(&key, Ticket(ticket), NOW) {
            Fill::Known(known) => {
                self.waiting.lock().unwrap().remove(&ticket);
                check(known);
            }
            Fill::Joined => {}
            Fill::Started(id) => self.load(&key, id),
        }
    }

    fn load(&self, key: &Key, id: FillId) {
        let row = self.rows.lock().get(key).cloned();
        let tickets = self.store.complete_fill(key, id, row.as_ref(), NOW);
        let version = row.map(|row| row.version);
        for Ticket(ticket) in tickets {
            let before = self.waiting.lock().unwrap().remove(&ticket).expect("nobody is told twice");
            assert!(version >= before, "{key} was loaded as {version:?}, and had been {before:?}");
        }
    }

    /// R13, R12, R15, once nothing is under way.
    fn check(&self) {
        assert!(self.waiting.lock().unwrap().is_empty(), "somebody was not told");
        let mut cost_bytes = 0;
        for (key, newest) in &*self.newest.lock().unwrap() {
            let version = match self.store.peek(key, NOW) {
                Lookup::Known(known) => known.found.map(|found| found.version),
                Lookup::Unknown => self.rows.lock().get(key).map(|row| row.version),
            };
            assert_eq!(version, Some(*newest), "{key} is stale, or lost");
        }
        let partition = self.store.partitions[0].read();
        let entries = partition.slab.iter().map(|(_, entry)| entry.cost_bytes());
        let records = entries.inspect(|bytes| cost_bytes += bytes).count();
        assert_eq!((self.store.budget.records(), self.store.budget.bytes()), (records, cost_bytes), "what is admitted");
        let resident: Vec<_> = partition.slab.iter().filter(|(_, entry)| entry.is_resident()).collect();
        assert!(resident.len() <= partition.limits.records_max);
        assert_eq!(partition.policy.len(), resident.len(), "the policy knows the resident entries");
        assert!(resident.iter().all(|(handle, _)| partition.policy.rank(*handle).is_some()), "one is never evicted");
    }
}

fn spawn(world: &Arc<World>, work: impl FnOnce(&World) + Send + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || work(&world))
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn no_more_is_admitted_than_the_bounds_allow_and_all_of_it_comes_back() {
    const RECORDS: usize = 2;
    const LARGE: usize = 200;
    const BYTES: usize = cost_bytes_max(LARGE) + cost_bytes_max(0);
    check(4_000, || {
        let budget = Budget::new(RECORDS, BYTES);
        let (records, bytes) = (Arc::new(Plain::new(0)), Arc::new(Plain::new(0)));
        // Three small ones are one too many by records; by bytes, the large one goes with the first only.
        let threads = [0, 10, 20, LARGE].map(|payload_bytes| {
            let (budget, records, bytes) = (budget.clone(), records.clone(), bytes.clone());
            thread::spawn(move || {
                for is_entry in [false, true] {
                    let Some(admission) = budget.admit(payload_bytes) else { continue };
                    let cost_bytes = cost_bytes_max(payload_bytes);
                    assert!(records.fetch_add(1, Ordering::SeqCst) < RECORDS, "too many records");
                    assert!(bytes.fetch_add(cost_bytes, Ordering::SeqCst) + cost_bytes <= BYTES, "too many bytes");
                    let let_go = || {
                        records.fetch_sub(1, Ordering::SeqCst);
                        bytes.fetch_sub(cost_bytes, Ordering::SeqCst);
                    };
                    if is_entry {
                        admission.take_over(cost_bytes - payload_bytes / 2);
                        let_go();
                        budget.give_back(1, cost_bytes - payload_bytes / 2);
                    } else {
                        let_go();
                        drop(admission);
                    }
                }
            })
        });
        join(threads);
        assert_eq!((budget.records(), budget.bytes()), (0, 0), "something was not given back");
    });
}

/// R12: a load that a write has overtaken, and whose record is out of memory again by then, keeps nothing.
#[test]
fn a_load_never_brings_back_what_was_overwritten() {
    check(8_000, || {
        let world = World::new(1);
        world.put(&set("a", 1));
        world.put(&set("b", 2));
        world.flush();
        // Only the rows have "a" now. It is written, evicted and spilled while it is loaded.
        let reader = spawn(&world, |world| world.get("a"));
        let writer = spawn(&world, |world| {
            world.put(&set("a", 3));
            world.put(&set("b", 4));
            world.flush();
            world.get("a");
        });
        join([reader, writer]);
        world.check();
    });
}

/// R12: they are somebody else's from then on, who may write them.
#[test]
fn a_load_keeps_nothing_of_slots_that_were_given_up() {
    check(1_000, || {
        let world = World::new(1);
        world.put(&set("a", 1));
        world.put(&set("b", 2));
        world.flush();
        let slots: SlotSet = [Slot::of(&key("a"))].into_iter().collect();
        let Fill::Started(id) = world.store.begin_fill(&key("a"), Ticket(0), NOW) else { unreachable!() };
        world.waiting.lock().unwrap().insert(0, None);
        let loader = spawn(&world, move |world| world.load(&key("a"), id));
        let steward = spawn(&world, {
            let slots = slots.clone();
            move |world| world.store.vacate(&slots)
        });
        join([loader, steward]);
        assert_eq!(world.store.entries_in(&slots), 0);
        world.check();
    });
}

/// Hits, writes, evictions, flushes and loads of few keys, all at once.
#[test]
fn memory_and_rows_together_are_never_stale() {
    check(2_000, || {
        let world = World::new(2);
        (1..=3).zip(["a", "b", "c"]).for_each(|(lsn, name)| world.put(&set(name, lsn)));
        let writer = spawn(&world, |world| {
            world.put(&set("a", 4));
            world.put(&set("d", 5));
        });
        let spiller = spawn(&world, |world| (0..2).for_each(|_| world.flush()));
        let reader = spawn(&world, |world| ["a", "b", "a"].iter().for_each(|name| world.get(name)));
        join([writer, spiller, reader]);
        world.check();
        world.flush();
        world.check();
    });
}
