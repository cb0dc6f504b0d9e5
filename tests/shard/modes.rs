//! Write modes `behind` and `through`.

use std::time::Duration;

use overspill::command::{Command, Condition, Place, Reply};
use overspill::service::Error;
use overspill::shard::WriteMode;

use crate::rig::{Rig, Setup, get_command, key, put_command, until, value};

#[tokio::test]
async fn behind_follows_every_write_without_an_eviction() {
    let rig = Setup::new(100).mode(WriteMode::Behind).start().await;
    rig.put("k", "v1").await;
    rig.until_stats("the tier has all", |stats| stats.unspilled == 0).await;
    assert_eq!(rig.tier.row(&key("k")).unwrap().value.as_bytes(), b"v1");
    assert_eq!(rig.place("k").await, Place::Memory { clean: true });
    rig.put("k", "v2").await;
    rig.until_stats("the tier has all", |stats| stats.unspilled == 0).await;
    assert_eq!(rig.tier.row(&key("k")).unwrap().value.as_bytes(), b"v2");
    rig.delete("k").await;
    rig.until_stats("the tier has all", |stats| stats.unspilled == 0).await;
    assert_eq!(rig.tier.row(&key("k")), None);
    rig.tier.set_down(true);
    rig.put("k", "v3").await;
    assert_eq!(rig.get("k").await.as_deref(), Some("v3"), "acknowledged and visible at once");
}

fn begin(rig: &Rig, command: Command, ms: u64) -> tokio::task::JoinHandle<Result<Reply, Error>> {
    let rig = rig.clone();
    tokio::spawn(async move { rig.one_within(command, ms).await })
}

#[tokio::test]
async fn through_acknowledges_and_shows_a_write_only_when_the_tier_has_it() {
    let rig = Setup::new(100).mode(WriteMode::Through).start().await;
    rig.put("k", "v1").await;
    assert_eq!(rig.tier.row(&key("k")).unwrap().value.as_bytes(), b"v1");
    rig.tier.hold_flushes();
    let put = begin(&rig, put_command("k", "v2"), 8000);
    rig.until_stats("it is under way", |stats| stats.unspilled == 1).await;
    let get = begin(&rig, get_command("k"), 8000);
    let exists = begin(&rig, Command::Exists { key: key("k") }, 8000);
    assert!(matches!(rig.one_within(get_command("k"), 50).await, Err(Error::Unavailable(_))));
    assert!(!put.is_finished() && !get.is_finished() && !exists.is_finished());
    rig.tier.release_flushes();
    assert!(matches!(put.await.unwrap(), Ok(Reply::Stored(_))));
    let Ok(Reply::Found(Some(found))) = get.await.unwrap() else { panic!("not found") };
    assert_eq!(found.value, value("v2"));
    assert_eq!(exists.await.unwrap(), Ok(Reply::Done(true)));
    assert_eq!(rig.place("k").await, Place::Memory { clean: true });
}

/// What a refused condition or a DEL of nothing tells is a read, too.
#[tokio::test]
async fn through_tells_nothing_of_an_unconfirmed_write_by_what_it_refuses() {
    let rig = Setup::new(100).mode(WriteMode::Through).start().await;
    rig.tier.hold_flushes();
    let put = begin(&rig, put_command("k", "v"), 8000);
    rig.until_stats("it is under way", |stats| stats.unspilled == 1).await;
    let command = Command::Put { key: key("k"), value: value("w"), ttl: None, condition: Condition::Absent };
    let refused = rig.one_within(command.clone(), 50).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    let refused = begin(&rig, command, 8000);
    rig.tier.release_flushes();
    put.await.unwrap().unwrap();
    assert!(matches!(refused.await.unwrap(), Ok(Reply::Conflict(Some(_)))));
}

#[tokio::test]
async fn through_says_unknown_in_time_when_the_tier_is_down() {
    let rig = Setup::new(100).mode(WriteMode::Through).start().await;
    rig.put("k", "v1").await;
    rig.tier.set_down(true);
    let began = tokio::time::Instant::now();
    assert!(matches!(rig.one_within(put_command("k", "v2"), 100).await, Err(Error::Unknown(_))));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(matches!(rig.get_error("k").await, Error::Unavailable(_)), "v2 is not confirmed, v1 not current");
    rig.tier.set_down(false);
    assert_eq!(rig.get("k").await.as_deref(), Some("v2"), "it happened after all");
}

/// A write that a later one overtakes in memory is answered as soon as the tier is past both.
#[tokio::test]
async fn through_answers_writes_that_were_overtaken_before_their_flush() {
    let rig = Setup::new(100).mode(WriteMode::Through).start().await;
    rig.tier.hold_flushes();
    let busy = begin(&rig, put_command("busy", "x"), 8000); // so that the others wait in the queue
    rig.until_stats("it is under way", |stats| stats.unspilled == 1).await;
    let put = begin(&rig, put_command("k", "v"), 8000);
    rig.until_stats("it waits", |stats| stats.unspilled == 2).await;
    let delete = begin(&rig, Command::Delete { key: key("k") }, 8000);
    rig.until_stats("it is deleted", |stats| stats.deletes == 1).await;
    rig.tier.release_flushes();
    assert!(busy.await.unwrap().is_ok());
    assert_eq!(delete.await.unwrap(), Ok(Reply::Done(true)));
    assert!(matches!(put.await.unwrap(), Ok(Reply::Stored(_))), "nobody was told that it is settled");
}

/// A DEL, a PUT and a DEL while the first DEL is being flushed: when the row is gone, all three are settled.
#[tokio::test]
async fn through_answers_a_delete_that_found_its_row_gone_already() {
    let rig = Setup::new(100).mode(WriteMode::Through).start().await;
    rig.put("k", "v0").await;
    rig.tier.hold_flushes();
    let mut waiting = vec![begin(&rig, Command::Delete { key: key("k") }, 8000)];
    rig.until_stats("deleted", |stats| stats.deletes == 1).await;
    let puts = rig.stats().await.puts;
    waiting.push(begin(&rig, put_command("k", "v1"), 8000));
    rig.until_stats("written", |stats| stats.puts == puts + 1).await;
    waiting.push(begin(&rig, Command::Delete { key: key("k") }, 8000));
    rig.until_stats("deleted again", |stats| stats.deletes == 2).await;
    rig.tier.release_flushes();
    for reply in waiting {
        let reply = reply.await.unwrap();
        assert!(reply.is_ok(), "{reply:?}");
    }
    until("the row is gone", async || rig.tier.row(&key("k")).is_none()).await;
    assert_eq!(rig.get("k").await, None);
}
