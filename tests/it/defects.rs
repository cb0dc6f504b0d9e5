//! The defects of the original system, one by one. The second (an old row served as current after a crash) and the ninth (a
//! database that is down at start) are in `crash`.

use crate::support::client::{Client, get, put};
use crate::support::cluster::Cluster;
use crate::support::database::Database;
use crate::support::mariadb::MariaDb;
use crate::support::process::kv;
use crate::support::{PATIENCE, eventually};

async fn until_spilled(client: &Client, rows: u64) {
    eventually("records are spilled", async || {
        let stats = client.stats().await;
        let spilled: u64 = stats.iter().map(|shard| shard.spilled_rows).sum();
        let leaving: u64 = stats.iter().map(|shard| shard.records_spilling).sum();
        (spilled >= rows && leaving == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_1_a_spilled_key_can_be_deleted_and_does_not_come_back() {
    let database = Database::create().await;
    let mut cluster = Cluster::start(1, &[&database.url(), "5"]).await;
    let client = cluster.client();
    for i in 0..20 {
        client.put(&format!("k{i}"), "v").await.unwrap();
    }
    until_spilled(&client, 15).await;
    assert!(client.delete("k0").await.unwrap(), "k0 was spilled, and it existed");
    assert!(!client.delete("k0").await.unwrap());
    for i in 20..40 {
        client.put(&format!("k{i}"), "v").await.unwrap(); // pushes the tombstone out
    }
    assert_eq!(client.get("k0").await.unwrap(), None);
    assert!(cluster.secondaries[0].stop().success());
    assert_eq!(database.number("SELECT COUNT(*) FROM records WHERE kv_key = 'k0'").await, 0);
    cluster.restart_secondary(0, &[]);
    client.until_served().await;
    assert_eq!(client.get("k0").await.unwrap(), None);
    assert_eq!(client.count().await.unwrap(), 39);
    cluster.stop();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_3_a_failing_database_loses_no_record_on_its_way_out() {
    let mut server = MariaDb::start().await;
    let cluster = Cluster::start(1, &[&server.url("overspill"), "5"]).await;
    let client = cluster.client();
    client.put("first", "v").await.unwrap();
    server.kill();
    for i in 0..50 {
        client.put(&format!("k{i}"), "v").await.unwrap();
    }
    for i in 0..50 {
        assert_eq!(client.get(&format!("k{i}")).await.unwrap().as_deref(), Some("v"), "served while it waits");
    }
    server.restart().await;
    until_spilled(&client, 45).await;
    for i in 0..50 {
        assert_eq!(client.get(&format!("k{i}")).await.unwrap().as_deref(), Some("v"));
    }
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_4_a_get_never_puts_back_what_a_put_has_overtaken() {
    let database = Database::create().await;
    let cluster = Cluster::start(1, &[&database.url(), "5"]).await;
    let (writer, reader) = (cluster.client(), cluster.client());
    let until = tokio::time::Instant::now() + PATIENCE / 20;
    let reading = tokio::spawn(async move {
        let mut last = 0;
        while tokio::time::Instant::now() < until {
            if let Some(seen) = reader.get("contended").await.unwrap() {
                let seen: u64 = seen.parse().unwrap();
                assert!(seen >= last, "went back from {last} to {seen}");
                last = seen;
            }
        }
    });
    let mut i = 0_u64;
    while tokio::time::Instant::now() < until {
        i += 1;
        writer.put("contended", &i.to_string()).await.unwrap();
        let others = (0..6).map(|other| put(&format!("other{}", other + i % 2 * 6), "v")).collect();
        writer.execute(others).await; // evicts it
        assert_eq!(writer.get("contended").await.unwrap(), Some(i.to_string()));
    }
    reading.await.unwrap();
    cluster.stop();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_5_an_empty_value_is_a_value_in_memory_and_in_the_table() {
    let database = Database::create().await;
    let cluster = Cluster::start(1, &[&database.url(), "5"]).await;
    let client = cluster.client();
    client.put("empty", "").await.unwrap();
    assert_eq!(client.get("empty").await.unwrap().as_deref(), Some(""));
    for i in 0..10 {
        client.put(&format!("k{i}"), "v").await.unwrap();
    }
    until_spilled(&client, 6).await;
    assert_eq!(client.get("empty").await.unwrap().as_deref(), Some(""));
    cluster.stop();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_6_each_policy_evicts_in_its_own_order() {
    for (policy, evicted) in [("1", "b"), ("2", "c"), ("3", "a")] {
        let database = Database::create().await;
        let cluster = Cluster::start(1, &[&database.url(), "3", policy]).await;
        let client = cluster.client();
        for name in ["a", "b", "c"] {
            client.put(name, "v").await.unwrap();
        }
        for name in ["b", "b", "a", "a", "c"] {
            client.get(name).await.unwrap(); // a: 2, most of all lately but c; b: 2, least lately; c: 1
        }
        client.put("d", "v").await.unwrap();
        eventually("one is evicted", async || {
            let keys = database.column("SELECT kv_key FROM records").await;
            (!keys.is_empty()).then(|| assert_eq!(keys, [evicted], "policy {policy}"))
        })
        .await;
        cluster.stop();
        database.drop_it().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_7_large_values_and_keys_that_differ_in_case_or_blanks_survive_the_table() {
    let database = Database::create().await;
    let cluster = Cluster::start(1, &[&database.url(), "2"]).await;
    let client = cluster.client();
    let large = "x".repeat(overspill::record::VALUE_BYTES_MAX);
    let long_name = "n".repeat(overspill::record::KEY_BYTES_MAX);
    let records =
        [("bob", "1"), ("BOB", "2"), ("bob ", "3"), ("bob\0", "4"), (long_name.as_str(), "5"), ("large", &large)];
    for (name, value) in records {
        client.put(name, value).await.unwrap();
    }
    until_spilled(&client, 4).await;
    for (name, value) in records {
        assert!(client.get(name).await.unwrap().as_deref() == Some(value), "{}", name.escape_default());
    }
    cluster.stop();
    assert_eq!(database.number("SELECT COUNT(*) FROM records").await, 6);
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_8_numbered_keys_spread_evenly_over_the_secondaries() {
    let cluster = Cluster::start(4, &[]).await;
    let client = cluster.client();
    for chunk in (1..=100_000).collect::<Vec<_>>().chunks(1000) {
        let replies = client.execute(chunk.iter().map(|i| put(&format!("user:{i}"), "v")).collect()).await;
        assert!(replies.iter().all(Result::is_ok));
    }
    for shard in client.stats().await {
        assert!((24_500..=25_500).contains(&shard.records), "{} has {}", shard.shard, shard.records);
    }
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_10_many_misses_at_once_share_statements_and_connections() {
    let database = Database::create().await;
    let cluster = Cluster::start(1, &[&database.url(), "10"]).await;
    let client = cluster.client();
    for chunk in (0..2000).collect::<Vec<_>>().chunks(500) {
        client.execute(chunk.iter().map(|i| put(&format!("k{i}"), "v")).collect()).await;
    }
    until_spilled(&client, 1990).await;
    let before = client.stats().await[0].load_batches;
    let replies = client.execute((0..1000).map(|i| get(&format!("k{i}"))).collect()).await;
    assert!(replies.iter().all(Result::is_ok));
    let batches = client.stats().await[0].load_batches - before;
    assert!((1..=50).contains(&batches), "{batches} statements for 1,000 misses");
    cluster.stop();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_11_the_shell_takes_long_words_and_values_with_spaces() {
    let cluster = Cluster::start(1, &[]).await;
    let long = "w".repeat(100_000);
    let lines = format!("PUT spaces \"two  words\"\nGET spaces\nPUT long {long}\nGET long\n");
    assert_eq!(kv(cluster.port, &lines), format!("OK\ntwo  words\nOK\n{long}\n"));
    cluster.stop();
}
