//! Random interleavings of everything that can happen to a store, against a model. A failure names its seed: run it alone
//! with `run(SEED)`.

use super::invariants::check_all;
use super::world::World;
use super::*;

const SEEDS: u64 = 150;
const STEPS: usize = 300;

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
        world.forget_dropped();
        check_all(&world);
    }
    world.converge();
    check_all(&world);
    assert!(world.readers.is_empty(), "some readers were never answered: {:?}", world.readers);
    for key in world.keys.clone() {
        let newest = world.newest_record(&key).filter(|record| !record.is_expired(world.now)).cloned();
        assert_eq!(world.serve(&key).map(|found| found.value), newest.map(|record| record.value), "{key}");
        world.drain();
    }
    world.store.vacate(&SlotSet::all());
    world.drain();
    assert!(world.awaiting.is_empty(), "{:?}", world.awaiting);
    everything_is_given_back(&world.store);
}

fn everything_is_given_back(store: &Store) {
    assert_eq!((store.budget.records(), store.budget.bytes()), (0, 0));
    let stats = store.stats();
    assert_eq!((stats.live, stats.leaving, stats.unspilled, stats.tombstones), (0, 0, 0, 0));
    assert_eq!((stats.memory_only, stats.tombstones_in_tier), (0, 0));
    assert_eq!(store.take_spill(1, 1), []);
    assert_eq!(store.entries_in(&SlotSet::all()), 0);
    for partition in &store.partitions {
        let partition = partition.read();
        assert_eq!((partition.policy.len(), partition.index.len(), partition.spill_queue.len()), (0, 0, 0));
    }
}

#[test]
fn every_interleaving_keeps_the_invariants() {
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| run(seed));
        if let Err(cause) = outcome {
            eprintln!("the seed was {seed}");
            std::panic::resume_unwind(cause);
        }
    }
}
