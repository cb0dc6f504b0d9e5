//! A disk that is full or read-only: clear errors, and nothing acknowledged is lost.

use overspill::service::Error;

use crate::support::client::Client;
use crate::support::cluster::Cluster;
use crate::support::database::Database;
use crate::support::eventually;
use crate::support::process::run;
use crate::volume::Volume;

async fn assert_all(client: &Client, stored: usize) {
    for i in 0..stored {
        assert_eq!(client.served(&format!("k{i}")).await, Some(format!("{i}:{}", "v".repeat(20_000))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_makes_writes_busy_and_loses_nothing() {
    let Some(mut volume) = Volume::make() else { return };
    let database = Database::create().await;
    let data = volume.path().join("data");
    let arguments = [&database.url(), "150", "--journal-max", "128MiB", "--data-dir", data.to_str().unwrap()];
    let mut cluster = Cluster::start(1, &arguments).await;
    let client = cluster.client();
    let ballast = volume.fill();
    let mut stored = 0;
    let busy = loop {
        match client.put(&format!("k{stored}"), &format!("{stored}:{}", "v".repeat(20_000))).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 3000, "the disk does not get full");
    };
    assert!(matches!(&busy, Error::Busy(reason) if reason.contains("space")), "{busy}");
    assert_all(&client, stored).await;
    // As it is, and again after a kill: also a start without room is one.
    cluster.secondaries[0].kill();
    cluster.restart_secondary(0, &[]);
    std::fs::remove_file(ballast).unwrap();
    assert_all(&client, stored).await;
    client.stored("more", "fits again").await;
    assert_eq!(client.get("more").await.unwrap().as_deref(), Some("fits again"));
    cluster.stop();
    volume.unmount();
    database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_refused_at_start_with_a_clear_error() {
    let Some(mut volume) = Volume::make() else { return };
    let database = Database::create().await;
    let data = volume.path().join("data");
    let mut cluster = Cluster::start(1, &[&database.url(), "150", "--data-dir", data.to_str().unwrap()]).await;
    let client = cluster.client();
    client.put("k", "v").await.unwrap();
    cluster.secondaries[0].kill();
    volume.set_read_only(true);
    let own = cluster.secondary_ports()[0].to_string();
    let refused = run("secondary", &["127.0.0.1:1", &own, &database.url(), "--data-dir", data.to_str().unwrap()], "");
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && error.contains("Read-only file system"), "{error}");
    assert!(error.contains(data.to_str().unwrap()), "which directory: {error}");
    volume.set_read_only(false);
    cluster.restart_secondary(0, &[]);
    eventually("it is served", async || client.get("k").await.ok()).await;
    assert_eq!(client.served("k").await.as_deref(), Some("v"));
    cluster.stop();
    volume.unmount();
    database.drop_it().await;
}
