//! What a journal saves, and what it must not bring back: R18, R22 and the five promises of an acknowledged write.

use std::time::Duration;

use overspill::cluster::{Member, MemberState};
use overspill::command::Command;
use overspill::journal::Fsync;
use overspill::journal::memory::MemoryDisk;
use overspill::record::Epoch;
use overspill::service::Error;
use overspill::shard::WriteMode;
use overspill::slots::{Slot, SlotSet};
use overspill::tier::memory::MemoryTier;

use crate::fences::{crash_after, run};
use crate::rig::{JournalSetup, Rig, Setup, get_command, key, put_command, row, until};

const MODES: [WriteMode; 3] = [WriteMode::Spill, WriteMode::Behind, WriteMode::Through];

/// Promises 1 and 2, in every write mode.
#[test]
fn after_a_kill_every_acknowledged_write_is_there_and_no_deleted_key() {
    for mode in MODES {
        let setup = Setup::new(5).mode(mode).journaled();
        crash_after(&setup, async |rig| {
            for round in 0..3 {
                for i in 0..20 {
                    rig.put(&format!("k{i}"), format!("v{round}.{i}")).await;
                }
            }
            for i in (0..20).step_by(4) {
                assert!(rig.delete(&format!("k{i}")).await);
            }
            rig.put("k1", "the newest").await;
        });
        run(async {
            for life in 0..2 {
                let rig = setup.start().await;
                assert_eq!(rig.stats().await.losses_accepted, 0);
                for i in 0..20 {
                    let expected = match i {
                        1 => Some("the newest".to_owned()),
                        _ if i % 4 == 0 => None,
                        _ => Some(format!("v2.{i}")),
                    };
                    assert_eq!(rig.get(&format!("k{i}")).await, expected, "k{i} in life {life}, {mode:?}");
                }
                assert_eq!(rig.count().await, 15);
                rig.shutdown().await.unwrap();
            }
        });
    }
}

/// A newer version than the recovered one may be in the tier already: then that is the one.
#[test]
fn versions_go_on_rising_after_a_kill() {
    let setup = Setup::new(5).journaled();
    let mut last = None;
    for _ in 0..3 {
        let mut written = None;
        crash_after(&setup, async |rig| {
            for i in 0..12 {
                written = Some(rig.put(&format!("k{i}"), "v").await);
            }
            rig.until_spilled().await;
        });
        assert!(written > last, "{written:?} after {last:?}");
        last = written;
    }
}

/// Item 3: hits and writes go on while the tier is away, misses are unavailable, and all drains when it is back.
#[test]
fn a_restart_while_the_tier_is_away_serves_what_the_journal_has() {
    let setup = Setup::new(5).journaled();
    let tier = setup.tier.clone().unwrap();
    crash_after(&setup, async |rig| {
        rig.put_spilled("cold", "in the tier").await;
        rig.put("warm", "in the journal").await;
        rig.put("gone", "deleted").await;
        rig.delete("gone").await;
    });
    tier.set_down(true);
    crash_after_spawn(&setup, async |rig| {
        until("it serves", async || rig.one_within(get_command("warm"), 100).await.is_ok()).await;
        assert_eq!(rig.get("warm").await.as_deref(), Some("in the journal"));
        for i in 0..20 {
            rig.put(&format!("new{i}"), "written meanwhile").await;
        }
        assert!(matches!(rig.get_error("cold").await, Error::Unavailable(_)), "only the tier can tell");
    });
    run(async {
        let rig = setup.spawn();
        rig.assign(&setup.assignment).await;
        until("it serves", async || rig.one_within(get_command("new0"), 100).await.is_ok()).await;
        tier.set_down(false);
        rig.until_state("it has the fence again", |state| *state == MemberState::Serving).await;
        rig.until_spilled().await;
        for i in 0..20 {
            assert_eq!(rig.get(&format!("new{i}")).await.as_deref(), Some("written meanwhile"));
        }
        assert_eq!(rig.get("cold").await.as_deref(), Some("in the tier"));
        assert_eq!(rig.get("gone").await, None);
        rig.shutdown().await.unwrap();
        assert_eq!(tier.rows().len(), 22);
    });
}

/// A killed process that was spawned and told its slots, and may not serve them all.
fn crash_after_spawn(setup: &Setup, work: impl AsyncFnOnce(Rig)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let rig = setup.spawn();
        rig.assign(&setup.assignment).await;
        work(rig).await;
    });
    runtime.shutdown_background();
}

/// After a clean stop anybody may have taken the slots: only the fence can tell.
#[test]
fn after_a_clean_stop_a_restart_waits_for_the_tier() {
    let setup = Setup::new(5).journaled();
    let tier = setup.tier.clone().unwrap();
    run(async {
        let rig = setup.start().await;
        rig.put("k", "v").await;
        rig.shutdown().await.unwrap();
    });
    tier.set_down(true);
    run(async {
        let rig = setup.spawn();
        assert_eq!(rig.status().await.unwrap().held, None);
        rig.assign(&setup.assignment).await;
        assert!(matches!(rig.get_error("k").await, Error::Unavailable(_)));
        tier.set_down(false);
        rig.until_state("serving", |state| *state == MemberState::Serving).await;
        assert_eq!(rig.get("k").await.as_deref(), Some("v"));
        rig.shutdown().await.unwrap();
    });
}

/// R22: what an empty or foreign directory would hide is refused, in words.
#[test]
fn without_the_journal_that_served_last_a_shard_refuses_unless_the_loss_is_accepted() {
    let mut setup = Setup::new(5).journaled();
    let own = setup.journal.clone();
    crash_after(&setup, async |rig| {
        rig.put_spilled("k", "old").await;
        rig.put("k", "in the journal").await;
    });
    run(async {
        setup.journal = Some(JournalSetup::new());
        let reason = setup.start_refused().await;
        for words in ["did not stop cleanly", "its journal", "another one", "data directory", "--accept-loss"] {
            assert!(reason.contains(words), "`{words}` in: {reason}");
        }
        setup.journal = None;
        let reason = setup.start_refused().await;
        assert!(reason.contains("this secondary has none"), "{reason}");
        setup.journal.clone_from(&own);
        let rig = setup.start().await;
        assert_eq!(rig.get("k").await.as_deref(), Some("in the journal"), "its own journal has it");
    });
}

/// R22: a journal that was left behind has nothing to say once the loss of what it held was accepted.
#[test]
fn a_journal_comes_too_late_after_the_loss_was_accepted() {
    let mut setup = Setup::new(5).journaled();
    let own = setup.journal.clone();
    crash_after(&setup, async |rig| {
        rig.put_spilled("k", "old").await;
        rig.put("k", "given up").await;
        rig.put("only", "given up").await;
    });
    run(async {
        setup.journal = Some(JournalSetup::new());
        setup.assignment.accept_loss = true;
        let rig = setup.start().await;
        assert_eq!(rig.get("k").await.as_deref(), Some("old"));
        assert!(rig.put("k", "newer").await.lsn.0 > 1 << 32, "above every version that was lost");
        rig.shutdown().await.unwrap();
        drop(rig);
        setup.assignment.accept_loss = false;
        setup.journal.clone_from(&own);
        let rig = setup.start().await;
        assert_eq!(rig.get("k").await.as_deref(), Some("newer"));
        assert_eq!(rig.get("only").await, None);
        rig.shutdown().await.unwrap();
    });
}

/// R22: also what lives that had nothing but their journal gave out, of which the tier knows nothing.
#[test]
fn versions_that_were_lost_with_the_journal_are_not_given_out_again() {
    let mut setup = Setup::new(5).journaled();
    let tier = setup.tier.clone().unwrap();
    crash_after(&setup, async |rig| {
        rig.put("k", "first life").await;
    });
    tier.set_down(true);
    let mut last = None;
    for life in ["second life", "third life"] {
        crash_after_spawn(&setup, async |rig| {
            until("it serves", async || rig.one_within(get_command("k"), 100).await.is_ok()).await;
            last = Some(rig.put("k", life).await);
        });
    }
    tier.set_down(false);
    setup.journal = Some(JournalSetup::new());
    setup.assignment.accept_loss = true;
    run(async {
        let rig = setup.start().await;
        let next = rig.put("k", "new").await;
        assert!(Some(next) > last, "{next} after {last:?}");
        rig.shutdown().await.unwrap();
    });
}

/// R22: a copy of the directory from before the last start is not what served last.
#[test]
fn an_old_copy_of_the_journal_is_refused() {
    let mut setup = Setup::new(5).journaled();
    crash_after(&setup, async |rig| {
        rig.put("k", "first life").await;
    });
    let copy = JournalSetup::new();
    for file in std::fs::read_dir(setup.journal.as_ref().unwrap().directory.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.directory.path().join(file.file_name())).unwrap();
    }
    crash_after(&setup, async |rig| {
        rig.put("k", "second life").await;
    });
    setup.journal = Some(copy);
    run(async {
        let reason = setup.start_refused().await;
        assert!(reason.contains("an old copy"), "{reason}");
    });
}

#[test]
fn a_journal_of_another_tier_is_refused() {
    let mut setup = Setup::new(5).journaled();
    crash_after(&setup, async |rig| {
        rig.put("k", "v").await;
    });
    setup.tier = Some(MemoryTier::with_id(overspill::cluster::TierId(77)));
    run(async {
        let reason = setup.start_refused().await;
        assert!(reason.contains("another tier") && reason.contains("--accept-loss"), "{reason}");
        setup.assignment.accept_loss = true;
        let rig = setup.start().await;
        assert_eq!(rig.get("k").await, None);
        rig.shutdown().await.unwrap();
    });
}

fn half(of_key: &str, is_its: bool) -> SlotSet {
    let slot = Slot::of(&key(of_key));
    let half = if slot.get() < 8192 { "0-8191" } else { "8192-16383" };
    let half: SlotSet = half.parse().unwrap();
    if is_its { half } else { SlotSet::all().difference(&half) }
}

/// R41, R42: what was let go is not served after a restart, and what others wrote since is not overwritten when it comes back.
#[test]
fn slots_that_were_let_go_do_not_come_back_from_the_journal() {
    let mut setup = Setup::new(100).journaled();
    let tier = setup.tier.clone().unwrap();
    crash_after(&setup, async |rig| {
        rig.put("moves", "mine").await;
        let less = setup_with(&setup, 2, half("moves", false)).assignment;
        rig.assign(&less).await;
        rig.until_state("serving less", |state| *state == MemberState::Serving).await;
    });
    // As another shard would, under the epoch in between.
    let moved = row("moves", "theirs", (2, 9));
    tier.plant(moved);
    setup.assignment = setup_with(&setup, 2, half("moves", false)).assignment;
    crash_after(&setup, async |rig| {
        assert!(rig.one_within(get_command("moves"), 200).await.is_err(), "not its slot any more");
        let back = setup_with(&setup, 3, SlotSet::all()).assignment;
        rig.assign(&back).await;
        rig.until_state("serving all", |state| *state == MemberState::Serving).await;
        assert_eq!(rig.get("moves").await.as_deref(), Some("theirs"));
    });
    setup.assignment = setup_with(&setup, 3, SlotSet::all()).assignment;
    tier.set_down(true); // so that nothing but the journal speaks
    crash_after_spawn(&setup, async |rig| {
        until("it serves", async || rig.one_within(put_command("x", "y"), 100).await.is_ok()).await;
        assert!(
            matches!(rig.get_error("moves").await, Error::Unavailable(_)),
            "what is in the journal is of another tenure"
        );
    });
    tier.set_down(false);
    run(async {
        let rig = setup.start().await;
        assert_eq!(rig.get("moves").await.as_deref(), Some("theirs"));
        rig.shutdown().await.unwrap();
    });
}

fn setup_with(setup: &Setup, epoch: u64, slots: SlotSet) -> Setup {
    let mut setup = setup.clone();
    (setup.assignment.epoch, setup.assignment.slots) = (Epoch(epoch), slots);
    setup
}

/// Item 1: a full journal makes writers wait and then busy, with the reason; and it gets shorter when the tier is back.
#[test]
fn a_full_journal_is_busy_until_the_tier_takes_what_it_holds() {
    let mut setup = Setup::new(100_000).journaled();
    setup.options.memory_bytes_max = 256 << 20;
    setup.journal.as_mut().unwrap().options.bytes_max = 8 << 20;
    let tier = setup.tier.clone().unwrap();
    run(async {
        let rig = setup.start().await;
        tier.set_down(true);
        let mut stored = 0;
        let busy = loop {
            match rig.one_within(put_command(&format!("k{stored}"), [7; 100_000]), 300).await {
                Ok(_) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(&busy, Error::Busy(reason) if reason.contains("--journal-max")), "{busy:?}");
        assert!(stored > 30, "{stored} of about 80 fit");
        assert_eq!(rig.found("k0").await.unwrap().value.as_bytes().len(), 100_000, "reads go on");
        assert!(rig.stats().await.journal_bytes <= 8 << 20);
        tier.set_down(false);
        rig.put("more", "fits, since the tier takes what memory holds").await;
        assert_eq!(rig.stats().await.evicted, 0);
        rig.shutdown().await.unwrap();
    });
}

/// Old versions don't make a journal long for ever: what is overwritten is dropped at a checkpoint.
#[test]
fn overwriting_a_few_keys_for_ever_does_not_fill_the_journal() {
    let mut setup = Setup::new(100).journaled();
    setup.journal.as_mut().unwrap().options.bytes_max = 4 << 20;
    setup.tier.as_ref().unwrap();
    crash_after(&setup, async |rig| {
        for round in 0..200 {
            for i in 0..5 {
                rig.put(&format!("k{i}"), vec![round as u8; 20_000]).await;
            }
        }
        assert!(rig.stats().await.journal_bytes < 4 << 20);
    });
    run(async {
        let rig = setup.start().await;
        for i in 0..5 {
            assert_eq!(rig.found(&format!("k{i}")).await.unwrap().value.as_bytes(), vec![199; 20_000]);
        }
        rig.shutdown().await.unwrap();
    });
}

/// R18: in write-through, what was committed and not acknowledged is not to be seen before the tier has it.
#[test]
fn through_tells_nothing_of_a_recovered_write_before_the_tier_has_it() {
    let setup = Setup::new(5).mode(WriteMode::Through).journaled();
    let tier = setup.tier.clone().unwrap();
    crash_after(&setup, async |rig| {
        rig.put("k", "old").await;
        tier.set_down(true);
        assert!(matches!(rig.one_within(put_command("k", "new"), 100).await, Err(Error::Unknown(_))));
    });
    tier.set_down(false);
    tier.hold_flushes();
    run(async {
        let rig = setup.spawn();
        rig.assign(&setup.assignment).await;
        rig.until_state("serving", |state| *state == MemberState::Serving).await;
        assert!(
            matches!(rig.one_within(get_command("k"), 100).await, Err(Error::Unavailable(_))),
            "neither old nor new"
        );
        tier.release_flushes();
        assert_eq!(rig.get("k").await.as_deref(), Some("new"));
        assert_eq!(tier.row(&key("k")).unwrap().value.as_bytes(), b"new");
        rig.shutdown().await.unwrap();
    });
}

/// A stop that the tier does not let finish loses nothing: the journal has the rest.
#[test]
fn a_stop_while_the_tier_is_away_leaves_the_rest_to_the_journal() {
    let mut setup = Setup::new(5).journaled();
    setup.options.drain_timeout = Duration::from_millis(200);
    let tier = setup.tier.clone().unwrap();
    run(async {
        let rig = setup.start().await;
        rig.put("k", "v").await;
        tier.set_down(true);
        let stopped = rig.shutdown().await.unwrap();
        assert_eq!((stopped.spilled, stopped.journaled), (0, 1));
        drop(rig); // and so the lock of the directory
        tier.set_down(false);
        let rig = setup.start().await;
        assert_eq!(rig.get("k").await.as_deref(), Some("v"));
        rig.shutdown().await.unwrap();
    });
}

/// R10: with lazy syncs too, the tier never gets what the journal could still lose: else an older record would come back from
/// the journal, over a newer row.
#[test]
fn what_is_spilled_is_synced_first_whatever_the_writes_wait_for() {
    let disk = MemoryDisk::new();
    let mut setup = Setup::new(1).journaled_on(&disk);
    let tier = setup.tier.clone().unwrap();
    setup.journal.as_mut().unwrap().options.fsync = Fsync::Never;
    crash_after(&setup, async |rig| {
        rig.put("k", "old").await;
        rig.put("k", "older than what follows").await;
        rig.put("other", "evicts k").await; // k is flushed, and so all of this is synced
        rig.until_spilled().await;
        tier.set_down(true);
        rig.put("k", "new").await;
        rig.put("other", "evicts k again").await;
        tier.set_down(false);
        rig.until_spilled().await;
    });
    assert_eq!(tier.row(&key("k")).unwrap().value.as_bytes(), b"new");
    disk.lose_unsynced();
    run(async {
        let rig = setup.start().await;
        assert_eq!(rig.get("k").await.as_deref(), Some("new"));
        assert!(rig.put("k", "newer").await > tier.row(&key("k")).unwrap().version);
        rig.shutdown().await.unwrap();
        assert_eq!(tier.row(&key("k")).unwrap().value.as_bytes(), b"newer");
    });
}

/// R27: what has expired while nobody ran is gone, and its row too.
#[test]
fn what_expired_while_nobody_ran_stays_gone() {
    let setup = Setup::new(5).journaled();
    crash_after(&setup, async |rig| {
        rig.put_ttl("k", "v", 1000).await;
        rig.put("lives", "v").await;
    });
    setup.clock.advance_ms(2000);
    run(async {
        let rig = setup.start().await;
        assert_eq!(rig.get("k").await, None);
        assert_eq!(rig.get("lives").await.as_deref(), Some("v"));
        rig.until_stats("the expired one is deleted", |stats| stats.expired == 1).await;
        rig.shutdown().await.unwrap();
        assert_eq!(setup.tier.as_ref().unwrap().rows().len(), 1);
    });
}

/// Commands on one key in one batch see each other and are committed together.
#[test]
fn a_batch_sees_its_own_writes_before_they_are_durable() {
    for mode in MODES {
        a_batch_sees_its_own_writes(&Setup::new(5).mode(mode).journaled());
    }
}

fn a_batch_sees_its_own_writes(setup: &Setup) {
    run(async {
        let rig = setup.start().await;
        rig.put_spilled("k", "old").await;
        rig.get("k").await; // so that memory has what the tier has
        let mut commands = Vec::new();
        for i in 0..100 {
            commands.extend([put_command("k", format!("v{i}")), get_command("k")]);
        }
        commands.extend([Command::Delete { key: key("k") }, get_command("k"), Command::Exists { key: key("k") }]);
        let before = rig.stats().await.journal_groups;
        let replies = rig.run(commands, Duration::from_secs(5)).await;
        for i in 0..100 {
            let Ok(overspill::command::Reply::Found(Some(found))) = &replies[2 * i + 1] else { panic!("{replies:?}") };
            assert_eq!(found.value.as_bytes(), format!("v{i}").as_bytes());
        }
        assert_eq!(replies[201], Ok(overspill::command::Reply::Found(None)));
        assert_eq!(replies[202], Ok(overspill::command::Reply::Done(false)));
        if setup.options.write_mode != WriteMode::Through {
            assert!(rig.stats().await.journal_groups - before <= 2, "one group, and perhaps a hint");
        }
        rig.shutdown().await.unwrap();
    });
}
