//! Dead letters: rows that the tier will not take.

use std::time::Duration;

use overspill::cluster::Member;
use overspill::cluster::MemberState;
use overspill::command::Place;
use overspill::record::Epoch;
use overspill::slots::{Slot, SlotSet};
use overspill::tier::{DeadLetter, Tier};

use crate::rig::{Rig, Setup, key, until};

async fn letters(rig: &Rig) -> Vec<DeadLetter> {
    rig.tier.buried(Slot::FIRST, Slot::LAST).await.unwrap()
}

/// 100 records on their way out, one of them poisoned.
async fn start_with_poison(setup: &Setup) -> Rig {
    let rig = setup.start().await;
    rig.tier.poison(key("k42"));
    rig.tier.hold_flushes();
    for i in 0..100 {
        rig.put(&format!("k{i}"), i.to_string()).await;
    }
    rig.put("last", "x").await;
    rig.tier.release_flushes();
    rig.until_stats("the rest flows on", |stats| stats.records_spilling == 1 && stats.dead_letters == 1).await;
    rig
}

#[tokio::test(start_paused = true)]
async fn one_row_that_the_tier_rejects_does_not_hold_up_the_others() {
    let rig = start_with_poison(&Setup::new(1)).await;
    assert_eq!(rig.tier.rows().len(), 99);
    let buried = letters(&rig).await;
    assert_eq!(buried.len(), 1);
    assert_eq!(buried[0].effect.key(), &key("k42"));
    assert!(rig.tier.flushes() < 30, "found by bisection: {}", rig.tier.flushes());
    assert_eq!(rig.get("k42").await.as_deref(), Some("42"), "still readable");
    assert_eq!(rig.place("k42").await, Place::Spilling);
    rig.tier.cure(&key("k42"));
    tokio::time::sleep(Duration::from_secs(125)).await; // the clock is paused: two retries
    rig.until_spilled().await;
    assert!(letters(&rig).await.is_empty());
    assert_eq!(rig.tier.row(&key("k42")).unwrap().value.as_bytes(), b"42");
    assert_eq!(rig.get("k42").await.as_deref(), Some("42"));
}

/// Its age would say that the tier is slow.
#[tokio::test(start_paused = true)]
async fn what_the_tier_rejects_does_not_wait_for_it() {
    let rig = start_with_poison(&Setup::new(1)).await;
    rig.until_stats("nothing waits", |stats| stats.spill_queue_age_ms == 0).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.stats().await.spill_queue_age_ms, 0);
}

/// Who waits for a lane does not keep it from being tried again.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_queued_again_while_all_lanes_are_busy() {
    let rig = start_with_poison(&Setup::new(1)).await;
    rig.tier.cure(&key("k42"));
    rig.tier.hold_flushes();
    for held in 1..=2 {
        for i in 0..300 {
            rig.put(&format!("busy{held}.{i}"), "x").await;
        }
        until("a lane is busy", async || rig.tier.held_flushes() == held).await;
    }
    rig.put("waits", "x").await;
    let queued = rig.stats().await.spill_queue;
    tokio::time::sleep(Duration::from_secs(125)).await; // the clock is paused: two retries
    assert_eq!(rig.stats().await.spill_queue, queued + 1);
    rig.tier.release_flushes();
    rig.until_spilled().await;
    assert!(letters(&rig).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_survives_a_clean_restart() {
    let setup = Setup::new(1);
    let rig = start_with_poison(&setup).await;
    rig.shutdown().await.unwrap();
    let rig = setup.start().await;
    assert_eq!(rig.get("k42").await.as_deref(), Some("42"));
    assert_eq!(rig.count().await, 101);
    rig.tier.cure(&key("k42"));
    rig.put("k42", "new").await;
    rig.push_out().await;
    assert_eq!(rig.tier.row(&key("k42")).unwrap().value.as_bytes(), b"new");
    assert!(letters(&rig).await.is_empty(), "the new value settles it");
    assert_eq!(rig.get("k42").await.as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_overwrites_a_dead_letter_flows() {
    let rig = start_with_poison(&Setup::new(1)).await;
    rig.put("k42", "new").await;
    rig.tier.cure(&key("k42"));
    rig.push_out().await;
    assert_eq!(rig.tier.row(&key("k42")).unwrap().value.as_bytes(), b"new");
    assert!(letters(&rig).await.is_empty());
}

/// The letter goes before the deletion counts as done: or else a restart would bring the key back.
#[tokio::test(start_paused = true)]
async fn a_deleted_dead_letter_does_not_come_back() {
    for restarts in 0..2 {
        let setup = Setup::new(1);
        let mut rig = start_with_poison(&setup).await;
        rig.tier.cure(&key("k42"));
        for _ in 0..restarts {
            rig.tier.poison(key("k42"));
            rig.shutdown().await.unwrap();
            rig = setup.start().await;
            rig.tier.cure(&key("k42"));
        }
        assert!(rig.delete("k42").await);
        rig.until_spilled().await;
        rig.shutdown().await.unwrap();
        assert!(letters(&rig).await.is_empty(), "after {restarts} restarts");
        assert_eq!(setup.start().await.get("k42").await, None, "after {restarts} restarts");
    }
}

/// The tier goes away between the deletion of the row and that of the letter.
#[tokio::test(start_paused = true)]
async fn a_deletion_is_not_done_while_its_dead_letter_is_still_there() {
    let setup = Setup::new(1);
    let rig = start_with_poison(&setup).await;
    rig.tier.cure(&key("k42"));
    rig.tier.fail_unbury(3);
    assert!(rig.delete("k42").await);
    rig.until_spilled().await;
    rig.shutdown().await.unwrap();
    assert!(letters(&rig).await.is_empty());
    assert_eq!(setup.start().await.get("k42").await, None);
}

/// A record that was set aside is no excuse for another one.
#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_records_that_overwrote_dead_letters() {
    let mut setup = Setup::new(1);
    setup.options.drain_timeout = Duration::from_secs(3);
    let rig = start_with_poison(&setup).await;
    rig.tier.cure(&key("k42"));
    rig.put("k42", "new").await;
    rig.tier.hold_flushes();
    assert!(rig.shutdown().await.is_err(), "the tier has not taken it");
    let rig = setup.clone();
    rig.tier.as_ref().unwrap().release_flushes();
    assert!(setup.start_refused().await.contains("--accept-loss"));
}

/// What could not even be buried lives in memory only: no clean stop.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_was_not_buried_is_no_clean_stop() {
    let mut setup = Setup::new(1);
    setup.options.drain_timeout = Duration::from_secs(3);
    let rig = setup.start().await;
    rig.tier.poison(key("k"));
    rig.tier.fail_bury(1);
    rig.put("k", "v").await;
    rig.put("other", "x").await;
    rig.until_stats("set aside", |stats| stats.dead_letters == 1).await;
    assert!(letters(&rig).await.is_empty());
    assert!(rig.shutdown().await.is_err());
}

/// R7: the slot's next owner has the letter; this shard's copy is from before.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_goes_with_its_slot() {
    let mut setup = Setup::new(1);
    let rig = start_with_poison(&setup).await;
    setup.assignment.epoch = Epoch(2);
    setup.assignment.slots = SlotSet::all().difference(&[Slot::of(&key("k42"))].into_iter().collect());
    rig.assign(&setup.assignment).await;
    rig.until_state("serving", |state| *state == MemberState::Serving).await;
    rig.tier.cure(&key("k42"));
    let letter = letters(&rig).await.remove(0); // the other owner writes and deletes the key
    rig.tier.unbury(&key("k42"), letter.effect.version()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(125)).await; // two retries
    assert!(rig.tier.row(&key("k42")).is_none(), "a deleted key came back");
    setup.assignment.epoch = Epoch(3);
    setup.assignment.slots = SlotSet::all();
    rig.assign(&setup.assignment).await;
    rig.until_state("serving", |state| *state == MemberState::Serving).await;
    assert_eq!(rig.get("k42").await, None);
    rig.status().await.unwrap();
}
