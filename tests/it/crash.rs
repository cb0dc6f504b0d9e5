//! Unclean stops: what is refused, what is lost, and what is not (R22).

use overspill::service::Error;

use crate::support::cluster::Cluster;
use crate::support::database::Database;
use crate::support::eventually;
use crate::support::mariadb::MariaDb;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_a_secondary_recovers_from_its_journal_and_without_it_refuses() {
    let database = Database::create().await;
    let mut cluster = Cluster::start(1, &[&database.url(), "5"]).await;
    let client = cluster.client();
    for i in 0..10 {
        client.put(&format!("k{i}"), "old").await.unwrap();
    }
    eventually("five records are spilled", async || (client.stats().await[0].spilled_rows >= 5).then_some(())).await;
    client.put("k0", "new").await.unwrap(); // in memory and journal; the table has "old"
    cluster.secondaries[0].kill();
    cluster.restart_secondary(0, &[]);
    client.until_served().await;
    assert_eq!(client.served("k0").await.as_deref(), Some("new"), "what the journal has");
    let log = || cluster.secondaries[0].log();
    eventually("its log says so", async || log().contains("recovered from the journal").then_some(())).await;
    client.put("k1", "new").await.unwrap();
    cluster.secondaries[0].kill();
    let elsewhere = cluster.data.path().join("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    cluster.restart_secondary(0, &["--data-dir", elsewhere]);
    let reason = eventually("the secondary refuses", async || match client.get("k0").await {
        Err(Error::Unavailable(reason)) if reason.contains("--accept-loss") => Some(reason),
        Err(Error::Unavailable(_)) => None,
        other => panic!("an old row must not be served as current: {other:?}"),
    })
    .await;
    assert!(reason.contains("did not stop cleanly") && reason.contains("its journal"), "{reason}");
    let log = || cluster.secondaries[0].log();
    eventually("its log says so", async || log().contains("refuses to serve").then_some(())).await;
    cluster.secondaries[0].kill();
    cluster.restart_secondary(0, &["--data-dir", elsewhere, "--accept-loss"]);
    client.until_served().await;
    assert_eq!(client.stats().await[0].losses_accepted, 1);
    assert_eq!(client.served("k1").await.as_deref(), Some("old"), "what the tier has");
    cluster.stop();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_that_was_killed_serves_its_journal_while_the_database_is_down() {
    let mut server = MariaDb::start().await;
    let mut cluster = Cluster::start(1, &[&server.url("overspill"), "5"]).await;
    let client = cluster.client();
    for i in 0..10 {
        client.put(&format!("k{i}"), "v").await.unwrap();
    }
    eventually("five records are spilled", async || (client.stats().await[0].spilled_rows >= 5).then_some(())).await;
    client.put("k9", "v").await.unwrap(); // the journal notes with it what is spilled
    server.kill();
    cluster.secondaries[0].kill();
    cluster.restart_secondary(0, &[]);
    client.stored("k9", "written while the database is down").await;
    assert_eq!(client.get("k9").await.unwrap().as_deref(), Some("written while the database is down"));
    let cold = client.get("k0").await;
    assert!(matches!(&cold, Err(Error::Unavailable(reason)) if reason.contains("tier")), "{cold:?}");
    cluster.secondaries[0].kill();
    cluster.restart_secondary(0, &[]);
    assert_eq!(client.served("k9").await.as_deref(), Some("written while the database is down"));
    server.restart().await;
    for i in 0..9 {
        assert_eq!(client.served(&format!("k{i}")).await.as_deref(), Some("v"));
    }
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_secondaries_in_one_directory_the_second_refuses() {
    let database = Database::create().await;
    let cluster = Cluster::start(1, &[&database.url(), "5"]).await;
    let first = cluster.secondary_ports()[0];
    let directory = cluster.data.path().join(first.to_string());
    let own = crate::support::free_port().to_string();
    let arguments = ["127.0.0.1:1", &own, &database.url(), "--data-dir", directory.to_str().unwrap()];
    let second = crate::support::process::run("secondary", &arguments, "");
    assert!(!second.status.success());
    let error = String::from_utf8(second.stderr).unwrap();
    let pid = cluster.secondaries[0].pid().to_string();
    assert!(error.contains("in use by process") && error.contains(&pid), "{error}");
    cluster.stop();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn write_through_survives_a_kill_and_needs_no_word() {
    let database = Database::create().await;
    let mut cluster = Cluster::start(1, &[&database.url(), "100", "lru", "1", "--write", "through"]).await;
    let client = cluster.client();
    for i in 0..200 {
        client.put(&format!("k{i}"), &format!("v{i}")).await.unwrap();
    }
    for i in 0..50 {
        assert!(client.delete(&format!("k{i}")).await.unwrap());
    }
    cluster.secondaries[0].kill();
    cluster.restart_secondary(0, &[]);
    client.until_served().await;
    for i in 0..200 {
        let expected = (i >= 50).then(|| format!("v{i}"));
        assert_eq!(client.served(&format!("k{i}")).await, expected);
    }
    cluster.stop();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_secondary_is_away_its_keys_are_unavailable_soon_and_the_others_go_on() {
    let database = Database::create().await;
    let mut cluster = Cluster::start(2, &[&database.url()]).await;
    let client = cluster.client();
    let names: Vec<String> = (0..64).map(|i| format!("k{i}")).collect();
    for name in &names {
        client.put(name, "v").await.unwrap();
    }
    cluster.secondaries[0].stop();
    let started = std::time::Instant::now();
    let mut served = 0;
    for name in &names {
        match client.get(name).await {
            Ok(value) => {
                assert_eq!(value.as_deref(), Some("v"));
                served += 1;
            }
            Err(Error::Unavailable(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!((16..=48).contains(&served), "half of the keys are served, not {served}");
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "an answer takes no time-out each");
    cluster.restart_secondary(0, &[]);
    client.until_served().await;
    for name in &names {
        assert_eq!(client.served(name).await.as_deref(), Some("v"));
    }
    cluster.stop();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_at_start_makes_misses_unavailable_and_comes_back_by_itself() {
    let mut server = MariaDb::start().await;
    let url = server.url("overspill");
    server.kill();
    let port = crate::support::free_port();
    let own = crate::support::free_port();
    let data = tempfile::TempDir::new().unwrap();
    let _secondary = crate::support::cluster::secondary(port, own, data.path(), &[url]);
    let _primary = crate::support::cluster::primary(port, &[own], &[]);
    let client = crate::support::client::Client::of(port);
    let reason = eventually("it says that the tier is away", async || match client.get("bob").await {
        Err(Error::Unavailable(reason)) if reason.contains("tier") => Some(reason),
        Err(Error::Unavailable(_)) => None,
        other => panic!("nobody can know whether bob exists: {other:?}"),
    })
    .await;
    assert!(!reason.contains("not found"));
    server.restart().await;
    client.until_served().await;
    client.stored("bob", "bob@gmail.com").await;
    assert_eq!(client.served("bob").await.as_deref(), Some("bob@gmail.com"));
}
