//! A hundred times more records than memory has room for; and many large values at once.

use std::time::Instant;

use overspill::command::Reply;

use crate::support::client::{Client, get, put, text};
use crate::support::cluster::Cluster;
use crate::support::database::Database;
use crate::support::process::run;

const RECORDS: usize = 100_000;
const CALLERS: usize = 16;
const BATCH: usize = 100;

fn value(i: usize) -> String {
    format!("{i:0>100}")
}

fn name(i: usize) -> String {
    format!("user:{i:011}")
}

/// Runs `work` over all records from several callers at once.
async fn from_all(client: &Client, work: impl AsyncFn(Client, Vec<usize>) + Clone) {
    let callers = (0..CALLERS).map(|caller| {
        let (client, work) = (client.clone(), work.clone());
        async move {
            let mine: Vec<usize> = (0..RECORDS).filter(|i| i / BATCH % CALLERS == caller).collect();
            for batch in mine.chunks(BATCH) {
                work(client.clone(), batch.to_vec()).await;
            }
        }
    });
    futures::future::join_all(callers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_a_hundred_thousand_records_is_lost_through_room_for_a_thousand() {
    let database = Database::create().await;
    let cluster = Cluster::start(1, &[&database.url(), "1000"]).await;
    let client = cluster.client();
    let started = Instant::now();
    from_all(&client, async |client, batch| {
        let replies = client.execute(batch.iter().map(|&i| put(&name(i), &value(i))).collect()).await;
        assert!(replies.iter().all(Result::is_ok), "{:?}", replies.iter().find(|reply| reply.is_err()));
    })
    .await;
    let wrote = started.elapsed();
    let started = Instant::now();
    from_all(&client, async |client, batch| {
        let replies = client.execute(batch.iter().map(|&i| get(&name(i))).collect()).await;
        for (i, reply) in batch.iter().zip(replies) {
            match reply {
                Ok(Reply::Found(Some(found))) => assert_eq!(text(&found), value(*i)),
                other => panic!("record {i} is lost: {other:?}"),
            }
        }
    })
    .await;
    let read = started.elapsed();
    let stats = client.stats().await.remove(0);
    println!(
        "{RECORDS} records of 116 bytes, unoptimised build: PUT {:.0}/s, GET {:.0}/s; {} rows spilled in {} batches",
        RECORDS as f64 / wrote.as_secs_f64(),
        RECORDS as f64 / read.as_secs_f64(),
        stats.spilled_rows,
        stats.spilled_batches,
    );
    assert!(stats.records - stats.records_spilling <= 1000);
    assert_eq!(client.count().await.unwrap(), RECORDS as u64);
    cluster.stop();
    assert_eq!(database.number("SELECT COUNT(*) FROM records").await, RECORDS as i64);
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_mget_in_the_shell_brings_a_thousand_values_of_64_kib_and_some_of_8_mib() {
    const KIB: usize = 1024;
    let cluster = Cluster::start(2, &[]).await;
    let client = cluster.client();
    let bytes = |i: usize| if i % 250 == 7 { 8192 * KIB } else { 64 * KIB };
    let names: Vec<String> = (0..1000).map(name).collect();
    for (i, name) in names.iter().enumerate() {
        client.stored(name, &i.to_string().repeat(bytes(i))[..bytes(i)]).await;
    }
    let begun = Instant::now();
    let output = run("kv", &["127.0.0.1", &cluster.port.to_string()], &format!("MGET {}\n", names.join(" ")));
    println!("read in {:?}", begun.elapsed());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&[u8]> = output.stdout.split(|&byte| byte == b'\n').collect();
    assert_eq!(lines.len(), 1001);
    for (i, line) in lines.iter().take(1000).enumerate() {
        assert!(line.len() == bytes(i) && line.starts_with(i.to_string().as_bytes()), "value {i}");
    }
    cluster.stop();
}
