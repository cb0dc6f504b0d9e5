//! A three-node Galera cluster as the tier: one node is killed in the middle of the work.

use std::process::Command;

use crate::support::cluster::Cluster;
use crate::support::database::Database;
use crate::support::eventually;

const RECORDS: usize = 5000;

/// Runs under `scripts/with-galera`, which says where the nodes are.
#[tokio::test(flavor = "multi_thread")]
async fn galera_node_killed_in_the_middle_loses_nothing() {
    let (Ok(urls), Ok(pids)) = (std::env::var("KV_TEST_GALERA_URLS"), std::env::var("KV_TEST_GALERA_PIDS")) else {
        println!("SKIPPED: no Galera cluster; `make test-mysql` starts one");
        return;
    };
    let (urls, pids): (Vec<&str>, Vec<&str>) = (urls.split(',').collect(), pids.split(',').collect());
    let database = Database::create_on(urls[0]).await;
    // The shard spills into the first node; the third is killed.
    let cluster = Cluster::start(1, &[&database.url(), "100"]).await;
    let client = cluster.client();
    for i in 0..RECORDS {
        if i == RECORDS / 2 {
            assert!(Command::new("kill").args(["-KILL", pids[2]]).status().unwrap().success());
        }
        let name = format!("k{i}");
        eventually("a write is acknowledged", async || client.put(&name, &format!("v{i}")).await.ok()).await;
    }
    for i in 0..RECORDS {
        let name = format!("k{i}");
        let value = eventually("a read is answered", async || client.get(&name).await.ok()).await;
        assert_eq!(value, Some(format!("v{i}")));
    }
    cluster.stop();
    assert_eq!(database.number("SELECT COUNT(*) FROM records").await, RECORDS as i64);
    database.drop_it().await;
}
