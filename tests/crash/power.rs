//! Loss of power: the journal's file system forgets, in the middle of the load, everything that was not synced.

use std::path::Path;
use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::database::Database;
use crate::support::eventually;
use crate::volume::Volume;
use crate::work::{Ledger, Load};

const ROUNDS: u64 = 3;

fn has_journal(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut files| files.next().is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_with_the_power() {
    let Some(mut volume) = Volume::make() else { return };
    let database = Database::create().await;
    let data = volume.path().join("data");
    let mut cluster = Cluster::start(1, &[&database.url(), "150", "--data-dir", data.to_str().unwrap()]).await;
    let client = cluster.client();
    let mut ledger = Ledger::default();
    for round in 1..=ROUNDS {
        let before = ledger.acknowledged;
        let load = Load::start(&client, ledger, round);
        tokio::time::sleep(Duration::from_millis(700 + 200 * round)).await;
        volume.lose_power();
        // R23: it can't sync any more, so it ends, and says why.
        assert!(!cluster.secondaries[0].wait().success());
        let log = cluster.secondaries[0].log();
        assert!(log.contains("the journal can't be written any more"), "{log}");
        volume.unmount();
        assert!(volume.mount());
        assert!(has_journal(&data));
        cluster.restart_secondary(0, &[]);
        eventually("it is served again", async || client.get("probe").await.ok()).await;
        ledger = load.stop().await;
        ledger.check(&client).await;
        println!("round {round}: power lost; {} writes acknowledged, none lost", ledger.acknowledged - before);
    }
    cluster.stop();
    volume.unmount();
    database.drop_it().await;
}
