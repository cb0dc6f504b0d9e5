//! Rounds of `kill -9`.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::cluster::Cluster;
use crate::support::mariadb::MariaDb;
use crate::work::{KEYS, Ledger, Load};

/// Without `CRASH_ROUNDS`: as many as the ordinary suite has time for.
const ROUNDS: usize = 8;
const SECONDARIES: usize = 2;
/// Far below the number of keys.
const CAPACITY: &str = "150";

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_processes_are_killed_at_random() {
    let rounds = setting("CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed: u64 = setting("CRASH_SEED").unwrap_or_else(rand::random);
    println!("{rounds} rounds, CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = MariaDb::start().await;
    let mut cluster = Cluster::start(SECONDARIES, &[&server.url("overspill"), CAPACITY]).await;
    let client = cluster.client();
    let mut ledger = Ledger::default();
    for round in 1..=rounds {
        let before = (ledger.acknowledged, ledger.unknown);
        let load = Load::start(&client, ledger, random.random());
        let mut story = Vec::new();
        for _ in 0..random.random_range(1..=2) {
            let pause = Duration::from_millis(random.random_range(50..600));
            tokio::time::sleep(pause).await;
            let away = Duration::from_millis(random.random_range(0..300));
            let victim = random.random_range(0..SECONDARIES + 2);
            match victim {
                0..SECONDARIES => {
                    cluster.secondaries[victim].kill();
                    tokio::time::sleep(away).await;
                    cluster.restart_secondary(victim, &[]);
                    story.push(format!("secondary {}", victim + 1));
                }
                SECONDARIES => {
                    cluster.primary.kill();
                    tokio::time::sleep(away).await;
                    cluster.restart_primary();
                    story.push("primary".to_owned());
                }
                _ => {
                    server.kill();
                    tokio::time::sleep(away).await;
                    server.restart().await;
                    story.push("database".to_owned());
                }
            }
        }
        let killed = Instant::now();
        client.until_served().await;
        let recovered = killed.elapsed();
        tokio::time::sleep(Duration::from_millis(100)).await; // some work after the recovery, too
        ledger = load.stop().await;
        ledger.check(&client).await;
        println!(
            "round {round}: killed {}; {} writes acknowledged, {} unknown; served again after {} ms; {KEYS} keys checked",
            story.join(" and "),
            ledger.acknowledged - before.0,
            ledger.unknown - before.1,
            recovered.as_millis(),
        );
    }
    println!("{rounds} rounds: {} acknowledged writes, none lost, none stale, no key resurrected", ledger.acknowledged);
    let stats = client.stats().await;
    assert!(stats.iter().all(|shard| shard.losses_accepted == 0));
    cluster.stop();
}
