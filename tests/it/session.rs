//! The original's sessions, as its README shows them.

use crate::support::cluster::Cluster;
use crate::support::database::Database;
use crate::support::eventually;
use crate::support::process::{kv, run};

const SIX_PUTS: &str = "PUT alice alice@gmail.com\nPUT bob bob@gmail.com\nPUT charles charles@gmail.com\n\
                        PUT daniel daniel@gmail.com\nPUT frey frey@gmail.com\nPUT eduard eduard@gmail.com\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_original_session_works_word_for_word() {
    let database = Database::create().await;
    let cluster = Cluster::start(2, &[&database.url()]).await;
    let session = "GET bob \"\"\nPUT bob bob@gmail.com\nGET bob \"\"\nPUT alice alice@gmail.com\nGET alice \"\"\n\
                   DEL bob\nGET bob \"\"\nget alice \"\"\n";
    let printed = kv(cluster.port, session);
    assert_eq!(printed, "\nOK\nbob@gmail.com\nOK\nalice@gmail.com\n1\n\nalice@gmail.com\n");
    cluster.stop();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_six_puts_at_capacity_five_the_table_holds_exactly_alice() {
    let database = Database::create().await;
    let cluster = Cluster::start(1, &[&database.url(), "5"]).await;
    kv(cluster.port, SIX_PUTS);
    eventually("alice is in the table", async || {
        let keys = database.column("SELECT kv_key FROM records").await;
        (keys == ["alice"]).then_some(())
    })
    .await;
    assert_eq!(database.column("SELECT kv_value FROM records WHERE kv_key = 'alice'").await, ["alice@gmail.com"]);
    assert_eq!(kv(cluster.port, "GET alice\nCOUNT\n"), "alice@gmail.com\n6\n");
    cluster.stop();
    assert_eq!(database.number("SELECT COUNT(*) FROM records").await, 6, "a clean stop spills everything");
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_spills_everything_and_a_restart_serves_it() {
    let database = Database::create().await;
    let mut cluster = Cluster::start(2, &[&database.url()]).await;
    let client = cluster.client();
    for i in 0..500 {
        client.put(&format!("k{i}"), &format!("v{i}")).await.unwrap();
    }
    let held: u64 = client.stats().await.iter().map(|shard| shard.records).sum();
    assert_eq!(held, 500);
    let mut told = 0;
    for i in 0..2 {
        let status = cluster.secondaries[i].stop();
        assert_eq!(status.code(), Some(0));
        let log = cluster.secondaries[i].log();
        let spilled = log.split("spilled=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        told += spilled.parse::<u64>().unwrap();
        cluster.restart_secondary(i, &[]);
    }
    assert_eq!(told, 500, "the log says how many records were spilled");
    client.until_served().await;
    for i in 0..500 {
        assert_eq!(client.get(&format!("k{i}")).await.unwrap(), Some(format!("v{i}")));
    }
    cluster.stop();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_exits_with_what_became_of_it() {
    let cluster = Cluster::start(1, &[]).await;
    let port = cluster.port.to_string();
    let one = |words: &[&str]| {
        let output = run("kv", &[&["127.0.0.1", &port], words].concat(), "");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(one(&["PUT", "bob", "two words"]).0, 0);
    assert_eq!(one(&["get", "bob"]), (0, "two words\n".to_owned()));
    assert_eq!(one(&["GET", "nobody"]).0, 1);
    assert_eq!(one(&["GET", "nobody", "x"]).1, "x\n");
    assert_eq!(one(&["FROB", "nobody"]).0, 2);
    assert_eq!(one(&["PUT", "empty", ""]).0, 0);
    assert_eq!(one(&["GET", "empty", "missing"]), (0, "\n".to_owned()), "an empty value is a value");
    cluster.stop();
}

#[test]
fn kv_alone_starts_a_cluster_that_keeps_its_records() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let local = |lines: &str| run("kv", &["--data-dir", data.to_str().unwrap()], lines);
    let first = local("PUT bob bob@gmail.com\nGET bob\n");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert_eq!(String::from_utf8(first.stdout).unwrap(), "OK\nbob@gmail.com\n");
    let said = String::from_utf8(first.stderr).unwrap();
    assert!(said.contains(data.to_str().unwrap()), "it says where the records lie: {said}");
    let second = local("GET bob\nCOUNT\n");
    assert_eq!(String::from_utf8(second.stdout).unwrap(), "bob@gmail.com\n1\n");
}
