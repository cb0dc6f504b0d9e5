//! The rules one by one (R11, R12, R13, R17), and what the owner of a store relies on.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

fn place(store: &Store, name: &str) -> Option<Place> {
    store.explain(&key(name)).map(|sighting| sighting.place)
}

#[test]
fn six_puts_at_capacity_five_hand_out_exactly_the_coldest() {
    let store = store(Spill::Evicted);
    ["a", "b", "c", "d", "e"].iter().zip(1..).for_each(|(name, lsn)| put(&store, name, lsn));
    assert_eq!(take(&store), []);
    assert_eq!(read(&store, "a"), Ok(Some(version(1))), "this use makes b the coldest");
    put(&store, "f", 6);
    assert_eq!(take(&store), [set("b", 2)]);
    assert_eq!(take(&store), [], "it is handed out once");
}

#[test]
fn an_evicted_record_is_served_until_the_tier_has_it() {
    let store = store(Spill::Evicted);
    (1..=6).for_each(|lsn| put(&store, &format!("k{lsn}"), lsn));
    assert_eq!((place(&store, "k1"), read(&store, "k1")), (Some(Place::Spilling), Ok(Some(version(1)))));
    let taken = take(&store);
    assert_eq!((place(&store, "k1"), read(&store, "k1")), (Some(Place::Spilling), Ok(Some(version(1)))));
    store.unflushed(&taken);
    assert_eq!(read(&store, "k1"), Ok(Some(version(1))));
    assert_eq!(take(&store), taken, "a failed flush is repeated");
    store.confirm(&taken);
    assert_eq!((place(&store, "k1"), read(&store, "k1")), (None, Err(())));
}

/// R11.
#[test]
fn a_record_written_while_its_old_version_is_flushed_is_not_clean() {
    let store = store(Spill::Evicted);
    put(&store, "k", 1);
    store.vacate(&SlotSet::all());
    let taken = take(&store);
    put(&store, "k", 2);
    store.confirm(&taken);
    assert_eq!(place(&store, "k"), Some(Place::Memory { clean: false }));
    store.vacate(&SlotSet::all());
    assert_eq!(read(&store, "k"), Ok(Some(version(2))), "the tier has the old version only");
    assert_eq!(take(&store), [set("k", 2)]);
}

/// R11.
#[test]
fn a_key_is_in_one_flush_at_a_time() {
    let store = store(Spill::Everything);
    put(&store, "k", 1);
    let first = take(&store);
    put(&store, "k", 2);
    store.vacate(&SlotSet::all());
    assert_eq!(take(&store), [], "an older version is on its way");
    store.confirm(&first);
    assert_eq!(take(&store), [set("k", 2)]);
}

/// R13.
#[test]
fn the_tombstone_of_a_spilled_key_stays_until_its_deletion_is_confirmed() {
    let store = store(Spill::Evicted);
    put_away(&store, "k", 1);
    apply(&store, &delete("k", 2));
    assert_eq!((place(&store, "k"), read(&store, "k")), (Some(Place::Deleting), Ok(None)));
    let taken = take(&store);
    assert_eq!(taken, [delete("k", 2)]);
    assert_eq!((place(&store, "k"), read(&store, "k")), (Some(Place::Deleting), Ok(None)));
    store.confirm(&taken);
    assert_eq!((place(&store, "k"), read(&store, "k")), (None, Ok(None)), "and now nobody needs to ask the tier");
    assert_eq!(store.stats().bytes, 0);
}

/// R13.
#[test]
fn a_record_deleted_while_it_is_flushed_leaves_a_tombstone() {
    let store = store(Spill::Evicted);
    put(&store, "k", 1);
    store.vacate(&SlotSet::all());
    let taken = take(&store);
    apply(&store, &delete("k", 2));
    store.confirm(&taken);
    assert_eq!(take(&store), [delete("k", 2)], "its row has just come into being");
}

#[test]
fn deleting_a_key_that_was_never_spilled_leaves_nothing() {
    let store = store(Spill::Evicted);
    put(&store, "k", 1);
    apply(&store, &delete("k", 2));
    assert_eq!((place(&store, "k"), take(&store)), (None, vec![]));
    assert_eq!(store.stats().bytes, 0);
}

/// R17.
#[test]
fn a_key_that_never_existed_is_known_not_to_exist_once_the_filter_is_complete() {
    let store = store(Spill::Evicted);
    put_away(&store, "spilled", 1);
    assert_eq!((read(&store, "never"), read(&store, "spilled")), (Ok(None), Err(())));
    let scan = store.restart_filter();
    assert_eq!((read(&store, "never"), store.count()), (Err(()), None), "maybe, until the scan has ended");
    store.extend_filter(scan, [&key("spilled")]);
    store.finish_filter(scan);
    assert_eq!((read(&store, "never"), read(&store, "spilled"), store.count()), (Ok(None), Err(()), Some(1)));
}

/// R17: what an interrupted scan still has to say must not pass for the whole truth.
#[test]
fn a_scan_that_was_overtaken_by_another_one_does_not_complete_the_filter() {
    let store = store(Spill::Evicted);
    let old = store.restart_filter();
    let new = store.restart_filter();
    store.extend_filter(old, [&key("elsewhere")]);
    store.finish_filter(old);
    assert_eq!(read(&store, "a row that only the new scan sees"), Err(()));
    store.finish_filter(new);
    assert_eq!(read(&store, "elsewhere"), Ok(None), "the old scan's word does not count");
}

#[test]
fn a_row_that_is_deleted_behind_the_scan_is_not_counted() {
    let store = store(Spill::Evicted);
    put_away(&store, "k", 1);
    let scan = store.restart_filter();
    // The scan has read the row, and is slow to tell.
    apply(&store, &delete("k", 2));
    store.confirm(&take(&store));
    store.extend_filter(scan, [&key("k")]);
    store.finish_filter(scan);
    assert_eq!((read(&store, "k"), store.count()), (Ok(None), Some(0)));
}

/// R13, R26: the flush may have made a row that the scan came too early to see.
#[test]
fn a_key_whose_flush_had_an_unknown_outcome_during_the_scan_may_have_a_row() {
    for is_scan_shorter in [false, true] {
        let store = store(Spill::Evicted);
        put(&store, "k", 1);
        store.vacate(&SlotSet::all());
        let taken = take(&store);
        let scan = store.restart_filter();
        if is_scan_shorter {
            store.finish_filter(scan);
        }
        store.unflushed(&taken);
        store.finish_filter(scan);
        apply(&store, &delete("k", 2));
        assert_eq!(take(&store), [delete("k", 2)]);
    }
}

/// R12: the key was absent all the time that the load looked, and yet the load is stale.
#[test]
fn a_load_that_a_write_has_overtaken_answers_its_tickets_and_inserts_nothing() {
    let store = store(Spill::Everything);
    put_away(&store, "k", 1);
    let id = begin_fill(&store, "k", 1);
    assert_eq!(store.begin_fill(&key("k"), Ticket(2), Timestamp(0)), Fill::Joined);
    put(&store, "k", 2);
    store.confirm(&take(&store));
    (3..8).for_each(|lsn| put(&store, &format!("k{lsn}"), lsn));
    assert_eq!(place(&store, "k"), None, "written, spilled and evicted");
    let later = begin_fill(&store, "k", 3);
    assert_ne!(later, id, "a reader that comes after the write starts a load of its own");
    assert_eq!(store.complete_fill(&key("k"), id, Some(&record("k", 1)), Timestamp(0)), [Ticket(1), Ticket(2)]);
    assert_eq!(read(&store, "k"), Err(()));
    assert_eq!(store.complete_fill(&key("k"), later, Some(&record("k", 2)), Timestamp(0)), [Ticket(3)]);
    assert_eq!(read(&store, "k"), Ok(Some(version(2))));
}

/// R12: while the slots are somebody else's, the row may change.
#[test]
fn a_load_that_its_slot_has_left_meanwhile_inserts_nothing() {
    let store = store(Spill::Evicted);
    put_away(&store, "k", 1);
    let id = begin_fill(&store, "k", 1);
    store.vacate(&SlotSet::all());
    assert_eq!(store.complete_fill(&key("k"), id, Some(&record("k", 1)), Timestamp(0)), [Ticket(1)]);
    assert_eq!(read(&store, "k"), Err(()));
}

#[test]
fn a_failed_load_answers_its_tickets_and_the_next_reader_loads_again() {
    let store = store(Spill::Evicted);
    put_away(&store, "k", 1);
    let id = begin_fill(&store, "k", 1);
    assert_eq!(store.fail_fill(&key("k"), id), [Ticket(1)]);
    let again = begin_fill(&store, "k", 2);
    assert_ne!(again, id);
    assert_eq!(store.complete_fill(&key("k"), id, Some(&record("k", 1)), Timestamp(0)), [], "it has ended already");
    assert_eq!(store.complete_fill(&key("k"), again, None, Timestamp(0)), [Ticket(2)]);
}

#[test]
fn a_loaded_record_is_clean_and_leaves_without_the_tier() {
    let store = store(Spill::Evicted);
    put_away(&store, "k", 1);
    let id = begin_fill(&store, "k", 1);
    store.complete_fill(&key("k"), id, Some(&record("k", 1)), Timestamp(0));
    assert_eq!((place(&store, "k"), store.count()), (Some(Place::Memory { clean: true }), Some(1)));
    store.vacate(&SlotSet::all());
    assert_eq!((place(&store, "k"), take(&store), store.count()), (None, vec![], Some(1)));
}

#[test]
fn a_full_memory_answers_a_load_and_does_not_keep_it() {
    let store = Small { capacity: 1, backlog: 0, ..Small::default() }.build();
    put_away(&store, "k", 1);
    put(&store, "other", 2);
    let id = begin_fill(&store, "k", 1);
    assert_eq!(store.complete_fill(&key("k"), id, Some(&record("k", 1)), Timestamp(0)), [Ticket(1)]);
    assert_eq!((place(&store, "k"), read(&store, "other")), (None, Ok(Some(version(2)))));
}

#[test]
fn an_older_effect_changes_nothing() {
    let store = store(Spill::Evicted);
    put(&store, "k", 2);
    put(&store, "k", 1);
    apply(&store, &delete("k", 2));
    assert_eq!(read(&store, "k"), Ok(Some(version(2))));
    assert_eq!(store.stats().live, 1);
}

#[test]
fn who_awaits_a_version_is_told_when_the_tier_has_it_or_a_newer_one() {
    let store = store(Spill::Everything);
    put(&store, "k", 1);
    assert!(store.await_clean(&key("k"), version(1), Ticket(1)));
    let first = take(&store);
    put(&store, "k", 2);
    put(&store, "k", 3);
    assert!(store.await_clean(&key("k"), version(2), Ticket(2)));
    store.unflushed(&first);
    let third = take(&store);
    assert_eq!(third, [set("k", 3)]);
    assert_eq!(store.confirm(&third), [Ticket(1), Ticket(2)]);
    assert!(!store.await_clean(&key("k"), version(3), Ticket(3)), "it is there");
    assert!(!store.await_clean(&key("absent"), version(4), Ticket(4)), "absent is clean");
}

#[test]
fn who_awaits_a_version_is_not_told_by_an_older_one() {
    let store = store(Spill::Everything);
    put(&store, "k", 1);
    let first = take(&store);
    put(&store, "k", 2);
    assert!(store.await_clean(&key("k"), version(2), Ticket(2)));
    assert_eq!(store.confirm(&first), []);
    assert_eq!(store.confirm(&take(&store)), [Ticket(2)]);
}

/// Write-through: another client deletes the key before the spiller came by.
#[test]
fn who_awaits_a_version_is_told_although_the_key_is_deleted_before_its_flush() {
    let store = store(Spill::Everything);
    put(&store, "k", 1);
    assert!(store.await_clean(&key("k"), version(1), Ticket(1)));
    apply(&store, &delete("k", 2));
    assert_eq!(store.confirm(&take(&store)), [Ticket(1)]);
    assert_eq!(store.stats().bytes, 0);
}

#[test]
fn who_awaits_a_deletion_is_told_when_an_older_deletion_has_already_done_it() {
    let store = store(Spill::Everything);
    put(&store, "k", 1);
    store.confirm(&take(&store));
    apply(&store, &delete("k", 2));
    let first = take(&store);
    put(&store, "k", 3);
    apply(&store, &delete("k", 4));
    assert!(store.await_clean(&key("k"), version(4), Ticket(4)));
    assert_eq!(store.confirm(&first), [Ticket(4)]);
    assert_eq!((take(&store), store.stats().bytes), (vec![], 0), "there is no row to delete any more");
}

#[test]
fn who_gives_up_waiting_for_the_tier_is_forgotten() {
    let store = store(Spill::Everything);
    put(&store, "k", 1);
    (1..=3).for_each(|ticket| assert!(store.await_clean(&key("k"), version(1), Ticket(ticket))));
    store.stop_awaiting(&key("k"), Ticket(1));
    store.stop_awaiting(&key("k"), Ticket(3));
    store.stop_awaiting(&key("never"), Ticket(3));
    assert_eq!(store.confirm(&take(&store)), [Ticket(2)]);
}

#[test]
fn records_that_come_and_go_while_the_tier_is_away_do_not_fill_the_queue() {
    for spill in [Spill::Evicted, Spill::Everything] {
        let store = Small { spill, capacity: 1, ..Small::default() }.build();
        put(&store, "first", 1);
        for lsn in 1..1000 {
            put(&store, "k", 4 * lsn);
            put(&store, "other", 4 * lsn + 1);
            apply(&store, &delete("k", 4 * lsn + 2));
            apply(&store, &delete("other", 4 * lsn + 3));
        }
        let queued = store.partitions[0].read().spill_queue.len();
        assert!(queued < 200, "{queued} handles are queued for one record");
        put(&store, "last", 5000);
        assert_eq!(take(&store).first(), Some(&set("first", 1)), "what must leave is still in it");
    }
}

#[test]
fn an_effect_that_was_set_aside_is_served_and_waits_to_be_asked_for() {
    let store = store(Spill::Evicted);
    put(&store, "k", 1);
    store.vacate(&SlotSet::all());
    let taken = take(&store);
    store.set_aside(&taken[0]);
    assert_eq!((take(&store), read(&store, "k")), (vec![], Ok(Some(version(1)))));
    assert!(store.hand_out_again(&key("k")));
    assert_eq!(take(&store), taken);
    store.confirm(&taken);
    assert!(!store.hand_out_again(&key("k")), "nothing is left to spill");
}

#[test]
fn what_is_set_aside_is_not_on_its_way_but_a_newer_version_of_it_is() {
    let store = store(Spill::Evicted);
    put(&store, "k", 1);
    store.vacate(&SlotSet::all());
    assert_eq!(store.on_their_way(&SlotSet::all()), 1, "queued");
    let taken = take(&store);
    assert_eq!(store.on_their_way(&SlotSet::all()), 1, "being flushed");
    store.set_aside(&taken[0]);
    assert_eq!(store.on_their_way(&SlotSet::all()), 0);
    assert_eq!(store.on_their_way(&SlotSet::empty()), 0);
    put(&store, "k", 2);
    store.vacate(&SlotSet::all());
    assert_eq!(store.on_their_way(&SlotSet::all()), 1, "the tier was never asked about this version");
}

#[test]
fn a_report_of_a_flush_that_has_ended_changes_nothing() {
    let store = store(Spill::Evicted);
    put(&store, "rejected", 1);
    put(&store, "taken", 2);
    store.vacate(&SlotSet::all());
    let taken = take(&store);
    store.set_aside(&taken[0]);
    store.confirm(&taken[1..]);
    // The fence is lost in the middle of a batch that was cut in pieces.
    store.unflushed(&taken);
    assert_eq!(take(&store), []);
}

/// Promise 5 of the design.
#[test]
fn a_pure_cache_drops_what_it_evicts_and_counts_it() {
    let store = store(Spill::Nothing);
    (1..=8).for_each(|lsn| put(&store, &format!("k{lsn}"), lsn));
    assert_eq!((take(&store), read(&store, "k1"), read(&store, "k8")), (vec![], Ok(None), Ok(Some(version(8)))));
    apply(&store, &delete("k8", 9));
    let stats = store.stats();
    assert_eq!((stats.live, stats.unspilled, stats.evicted, stats.dropped), (4, 0, 3, 3));
    assert_eq!(store.count(), Some(4));
    store.vacate(&SlotSet::all());
    assert_eq!((store.stats().bytes, store.count()), (0, Some(0)));
}

/// "Hits never take the write lock": a hit that needed more than the read lock would wait for this one.
#[test]
fn a_hit_does_not_wait_for_another_readers_lock() {
    let store = store(Spill::Evicted);
    put(&store, "k", 1);
    let another_reader = store.partitions[0].read();
    let (tx, rx) = mpsc::channel();
    let answer = thread::scope(|scope| {
        scope.spawn(|| tx.send((read(&store, "k"), read(&store, "missing"))));
        let answer = rx.recv_timeout(Duration::from_secs(10));
        drop(another_reader); // lets a hit that waited go, so that a failure ends
        answer
    });
    assert_eq!(answer, Ok((Ok(Some(version(1))), Ok(None))));
}

#[test]
fn an_expired_record_does_not_exist_and_is_told_of_until_it_is_deleted() {
    let store = store(Spill::Evicted);
    for (name, lsn, at) in [("late", 1, 30), ("soon", 2, 10), ("moved", 3, 10)] {
        apply(&store, &Effect::Set(Record { expires_at: Some(Timestamp(at)), ..record(name, lsn) }));
    }
    put(&store, "moved", 4);
    assert_eq!(store.expired(Timestamp(9), 10), []);
    assert_eq!(store.expired(Timestamp(10), 10), [key("soon")]);
    assert_eq!(store.expired(Timestamp(30), 1), [key("soon")], "the longest dead first");
    assert!(matches!(
        store.get(&key("soon"), store.hint(&key("soon")), Timestamp(10)),
        Lookup::Known(Known { found: None, .. })
    ));
    apply(&store, &delete("soon", 5));
    assert_eq!(store.expired(Timestamp(30), 10), [key("late")]);
}

#[test]
fn an_expired_row_is_not_kept_in_memory() {
    let store = store(Spill::Evicted);
    put_away(&store, "k", 1);
    let id = begin_fill(&store, "k", 1);
    let row = Record { expires_at: Some(Timestamp(10)), ..record("k", 1) };
    assert_eq!(store.complete_fill(&key("k"), id, Some(&row), Timestamp(10)), [Ticket(1)]);
    assert_eq!(place(&store, "k"), None);
}

#[test]
fn the_keys_of_a_slot_come_in_order_from_after_the_cursor() {
    let store = Small { partitions: 4, ..Small::default() }.build();
    let slot = Slot::of(&key("{t}"));
    ["{t}d", "{t}a", "{t}c", "{t}b", "u"].iter().zip(1..).for_each(|(name, lsn)| put(&store, name, lsn));
    store.vacate(&SlotSet::all());
    take(&store);
    apply(&store, &delete("{t}b", 9));
    let names = |after: Option<&Key>| -> Vec<(String, bool)> {
        let keys = store.keys_in(slot, after, Timestamp(0));
        keys.into_iter().map(|(key, exists)| (key.to_string(), exists)).collect()
    };
    let of = |text: &str, exists| (text.to_owned(), exists);
    let all = [of("{t}a", true), of("{t}b", false), of("{t}c", true), of("{t}d", true)];
    assert_eq!(names(None), all);
    assert_eq!(names(Some(&key("{t}b"))), all[2..]);
}

#[test]
fn the_largest_record_fits_beside_a_full_memory() {
    let options = StoreOptions {
        capacity: 1_000_000,
        memory_bytes_max: MEMORY_BYTES_MIN,
        policy: PolicyKind::Lru,
        spill: Spill::Evicted,
        seed: 1,
    };
    let store = Store::new(&options);
    let resident_max = options.memory_bytes_max - options.memory_bytes_max / 4;
    let fill = |name: &str, value_bytes: usize| {
        let record = Record { value: Value::new(vec![0; value_bytes]).unwrap(), ..record(name, 1) };
        apply(&store, &Effect::Set(record));
    };
    ["a", "b"].iter().for_each(|name| fill(name, VALUE_BYTES_MAX));
    let left = || resident_max - store.stats().bytes as usize;
    fill("c", left() / 2);
    let beside_value = {
        let record = record("d", 1);
        cost_bytes_max(record.key.as_bytes().len() + left()) - left() - entry::EXPIRY_OVERHEAD_BYTES
    };
    fill("d", left() - beside_value);
    assert_eq!(store.stats().bytes as usize, resident_max);
    assert_eq!(store.stats().evicted, 0);
    assert!(store.admit(KEY_BYTES_MAX + VALUE_BYTES_MAX).is_some(), "else it would wait for ever: nothing is leaving");
}

/// What is admitted is the most that an entry may cost; once it is there, what it does.
#[test]
fn an_expiry_and_a_long_value_are_counted() {
    let store = store(Spill::Evicted);
    let mut bytes = 0;
    let mut grown_by = |name: &str, value_bytes: usize, expires_at: Option<Timestamp>| {
        let value = Value::new(vec![0; value_bytes]).unwrap();
        apply(&store, &Effect::Set(Record { value, expires_at, ..record(name, 1) }));
        let before = std::mem::replace(&mut bytes, store.stats().bytes);
        (store.stats().bytes - before) as usize - value_bytes
    };
    let plain = grown_by("a", 100, None);
    assert_eq!(grown_by("b", 100, Some(Timestamp(1))), plain + entry::EXPIRY_OVERHEAD_BYTES);
    assert!(grown_by("c", 2000, None) > plain);
    assert!(grown_by(&"d".repeat(300), 100, None) > plain + 300 + 90, "nor is a long key packed");
    let admitted = store.admit(100).unwrap();
    assert!(store.stats().bytes > bytes + 100 + plain as u64, "it may have an expiry");
    drop(admitted);
    assert_eq!(store.stats().bytes, bytes);
}

#[test]
fn what_is_set_aside_is_forgotten_with_its_slots_and_gives_its_memory_back() {
    let store = store(Spill::Evicted);
    put(&store, "k", 1);
    store.vacate(&SlotSet::all());
    let taken = take(&store);
    store.set_aside(&taken[0]);
    store.forget(&SlotSet::all());
    assert_eq!((place(&store, "k"), store.stats().bytes, store.stats().unspilled), (None, 0, 0));
}

/// What the blocks of all partitions take of memory, the dead ones too.
fn used_bytes(store: &Store) -> usize {
    store.partitions.iter().map(|partition| partition.read().slab.used_bytes()).sum()
}

/// Records that are overwritten with longer and shorter ones leave gaps, which are filled by moving the others.
#[test]
fn records_are_found_wherever_they_are_moved() {
    const RECORDS: usize = 2_000;
    let store = Small { capacity: RECORDS, spill: Spill::Nothing, ..Small::default() }.build();
    let mut newest = vec![None; RECORDS];
    let mut rng = SmallRng::seed_from_u64(1);
    for lsn in 1..40_000 {
        let (nth, len) = (rng.random_range(0..RECORDS), rng.random_range(0..1_200));
        let name = nth.to_string();
        if rng.random_bool(0.2) {
            apply(&store, &delete(&name, lsn));
            newest[nth] = None;
        } else {
            let value = Value::new(vec![lsn as u8; len]).unwrap();
            apply(&store, &Effect::Set(Record { value: value.clone(), ..record(&name, lsn) }));
            newest[nth] = Some(value);
        }
    }
    let found = |nth: usize| match store.get(&key(&nth.to_string()), store.hint(&key(&nth.to_string())), Timestamp(0)) {
        Lookup::Known(known) => known.found.map(|found| found.value),
        Lookup::Unknown => panic!("a pure cache knows all"),
    };
    assert_eq!((0..RECORDS).map(found).collect::<Vec<_>>(), newest);
    assert!(newest.iter().flatten().count() > RECORDS / 2);
    let live: usize = store.stats().bytes as usize;
    assert!(used_bytes(&store) < live + live / 8 + (64 << 10), "{} for {live}", used_bytes(&store));
}

#[test]
fn what_is_deleted_here_and_there_gives_its_memory_back() {
    const RECORDS: u64 = 20_000;
    let store = Small { capacity: RECORDS as usize, spill: Spill::Nothing, ..Small::default() }.build();
    (0..RECORDS).for_each(|n| put(&store, &format!("k{n}"), n + 1));
    let full = used_bytes(&store);
    let mut rng = SmallRng::seed_from_u64(1);
    for n in 0..RECORDS {
        if rng.random_bool(0.9) {
            apply(&store, &delete(&format!("k{n}"), RECORDS + n + 1));
        }
    }
    assert!(used_bytes(&store) < full / 5, "{} of {full}", used_bytes(&store));
}

#[test]
fn keys_of_one_tag_are_listed_and_leave_one_by_one() {
    const RECORDS: u64 = 1_000;
    let store = Small { capacity: RECORDS as usize, spill: Spill::Nothing, ..Small::default() }.build();
    let name = |n: u64| format!("{{tag}}{n:04}");
    (0..RECORDS).for_each(|n| put(&store, &name(n), n + 1));
    let slot = Slot::of(&key("{tag}"));
    let listed = || store.keys_in(slot, None, Timestamp(0)).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    for n in 0..RECORDS {
        if n % 100 == 0 {
            assert_eq!(listed(), (n..RECORDS).map(|n| key(&name(n))).collect::<Vec<_>>());
        }
        apply(&store, &delete(&name(n), RECORDS + n + 1));
    }
    assert!(listed().is_empty());
}

/// Whoever looks ahead holds several partitions, and may hold one twice: waiting for a writer, who waits for him, would never end.
#[test]
fn looking_ahead_waits_for_no_writer() {
    let store = store(Spill::Nothing);
    let names = ["a", "b", "c", "d"];
    names.iter().zip(1..).for_each(|(name, lsn)| put(&store, name, lsn));
    let keys: Vec<Key> = names.iter().copied().map(key).collect();
    let likely = || {
        let mut hints = Hints::new();
        store.look_ahead(keys.iter().map(Some), &mut hints);
        hints.iter().flatten().filter(|hint| hint.likely.is_some()).count()
    };
    assert_eq!(likely(), 4);
    let (done, until_done) = mpsc::channel();
    thread::scope(|scope| {
        let writer = store.partitions[0].write();
        scope.spawn(|| done.send(likely()));
        let found = until_done.recv_timeout(Duration::from_secs(10));
        drop(writer);
        assert_eq!(found, Ok(0));
    });
}
