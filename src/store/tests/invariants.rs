//! What holds after every step, a function each. Each panics with what it found.

use super::super::entry::Entry;
use super::world::World;
use super::*;

pub(super) fn check_all(world: &World) {
    what_is_absent_from_memory_is_in_the_tier(world);
    what_memory_says_is_the_newest(world);
    a_complete_filter_knows_exactly_the_rows(world);
    rows_are_not_newer_than_what_was_committed(world);
    bounds_hold(world);
    counts_are_those_of_a_full_walk(world);
    what_must_leave_is_on_its_way(world);
    keys_in_covers_memory(world);
    who_waits_will_be_told(world);
    count_is_exact(world);
}

/// R13.
fn what_is_absent_from_memory_is_in_the_tier(world: &World) {
    for key in world.keys.iter().filter(|key| world.has_tier() && world.store.explain(key).is_none()) {
        assert_eq!(world.rows.get(key), world.newest_record(key), "{key} is absent from memory (R13)");
    }
}

/// R12, R17, R2: memory is never stale, and never says "missing" of what exists.
fn what_memory_says_is_the_newest(world: &World) {
    for key in &world.keys {
        let Lookup::Known(known) = world.store.peek(key, world.now) else { continue };
        let newest = world.newest_record(key).filter(|record| !record.is_expired(world.now));
        let expected = newest.map(|record| Found {
            value: record.value.clone(),
            version: record.version,
            expires_at: record.expires_at,
        });
        assert_eq!(known.found, expected, "what memory says of {key}");
    }
}

/// R17: a key without a row costs no SQL.
fn a_complete_filter_knows_exactly_the_rows(world: &World) {
    if !world.store.stats().filter_is_complete {
        return;
    }
    for key in world.keys.iter().filter(|key| world.store.explain(key).is_none()) {
        let asks_tier = world.store.peek(key, world.now) == Lookup::Unknown;
        assert_eq!(asks_tier, world.rows.contains_key(key), "whether the filter has {key}");
    }
}

fn rows_are_not_newer_than_what_was_committed(world: &World) {
    for (key, row) in &world.rows {
        assert!(row.version <= world.newest[key].version(), "the row of {key} never was committed");
    }
}

fn bounds_hold(world: &World) {
    let stats = world.store.stats();
    let capacity = world.small.capacity * world.small.partitions;
    assert!(stats.live - stats.leaving <= capacity as u64, "{stats:?}");
    assert!(stats.live + stats.tombstones <= stats.records_bound, "{stats:?}");
    assert!(stats.bytes <= stats.bytes_max, "{stats:?}");
    for partition in &world.store.partitions {
        let partition = partition.read();
        let residents = partition.slab.iter().map(|(_, entry)| entry).filter(|entry| entry.is_resident());
        let (records, bytes) = residents.fold((0, 0), |(n, bytes), entry| (n + 1, bytes + entry.cost_bytes()));
        assert_eq!(partition.policy.len(), records);
        assert!(records <= partition.limits.records_max && bytes <= partition.limits.bytes_max, "{records} {bytes}");
        assert!(partition.spill_queue.len() <= 2 * partition.slab.len() + 65, "{}", partition.spill_queue.len());
    }
}

fn counts_are_those_of_a_full_walk(world: &World) {
    let mut walked = StoreStats::default();
    let mut bytes = 0;
    for partition in &world.store.partitions {
        let partition = partition.read();
        for (_, entry) in partition.slab.iter() {
            let count = |is: bool| u64::from(is);
            let flags = entry.flags;
            walked.live += count(!flags.tombstone);
            walked.leaving += count(!flags.tombstone && flags.leaving);
            walked.unspilled += count(!flags.clean);
            walked.bytes_unspilled += count(!flags.clean) * entry.cost_bytes() as u64;
            walked.spilling += count(flags.queued || flags.flushing);
            walked.tombstones += count(flags.tombstone);
            walked.memory_only += count(!flags.tombstone && !flags.in_tier);
            walked.tombstones_in_tier += count(flags.tombstone && flags.in_tier);
            bytes += entry.cost_bytes() as u64;
        }
        assert_eq!(partition.index.len(), partition.slab.len());
        partition.index.check(|handle| partition.hasher.hash(partition.slab.get(handle).unwrap().key));
    }
    let stats = world.store.stats();
    assert_eq!(stats.bytes, bytes);
    assert_eq!(world.store.budget.records() as u64, walked.live + walked.tombstones);
    let walked = StoreStats {
        tier_records: stats.tier_records,
        filter_is_complete: stats.filter_is_complete,
        records_bound: stats.records_bound,
        bytes: stats.bytes,
        bytes_max: stats.bytes_max,
        evicted: stats.evicted,
        dropped: stats.dropped,
        ..walked
    };
    assert_eq!(stats, walked);
}

/// Nothing that the tier is owed is forgotten: it is queued, or in a flush, or was set aside.
fn what_must_leave_is_on_its_way(world: &World) {
    for partition in &world.store.partitions {
        let partition = partition.read();
        let must_leave = |entry: &Entry<'_>| {
            let everything = world.small.spill == Spill::Everything;
            !entry.flags.clean && (entry.flags.leaving || entry.flags.tombstone || everything)
        };
        for (handle, entry) in partition.slab.iter() {
            let (key, flags) = (entry.key().unwrap(), entry.flags);
            let is_flying = world.flights.iter().flatten().any(|effect| *effect.key() == key);
            assert_eq!(flags.flushing, is_flying, "{key}");
            assert!(!flags.queued || partition.spill_queue.contains(&handle), "{key} is not queued");
            let is_on_its_way = flags.queued || flags.flushing || world.set_aside.contains(&key);
            assert!(is_on_its_way || !must_leave(&entry), "{key} is forgotten: {flags:?}");
            assert!(!(flags.clean && (flags.leaving || flags.tombstone)), "{key} should be gone: {flags:?}");
        }
    }
}

fn keys_in_covers_memory(world: &World) {
    let slots: SlotSet = world.keys.iter().map(Slot::of).collect();
    let listed: Vec<(Key, bool)> =
        slots.iter().flat_map(|slot| world.store.keys_in(slot, None, world.now)).collect::<Vec<_>>();
    let mut expected: Vec<(Key, bool)> = Vec::new();
    for key in world.keys.iter().filter(|key| world.store.explain(key).is_some()) {
        let exists = world.newest_record(key).is_some_and(|record| !record.is_expired(world.now));
        expected.push((key.clone(), exists));
    }
    expected.sort_by_key(|(key, _)| (Slot::of(key), key.clone()));
    assert_eq!(listed, expected);
    assert_eq!(world.store.entries_in(&slots), expected.len());
    let mut mortal = world.store.expired(Timestamp(u64::MAX), usize::MAX);
    mortal.sort();
    let expires = |key: &&Key| world.store.explain(key).is_some_and(|sighting| sighting.expires_at.is_some());
    let mut expected: Vec<Key> = world.keys.iter().filter(expires).cloned().collect();
    expected.sort();
    assert_eq!(mortal, expected, "the keys that expire");
}

/// Nobody waits for the tier to take what it already has, or what it will never be given.
fn who_waits_will_be_told(world: &World) {
    for (ticket, (key, awaited)) in &world.awaiting {
        let unspilled = match world.store.peek(key, world.now) {
            Lookup::Known(known) => known.unspilled,
            Lookup::Unknown => None,
        };
        assert!(unspilled.is_some_and(|version| version >= *awaited), "{ticket} waits for {awaited} of {key} in vain");
        let partition = world.store.partition(world.store.hash(key)).read();
        assert!(partition.clean_waiters[key].contains(&(*awaited, Ticket(*ticket))));
    }
    let waiters = |partition: &RwLock<Partition>| partition.read().clean_waiters.values().map(Vec::len).sum::<usize>();
    assert_eq!(world.store.partitions.iter().map(waiters).sum::<usize>(), world.awaiting.len());
}

/// While nothing is in flight: then every row is known to be there or not.
fn count_is_exact(world: &World) {
    let Some(count) = world.store.count() else { return };
    let exist = world.keys.iter().filter(|key| world.newest_record(key).is_some()).count() as u64;
    assert_eq!(count, exist, "the number of keys");
}
