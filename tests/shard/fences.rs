//! Who may serve and spill: R20, R22, and what happens to slots that come and go.

use std::time::Duration;

use overspill::cluster::{Fence, Incarnation, Member, MemberState};
use overspill::command::{Command, Effect};
use overspill::record::{Epoch, Lsn, Version};
use overspill::service::{Batch, Error, Service};
use overspill::shard::WriteMode;
use overspill::slots::{Slot, SlotSet};
use overspill::tier::{Lane, Tier};

use crate::rig::{Rig, Setup, key, row, until};

/// A process that is killed: its tasks stop where they are.
pub fn crash_after(setup: &Setup, work: impl AsyncFnOnce(Rig)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { work(setup.start().await).await });
    runtime.shutdown_background();
}

pub fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// R22, defect 2.
#[test]
fn after_an_unclean_stop_a_shard_refuses_unless_the_loss_is_accepted() {
    let mut setup = Setup::new(1);
    crash_after(&setup, async |rig| {
        rig.put_spilled("k", "old").await;
        rig.put("k", "died with the process").await;
    });
    run(async {
        let reason = setup.start_refused().await;
        assert!(reason.contains("--accept-loss"), "{reason}");
        let reason = setup.start_refused().await;
        assert!(reason.contains("--accept-loss"), "a refused start is no clean stop: {reason}");
        setup.assignment.accept_loss = true;
        let rig = setup.start().await;
        assert_eq!(rig.get("k").await.as_deref(), Some("old"));
        assert_eq!(rig.stats().await.losses_accepted, 1);
        rig.shutdown().await.unwrap();
        setup.assignment.accept_loss = false;
        let rig = setup.start().await;
        assert_eq!(rig.get("k").await.as_deref(), Some("old"));
        assert_eq!(rig.stats().await.losses_accepted, 0);
    });
}

/// R22: the secondary's own flag counts, too, and a refusal ends when a new assignment accepts the loss.
#[test]
fn a_refusal_ends_when_the_loss_is_accepted() {
    let mut setup = Setup::new(1);
    crash_after(&setup, async |rig| {
        rig.put("k", "v").await;
    });
    run(async {
        let rig = setup.spawn();
        rig.assign(&setup.assignment).await;
        rig.until_state("refusing", |state| matches!(state, MemberState::Refusing(_))).await;
        setup.assignment.accept_loss = true;
        rig.assign(&setup.assignment).await;
        rig.until_state("serving", |state| *state == MemberState::Serving).await;
    });
    crash_after(&setup, async |_| ());
    run(async {
        setup.assignment.accept_loss = false;
        setup.options.accept_loss = true;
        assert_eq!(setup.start().await.stats().await.losses_accepted, 1);
    });
}

/// R22: what stopped cleanly has lost nothing.
#[tokio::test]
async fn after_a_clean_stop_everything_is_there() {
    let setup = Setup::new(10);
    let rig = setup.start().await;
    for i in 0..50 {
        rig.put(&format!("k{i}"), i.to_string()).await;
    }
    let newest = rig.put("k0", "newest").await;
    rig.delete("k1").await;
    assert!(rig.shutdown().await.unwrap().spilled >= 9);
    assert!(matches!(rig.get_error("k0").await, Error::Unavailable(_)), "it has stopped");
    assert!(matches!(
        rig.one(Command::Scan { cursor: overspill::command::Cursor::START, limit: 1 }).await,
        Err(Error::Unavailable(_))
    ));
    let rig = setup.start().await;
    assert_eq!(rig.get("k0").await.as_deref(), Some("newest"));
    assert_eq!(rig.get("k1").await, None);
    assert_eq!(rig.count().await, 49);
    assert!(rig.put("k0", "x").await > newest, "versions go on rising");
}

/// R22: else a compare-and-swap by a version that was read before the loss would hit what came after it.
#[test]
fn versions_that_were_lost_are_not_given_again() {
    let mut setup = Setup::new(10);
    let mut lost = None;
    crash_after(&setup, async |rig| lost = Some(rig.put("k", "lost").await));
    run(async {
        setup.assignment.accept_loss = true;
        assert!(setup.start().await.put("k", "new").await > lost.unwrap());
    });
}

/// R1, R13: a version that is in no fence row, as no flush of it was ever committed.
#[test]
fn the_version_of_a_dead_letter_is_not_given_again() {
    let setup = Setup::new(10).mode(WriteMode::Through);
    crash_after(&setup, async |rig| {
        rig.tier.poison(key("k"));
        let unknown = rig.one_within(crate::rig::put_command("k", "buried"), 100).await;
        assert!(matches!(unknown, Err(Error::Unknown(_))), "{unknown:?}");
        rig.until_stats("it is buried", |stats| stats.dead_letters == 1).await;
    });
    run(async {
        let rig = setup.start().await;
        rig.tier.cure(&key("k"));
        rig.put("k", "new").await;
        assert_eq!(rig.get("k").await.as_deref(), Some("new"));
        assert_eq!(rig.tier.row(&key("k")).unwrap().value.as_bytes(), b"new");
    });
}

/// R18, R22: in write-through nothing acknowledged lives in memory only.
#[test]
fn write_through_restarts_after_a_crash() {
    let setup = Setup::new(10).mode(WriteMode::Through);
    crash_after(&setup, async |rig| {
        rig.put("k", "v").await;
    });
    run(async {
        let rig = setup.start().await;
        assert_eq!(rig.get("k").await.as_deref(), Some("v"));
        assert_eq!(rig.stats().await.losses_accepted, 0);
    });
}

/// R20: the zombie must not write, and must not answer.
#[tokio::test]
async fn a_shard_whose_fence_was_taken_writes_nothing_and_stops_serving() {
    let mut setup = Setup::new(1);
    let zombie = setup.start().await;
    zombie.put_spilled("k", "old").await;
    setup.assignment.accept_loss = true;
    let owner = setup.start().await;
    assert!(owner.delete("k").await);
    owner.until_spilled().await;
    zombie.put("k", "zombie's").await;
    zombie.put("other", "zombie's").await;
    zombie.until_state("it says so", |state| matches!(state, MemberState::Refusing(_))).await;
    let Error::Unavailable(reason) = zombie.get_error("other").await else { panic!() };
    assert!(reason.contains("another owner"), "{reason}");
    assert!(zombie.tier.rows().iter().all(|row| row.value.as_bytes() != b"zombie's"));
    assert!(zombie.shutdown().await.is_err(), "what it had acknowledged is lost, and it says so");
    assert_eq!(owner.get("k").await, None);
    owner.shutdown().await.unwrap();
}

async fn retire(rig: &Rig, fence: Fence, slots: SlotSet, epoch: Epoch) {
    assert!(rig.retire(fence, slots, epoch).await.unwrap());
}

/// R20: a primary took the shard for gone and gave its slots away.
#[tokio::test]
async fn a_shard_that_was_retired_does_not_take_the_new_token_for_its_own() {
    let setup = Setup::new(1);
    let zombie = setup.start().await;
    zombie.put_spilled("k", "old").await;
    zombie.tier.hold_flushes();
    zombie.put("k", "late").await;
    zombie.put("other", "late").await;
    zombie.until_flush_is_held().await;
    let executor = setup.spawn();
    let fence = executor.fences().await.unwrap().remove(0);
    retire(&executor, fence, SlotSet::empty(), Epoch(2)).await;
    zombie.tier.release_flushes();
    zombie.until_state("it says so", |state| matches!(state, MemberState::Refusing(_))).await;
    assert!(matches!(zombie.get_error("other").await, Error::Unavailable(_)));
    assert_eq!(zombie.tier.row(&key("k")).unwrap().value.as_bytes(), b"old");
}

/// R20: what was taken up under one claim of the fence is not flushed under the next, by when others have had the slots.
#[tokio::test(start_paused = true)]
async fn a_flush_that_was_waiting_while_the_fence_was_lost_and_claimed_again_is_given_up() {
    let mut setup = Setup::new(1);
    let rig = setup.start().await;
    let executor = setup.spawn();
    let fence = executor.fences().await.unwrap().remove(0);
    rig.put_spilled("k", "old").await;
    rig.tier.set_down(true);
    rig.put("k", "late").await;
    rig.put("other", "x").await; // evicts "k"
    rig.until_stats("its flush fails and waits longer and longer", |stats| stats.spill_errors > 7).await;
    rig.tier.set_down(false);
    let (shard, token) = (fence.shard.clone(), fence.token.next());
    retire(&executor, fence, SlotSet::empty(), Epoch(2)).await;
    let deletion = [Effect::Delete { key: key("k"), version: Version::new(2, 1) }];
    rig.tier.flush(&shard, Lane::FIRST, token, &deletion, Lsn(1)).await.unwrap();
    for epoch in [3, 4] {
        setup.assignment.epoch = Epoch(epoch);
        rig.assign(&setup.assignment).await;
        rig.until_state("it is lost or claimed", |state| !matches!(state, MemberState::Starting(_))).await;
    }
    assert_eq!(rig.state().await, MemberState::Serving);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.tier.row(&key("k")), None, "whoever had the slots has deleted it");
    rig.put_spilled("other", "x").await;
    rig.shutdown().await.unwrap();
}

/// R17, R20: nor is what the tier took under one claim reported under the next, in which the key may have a row again.
#[tokio::test(start_paused = true)]
async fn a_flush_that_settles_a_dead_letter_while_the_fence_is_lost_and_claimed_again_is_not_confirmed() {
    let mut setup = Setup::new(1);
    let rig = setup.start().await;
    let executor = setup.spawn();
    rig.put_spilled("deleted", "old").await;
    rig.tier.poison(key("deleted"));
    rig.delete("deleted").await;
    rig.until_stats("its deletion is buried", |stats| stats.dead_letters == 1).await;
    rig.tier.cure(&key("deleted"));
    rig.tier.fail_unbury(u32::MAX);
    tokio::time::sleep(Duration::from_secs(125)).await; // it is tried again
    assert_eq!(rig.tier.row(&key("deleted")), None);
    let fence = executor.fences().await.unwrap().remove(0);
    retire(&executor, fence, SlotSet::empty(), Epoch(2)).await;
    rig.tier.plant(row("deleted", "new", (2, 1)));
    setup.assignment.epoch = Epoch(3);
    rig.assign(&setup.assignment).await;
    rig.until_state("fenced", |state| matches!(state, MemberState::Refusing(_))).await;
    rig.tier.fail_unbury(0);
    setup.assignment.epoch = Epoch(4);
    rig.assign(&setup.assignment).await;
    rig.until_state("serving", |state| *state == MemberState::Serving).await;
    rig.until_stats("the filter is complete", |stats| stats.filter_ready).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.get("deleted").await.as_deref(), Some("new"));
    rig.shutdown().await.unwrap();
}

/// R7, R20: what a fenced shard still remembers is from before, whoever owned the slots since.
#[tokio::test]
async fn a_shard_that_gets_its_slots_back_after_it_was_fenced_forgets_what_it_had() {
    let mut setup = Setup::new(10);
    let rig = setup.start().await;
    rig.put_spilled("clean", "old").await;
    rig.get("clean").await;
    rig.put("dirty", "old").await;
    let executor = setup.spawn();
    let fence = executor.fences().await.unwrap().remove(0);
    retire(&executor, fence, SlotSet::empty(), Epoch(2)).await;
    rig.push_out_until_refused().await;
    rig.tier.plant(row("clean", "new", (2, 1000)));
    setup.assignment.epoch = Epoch(3);
    rig.assign(&setup.assignment).await;
    rig.until_state("serving", |state| *state == MemberState::Serving).await;
    rig.until_stats("the filter is complete", |stats| stats.filter_ready).await;
    assert_eq!(rig.get("clean").await.as_deref(), Some("new"));
    assert_eq!(rig.get("dirty").await, None, "its version never reached the tier");
    rig.shutdown().await.unwrap();
    assert!(rig.tier.row(&key("dirty")).is_none());
}

/// What is forgotten with the fence does not wait for the tier any more, and whoever watches the queue is not alarmed for ever.
#[tokio::test]
async fn what_waited_under_a_lost_claim_has_no_age_under_the_next() {
    let mut setup = Setup::new(1);
    let rig = setup.start().await;
    let executor = setup.spawn();
    rig.tier.hold_flushes();
    let puts = (0..10).map(|i| crate::rig::put_command(&format!("k{i}"), "late")).collect();
    rig.run(puts, Duration::from_secs(10)).await;
    rig.until_flush_is_held().await;
    rig.until_stats("they wait", |stats| stats.spill_queue_age_ms > 0).await;
    let fence = executor.fences().await.unwrap().remove(0);
    retire(&executor, fence, SlotSet::empty(), Epoch(2)).await;
    rig.tier.release_flushes();
    rig.until_state("fenced", |state| matches!(state, MemberState::Refusing(_))).await;
    setup.assignment.epoch = Epoch(3);
    rig.assign(&setup.assignment).await;
    rig.until_state("serving", |state| *state == MemberState::Serving).await;
    rig.put_spilled("k", "new").await;
    rig.until_stats("nothing waits", |stats| stats.spill_queue_age_ms == 0).await;
    rig.shutdown().await.unwrap();
}

impl Rig {
    async fn push_out_until_refused(&self) {
        for i in 0..20 {
            let put = crate::rig::put_command(&format!("push{i}"), "x");
            let _ = self.one_within(put, 1000).await;
        }
        self.until_state("fenced", |state| matches!(state, MemberState::Refusing(_))).await;
    }
}

/// A shard that is told to let slots go spills them, and counts only what is left.
#[tokio::test]
async fn slots_are_handed_over_by_way_of_the_tier() {
    let mut setup = Setup::new(100);
    let rig = setup.start().await;
    for i in 0..100 {
        rig.put(&format!("k{i}"), i.to_string()).await;
    }
    let half = SlotSet::shares(2).remove(0);
    setup.assignment.epoch = Epoch(2);
    setup.assignment.slots = half.clone();
    rig.assign(&setup.assignment).await;
    rig.until_state("serving", |state| *state == MemberState::Serving).await;
    let is_kept = |i: &i32| half.contains(Slot::of(&key(format!("k{i}"))));
    for i in 0..100 {
        let name = format!("k{i}");
        if is_kept(&i) {
            assert_eq!(rig.get(&name).await, Some(i.to_string()));
        } else {
            assert!(matches!(rig.get_error(&name).await, Error::WrongShard { .. }));
            assert_eq!(rig.tier.row(&key(&name)).unwrap().value.as_bytes(), i.to_string().as_bytes());
        }
    }
    rig.until_stats("the filter is complete", |stats| stats.filter_ready).await;
    assert_eq!(rig.count().await, (0..100).filter(is_kept).count() as u64);
    assert!(rig.tier.fences().await.unwrap().iter().all(|fence| fence.slots == half));
    let old =
        Batch { commands: vec![crate::rig::get_command("k")], epoch: Some(Epoch(1)), timeout: Duration::from_secs(1) };
    assert!(matches!(rig.shard.execute(old).await.remove(0), Err(Error::WrongShard { epoch: Epoch(2), .. })));
}

/// R12, R17: the scan that filled the filter for an earlier assignment says nothing of a later one.
#[tokio::test]
async fn a_filter_scan_of_an_earlier_assignment_does_not_complete_the_filter() {
    let mut setup = Setup::new(10);
    setup.assignment.slots = SlotSet::shares(2).remove(0);
    setup.tier.as_ref().unwrap().hold_scans();
    let rig = setup.spawn();
    rig.assign(&setup.assignment).await;
    rig.until_state("serving", |state| *state == MemberState::Serving).await;
    for i in 0..50 {
        rig.tier.plant(row(&format!("k{i}"), "v", (1, i + 1)));
    }
    setup.assignment.epoch = Epoch(2);
    setup.assignment.slots = SlotSet::all();
    rig.assign(&setup.assignment).await;
    rig.until_state("serving", |state| *state == MemberState::Serving).await;
    rig.tier.release_scans();
    rig.until_stats("the filter is complete", |stats| stats.filter_ready).await;
    for i in 0..50 {
        assert_eq!(rig.get(&format!("k{i}")).await.as_deref(), Some("v"));
    }
}

/// `--strict` counts whoever asked the tier first.
#[tokio::test]
async fn a_strict_shard_refuses_a_tier_that_may_lose_what_it_acknowledged() {
    let mut setup = Setup::new(1);
    setup.options.strict = true;
    setup.tier.as_ref().unwrap().warn("commits are not synced");
    let reason = setup.start_refused().await;
    assert!(reason.contains("--strict") && reason.contains("not synced"), "{reason}");
    let rig = setup.spawn();
    rig.fences().await.unwrap(); // as the primary asks before it plans
    rig.assign(&setup.assignment).await;
    rig.until_state("refusing", |state| matches!(state, MemberState::Refusing(_))).await;
}

#[tokio::test]
async fn a_tier_that_is_down_at_start_is_waited_for() {
    let setup = Setup::new(1);
    setup.tier.as_ref().unwrap().set_down(true); // defect 9
    let rig = setup.spawn();
    rig.assign(&setup.assignment).await;
    until("it has tried", async || rig.tier.calls().prepares > 1).await;
    assert!(matches!(rig.state().await, MemberState::Starting(_)));
    assert!(matches!(rig.get_error("k").await, Error::Unavailable(_)));
    rig.tier.set_down(false);
    rig.until_state("serving", |state| *state == MemberState::Serving).await;
    assert_eq!(rig.get("k").await, None);
    assert_ne!(rig.status().await.unwrap().incarnation, Incarnation(0));
}
