//! Secondaries and tiers that are away for a while: bounded errors there, service everywhere else.

use std::time::Duration;

use tokio::time::Instant;

use super::world::{World, key_of, options, until};
use overspill::service::Error;
use overspill::tier::memory::MemoryTier;

const KEYS: std::ops::Range<usize> = 0..200;

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_may_start_before_its_secondaries() {
    let world = World::new();
    let primary = world.lead(&["a", "b"]);
    let (of_a, of_b) = (key_of(0, 2), key_of(1, 2));
    primary.until_unserved(of_a, "a").await;
    primary.until_unserved(of_b, "b").await;
    world.start(&["a"]);
    until("the first one serves", async || primary.put(of_a, "one").await.ok()).await;
    assert!(matches!(primary.put(of_b, "one").await, Err(Error::Unavailable(_))));
    world.start(&["b"]);
    primary.until_served().await;
    primary.put(of_b, "two").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_that_was_restarted_cleanly_comes_back_by_itself() {
    let world = World::new();
    world.start(&["a", "b"]);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    primary.put_all(KEYS, "one").await;
    assert!(world.stop("b").await > 0, "it had something to spill");
    let (of_a, of_b) = (key_of(0, 2), key_of(1, 2));
    primary.until_unserved(of_b, "b").await;
    assert_eq!(primary.get(of_a).await.unwrap(), Some(format!("one {of_a}")), "the others go on");
    world.start(&["b"]);
    primary.until_served().await;
    primary.assert_all(KEYS, "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_that_hangs_costs_the_others_neither_service_nor_their_primary() {
    let world = World::new();
    world.start(&["a", "b"]);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    let (of_a, of_b) = (key_of(0, 2), key_of(1, 2));
    primary.put(of_a, "one").await.unwrap();
    world.hang("b");
    let stranger = world.lead(&["a"]);
    // Longer than a primary may be silent.
    let end = Instant::now() + Duration::from_secs(8);
    let mut is_refused = false;
    while Instant::now() < end {
        assert_eq!(primary.get(of_a).await.unwrap().as_deref(), Some("one"));
        match stranger.get(of_a).await {
            Err(Error::Unavailable(reason)) => is_refused |= reason.contains("another list"),
            other => panic!("the stranger leads: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(is_refused);
    primary.until_unserved(of_b, "no answer in time").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_tier_is_down_a_new_primary_serves_what_is_settled() {
    let world = World::new();
    world.start(&["a", "b"]);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    let (of_a, of_b) = (key_of(0, 2), key_of(1, 2));
    primary.put(of_a, "one").await.unwrap();
    primary.put(of_b, "one").await.unwrap();
    primary.stop().await;
    world.tier.set_down(true);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    assert_eq!(primary.get(of_a).await.unwrap().as_deref(), Some("one"));
    assert_eq!(primary.get(of_b).await.unwrap().as_deref(), Some("one"));
    // With one gone the other goes on, although nobody can read the fences.
    world.kill("b");
    primary.until_unserved(of_b, "down").await;
    assert_eq!(primary.get(of_a).await.unwrap().as_deref(), Some("one"));
    // And another primary finds the same.
    primary.stop().await;
    let primary = world.lead(&["a", "b"]);
    until("the other goes on", async || primary.get(of_a).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secondaries_start_while_the_tier_is_down_and_serve_when_it_is_up() {
    let world = World::new();
    world.tier.set_down(true);
    world.start(&["a", "b"]);
    let primary = world.lead(&["a", "b"]);
    primary.until_unserved(0, "the tier").await;
    world.tier.set_down(false);
    primary.until_served().await;
    primary.put_all(KEYS, "one").await;
    primary.assert_all(KEYS, "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_with_another_tier_is_kept_out_and_the_others_go_on() {
    let world = World::new();
    world.start(&["a", "b"]);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    primary.put_all(KEYS, "one").await;
    world.stop("b").await;
    let elsewhere = MemoryTier::with_id(overspill::cluster::TierId(99));
    world.start_with("b", options(), Some(elsewhere.clone()));
    let (of_a, of_b) = (key_of(0, 2), key_of(1, 2));
    primary.until_unserved(of_b, "different tiers").await;
    assert_eq!(primary.get(of_a).await.unwrap(), Some(format!("one {of_a}")));
    assert!(primary.put(of_b, "hidden").await.is_err());
    world.stop("b").await;
    assert!(elsewhere.rows().is_empty());
    world.start(&["b"]);
    primary.until_served().await;
    primary.assert_all(KEYS, "one").await;
}
