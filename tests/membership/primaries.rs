//! Several primaries: with one list they serve side by side, with another they wait.

use super::world::{World, key_of, until};

const KEYS: std::ops::Range<usize> = 0..100;

#[tokio::test(flavor = "multi_thread")]
async fn two_primaries_with_one_list_serve_side_by_side() {
    let world = World::new();
    world.start(&["a", "b"]);
    // Both at once, from nothing, and with one of them willing to accept losses.
    let (one, two) = (world.lead(&["a", "b"]), world.lead_with(&["a", "b"], true));
    one.until_served().await;
    two.until_served().await;
    for round in 0..10 {
        one.put_all(KEYS, &format!("one {round}")).await;
        two.assert_all(KEYS, &format!("one {round}")).await;
        two.put_all(KEYS, &format!("two {round}")).await;
        one.assert_all(KEYS, &format!("two {round}")).await;
    }
    one.stop().await;
    two.put_all(KEYS, "alone").await;
    two.assert_all(KEYS, "alone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_with_another_list_is_refused_and_leads_soon_after_the_first_has_resigned() {
    let world = World::new();
    world.start(&["a", "b", "c"]);
    let first = world.lead(&["a", "b"]);
    first.until_served().await;
    first.put_all(KEYS, "one").await;
    let stranger = world.lead(&["a", "b", "c"]);
    for share in 0..3 {
        let reason = stranger.until_unserved(key_of(share, 3), "another primary").await;
        assert!(reason.contains("a b"), "it names the other's list: {reason}");
    }
    first.put_all(KEYS, "two").await;
    first.assert_all(KEYS, "two").await;
    first.stop().await;
    stranger.until_served().await;
    stranger.assert_all(KEYS, "two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_with_another_list_leads_some_seconds_after_the_first_has_died() {
    let world = World::new();
    world.start(&["a", "b"]);
    let first = world.lead(&["a", "b"]);
    first.until_served().await;
    first.put_all(KEYS, "one").await;
    first.kill().await;
    let second = world.lead(&["b"]);
    second.until_unserved(key_of(1, 2), "another primary").await;
    second.until_served().await;
    second.assert_all(KEYS, "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_primary_of_two_resigns_no_other_list_gets_in() {
    let world = World::new();
    world.start(&["a"]);
    let (one, two) = (world.lead(&["a"]), world.lead(&["a"]));
    one.until_served().await;
    two.until_served().await;
    let stranger = world.lead(&["a", "b"]);
    stranger.until_unserved(key_of(0, 2), "another primary").await;
    one.stop().await;
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(3);
    while tokio::time::Instant::now() < end {
        assert!(two.put(0, "still").await.is_ok());
        assert!(stranger.get(key_of(0, 2)).await.is_err());
    }
    two.stop().await;
    until("the other list leads", async || stranger.get(key_of(0, 2)).await.ok()).await;
}
