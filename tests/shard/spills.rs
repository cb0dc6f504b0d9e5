//! What leaves memory: R2, R10, R11, R13, R15 (writes), R20, R26.

use std::time::Duration;

use overspill::cluster::Member;
use overspill::command::{Command, Place, Reply};
use overspill::record::VALUE_BYTES_MAX;
use overspill::service::Error;
use overspill::shard::WriteMode;
use overspill::task::SideThread;
use overspill::tier::memory::CommitFault;
use tokio::time::Instant;

use crate::rig::{Setup, get_command, give_way, key, put_command, until};

/// R2, R10: only what was acknowledged and left memory is in the tier, and exactly the coldest.
#[tokio::test]
async fn the_tier_holds_exactly_what_left_memory() {
    let rig = Setup::new(5).start().await;
    for i in 0..6 {
        rig.put(&format!("k{i}"), i.to_string()).await;
    }
    rig.until_spilled().await;
    let rows = rig.tier.rows();
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0].key, rows[0].value.as_bytes()), (&key("k0"), b"0".as_slice()));
    rig.put("k1", "again").await;
    assert_eq!(rig.tier.rows().len(), 1, "an overwrite spills nothing");
}

/// A transaction costs the tier about as much with one row as with a hundred.
#[tokio::test(start_paused = true)]
async fn what_leaves_memory_within_a_moment_is_flushed_together() {
    let rig = Setup::new(1).start().await;
    for i in 0..10 {
        rig.put(&format!("k{i}"), "v").await;
        give_way().await;
    }
    rig.until_spilled().await;
    assert_eq!((rig.tier.calls().flushes, rig.tier.calls().flushed_effects), (1, 9));
}

/// What waits for company does not when somebody waits for it: a writer for room, or a stop.
#[tokio::test(start_paused = true)]
async fn a_flush_that_somebody_waits_for_goes_at_once() {
    const MOMENT: Duration = Duration::from_millis(3);
    let rig = Setup::new(2).start().await;
    let began = Instant::now();
    for i in 0..20 {
        rig.put(&format!("k{i}"), vec![0; VALUE_BYTES_MAX]).await;
    }
    assert!(rig.tier.flushes() > 1 && began.elapsed() < MOMENT, "{:?}", began.elapsed());
    rig.until_spilled().await;
    rig.put("last", "v").await;
    let began = Instant::now();
    rig.shutdown().await.unwrap();
    assert!(began.elapsed() < MOMENT, "{:?}", began.elapsed());
}

/// Nor does what a full flush has left over.
#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_full_flush_goes_at_once() {
    let rig = Setup::new(1).start().await;
    rig.tier.hold_flushes();
    let mut number = 0;
    for (records, held) in [(300, 1), (300, 2), (1050, 2)] {
        for _ in 0..records {
            rig.put(&format!("k{number}"), "v").await;
            number += 1;
        }
        until("lanes are busy", async || rig.tier.held_flushes() == held).await;
    }
    let began = Instant::now();
    rig.tier.release_flushes();
    rig.until_spilled().await;
    assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
}

/// What does not fill a transaction may grow until there is a lane for it.
#[tokio::test(start_paused = true)]
async fn what_comes_while_all_lanes_are_busy_is_flushed_together() {
    let rig = Setup::new(1).start().await;
    rig.tier.hold_flushes();
    for held in 1..=2 {
        for i in 0..300 {
            rig.put(&format!("k{held}.{i}"), "v").await;
        }
        until("a lane is busy", async || rig.tier.held_flushes() == held).await;
    }
    for i in 0..10 {
        rig.put(&format!("late{i}"), "v").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    rig.tier.release_flushes();
    rig.until_spilled().await;
    assert_eq!(rig.tier.calls().flushes, 3);
}

/// Two transactions keep the tier busier than one, if there is enough for both.
#[tokio::test]
async fn what_is_more_than_a_flush_takes_goes_in_two_lanes_at_once() {
    let rig = Setup::new(10).start().await;
    rig.tier.hold_flushes();
    rig.fill().await;
    until("two flushes are under way", async || rig.tier.held_flushes() == 2).await;
    rig.tier.release_flushes();
    rig.until_spilled().await;
    assert!(rig.stats().await.spilled_rows > 2000);
}

/// Who has nothing to do does not say that nothing waits.
#[tokio::test(start_paused = true)]
async fn what_is_in_the_flush_of_one_lane_waits_though_another_lane_is_idle() {
    let rig = Setup::new(1).start().await;
    rig.tier.hold_flushes();
    rig.put("a", "1").await;
    rig.put("b", "1").await; // evicts "a"
    rig.until_flush_is_held().await;
    rig.put("a", "2").await; // evicts "b", for the other lane to take up
    rig.put("b", "2").await; // which stays, so that there is nothing to take
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.tier.held_flushes(), 1);
    let age_ms = rig.stats().await.spill_queue_age_ms;
    assert!(age_ms >= 5000, "{age_ms}");
    rig.tier.release_flushes();
    rig.until_spilled().await;
}

/// R11.
#[tokio::test]
async fn a_write_during_the_flush_of_its_older_version_survives_eviction_and_reload() {
    let rig = Setup::new(1).start().await;
    rig.tier.hold_flushes();
    rig.put("k", "old").await;
    rig.put("other", "x").await; // evicts "old"
    rig.until_flush_is_held().await;
    rig.put("k", "new").await;
    rig.tier.release_flushes();
    rig.until_spilled().await;
    assert_eq!(rig.get("k").await.as_deref(), Some("new"));
    assert_eq!(rig.place("k").await, Place::Memory { clean: false }, "the tier has the old version");
    rig.push_out().await;
    assert_eq!(rig.get("k").await.as_deref(), Some("new"));
}

/// R11, for a deletion under the flush.
#[tokio::test]
async fn a_delete_during_the_flush_of_its_record_reaches_the_tier_after_it() {
    let rig = Setup::new(1).start().await;
    rig.tier.hold_flushes();
    rig.put("k", "old").await;
    rig.put("other", "x").await;
    rig.until_flush_is_held().await;
    assert!(rig.delete("k").await);
    rig.tier.release_flushes();
    rig.until_spilled().await;
    assert_eq!(rig.tier.row(&key("k")), None);
    assert_eq!(rig.get("k").await, None);
}

/// R13, defect 3.
#[tokio::test]
async fn an_evicted_record_is_readable_while_the_tier_is_down() {
    let rig = Setup::new(2).start().await;
    rig.tier.set_down(true);
    for i in 0..50 {
        rig.put(&format!("k{i}"), i.to_string()).await;
    }
    rig.until_stats("a flush has failed", |stats| stats.spill_errors > 0).await;
    for i in 0..50 {
        assert_eq!(rig.get(&format!("k{i}")).await, Some(i.to_string()));
    }
    assert_eq!(rig.place("k0").await, Place::Spilling);
    rig.tier.set_down(false);
    rig.until_spilled().await;
    assert_eq!(rig.tier.rows().len(), 48);
    for i in 0..50 {
        assert_eq!(rig.get(&format!("k{i}")).await, Some(i.to_string()));
    }
}

/// R13: a delete is a record too.
#[tokio::test]
async fn a_tombstone_stays_until_the_row_is_gone() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "v").await;
    rig.get("k").await;
    rig.tier.set_down(true);
    assert!(rig.delete("k").await);
    rig.put("k2", "v").await;
    rig.put("k3", "v").await;
    rig.until_stats("a flush has failed", |stats| stats.spill_errors > 0).await;
    assert_eq!(rig.get("k").await, None, "memory knows: no load, no `unavailable`");
    assert_eq!(rig.place("k").await, Place::Deleting);
    rig.tier.set_down(false);
    rig.until_spilled().await;
    assert_eq!(rig.tier.row(&key("k")), None);
    assert_eq!(rig.get("k").await, None);
}

/// R15, the writing side.
#[tokio::test]
async fn writes_wait_and_then_are_busy_while_memory_is_full_of_what_the_tier_does_not_take() {
    let mut setup = Setup::new(1000);
    setup.options.memory_bytes_max = overspill::store::MEMORY_BYTES_MIN;
    let rig = setup.start().await;
    rig.tier.set_down(true);
    let mut stored = Vec::new();
    let refused = loop {
        let name = format!("k{}", stored.len());
        match rig.one_within(put_command(&name, vec![1; 1024 * 1024]), 100).await {
            Ok(_) => stored.push(name),
            Err(error) => break error,
        }
        assert!(stored.len() < 100, "memory has no bound");
    };
    assert!(matches!(refused, Error::Busy(_)), "{refused:?}");
    assert!(stored.len() > 20, "{}", stored.len());
    let began = tokio::time::Instant::now();
    assert!(matches!(rig.one_within(put_command("more", vec![1; 1024 * 1024]), 150).await, Err(Error::Busy(_))));
    assert!(began.elapsed() >= Duration::from_millis(150) && began.elapsed() < Duration::from_secs(3), "in time");
    let stats = rig.stats().await;
    assert!(stats.memory_bytes <= stats.memory_bytes_max && stats.busy == 2, "{stats:?}");
    for name in &stored {
        assert!(rig.found(name).await.is_some(), "hits go on");
    }
    assert_eq!(rig.get(&format!("k{}", stored.len())).await, None, "what was refused did not happen");
    let waiting = rig.one_within(put_command("waits", vec![1; 1024 * 1024]), 8000);
    let (waited, ()) = tokio::join!(waiting, async {
        tokio::task::yield_now().await;
        rig.tier.set_down(false);
    });
    assert!(matches!(waited, Ok(Reply::Stored(_))), "a write that still waits goes through: {waited:?}");
    rig.until_spilled().await;
    for name in &stored {
        assert!(rig.found(name).await.is_some(), "all drained by itself, nothing dropped");
    }
}

/// R15: a batch that finds no room goes on where it stopped, in its order.
#[tokio::test]
async fn a_batch_that_waited_for_room_keeps_its_order() {
    for setup in [Setup::new(4), Setup::new(4).journaled(), Setup::new(4).mode(WriteMode::Through)] {
        let rig = setup.start().await;
        rig.put("old", "1").await;
        rig.tier.hold_flushes();
        // In write-through a write that waits for the tier is no answer, but takes its room.
        rig.fill().await;
        let (mut commands, mut expected) = (vec![get_command("absent")], vec![None]);
        for round in 0..20 {
            let text = round.to_string();
            commands.extend([put_command("a", &text), get_command("a"), put_command(&format!("b{round}"), "b")]);
            expected.extend([None, Some(text), None]);
        }
        let (replies, ()) = tokio::join!(rig.run(commands, Duration::from_secs(10)), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            rig.tier.release_flushes();
        });
        let found = replies.into_iter().map(|reply| match reply.unwrap() {
            Reply::Found(found) => found.map(|found| String::from_utf8(found.value.as_bytes().to_vec()).unwrap()),
            Reply::Stored(_) => None,
            other => panic!("{other:?}"),
        });
        assert_eq!(found.collect::<Vec<_>>(), expected);
        for round in 0..20 {
            assert_eq!(rig.get(&format!("b{round}")).await.as_deref(), Some("b"));
        }
        rig.shutdown().await.unwrap();
    }
}

/// R15: who finds no room in time is told so, and whoever comes behind and needs none is answered.
#[tokio::test]
async fn reads_behind_writes_that_find_no_room_are_answered() {
    let rig = Setup::new(4).start().await;
    rig.put_spilled("cold", "1").await;
    rig.tier.hold_flushes();
    rig.fill().await;
    let commands = vec![
        put_command("new", "1"),
        get_command("fill0"),
        put_command("more", "1"),
        get_command("new"),
        get_command("cold"),
    ];
    let replies = rig.run(commands, Duration::from_millis(50)).await;
    assert!(matches!(&replies[0], Err(Error::Busy(reason)) if reason.contains("memory is full")), "{replies:?}");
    assert!(matches!(&replies[1], Ok(Reply::Found(Some(_)))), "{replies:?}");
    assert!(matches!(&replies[2], Err(Error::Busy(_))), "{replies:?}");
    assert_eq!(replies[3], Ok(Reply::Found(None)), "what was refused did not happen");
    assert!(matches!(&replies[4], Ok(Reply::Found(Some(_)))), "{replies:?}");
}

/// Where requests are answered may be busy, and the tier is written to all the same.
#[tokio::test]
async fn the_spiller_runs_where_its_tier_is_at_home() {
    let side_thread = SideThread::start("spiller").unwrap();
    let setup = Setup { home: Some(side_thread.runtime().clone()), ..Setup::new(4) };
    let rig = setup.start().await;
    rig.tier.hold_flushes();
    for i in 0..100 {
        rig.put(&format!("k{i}"), "v").await;
    }
    rig.tier.release_flushes();
    let began = std::time::Instant::now();
    // Nothing else runs in this thread.
    while rig.tier.rows().len() < 96 {
        assert!(began.elapsed() < Duration::from_secs(10), "nobody spills");
        std::thread::sleep(Duration::from_millis(1));
    }
    rig.shutdown().await.unwrap();
}

/// R26, R10, R13: what was not confirmed is flushed again, under a new token.
#[tokio::test]
async fn a_flush_of_unknown_outcome_loses_nothing_and_raises_the_token() {
    for fault in [CommitFault::UnknownApplied, CommitFault::UnknownLost, CommitFault::Conflict] {
        let setup = Setup::new(1);
        let rig = setup.start().await;
        let before = rig.fences().await.unwrap()[0].token;
        rig.tier.fail_next_commit(fault);
        rig.put("k", "v").await;
        rig.put("other", "x").await;
        rig.until_stats("a flush has failed", |stats| stats.spill_errors > 0).await;
        assert_eq!(rig.get("k").await.as_deref(), Some("v"), "{fault:?}");
        rig.until_spilled().await;
        let after = rig.fences().await.unwrap()[0].token;
        assert_eq!(after > before, fault != CommitFault::Conflict, "{fault:?}");
        assert_eq!(rig.tier.row(&key("k")).unwrap().value.as_bytes(), b"v");
        assert_eq!(rig.stats().await.spill_errors, 1);
        rig.put("other", "y").await;
        assert_eq!(rig.get("k").await.as_deref(), Some("v"));
        rig.shutdown().await.unwrap();
        assert!(setup.start().await.get("other").await.is_some(), "the raised token is the row's");
    }
}

/// R26: not marked clean too early.
#[tokio::test]
async fn a_record_of_unknown_outcome_stays_in_memory_while_the_tier_is_away() {
    let rig = Setup::new(1).start().await;
    rig.tier.hold_flushes();
    rig.tier.fail_next_commit(CommitFault::UnknownLost);
    rig.put("k", "v").await;
    rig.put("other", "x").await;
    rig.tier.release_flushes();
    until("the flush has failed", async || {
        let failed = rig.stats().await.spill_errors > 0;
        if failed {
            rig.tier.set_down(true);
        }
        failed
    })
    .await;
    if rig.tier.row(&key("k")).is_none() {
        assert_eq!(rig.place("k").await, Place::Spilling);
        assert_eq!(rig.stats().await.unspilled, 2);
    }
    assert_eq!(rig.get("k").await.as_deref().or(Some("v")), Some("v"));
    rig.tier.set_down(false);
    rig.until_spilled().await;
    assert_eq!(rig.get("k").await.as_deref(), Some("v"));
}

/// R20, R26: a late flush under the old token can't put a deleted row back.
#[tokio::test]
async fn a_late_flush_under_a_raised_token_is_refused() {
    use overspill::cluster::ShardName;
    use overspill::command::Effect;
    use overspill::record::Lsn;
    use overspill::tier::{Lane, Tier, TierError};

    let rig = Setup::new(1).start().await;
    let name = ShardName::new("localhost:1").unwrap();
    let zombie_token = rig.fences().await.unwrap()[0].token;
    rig.tier.fail_next_commit(CommitFault::UnknownLost);
    rig.put_spilled("k", "v").await; // its first flush is on its way still, for all anybody knows
    let late = Effect::Set(rig.tier.row(&key("k")).unwrap());
    assert!(rig.delete("k").await);
    rig.until_spilled().await;
    let zombie = rig.tier.flush(&name, Lane::FIRST, zombie_token, std::slice::from_ref(&late), Lsn(1)).await;
    assert_eq!(zombie, Err(TierError::Fenced));
    assert_eq!(rig.get("k").await, None);
}

/// R20: and it does not stay that way.
#[tokio::test]
async fn a_fence_whose_lanes_somebody_meddled_with_is_written_anew() {
    let rig = Setup::new(1).start().await;
    let before = rig.fences().await.unwrap()[0].token;
    rig.tier.damage_lanes();
    rig.put_spilled("k", "v").await;
    assert_eq!(rig.fences().await.unwrap()[0].token, before.next());
    rig.shutdown().await.unwrap();
}

/// R26: a token is raised when the row says so, whatever became of the answers.
#[tokio::test]
async fn a_raise_of_unknown_outcome_is_followed_up() {
    for fault in [CommitFault::UnknownApplied, CommitFault::UnknownLost, CommitFault::Conflict] {
        let rig = Setup::new(1).start().await;
        let before = rig.fences().await.unwrap()[0].token;
        rig.tier.fail_next_commit(CommitFault::UnknownLost);
        rig.tier.fail_next_swap(fault);
        rig.put_spilled("k", "v").await;
        assert_eq!(rig.fences().await.unwrap()[0].token, before.next(), "{fault:?}");
        rig.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn failures_of_single_calls_are_got_over() {
    let rig = Setup::new(2).start().await;
    for i in 0..30 {
        rig.tier.fail_next(2);
        rig.put(&format!("k{i}"), i.to_string()).await;
        if i % 3 == 0 {
            rig.one_within(Command::Delete { key: key(format!("k{}", i / 2)) }, 1000).await.ok();
            rig.put(&format!("k{}", i / 2), (i / 2).to_string()).await;
        }
    }
    rig.tier.fail_next(0);
    rig.until_spilled().await;
    for i in 0..30 {
        assert_eq!(rig.get(&format!("k{i}")).await, Some(i.to_string()));
    }
}

/// A person who watches sees what waits for the tier, how much it is, and for how long.
#[tokio::test]
async fn what_waits_for_the_tier_has_a_size_and_an_age() {
    let rig = Setup::new(1).start().await;
    rig.put("k", "12345").await;
    let stats = rig.stats().await;
    assert_eq!((stats.unspilled, stats.spill_queue, stats.spill_queue_age_ms), (1, 0, 0), "it stays in memory");
    assert!(stats.unspilled_bytes > 6);
    rig.tier.hold_flushes();
    rig.put("other", "x").await; // evicts "k"
    rig.until_stats("it waits, and gets older", |stats| stats.spill_queue == 1 && stats.spill_queue_age_ms > 20).await;
    rig.tier.release_flushes();
    rig.until_stats("it waits no more", |stats| stats.spill_queue == 0 && stats.spill_queue_age_ms == 0).await;
    assert_eq!(rig.stats().await.unspilled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_client_of_the_tier_is_tried_again() {
    let rig = Setup::new(1).start().await;
    rig.put("k", "v").await;
    rig.tier.panic_next(3);
    rig.push_out().await;
    assert_eq!(rig.tier.row(&key("k")).unwrap().value.as_bytes(), b"v");
    assert!(rig.stats().await.spill_errors >= 1);
}

/// Few evicted records wait for company: not while somebody waits for the room that they take.
#[tokio::test(start_paused = true)]
async fn a_writer_that_waits_for_room_does_not_wait_for_company_of_what_is_evicted() {
    let rig = Setup::new(1).start().await;
    let started = Instant::now();
    for i in 0..20 {
        rig.put(&format!("k{i}"), vec![0; VALUE_BYTES_MAX]).await;
    }
    assert!(rig.tier.flushes() > 0, "all had room");
    assert_eq!(started.elapsed(), Duration::ZERO);
}
