//! Group commit, syncs, marks, failures and bounds.

use std::io::ErrorKind;

use rand::SeedableRng;

use super::*;
use crate::journal::{AppendError, JournalError, check};

#[tokio::test(start_paused = true)]
async fn what_is_durable_is_recovered_with_its_newest_version_a_key() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    assert!(rig.recovered.is_new && rig.recovered.effects.is_empty());
    rig.write(&[set("a", 1, "one"), set("b", 2, "two")]).await;
    rig.write(&[set("a", 3, "three"), expiring("c", 4, "", 77)]).await;
    rig.write(&[delete("b", 5)]).await;
    rig.journal.append_note(b"first").unwrap().durable().await.unwrap();
    rig.journal.append_note(b"second").unwrap().durable().await.unwrap();
    let disk = rig.kill().await;
    let rig = Rig::new(&disk, options(Fsync::Always));
    assert_eq!(rig.recovered.effects, [set("a", 3, "three"), expiring("c", 4, "", 77), delete("b", 5)]);
    assert_eq!((rig.recovered.id, rig.recovered.is_new), (ID, false));
    assert_eq!(rig.recovered.note.as_deref(), Some(&b"second"[..]));
    assert_eq!(rig.recovered.last, Some(Version::new(1, 5)));
}

#[tokio::test(start_paused = true)]
async fn confirmed_effects_are_not_recovered_but_newer_ones_are() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    rig.write(&[set("a", 1, "x"), set("b", 2, "x"), delete("c", 3)]).await;
    rig.write(&[set("b", 4, "newer")]).await;
    rig.journal.confirm(&[set("a", 1, "x"), set("b", 2, "x"), delete("c", 3)]);
    let disk = rig.stop().await;
    let (_, recovered) = open_with(&disk, options(Fsync::Always)).unwrap();
    assert_eq!(recovered.effects, [set("b", 4, "newer")]);
    assert_eq!(recovered.last, Some(Version::new(1, 4)));
}

#[tokio::test(start_paused = true)]
async fn confirms_alone_cost_no_sync_and_are_written_when_it_is_idle() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    rig.write(&[set("a", 1, "x")]).await;
    let syncs = rig.journal.usage().syncs;
    rig.journal.confirm(&[set("a", 1, "x")]);
    sleep_ms(99).await;
    assert_eq!(rig.journal.usage().groups, 1);
    sleep_ms(200).await;
    assert_eq!((rig.journal.usage().groups, rig.journal.usage().syncs), (2, syncs));
    let disk = rig.kill().await;
    let (_, recovered) = open_with(&disk, options(Fsync::Always)).unwrap();
    assert!(recovered.effects.is_empty());
}

#[tokio::test(start_paused = true)]
async fn appends_that_come_together_share_one_sync() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    let pendings: Vec<Pending> = (1..=50).map(|lsn| rig.append(&[set("a", lsn, "x")])).collect();
    for pending in &pendings {
        pending.durable().await.unwrap();
    }
    let usage = rig.journal.usage();
    assert_eq!((usage.groups, usage.syncs, usage.entries, usage.buffered_bytes), (1, 1, 50, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_durable_before_its_sync() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    let pending = rig.append(&[set("a", 1, "x")]);
    rig.disk.fail_next_sync();
    assert!(matches!(pending.durable().await, Err(JournalError::Failed(_))));
}

#[tokio::test(start_paused = true)]
async fn failed_sync_poisons_for_good() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    rig.write(&[set("a", 1, "x")]).await;
    rig.disk.fail_next_sync();
    let pending = rig.append(&[set("a", 2, "x")]);
    assert!(matches!(pending.durable().await, Err(JournalError::Failed(_))));
    assert_eq!(rig.journal.failed().await, "the journal can't be synced: a planted failure");
    assert!(matches!(rig.journal.append(&[set("a", 3, "x")]), Err(AppendError::Failed(_))));
    assert!(matches!(rig.journal.begin_checkpoint(&InPlace).await, Err(JournalError::Failed(_))));
    assert!(rig.journal.usage().is_failed);
    let writes = rig.disk.calls().writes;
    sleep_ms(1000).await;
    assert_eq!(rig.disk.calls().writes, writes, "nothing is written any more");
}

#[tokio::test(start_paused = true)]
async fn failed_write_poisons() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Never));
    rig.disk.fail_next_write(ErrorKind::Other, 7);
    let pending = rig.append(&[set("a", 2, "x")]);
    assert!(matches!(pending.durable().await, Err(JournalError::Failed(_))));
    assert_eq!(rig.journal.failed().await, "the journal can't be written: a planted failure");
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_sync_left_in_the_page_cache_is_made_durable_by_the_next_start() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    rig.disk.fail_next_sync();
    assert!(rig.append(&[set("a", 1, "x")]).durable().await.is_err());
    let disk = rig.kill().await;
    let rig = Rig::new(&disk, options(Fsync::Always));
    assert_eq!(rig.recovered.effects, [set("a", 1, "x")]);
    let disk = rig.kill().await;
    disk.lose_unsynced();
    let (_, recovered) = open_with(&disk, options(Fsync::Always)).unwrap();
    assert_eq!(recovered.effects, [set("a", 1, "x")]);
}

#[tokio::test(start_paused = true)]
async fn group_that_finds_the_disk_full_is_refused_and_never_recovered() {
    for written in [0, 3, 40, 41, 10_000] {
        let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
        rig.write(&[set("a", 1, "x")]).await;
        rig.disk.fail_next_write(ErrorKind::StorageFull, written);
        let pending = rig.append(&[set("b", 2, &"long ".repeat(30))]);
        let refused = pending.durable().await.unwrap_err();
        let reason = "the disk of the journal is full: a planted failure";
        assert_eq!(refused, JournalError::Refused(reason.into()));
        let disk = rig.disk.clone();
        disk.kill();
        let (_, recovered) = open_with(&disk, options(Fsync::Always)).unwrap();
        assert_eq!(recovered.effects, [set("a", 1, "x")], "{written}");
        rig.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_next_append_is_tried_again() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    let long = "x".repeat(9000);
    rig.write(&[set("a", 1, &long)]).await;
    rig.disk.set_full(true);
    // It needs another segment.
    assert!(matches!(rig.append(&[set("a", 2, &long)]).durable().await, Err(JournalError::Refused(_))));
    assert!(matches!(rig.append(&[set("a", 3, &long)]).durable().await, Err(JournalError::Refused(_))));
    rig.write(&[set("b", 4, "still fits")]).await;
    rig.disk.set_full(false);
    rig.write(&[set("a", 5, &long)]).await;
    let disk = rig.stop().await;
    let (_, recovered) = open_with(&disk, options(Fsync::Always)).unwrap();
    assert_eq!(recovered.effects, [set("b", 4, "still fits"), set("a", 5, &long)]);
}

#[tokio::test(start_paused = true)]
async fn interval_answers_after_the_write_and_syncs_when_it_is_over() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Interval(Duration::from_millis(200))));
    rig.write(&[set("a", 1, "x")]).await;
    sleep_ms(150).await;
    rig.write(&[set("a", 2, "x")]).await;
    assert_eq!(rig.journal.usage().syncs, 0);
    sleep_ms(60).await;
    assert_eq!(rig.journal.usage().syncs, 1, "the interval counts from the first write");
    sleep_ms(1000).await;
    assert_eq!(rig.journal.usage().syncs, 2, "the mark that covers the last group");
    sleep_ms(5000).await;
    assert_eq!(rig.journal.usage().syncs, 2);
}

#[tokio::test(start_paused = true)]
async fn interval_is_kept_under_endless_load() {
    struct Slow;
    impl Blocking for Slow {
        fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
            work();
            Box::pin(tokio::time::sleep(Duration::from_millis(1)))
        }
    }
    let (journal, _) = open_with(&MemoryDisk::new(), options(Fsync::Interval(Duration::from_millis(50)))).unwrap();
    let load = async {
        // It comes again before the task has looked around.
        for lsn in 1..1000 {
            journal.append(&[set("a", lsn, "x")]).unwrap().durable().await.unwrap();
        }
    };
    let stop = CancellationToken::new();
    tokio::select! {
        () = journal.run(&Slow, &stop) => {}
        () = load => {}
    }
    assert!((15..=20).contains(&journal.usage().syncs), "{:?}", journal.usage());
}

#[tokio::test(start_paused = true)]
async fn never_syncs_only_between_segments_and_at_the_end() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Never));
    rig.write(&[set("a", 1, "x")]).await;
    sleep_ms(5000).await;
    assert_eq!(rig.journal.usage().syncs, 0);
    let disk = rig.stop().await;
    disk.lose_unsynced();
    let (_, recovered) = open_with(&disk, options(Fsync::Never)).unwrap();
    assert_eq!(recovered.effects, [set("a", 1, "x")]);
}

#[tokio::test(start_paused = true)]
async fn rot_in_the_last_group_is_noticed_after_a_moment_of_idleness() {
    for idle in [false, true] {
        let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
        rig.write(&[set("a", 1, "x")]).await;
        rig.write(&[set("b", 2, "y")]).await;
        if idle {
            sleep_ms(150).await;
        }
        let disk = rig.kill().await;
        // In the second group.
        assert!(disk.rot("segment-0000000000000001.log", 48 + 72 + 50));
        let opened = open_with(&disk, options(Fsync::Always));
        assert_eq!(matches!(opened, Err(OpenError::Corrupt { offset: 120, .. })), idle);
    }
}

#[tokio::test(start_paused = true)]
async fn full_journal_refuses_effects_with_the_flag_to_turn_and_takes_notes() {
    let small = Options { bytes_max: 40_000, ..options(Fsync::Always) };
    let rig = Rig::new(&MemoryDisk::new(), small);
    let value = "x".repeat(1000);
    let mut lsn = 0;
    let reason = loop {
        lsn += 1;
        match rig.journal.append(&[set(&format!("k{lsn}"), lsn, &value)]) {
            Ok(pending) => pending.durable().await.unwrap(),
            Err(AppendError::Full(reason)) => break reason,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(reason.contains("of 40000 bytes (--journal-max) are used"), "{reason}");
    assert!(rig.journal.usage().bytes <= 40_000);
    rig.journal.append_note(b"note").unwrap().durable().await.unwrap();
    rig.journal.until_checkpoint_wanted().await;
    rig.checkpoint(&[]).await;
    assert!(!rig.journal.wants_checkpoint());
    rig.write(&[set("a", 1000, &value)]).await;
}

#[tokio::test(start_paused = true)]
async fn checkpoint_is_wanted_again_only_when_there_is_something_to_gain() {
    let small = Options { bytes_max: 80_000, ..options(Fsync::Always) };
    let rig = Rig::new(&MemoryDisk::new(), small);
    let value = "x".repeat(1000);
    let effects: Vec<Effect> = (1..60).map(|lsn| set(&format!("k{lsn}"), lsn, &value)).collect();
    for effect in &effects {
        rig.write(std::slice::from_ref(effect)).await;
    }
    assert!(rig.journal.wants_checkpoint());
    rig.checkpoint(&effects).await;
    assert!(!rig.journal.wants_checkpoint(), "more than half is used, and nothing new is there");
    rig.journal.confirm(&effects[..10]);
    rig.journal.until_checkpoint_wanted().await;
}

#[tokio::test(start_paused = true)]
async fn after_its_stop_the_journal_takes_nothing() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    let pending = rig.append(&[set("a", 1, "x")]);
    let journal = rig.journal.clone();
    let disk = rig.stop().await;
    pending.durable().await.unwrap();
    assert!(matches!(journal.append(&[set("a", 2, "x")]), Err(AppendError::Failed(_))));
    assert!(matches!(open_with(&disk, options(Fsync::Always)), Err(OpenError::Locked(_))));
    drop((journal, pending));
    assert_eq!(open_with(&disk, options(Fsync::Always)).unwrap().1.effects, [set("a", 1, "x")]);
}

#[tokio::test(start_paused = true)]
async fn task_that_is_dropped_leaves_nobody_waiting() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    tokio::task::yield_now().await;
    rig.task.abort();
    let pending = rig.append(&[set("a", 1, "x")]);
    assert!(matches!(pending.durable().await, Err(JournalError::Failed(_))));
}

#[tokio::test(start_paused = true)]
async fn writer_that_panics_fails_the_journal() {
    struct Broken;
    impl Blocking for Broken {
        fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
            drop(work);
            Box::pin(std::future::ready(()))
        }
    }
    let (journal, _) = open_with(&MemoryDisk::new(), options(Fsync::Always)).unwrap();
    let pending = journal.append(&[set("a", 1, "x")]).unwrap();
    journal.run(&Broken, &CancellationToken::new()).await;
    assert!(matches!(pending.durable().await, Err(JournalError::Failed(_))));
}

#[tokio::test(start_paused = true)]
async fn checkpoint_waits_for_what_is_not_applied_and_replaces_the_segments_before_it() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    rig.journal.append_note(b"note").unwrap().durable().await.unwrap();
    let pending = rig.append(&[set("a", 1, "x"), set("b", 2, "y")]);
    pending.durable().await.unwrap();
    {
        let begin = rig.journal.begin_checkpoint(&InPlace);
        assert!(tokio::time::timeout(Duration::from_secs(9), begin).await.is_err(), "the effects are not applied");
    }
    // An attempt that was given up must not make the next forget what was appended before it.
    {
        let begin = rig.journal.begin_checkpoint(&InPlace);
        assert!(tokio::time::timeout(Duration::from_secs(9), begin).await.is_err(), "the effects are not applied");
    }
    drop(pending);
    let mut checkpoint = rig.journal.begin_checkpoint(&InPlace).await.unwrap();
    assert!(matches!(rig.journal.begin_checkpoint(&InPlace).await, Err(JournalError::Refused(_))));
    rig.write(&[set("b", 3, "z")]).await;
    checkpoint.write(&[set("a", 1, "x")]).unwrap();
    checkpoint.write(&[set("b", 3, "z")]).unwrap();
    assert_eq!(rig.disk.files().len(), 5);
    checkpoint.finish().unwrap();
    assert_eq!(rig.disk.files(), ["checkpoint-0000000000000004", "segment-0000000000000004.log"]);
    let usage = rig.journal.usage();
    let total: usize = rig.disk.files().iter().map(|file| rig.disk.bytes(file).unwrap().len()).sum();
    assert!(usage.bytes < total as u64 && usage.segments == 1 && usage.checkpoints == 1);
    let disk = rig.kill().await;
    assert_eq!(check(&disk.attach(), &mut |_| {}).unwrap().checkpoint, Some(("checkpoint-0000000000000004".into(), 2)));
    let (_, recovered) = open_with(&disk, options(Fsync::Always)).unwrap();
    assert_eq!(recovered.effects, [set("a", 1, "x"), set("b", 3, "z")]);
    assert_eq!(recovered.note.as_deref(), Some(&b"note"[..]));
}

#[tokio::test(start_paused = true)]
async fn highest_version_survives_checkpoints_that_do_not_hold_it() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    rig.write(&[set("a", 9, "x")]).await;
    rig.checkpoint(&[]).await;
    rig.checkpoint(&[]).await;
    let disk = rig.stop().await;
    let (_, recovered) = open_with(&disk, options(Fsync::Always)).unwrap();
    assert_eq!((recovered.effects.len(), recovered.last), (0, Some(Version::new(1, 9))));
}

#[tokio::test(start_paused = true)]
async fn checkpoint_that_is_dropped_or_fails_leaves_nothing() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    rig.write(&[set("a", 1, "x")]).await;
    let checkpoint = rig.journal.begin_checkpoint(&InPlace).await.unwrap();
    drop(checkpoint);
    let mut checkpoint = rig.journal.begin_checkpoint(&InPlace).await.unwrap();
    rig.disk.fail_next_write(ErrorKind::StorageFull, 5);
    checkpoint.write(&[set("a", 1, "x")]).unwrap();
    assert!(checkpoint.finish().is_err());
    assert!(rig.disk.files().iter().all(|file| file.starts_with("segment-")));
    rig.write(&[set("b", 2, "x")]).await;
    let disk = rig.kill().await;
    disk.plant("checkpoint-0000000000000007.tmp", b"half");
    let (_, recovered) = open_with(&disk, options(Fsync::Always)).unwrap();
    assert_eq!(recovered.effects.len(), 2);
    assert!(disk.files().iter().all(|file| file.starts_with("segment-")));
}

#[tokio::test(start_paused = true)]
async fn failed_sync_of_a_checkpoint_poisons_and_loses_nothing() {
    for of_directory in [false, true] {
        let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
        rig.write(&[set("a", 1, "x")]).await;
        let mut checkpoint = rig.journal.begin_checkpoint(&InPlace).await.unwrap();
        checkpoint.write(&[set("a", 1, "x")]).unwrap();
        if of_directory {
            rig.disk.fail_next_sync_dir()
        } else {
            rig.disk.fail_next_sync()
        }
        assert!(checkpoint.finish().is_err());
        rig.journal.failed().await;
        let disk = rig.kill().await;
        let (_, recovered) = open_with(&disk, options(Fsync::Always)).unwrap();
        assert_eq!(recovered.effects, [set("a", 1, "x")]);
    }
}

#[tokio::test(start_paused = true)]
async fn name_that_was_not_durable_is_made_so_before_what_it_replaces_goes() {
    for seed in 0..40 {
        let rng = &mut rand::rngs::StdRng::seed_from_u64(seed);
        let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
        rig.write(&[set("a", 1, "x")]).await;
        let mut checkpoint = rig.journal.begin_checkpoint(&InPlace).await.unwrap();
        checkpoint.write(&[set("a", 1, "x")]).unwrap();
        rig.disk.fail_next_sync_dir();
        assert!(checkpoint.finish().is_err());
        let disk = rig.kill().await;
        assert_eq!(open_with(&disk, options(Fsync::Always)).unwrap().1.effects, [set("a", 1, "x")]);
        disk.crash(rng);
        assert_eq!(open_with(&disk, options(Fsync::Always)).unwrap().1.effects, [set("a", 1, "x")], "seed {seed}");
    }
}
