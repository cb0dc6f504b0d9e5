//! Writers of one key who come at the same time.

use std::time::Duration;

use futures::future::join_all;
use overspill::command::{Command, Condition, Reply, Update};
use overspill::journal::Fsync;
use overspill::journal::memory::MemoryDisk;
use overspill::service::Error;

use crate::fences::run;
use crate::rig::{Setup, key, put_command, value};

const WRITERS: usize = 50;

fn add(name: &str) -> Command {
    Command::Update { key: key(name), update: Update::Add { by: 1 } }
}

/// However many add at once, nothing is lost, and they share syncs.
#[test]
fn writers_of_one_key_are_committed_together_and_each_sees_the_one_before() {
    run(async {
        let rig = Setup::new(10).journaled().start().await;
        let before = rig.stats().await.journal_groups;
        let answers = join_all((0..WRITERS).map(|_| rig.one(add("hot")))).await;
        let mut sums: Vec<_> = answers
            .into_iter()
            .map(|answer| match answer.unwrap() {
                Reply::Number(sum) => sum as usize,
                other => panic!("{other:?}"),
            })
            .collect();
        sums.sort_unstable();
        assert_eq!(sums, (1..=WRITERS).collect::<Vec<_>>());
        let groups = rig.stats().await.journal_groups - before;
        assert!(groups <= 5, "{groups} groups for {WRITERS} writers");
        assert_eq!(rig.get("hot").await.as_deref(), Some("50"));
    });
}

/// Conditions are evaluated one after the other, against what the writer before has left.
#[test]
fn of_many_who_want_to_be_first_one_is() {
    for journaled in [false, true] {
        run(async {
            let setup = if journaled { Setup::new(10).journaled() } else { Setup::new(10) };
            let rig = setup.start().await;
            let put = |i| Command::Put {
                key: key("lock"),
                value: value(format!("{i}")),
                ttl: None,
                condition: Condition::Absent,
            };
            let answers = join_all((0..WRITERS).map(|i| rig.one(put(i)))).await;
            let winners: Vec<usize> = (0..WRITERS).filter(|&i| matches!(answers[i], Ok(Reply::Stored(_)))).collect();
            assert_eq!(winners.len(), 1);
            assert_eq!(rig.get("lock").await, Some(winners[0].to_string()));
            let losers = answers.iter().filter(|answer| matches!(answer, Ok(Reply::Conflict(Some(_))))).count();
            assert_eq!(losers, WRITERS - 1);
        });
    }
}

/// Also when the key has to be loaded first, and when writes of it and of others fill the memory.
#[test]
fn a_crowd_waits_for_loads_and_for_room_as_one_writer_does() {
    run(async {
        let rig = Setup::new(2).journaled().start().await;
        rig.put_spilled("hot", "100").await;
        let many = (0..WRITERS).map(|i| match i % 5 {
            0 => rig.one(put_command(&format!("other{i}"), "x")),
            _ => rig.one(add("hot")),
        });
        for answer in join_all(many).await {
            answer.unwrap();
        }
        assert_eq!(rig.get("hot").await.as_deref(), Some("140"));
    });
}

/// Who gives up while it waits is told the truth: it was not done, and is not done later.
#[test]
fn whoever_leaves_in_time_was_not_done() {
    run(async {
        let disk = MemoryDisk::new();
        let mut setup = Setup::new(10).journaled_on(&disk);
        setup.journal.as_mut().unwrap().options.fsync = Fsync::Always;
        let rig = setup.start().await;
        rig.put("k", "0").await;
        // The tier is away, so that the first holds the latch as long as it waits for its load.
        rig.put_spilled("hot", "1").await;
        rig.push_out().await;
        setup.tier.as_ref().unwrap().set_down(true);
        let first = rig.one_within(add("hot"), 400);
        let later = join_all((0..5).map(|_| rig.one_within(add("hot"), 100)));
        let (first, later) = futures::join!(first, later);
        assert!(matches!(first, Err(Error::Unavailable(_) | Error::Busy(_))), "{first:?}");
        for answer in later {
            assert!(matches!(answer, Err(Error::Unavailable(_) | Error::Busy(_))), "{answer:?}");
        }
        setup.tier.as_ref().unwrap().set_down(false);
        let sum = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                match rig.one(add("hot")).await {
                    Ok(Reply::Number(sum)) => return sum,
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        assert_eq!(sum.await.unwrap(), 2);
    });
}
