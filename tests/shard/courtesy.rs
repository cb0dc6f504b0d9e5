//! Who asks for little does not wait for all who write much.

use std::time::Duration;

use overspill::command::Reply;

use crate::rig::{Rig, Setup, get_command, put_command};

const LONG: Duration = Duration::from_secs(10);

async fn write_many(rig: Rig, name: usize) {
    let puts = (0..17).map(|i| put_command(&format!("{name}-{i}"), "v")).collect();
    assert!(rig.run(puts, LONG).await.iter().all(Result::is_ok));
}

/// How many of four long batches are done before a read that comes while they are.
async fn done_before_a_read(rig: &Rig) -> usize {
    let long: Vec<_> = (0..4).map(|name| tokio::spawn(write_many(rig.clone(), name))).collect();
    let read = tokio::spawn({
        let rig = rig.clone();
        async move {
            for _ in 0..2 {
                tokio::task::yield_now().await;
            }
            rig.run((0..4).map(|name| get_command(&format!("{name}-16"))).collect(), LONG).await
        }
    });
    let done = read.await.unwrap().into_iter().filter(|reply| matches!(reply, Ok(Reply::Found(Some(_)))));
    let done = done.count();
    for long in long {
        long.await.unwrap();
    }
    done
}

#[tokio::test]
async fn a_read_does_not_wait_for_all_long_batches_and_without_reads_none_of_them_waits() {
    let setup = Setup { tier: None, ..Setup::new(1000) };
    let rig = setup.start().await;
    rig.get("somebody asks for little").await;
    assert!(done_before_a_read(&rig).await <= 2);

    let rig = setup.start().await;
    for _ in 0..64 {
        write_many(rig.clone(), 9).await;
    }
    assert_eq!(done_before_a_read(&rig).await, 4);
}
