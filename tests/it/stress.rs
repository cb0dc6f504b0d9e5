//! Random work while the database is killed and started again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use overspill::command::{Command, Reply};
use overspill::service::Error;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::client::{Client, get, key, put, text};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::mariadb::MariaDb;

const CLIENTS: usize = 8;
const KEYS: usize = 20_000;
const CAPACITY: usize = 1000;
const TIME: Duration = Duration::from_secs(10);

/// What a key may be, as far as its only writer knows: several answers after an outcome that nobody knows.
type Known = HashMap<usize, Vec<Option<String>>>;

/// Each client writes keys of its own, so that it knows what they must be, and reads them among the work.
async fn work(client: Client, worker: usize, until: Instant) -> Known {
    let mut random = StdRng::seed_from_u64(worker as u64);
    let mut known = Known::new();
    let mut count = 0_u64;
    while Instant::now() < until {
        let mut commands = Vec::new();
        for _ in 0..random.random_range(1..20) {
            let i = random.random_range(0..KEYS / CLIENTS) * CLIENTS + worker;
            count += 1;
            commands.push(match random.random_range(0..10) {
                0..5 => (i, put(&format!("k{i}"), &format!("{worker}.{count}"))),
                5..9 => (i, get(&format!("k{i}"))),
                _ => (i, Command::Delete { key: key(&format!("k{i}")) }),
            });
        }
        let replies = client.execute(commands.iter().map(|(_, command)| command.clone()).collect()).await;
        for ((i, command), reply) in commands.into_iter().zip(replies) {
            note(&mut known, i, command, reply);
        }
    }
    known
}

fn note(known: &mut Known, i: usize, command: Command, reply: Result<Reply, Error>) {
    let possible = known.entry(i).or_insert_with(|| vec![None]);
    let written = match &command {
        Command::Put { value, .. } => Some(Some(String::from_utf8(value.as_bytes().to_vec()).unwrap())),
        Command::Delete { .. } => Some(None),
        _ => None,
    };
    match (written, reply) {
        (Some(now), Ok(_)) => *possible = vec![now],
        (Some(now), Err(Error::Unknown(_))) => possible.push(now),
        (None, Ok(Reply::Found(found))) => {
            let seen = found.as_ref().map(text);
            assert!(possible.contains(&seen), "k{i} is {seen:?}, but may only be {possible:?}");
        }
        (_, Err(Error::Busy(_) | Error::Unavailable(_))) => {}
        (_, other) => panic!("k{i}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_reads_back_although_the_database_is_killed_twice() {
    let mut server = MariaDb::start().await;
    let cluster = Cluster::start(1, &[&server.url("overspill"), &CAPACITY.to_string()]).await;
    let until = Instant::now() + TIME;
    let workers: Vec<_> = (0..CLIENTS).map(|worker| tokio::spawn(work(cluster.client(), worker, until))).collect();
    let client = cluster.client();
    for round in 1..=2 {
        // Kill it when it has work: a third of the time, then another.
        let due = until - TIME + TIME * round / 3;
        tokio::time::sleep_until(due.into()).await;
        server.kill();
        let resident = cluster.secondaries[0].resident_bytes();
        assert!(resident < 300 << 20, "memory is bounded: {resident} bytes");
        server.restart().await;
    }
    let mut known = Known::new();
    for worker in workers {
        known.extend(worker.await.unwrap());
    }
    eventually("the tier has taken what was evicted", async || {
        let stats = &client.stats().await[0];
        (stats.records_spilling == 0 && stats.tombstones == 0).then_some(())
    })
    .await;
    let mut alive = 0;
    for (i, possible) in &known {
        let seen = client.get(&format!("k{i}")).await.unwrap();
        assert!(possible.contains(&seen), "k{i} is {seen:?}, but may only be {possible:?}");
        alive += u64::from(seen.is_some());
    }
    let stats = client.stats().await.remove(0);
    assert_eq!(client.count().await.unwrap(), alive, "COUNT counts the living");
    assert!(stats.records - stats.records_spilling <= CAPACITY as u64);
    assert!(stats.spill_errors > 0, "the database was away while it was needed");
    assert!(stats.evicted >= stats.records_spilling);
    println!("{} keys checked; {} rows spilled, {} loaded", known.len(), stats.spilled_rows, stats.loaded_rows);
    cluster.stop();
}
