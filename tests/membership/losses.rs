//! Members that died with what they had not spilled: refused until the loss is accepted (R22).

use super::world::{World, key_of, name, until};
use overspill::cluster::Member;
use overspill::command::{Command, Reply};

const KEYS: std::ops::Range<usize> = 0..200;

/// `a` and `b` have served, and `b` was killed.
async fn one_was_killed() -> World {
    let world = World::new();
    world.start(&["a", "b"]);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    primary.put_all(KEYS, "one").await;
    primary.stop().await;
    world.kill("b");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_of_a_killed_member_that_was_left_out_wait_for_accept_loss_and_the_others_are_served() {
    let world = one_was_killed().await;
    let (of_a, of_b) = (key_of(0, 2), key_of(1, 2));
    let primary = world.lead(&["a"]);
    let reason = primary.until_unserved(of_b, "--accept-loss").await;
    assert!(reason.contains("b served these slots and did not stop cleanly"), "{reason}");
    let found = until("the others are served", async || primary.get(of_a).await.ok()).await;
    assert_eq!(found, Some(format!("one {of_a}")));
    primary.stop().await;

    let primary = world.lead_with(&["a"], true);
    primary.until_served().await;
    primary.put_all(KEYS, "two").await;
    primary.assert_all(KEYS, "two").await;
    primary.stop().await;
    // It is settled now: nobody has to accept it again.
    let primary = world.lead(&["a"]);
    primary.until_served().await;
    primary.assert_all(KEYS, "two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_member_refuses_to_come_back_until_the_loss_is_accepted() {
    let world = one_was_killed().await;
    let (of_a, of_b) = (key_of(0, 2), key_of(1, 2));
    world.start(&["b"]);
    let primary = world.lead(&["a", "b"]);
    let reason = primary.until_unserved(of_b, "--accept-loss").await;
    assert!(reason.contains("b refuses to serve"), "{reason}");
    let found = until("the others are served", async || primary.get(of_a).await.ok()).await;
    assert_eq!(found, Some(format!("one {of_a}")));
    primary.stop().await;
    let primary = world.lead_with(&["a", "b"], true);
    primary.until_served().await;
    primary.put_all(KEYS, "two").await;
    primary.assert_all(KEYS, "two").await;
    let Ok(Reply::Stats(stats)) = primary.execute(Command::Stats).await else { panic!() };
    let accepted: Vec<_> = stats.iter().map(|stats| (stats.shard.as_str(), stats.losses_accepted)).collect();
    assert_eq!(accepted, [("a", 0), ("b", 1)], "it is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_member_stays_refused_when_only_a_part_of_its_slots_was_taken_over() {
    let world = one_was_killed().await;
    world.start(&["c"]);
    let primary = world.lead_with(&["b", "c", "a"], true);
    until("b is rid of what the others got", async || {
        let fences = world.shard("a").fences().await.unwrap();
        let of_b = fences.into_iter().find(|fence| fence.shard == name("b")).unwrap();
        let share = &overspill::slots::SlotSet::shares(3)[0];
        of_b.slots.is_subset(share).then_some(())
    })
    .await;
    primary.stop().await;
    // Nobody has yet accepted the loss of what b keeps.
    world.start(&["b"]);
    let primary = world.lead(&["b", "c", "a"]);
    let held = until("b's row", async || {
        let fences = world.shard("a").fences().await.unwrap();
        fences.into_iter().find(|fence| fence.shard == name("b"))
    })
    .await;
    if !held.slots.is_empty() {
        world.until_refusing("b").await;
    }
    primary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_given_up_and_lives_can_neither_write_nor_answer_any_more() {
    let world = World::new();
    world.start(&["a", "b"]);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    primary.put_all(KEYS, "one").await;
    primary.stop().await;
    world.cut_off("b", true);
    let primary = world.lead_with(&["a"], true);
    primary.until_served().await;
    primary.put_all(KEYS, "two").await;
    for i in KEYS.step_by(3) {
        primary.delete(i).await.unwrap();
    }
    primary.put_all(1000..1100, "push all out of memory").await;
    primary.stop().await;
    // It comes back with all that it had, and a part of its slots.
    world.cut_off("b", false);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    for i in KEYS {
        let expected = (i % 3 != 0).then(|| format!("two {i}"));
        assert_eq!(primary.get(i).await.unwrap(), expected, "key {i}");
    }
    primary.stop().await;
    world.stop("a").await;
    world.stop("b").await;
    assert!(!world.tier.rows().iter().any(|row| row.value.as_bytes().starts_with(b"one")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_member_that_only_was_out_of_reach_loses_nothing_once_it_is_reached() {
    let world = World::new();
    world.start(&["a", "b"]);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    primary.put_all(KEYS, "one").await;
    primary.stop().await;
    world.cut_off("b", true);
    let primary = world.lead(&["a"]);
    primary.until_unserved(key_of(1, 2), "let this primary reach it").await;
    world.cut_off("b", false);
    primary.until_served().await;
    primary.assert_all(KEYS, "one").await;
}
