//! Pure caches: no tier, no fences, nothing to lose.

use overspill::command::{Command, Cursor, Reply};
use overspill::service::Error;

use super::world::{World, key_of, until};

const KEYS: std::ops::Range<usize> = 0..10;

#[tokio::test(flavor = "multi_thread")]
async fn pure_caches_change_their_list_and_never_answer_an_old_value() {
    let world = World::of_pure_caches();
    world.start(&["a", "b", "c"]);
    let lists: [&[&str]; 5] = [&["a", "b"], &["a", "b", "c"], &["c"], &["b", "a"], &["a", "b", "c"]];
    for (round, list) in lists.into_iter().enumerate() {
        let primary = world.lead(list);
        primary.until_served().await;
        for i in KEYS {
            let found = primary.get(i).await.unwrap();
            let newest = found.as_ref().is_none_or(|value| *value == format!("{} {i}", round.wrapping_sub(1)));
            assert!(newest, "round {round}: {found:?}");
        }
        primary.put_all(KEYS, &round.to_string()).await;
        primary.assert_all(KEYS, &round.to_string()).await;
        primary.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pure_cache_that_was_killed_needs_nobody_to_accept_anything() {
    let world = World::of_pure_caches();
    world.start(&["a", "b"]);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    primary.put_all(KEYS, "one").await;
    world.kill("b");
    primary.until_unserved(key_of(1, 2), "b").await;
    world.start(&["b"]);
    primary.until_served().await;
    until("it serves anew", async || primary.get(key_of(1, 2)).await.ok()).await;
    world.kill("a");
    primary.stop().await;
    let primary = world.lead(&["b"]);
    primary.until_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_scans_gets_no_more_pages_than_memory_is_to_hold() {
    let world = World::of_pure_caches();
    world.start(&["a", "b"]);
    let primary = world.lead(&["a", "b"]);
    primary.until_served().await;
    let scan = |limit| Command::Scan { cursor: Cursor::START, limit };
    let replies = primary.execute_all(vec![scan(u32::MAX), scan(4096), scan(4096), Command::Count, scan(10)]).await;
    let pages = replies.iter().map(|reply| matches!(reply, Ok(Reply::Page { .. }))).collect::<Vec<_>>();
    assert_eq!(pages, [true, true, false, false, false]);
    assert_eq!((&replies[2], &replies[4]), (&Err(Error::ReplyTooLarge), &Err(Error::ReplyTooLarge)));
    assert_eq!(replies[3], Ok(Reply::Count(0)));
    let small = primary.execute_all(vec![scan(10); 100]).await;
    assert!(small.iter().all(Result::is_ok));
    primary.stop().await;
}
