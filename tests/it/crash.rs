//! Unclean stops: what is refused, what is lost, and what is not (R22).

use overspill::service::Error;

use crate::support::cluster::Cluster;
use crate::support::database::Database;
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_a_secondary_refuses_until_the_loss_is_accepted() {
    let database = Database::create().await;
    let mut cluster = Cluster::start(1, &[&database.url(), "5"]).await;
    let client = cluster.client();
    for i in 0..10 {
        client.put(&format!("k{i}"), "old").await.unwrap();
    }
    eventually("five records are spilled", async || (client.stats().await[0].spilled_rows >= 5).then_some(())).await;
    client.put("k0", "new").await.unwrap(); // in memory only; the table has "old"
    cluster.secondaries[0].kill();
    cluster.restart_secondary(0, &[]);
    let reason = eventually("the secondary refuses", async || match client.get("k0").await {
        Err(Error::Unavailable(reason)) if reason.contains("--accept-loss") => Some(reason),
        Err(Error::Unavailable(_)) => None,
        other => panic!("an old row must not be served as current: {other:?}"),
    })
    .await;
    assert!(reason.contains("did not stop cleanly"), "{reason}");
    assert!(cluster.secondaries[0].log().contains("refuses to serve"));
    cluster.secondaries[0].kill();
    cluster.restart_secondary(0, &["--accept-loss"]);
    client.until_served().await;
    assert_eq!(client.get("k0").await.unwrap().as_deref(), Some("old"), "what the tier has");
    assert_eq!(client.stats().await[0].losses_accepted, 1);
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
        assert_eq!(client.get(&format!("k{i}")).await.unwrap(), expected);
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
        assert_eq!(client.get(name).await.unwrap().as_deref(), Some("v"));
    }
    cluster.stop();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_at_start_makes_misses_unavailable_and_comes_back_by_itself() {
    let mut server = crate::support::mariadb::MariaDb::start().await;
    let url = server.url("overspill");
    server.kill();
    let port = crate::support::free_port();
    let own = crate::support::free_port();
    let _secondary = crate::support::cluster::secondary(port, own, &[url]);
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
    client.put("bob", "bob@gmail.com").await.unwrap();
    assert_eq!(client.get("bob").await.unwrap().as_deref(), Some("bob@gmail.com"));
}
