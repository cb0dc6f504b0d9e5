//! Group commit under a scheduler that tries the interleavings of those who append, of the task and its threads, of a stop,
//! a failure, a checkpoint and a loss of power. A waiter that is never woken is a deadlock, which the scheduler reports.

use std::sync::Mutex as Plain;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::journal::groups::Outcome;
use crate::journal::{AppendError, JournalError};
use crate::sync::{Mutex, check, future, oneshot, thread};

/// Begins a thread for each piece of work, as production does.
struct OnThreads;

impl Blocking for OnThreads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let (done, ended) = oneshot::channel();
        thread::spawn(move || {
            work();
            let _ = done.send(());
        });
        Box::pin(async move { drop(ended.await) })
    }
}

/// Two who append, and what they were told. What only watches is plain: to watch is no step.
struct Story {
    disk: MemoryDisk,
    journal: Journal,
    stop: CancellationToken,
    task: future::JoinHandle<()>,
    has_begun: Arc<AtomicBool>,
    told: Arc<Plain<Vec<Effect>>>,
}

type Told = Result<Effect, String>;

impl Story {
    fn new(fsync: Fsync) -> Self {
        let disk = MemoryDisk::new();
        let (journal, _) = open_with(&disk, options(fsync)).unwrap();
        let (stop, worker) = (CancellationToken::new(), journal.clone());
        let (token, has_begun) = (stop.clone(), Arc::new(AtomicBool::new(false)));
        let begun = has_begun.clone();
        let task = future::spawn(async move {
            begun.store(true, Ordering::SeqCst);
            worker.run(&OnThreads, &token).await;
        });
        Self { disk, journal, stop, task, has_begun, told: Arc::default() }
    }

    /// Appends one after the other; then each is "applied".
    fn spawn_writer(&self, name: &'static str, lsns: [u64; 2], table: &Arc<Mutex<Vec<Effect>>>) -> Writer {
        let (journal, told, table) = (self.journal.clone(), self.told.clone(), table.clone());
        thread::spawn(move || {
            lsns.map(|lsn| {
                let effect = set(name, lsn, "v");
                let pending = journal.append(std::slice::from_ref(&effect)).map_err(|error| {
                    assert!(matches!(error, AppendError::Failed(_)), "{error}");
                    error.to_string()
                })?;
                let durable = future::block_on(pending.durable());
                if let Err(error) = durable {
                    assert!(matches!(error, JournalError::Failed(_)), "{error}");
                    // R23: whoever is told finds it failed.
                    assert!(journal.append(&[set(name, 99, "late")]).is_err(), "it takes more after {error}");
                    return Err(error.to_string());
                }
                told.lock().unwrap().push(effect.clone());
                // Its latch is held until here: nobody else writes the key.
                table.lock().push(effect.clone());
                drop(pending);
                Ok(effect)
            })
        })
    }

    fn spawn_writers(&self) -> [Writer; 2] {
        let table = Arc::default();
        [self.spawn_writer("a", [1, 2], &table), self.spawn_writer("b", [3, 4], &table)]
    }

    fn told(&self) -> Vec<Effect> {
        self.told.lock().unwrap().clone()
    }

    fn end(self) {
        self.stop.cancel();
        future::block_on(self.task).unwrap();
    }
}

type Writer = thread::JoinHandle<[Told; 2]>;

fn join(writers: [Writer; 2]) -> Vec<Told> {
    writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
}

/// Each of these, or a newer effect of its key, is in the journal now.
fn assert_holds(disk: &MemoryDisk, effects: &[Effect]) {
    let (_, recovered) = open_with(disk, options(Fsync::Always)).unwrap();
    let recovered = by_key(&recovered.effects);
    for effect in effects {
        let version = recovered.get(effect.key()).map(Effect::version);
        assert!(version >= Some(effect.version()), "{effect:?} was answered, and {version:?} is left");
    }
}

#[test]
fn what_was_answered_survives_a_loss_of_power_at_any_moment() {
    check(700, || {
        let story = Story::new(Fsync::Always);
        let writers = story.spawn_writers();
        let told = story.told();
        story.disk.lose_unsynced();
        // Those who wait now are told that nobody knows.
        join(writers);
        let disk = story.disk.clone();
        story.end();
        assert_holds(&disk, &told);
    });
}

#[test]
fn what_was_answered_is_written_when_it_is_synced_by_interval() {
    check(300, || {
        let story = Story::new(Fsync::Interval(Duration::from_secs(1)));
        let writers = story.spawn_writers();
        let told = story.told();
        story.disk.kill();
        join(writers);
        let disk = story.disk.clone();
        story.end();
        assert_holds(&disk, &told);
    });
}

#[test]
fn a_stop_at_any_moment_refuses_an_append_or_makes_it_durable() {
    for fsync in [Fsync::Always, Fsync::Interval(Duration::from_secs(1))] {
        check(300, move || {
            let story = Story::new(fsync);
            let writers = story.spawn_writers();
            story.stop.cancel();
            let told: Vec<Effect> = join(writers)
                .into_iter()
                .filter_map(|told| match told {
                    Ok(effect) => Some(effect),
                    Err(reason) => {
                        assert_eq!(reason, "the journal was stopped");
                        None
                    }
                })
                .collect();
            let disk = story.disk.clone();
            story.end();
            disk.lose_unsynced();
            assert_holds(&disk, &told);
        });
    }
}

#[test]
fn a_failed_sync_is_told_to_all_who_wait_and_to_all_who_come() {
    check(700, || {
        let story = Story::new(Fsync::Always);
        let writers = story.spawn_writers();
        story.disk.fail_next_sync();
        let told = join(writers);
        // Without a failure there was no sync left to fail.
        if told.iter().any(Result::is_err) {
            let reason = future::block_on(story.journal.failed());
            assert!(reason.contains("planted"), "{reason}");
        }
        let (disk, told) = (story.disk.clone(), story.told());
        story.end();
        disk.heal();
        disk.lose_unsynced();
        assert_holds(&disk, &told);
    });
}

#[test]
fn a_task_that_is_dropped_leaves_nobody_waiting() {
    check(700, || {
        let story = Story::new(Fsync::Always);
        let writers = story.spawn_writers();
        while !story.has_begun.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        story.task.abort();
        let told = join(writers);
        assert!(told.iter().all(|told| told.is_ok()) || !future::block_on(story.journal.failed()).is_empty());
        let _ = future::block_on(story.task);
        assert!(story.journal.append(&[set("c", 9, "v")]).is_err());
    });
}

#[test]
fn a_checkpoint_misses_nothing_that_was_answered() {
    check(700, || {
        let story = Story::new(Fsync::Always);
        let table: Arc<Mutex<Vec<Effect>>> = Arc::default();
        let writers = [story.spawn_writer("a", [1, 2], &table), story.spawn_writer("b", [3, 4], &table)];
        let mut checkpoint = future::block_on(story.journal.begin_checkpoint(&OnThreads)).unwrap();
        // Everything appended before it began has been applied by now; the older segments go.
        checkpoint.write(&table.lock().clone()).unwrap();
        checkpoint.finish().unwrap();
        let told = story.told();
        story.disk.lose_unsynced();
        join(writers);
        let disk = story.disk.clone();
        story.end();
        assert_holds(&disk, &told);
    });
}

/// The least of it, so often that an append's every step meets every step of the checkpoint.
#[test]
fn a_checkpoint_waits_for_an_append_that_it_overtakes() {
    check(8_000, || {
        let story = Story::new(Fsync::Always);
        let (journal, told) = (story.journal.clone(), story.told.clone());
        let table: Arc<Mutex<Vec<Effect>>> = Arc::default();
        let applied = table.clone();
        let writer = thread::spawn(move || {
            let pending = journal.append(&[set("a", 1, "v")]).unwrap();
            future::block_on(pending.durable()).unwrap();
            told.lock().unwrap().push(set("a", 1, "v"));
            applied.lock().push(set("a", 1, "v"));
        });
        let mut checkpoint = future::block_on(story.journal.begin_checkpoint(&OnThreads)).unwrap();
        checkpoint.write(&table.lock().clone()).unwrap();
        checkpoint.finish().unwrap();
        writer.join().unwrap();
        let (disk, told) = (story.disk.clone(), story.told());
        story.end();
        assert_holds(&disk, &told);
    });
}

#[test]
fn a_failure_ends_a_checkpoint_that_waits_for_an_append() {
    check(300, || {
        let story = Story::new(Fsync::Always);
        let pending = story.journal.append(&[set("a", 1, "v")]).unwrap();
        let checkpointer = {
            let journal = story.journal.clone();
            thread::spawn(move || future::block_on(journal.begin_checkpoint(&OnThreads)).is_ok())
        };
        story.disk.kill();
        let durable = future::block_on(pending.durable());
        // Its holder keeps it until the failure is known to all.
        if durable.is_err() {
            assert!(!checkpointer.join().unwrap());
            drop(pending);
        } else {
            drop(pending);
            checkpointer.join().unwrap();
        }
        story.end();
    });
}

#[test]
fn an_outcome_wakes_everybody_who_waits_for_it() {
    check(1_500, || {
        let outcome = Arc::new(Outcome::default());
        let waiters = [(), ()].map(|()| {
            let outcome = outcome.clone();
            thread::spawn(move || future::block_on(outcome.wait()))
        });
        let refused = Err(JournalError::Refused("full".to_owned()));
        // Once only: another word would wake those whom the first has missed.
        outcome.end(refused.clone());
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), refused);
        }
        outcome.end(Ok(()));
        assert_eq!(future::block_on(outcome.wait()), refused, "the first word counts");
    });
}
