//! Reading back: R5, R9, R12, R15 (misses), R16, R17.

use std::time::Duration;

use futures::FutureExt;
use overspill::command::{Command, Expiry, Place, Reply};
use overspill::record::VALUE_BYTES_MAX;
use overspill::service::{Batch, Error, REPLIES_BYTES_MAX, Service};
use tokio::time::advance;

use crate::rig::{Rig, Setup, get_command, give_way, key, put_command, row, until};

/// Begins a GET and returns once its load is under way (and held).
async fn begin_get(rig: &Rig, k: &'static str) -> tokio::task::JoinHandle<Result<Reply, Error>> {
    let before = rig.tier.loads();
    let asker = rig.clone();
    let get = tokio::spawn(async move { asker.one(get_command(k)).await });
    until("the load is under way", async || rig.tier.loads() > before).await;
    get
}

/// Begins a GET and returns once its load is asked for, which need not be under way.
async fn ask_for_load(rig: &Rig, k: &'static str) -> tokio::task::JoinHandle<Result<Reply, Error>> {
    let misses = rig.stats().await.misses;
    let asker = rig.clone();
    let get = tokio::spawn(async move { asker.one(get_command(k)).await });
    rig.until_stats("the load is asked for", |stats| stats.misses > misses).await;
    get
}

/// R12, defect 4: the key is absent from memory again when the old row arrives, and the row is stale all the same.
#[tokio::test]
async fn a_load_that_a_write_has_overtaken_is_not_kept() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "old").await;
    rig.tier.hold_loads();
    let get = begin_get(&rig, "k").await;
    rig.put("k", "new").await;
    rig.push_out().await; // "new" is in the tier, and in memory there is nothing
    assert_eq!(rig.tier.row(&key("k")).unwrap().value.as_bytes(), b"new");
    rig.tier.release_loads();
    get.await.unwrap().unwrap();
    assert_eq!(rig.get("k").await.as_deref(), Some("new"));
}

/// R12, for a write that leaves nothing behind.
#[tokio::test]
async fn a_load_that_a_delete_has_overtaken_does_not_bring_the_key_back() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "old").await;
    rig.tier.hold_loads();
    let get = begin_get(&rig, "k").await;
    rig.put("k", "new").await; // so that the DEL needs no load
    assert!(rig.delete("k").await);
    rig.until_spilled().await;
    rig.tier.release_loads();
    get.await.unwrap().unwrap();
    assert_eq!(rig.get("k").await, None);
}

/// R12: one load that waits for its turn is overtaken, another of the same key is asked for, and one statement serves both.
#[tokio::test]
async fn a_load_that_was_overtaken_before_it_began_takes_nothing_from_the_next() {
    let rig = Setup::new(1).start().await;
    for k in ["a", "b", "c", "k"] {
        rig.put_spilled(k, "old").await;
    }
    rig.tier.hold_loads();
    let mut gets = Vec::new();
    for k in ["a", "b", "c"] {
        gets.push(begin_get(&rig, k).await); // now there is nobody left who could load more
    }
    let before = rig.tier.loads();
    let overtaken = ask_for_load(&rig, "k").await;
    rig.put("k", "new").await;
    rig.push_out().await;
    let next = ask_for_load(&rig, "k").await;
    assert_eq!(rig.tier.loads(), before, "both wait for their turn");
    rig.tier.release_loads();
    let found = next.await.unwrap().unwrap();
    assert!(matches!(&found, Reply::Found(Some(found)) if found.value.as_bytes() == b"new"), "{found:?}");
    overtaken.await.unwrap().unwrap();
    for get in gets {
        get.await.unwrap().unwrap();
    }
}

/// Two loads of one key each are under way and held.
async fn start_with_two_loads(keys: &[&'static str]) -> (Rig, Vec<tokio::task::JoinHandle<Result<Reply, Error>>>) {
    let rig = Setup::new(1).start().await;
    for k in keys {
        rig.put_spilled(k, "v").await;
    }
    rig.tier.hold_loads();
    let mut gets = Vec::new();
    for k in &keys[..2] {
        gets.push(begin_get(&rig, k).await); // who is alone goes at once, and so does the next
    }
    (rig, gets)
}

#[tokio::test(start_paused = true)]
async fn who_misses_while_others_load_waits_for_as_many_as_they_are() {
    let (rig, mut gets) = start_with_two_loads(&["a", "b", "c", "d"]).await;
    let before = rig.tier.calls();
    for (k, loaded_keys) in [("c", 0), ("d", 2)] {
        let asker = rig.clone();
        gets.push(tokio::spawn(async move { asker.one(get_command(k)).await }));
        give_way().await;
        assert_eq!(rig.tier.calls().loaded_keys - before.loaded_keys, loaded_keys);
    }
    assert_eq!(rig.tier.loads() - before.loads, 1, "one load for both");
    rig.tier.release_loads();
    for get in gets {
        assert!(matches!(get.await.unwrap(), Ok(Reply::Found(Some(_)))));
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_long_for_company() {
    let (rig, gets) = start_with_two_loads(&["a", "b", "c"]).await;
    let before = rig.tier.loads();
    let get = begin_get(&rig, "c").await; // while nothing is answered
    assert_eq!(rig.tier.loads() - before, 1);
    rig.tier.release_loads();
    for get in gets.into_iter().chain([get]) {
        assert!(matches!(get.await.unwrap(), Ok(Reply::Found(Some(_)))));
    }
}

/// Each of those who come wakes a loader, which must not begin to wait anew.
#[tokio::test(start_paused = true)]
async fn nobody_waits_long_for_company_however_many_come() {
    let rig = Setup::new(1).start().await;
    let name = |i: usize| format!("k{i}");
    for i in 0..26 {
        rig.put_spilled(&name(i), "v").await;
    }
    rig.tier.hold_loads();
    let before = rig.tier.loads();
    let ask = |names: Vec<String>| {
        let asker = rig.clone();
        let commands = names.iter().map(|name| get_command(name)).collect();
        tokio::spawn(async move { asker.run(commands, Duration::from_secs(10)).await })
    };
    let mut gets = vec![ask((0..16).map(name).collect())];
    give_way().await;
    assert_eq!(rig.tier.loads() - before, 1);
    for i in 16..26 {
        gets.push(ask(vec![name(i)]));
        give_way().await;
        advance(Duration::from_micros(300)).await;
    }
    assert!(rig.tier.loads() - before >= 2, "they wait for those who hang");
    rig.tier.release_loads();
    for get in gets {
        assert!(get.await.unwrap().iter().all(|reply| matches!(reply, Ok(Reply::Found(Some(_))))));
    }
}

/// Reads of a batch that only the tier can answer travel together, whatever each of them asks.
#[tokio::test]
async fn the_reads_of_a_batch_are_loaded_together_and_answered_in_their_places() {
    let rig = Setup::new(1).start().await;
    let name = |i: usize| format!("k{i}");
    for i in 0..100 {
        rig.put(&name(i), i.to_string()).await;
    }
    rig.push_out().await;
    let ask = |i: usize| match i % 4 {
        0 | 1 => get_command(&name(i / 2)), // many of them twice
        2 => Command::Exists { key: key(name(i)) },
        _ => Command::Ttl { key: key(name(i)) },
    };
    let before = rig.tier.calls();
    let replies = rig.run((0..100).map(ask).collect(), Duration::from_secs(10)).await;
    for (i, reply) in replies.into_iter().enumerate() {
        match (i % 4, reply.unwrap()) {
            (0 | 1, Reply::Found(Some(found))) => assert_eq!(found.value.as_bytes(), (i / 2).to_string().as_bytes()),
            (2, Reply::Done(exists)) => assert!(exists),
            (3, Reply::Expiry(expiry)) => assert_eq!(expiry, Expiry::Never),
            (_, other) => panic!("{i}: {other:?}"),
        }
    }
    let calls = rig.tier.calls();
    assert!(calls.loaded_keys - before.loaded_keys >= 70, "memory has room for one");
    assert!(calls.loads - before.loads <= 10, "{} loads", calls.loads - before.loads);
}

/// R12: single-flight.
#[tokio::test]
async fn many_who_miss_one_key_share_one_load() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "v").await;
    rig.tier.hold_loads();
    let before = rig.tier.calls().loaded_keys;
    let all = futures::future::join_all((0..50).map(|_| rig.get("k")));
    let (all, ()) = tokio::join!(all, async {
        rig.until_stats("all have joined", |stats| stats.loads_joined == 49).await;
        rig.tier.release_loads();
    });
    assert!(all.iter().all(|found| found.as_deref() == Some("v")));
    assert_eq!(rig.tier.calls().loaded_keys, before + 1);
}

/// R5.
#[tokio::test]
async fn what_a_caller_abandons_is_finished() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "old").await;
    rig.put_spilled("read", "me").await;
    rig.tier.hold_loads();
    let commands = vec![Command::Expire { key: key("k"), ttl: crate::rig::ttl(5000) }, get_command("read")];
    let mut work = Box::pin(rig.shard.execute(Batch { commands, epoch: None, timeout: Duration::from_secs(10) }));
    assert!(work.as_mut().now_or_never().is_none(), "it waits for its loads");
    drop(work);
    let before = rig.tier.calls().loaded_keys;
    rig.tier.release_loads();
    until("the expiry is set", async || rig.explain("k").await.expires_at.is_some()).await;
    assert!(rig.tier.calls().loaded_keys >= before, "and nothing is stuck");
    assert_eq!(rig.get("read").await.as_deref(), Some("me"), "the key's load can be joined or begun anew");
    assert!(rig.delete("k").await, "the latch was given back");
}

/// R15: what waits for the tier is bounded only if it gets there.
#[tokio::test]
async fn what_a_load_evicts_is_spilled_without_another_write() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "v").await;
    rig.put("dirty", "v").await;
    assert_eq!(rig.get("k").await.as_deref(), Some("v"));
    rig.until_spilled().await;
    assert!(rig.tier.row(&key("dirty")).is_some());
}

/// R9.
#[tokio::test]
async fn loads_and_flushes_are_bounded_in_keys_and_bytes() {
    let rig = Setup::new(1).start().await;
    let value = vec![7; 1024 * 1024];
    let names: Vec<String> = (0..40).map(|i| format!("big{i}")).collect();
    for name in &names {
        rig.put(name, &value).await;
    }
    rig.push_out().await;
    let spilled = rig.stats().await;
    assert!(spilled.spilled_rows.div_ceil(spilled.spilled_batches) <= 8, "at most about 4 MiB a flush: {spilled:?}");
    for _ in 0..2 {
        let before = rig.tier.calls();
        let gets = names.iter().map(|name| rig.one_within(get_command(name), 20_000));
        for reply in futures::future::join_all(gets).await {
            assert!(matches!(reply, Ok(Reply::Found(Some(_)))));
        }
        let after = rig.tier.calls();
        let (loads, keys) = (after.loads - before.loads, after.loaded_keys - before.loaded_keys);
        assert!(keys >= 39 && keys <= 16 * loads, "at most 16 MiB a load: {keys} in {loads}");
        rig.push_out().await;
    }
}

/// R15, the reading side.
#[tokio::test]
async fn a_miss_while_the_tier_is_down_is_unavailable_and_never_missing() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "v").await;
    rig.put("hit", "v").await;
    rig.tier.set_down(true);
    assert!(matches!(rig.get_error("k").await, Error::Unavailable(_)));
    for command in [
        Command::Exists { key: key("k") },
        Command::Ttl { key: key("k") },
        Command::Delete { key: key("k") },
        Command::Persist { key: key("k") },
    ] {
        assert!(matches!(rig.one_within(command, 200).await, Err(Error::Unavailable(_))));
    }
    assert_eq!(rig.get("hit").await.as_deref(), Some("v"), "hits go on");
    assert_eq!(rig.get("never").await, None, "the filter knows");
    rig.tier.set_down(false);
    assert_eq!(rig.get("k").await.as_deref(), Some("v"));
}

/// R15: a load that hangs is not waited for beyond the deadline, and its answer is not lost.
#[tokio::test]
async fn a_load_that_hangs_is_unavailable_in_time() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "v").await;
    rig.tier.hold_loads();
    assert!(matches!(rig.one_within(get_command("k"), 50).await, Err(Error::Unavailable(_))));
    rig.tier.release_loads();
    assert_eq!(rig.get("k").await.as_deref(), Some("v"));
}

/// R16: what was flushed last is what the next load reads.
#[tokio::test]
async fn a_load_reads_the_newest_row() {
    let rig = Setup::new(1).start().await;
    for i in 0..20 {
        rig.put_spilled("k", &i.to_string()).await;
        assert_eq!(rig.get("k").await, Some(i.to_string()));
    }
}

/// R17.
#[tokio::test]
async fn a_key_that_has_no_row_costs_no_load() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "v").await;
    rig.delete("k").await;
    rig.until_spilled().await;
    let before = rig.tier.calls().total();
    for i in 0..100 {
        assert_eq!(rig.get(&format!("never{i}")).await, None);
    }
    assert_eq!(rig.get("k").await, None, "its deletion is confirmed");
    assert_eq!(rig.tier.calls().total(), before);
    assert!(rig.stats().await.loads_avoided >= 101);
    rig.put_spilled("k", "again").await;
    assert_eq!(rig.get("k").await.as_deref(), Some("again"));
}

/// R17: "maybe" until the filter is built.
#[tokio::test]
async fn answers_are_right_before_the_filter_is_complete() {
    let setup = Setup::new(10);
    setup.tier.as_ref().unwrap().plant(row("old", "v", (0, 1)));
    setup.tier.as_ref().unwrap().hold_scans();
    let rig = setup.spawn();
    rig.assign(&setup.assignment).await;
    rig.until_state("serving", |state| *state == overspill::cluster::MemberState::Serving).await;
    assert_eq!(rig.get("old").await.as_deref(), Some("v"));
    assert_eq!(rig.get("never").await, None);
    assert!(rig.tier.loads() >= 2, "both were asked for");
    assert!(matches!(rig.one(Command::Count).await, Err(Error::Unavailable(_))), "not counted yet");
    assert!(rig.delete("old").await);
    rig.put("new", "v").await;
    rig.tier.release_scans();
    rig.until_stats("the filter is complete", |stats| stats.filter_ready).await;
    assert_eq!(rig.get("old").await, None);
    assert_eq!(rig.place("new").await, Place::Memory { clean: false });
    assert_eq!(rig.count().await, 1);
}

/// R9.
#[tokio::test]
async fn a_batch_reads_so_much_and_no_more_and_writes_are_done() {
    const MIB: usize = 1 << 20;
    let rig = Setup::new(100).start().await;
    for i in 0..40 {
        rig.put(&format!("k{i}"), vec![b'v'; MIB]).await;
    }
    let found =
        |replies: &[Result<Reply, Error>]| replies.iter().filter(|r| matches!(r, Ok(Reply::Found(Some(_))))).count();
    let refused =
        |replies: &[Result<Reply, Error>]| replies.iter().filter(|r| **r == Err(Error::ReplyTooLarge)).count();
    let fit = REPLIES_BYTES_MAX / MIB - 1; // they are a little larger on a wire

    let mut commands: Vec<Command> = (0..40).map(|i| get_command(&format!("k{i}"))).collect();
    commands.insert(30, put_command("new", "v"));
    let hits = rig.run(commands.clone(), Duration::from_secs(10)).await;
    assert_eq!((found(&hits), refused(&hits)), (fit, 40 - fit));
    assert!(matches!(hits[30], Ok(Reply::Stored(_))), "{:?}", hits[30]);
    assert_eq!(rig.get("new").await.as_deref(), Some("v"));

    // The last may be beyond the limit: it is there when that is seen.
    rig.push_out().await;
    rig.put("k0", vec![b'v'; MIB]).await;
    let misses = rig.run(commands, Duration::from_secs(10)).await;
    assert!(found(&misses) == fit + 1 && refused(&misses) == 40 - fit - 1, "{} found", found(&misses));

    for name in ["a", "b"] {
        rig.put(name, vec![b'v'; VALUE_BYTES_MAX]).await;
    }
    for name in ["a", "b"] {
        let replies = rig.run(vec![put_command("new", "v"), get_command(name)], Duration::from_secs(10)).await;
        assert_eq!(found(&replies), 1, "the largest value fits");
    }
}

/// R9, R15: what was answered before a batch waited for room counts when it goes on.
#[tokio::test]
async fn a_batch_that_waited_for_room_reads_no_more_than_another() {
    const MIB: usize = 1 << 20;
    let rig = Setup::new(20).start().await;
    for i in 0..6 {
        rig.put(&format!("cold{i}"), vec![b'v'; MIB]).await;
    }
    rig.push_out().await;
    rig.tier.hold_flushes();
    rig.fill().await;
    let mut commands: Vec<Command> = (0..6).map(|i| get_command(&format!("cold{i}"))).collect();
    for name in (0..6).map(|i| format!("new{i}")) {
        commands.extend([put_command(&name, vec![b'v'; MIB]), get_command(&name)]);
    }
    let (replies, ()) = tokio::join!(rig.run(commands, Duration::from_secs(10)), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.tier.release_flushes();
    });
    let found = replies.iter().filter(|reply| matches!(reply, Ok(Reply::Found(Some(_))))).count();
    let fit = REPLIES_BYTES_MAX / MIB - 1;
    assert!((fit..=fit + 1).contains(&found), "{found} found"); // the last may be beyond the limit
    let stored = replies.iter().filter(|reply| matches!(reply, Ok(Reply::Stored(_)))).count();
    assert_eq!(stored, 6, "writes are done");
}

/// So often that none would be left who loads, if each took one along.
#[tokio::test]
async fn a_panic_in_the_client_of_the_tier_fails_a_load_and_no_later_one() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "v").await;
    for _ in 0..5 {
        rig.tier.panic_next(1);
        let failed = rig.one(get_command("k")).await;
        assert!(matches!(&failed, Err(Error::Unavailable(reason)) if reason.contains("panicked")), "{failed:?}");
    }
    assert_eq!(rig.get("k").await.as_deref(), Some("v"));
}
