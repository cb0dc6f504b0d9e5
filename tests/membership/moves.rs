//! Lists that grow, shrink and are put in another order, with all records kept.

use super::world::{World, name, until};

const KEYS: std::ops::Range<usize> = 0..300;

async fn all_fences_are_clean(world: &World) -> bool {
    world.start(&["reader"]);
    let fences = overspill::cluster::Member::fences(&world.shard("reader")).await.unwrap();
    world.stop("reader").await;
    fences.iter().all(|fence| fence.clean)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_clean_stop_of_all_any_list_serves_every_record() {
    let world = World::new();
    let lists: [&[&str]; 6] =
        [&["a", "b"], &["a", "b", "c"], &["c"], &["b", "a"], &["d", "e", "a"], &["a", "e", "d", "b"]];
    let mut before: Option<String> = None;
    for list in lists {
        world.start(list);
        let primary = world.lead(list);
        primary.until_served().await;
        if let Some(before) = before {
            primary.assert_all(KEYS, &before).await;
            assert_eq!(primary.count().await, KEYS.len() as u64, "{list:?}");
        }
        let value = list.join("+");
        primary.put_all(KEYS, &value).await;
        primary.assert_all(KEYS, &value).await;
        for i in 1000..1010 {
            primary.put(i, "short-lived").await.unwrap();
            assert!(primary.delete(i).await.unwrap());
        }
        primary.stop().await;
        for who in list {
            world.stop(who).await;
        }
        assert!(all_fences_are_clean(&world).await);
        assert_eq!(world.tier.rows().len(), KEYS.len(), "deleted keys have no rows");
        before = Some(value);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_changes_while_all_its_members_live() {
    let world = World::new();
    world.start(&["a", "b", "c", "d"]);
    let lists: [&[&str]; 6] = [&["a"], &["a", "b"], &["a", "b", "c", "d"], &["d", "c", "b", "a"], &["c", "b"], &["b"]];
    let mut before: Option<String> = None;
    for list in lists {
        let primary = world.lead(list);
        primary.until_served().await;
        if let Some(before) = before {
            primary.assert_all(KEYS, &before).await;
            assert_eq!(primary.count().await, KEYS.len() as u64, "{list:?}");
        }
        let value = list.join("+");
        primary.put_all(KEYS, &value).await;
        primary.assert_all(KEYS, &value).await;
        primary.stop().await;
        before = Some(value);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_rise_when_a_slot_changes_hands_even_to_a_shard_that_has_written_less() {
    let world = World::new();
    world.start(&["a", "b"]);
    let primary = world.lead(&["a"]);
    primary.until_served().await;
    primary.put_all(KEYS, "many writes make high places in the log").await;
    let mut before = Vec::new();
    for i in KEYS {
        before.push(primary.put(i, "old").await.unwrap());
    }
    primary.stop().await;
    let primary = world.lead(&["b"]);
    primary.until_served().await;
    for i in KEYS {
        let after = primary.put(i, &format!("new {i}")).await.unwrap();
        assert!(after > before[i], "{after} comes after {}", before[i]);
    }
    primary.stop().await;
    world.stop("b").await;
    for row in world.tier.rows() {
        assert!(row.value.as_bytes().starts_with(b"new"), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_do_not_move_before_the_tier_has_what_their_old_owner_held() {
    let world = World::new();
    world.start(&["a", "b"]);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    primary.put_all(KEYS, "one").await;
    primary.stop().await;
    world.tier.hold_flushes();
    let primary = world.lead(&["a"]);
    let moving = super::world::key_of(1, 2);
    let reason = primary.until_unserved(moving, "spilling").await;
    assert!(reason.contains('b'), "{reason}");
    let staying = super::world::key_of(0, 2);
    until("the other slots are served", async || primary.get(staying).await.ok()).await;
    assert!(primary.get(moving).await.is_err());
    world.tier.release_flushes();
    primary.until_served().await;
    primary.assert_all(KEYS, "one").await;
}

/// A primary dies while slots are on their way, and the next one has yet another list.
#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_that_was_begun_under_one_list_ends_well_under_another() {
    let world = World::new();
    world.start(&["a", "b", "c"]);
    let mut primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    let lists: [&[&str]; 5] = [&["b", "a"], &["c"], &["c", "a", "b"], &["b", "c"], &["a", "b"]];
    for (round, list) in lists.into_iter().enumerate() {
        primary.put_all(KEYS, &round.to_string()).await;
        primary.stop().await;
        world.tier.hold_flushes();
        let short_lived = world.lead(list);
        until("something moves", async || {
            for who in ["a", "b", "c"] {
                if matches!(world.state(who).await, overspill::cluster::MemberState::Starting(_)) {
                    return Some(());
                }
            }
            None
        })
        .await;
        short_lived.stop().await;
        primary = world.lead(lists[(round + 3) % lists.len()]);
        world.tier.release_flushes();
        primary.until_served().await;
        primary.assert_all(KEYS, &round.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_the_primary_knows_by_another_address_hands_over_to_itself() {
    let world = World::new();
    world.start(&["localhost:1", "localhost:2"]);
    let primary = world.lead(&["localhost:1", "localhost:2"]);
    primary.until_served().await;
    primary.put_all(KEYS, "one").await;
    primary.stop().await;
    world.rename("localhost:1", "127.0.0.1:1");
    world.rename("localhost:2", "127.0.0.1:2");
    // In another order: each has what the other shall get.
    let primary = world.lead(&["127.0.0.1:2", "127.0.0.1:1"]);
    primary.until_served().await;
    primary.assert_all(KEYS, "one").await;
    let held = overspill::cluster::Member::status(&world.shard("127.0.0.1:2")).await.unwrap().held.unwrap();
    assert_eq!(held.shard, name("127.0.0.1:2"));
}
