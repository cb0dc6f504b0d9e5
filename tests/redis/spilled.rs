//! What holds while keys are spilled and loaded by the hundred.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::Rng;

use crate::differential::scan;
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::mariadb::MariaDb;
use crate::wire::{Wire, request};
use crate::world::Ours;

#[test]
fn increments_of_many_connections_add_up_while_keys_spill_and_load() {
    const CLIENTS: usize = 20;
    const KEYS: usize = 100;
    const ROUNDS: usize = 6;
    let ours = Ours::start(2, 5);
    let port = ours.primary();
    let clients = (0..CLIENTS).map(|client| {
        std::thread::spawn(move || {
            let mut wire = Wire::connect(port);
            for round in 0..ROUNDS {
                let keys = (0..KEYS).map(|i| format!("n{}", (i * 7 + client * 13 + round) % KEYS));
                // Some one by one, some together.
                let requests: Vec<Vec<u8>> = keys.map(|key| request(&["INCR", &key])).collect();
                for part in requests.chunks(1 + client * 5) {
                    wire.send(&part.concat());
                    for _ in part {
                        let reply = wire.reply();
                        assert!(reply.starts_with(b":"), "{}", reply.escape_ascii());
                    }
                }
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let mut wire = Wire::connect(port);
    for i in 0..KEYS {
        let sum = (CLIENTS * ROUNDS).to_string();
        assert_eq!(wire.line(&format!("GET n{i}")), format!("${}\\r\\n{sum}", sum.len()), "n{i}");
    }
    assert!(ours.figure("loaded_rows") > 100);
}

#[test]
fn a_scan_sees_keys_that_stay_put_once_while_others_come_and_go() {
    let ours = Ours::start(2, 10);
    let port = ours.primary();
    let mut wire = Wire::connect(port);
    for i in 0..150 {
        assert_eq!(wire.line(&format!("SET stays:{i} v")), "+OK");
        assert_eq!(wire.line(&format!("SET {{slot}}stays:{i} v")), "+OK");
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let stop = &stop;
            scope.spawn(move || {
                let (mut wire, mut random) = (Wire::connect(port), rand::rng());
                while !stop.load(Ordering::Relaxed) {
                    let (i, j) = (random.random_range(0..200), random.random_range(0..150));
                    wire.line(&format!("SET comes:{writer}:{i} x"));
                    wire.line(&format!("DEL comes:{writer}:{}", (i + 100) % 200));
                    wire.line(&format!("SET {{slot}}comes:{i} x"));
                    wire.line(&format!("DEL {{slot}}comes:{j}"));
                    wire.line(&format!("GET stays:{j}"));
                    wire.line(&format!("APPEND {{slot}}stays:{j} x"));
                }
            });
        }
        for count in ["1", "10", "10", "100", "5000"] {
            let mut seen: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
            for key in scan(&mut wire, count, &[]) {
                *seen.entry(key).or_default() += 1;
            }
            for i in 0..150 {
                for key in [format!("stays:{i}"), format!("{{slot}}stays:{i}")] {
                    assert_eq!(seen.get(key.as_bytes()), Some(&1), "{key} in pages of {count}");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_read_while_the_tier_is_away_is_an_error_and_never_missing() {
    let mut database = MariaDb::start().await;
    let url = database.url("mysql_kv_redis");
    let root = crate::support::database::connect(&database.url("")).await;
    sqlx::Executor::execute(&mut root.unwrap(), "CREATE DATABASE mysql_kv_redis").await.unwrap();
    let cluster = Cluster::start(1, &[&url, "10"]).await;
    let (mut primary, mut secondary) = (Wire::connect(cluster.port), Wire::connect(cluster.secondary_ports()[0]));
    for i in 0..50 {
        assert_eq!(primary.line(&format!("SET {{t}}{i} v")), "+OK");
    }
    eventually("all is spilled", async || {
        let stats = cluster.client().stats().await.remove(0);
        (stats.unspilled <= 10 && stats.records_spilling == 0).then_some(())
    })
    .await;
    database.kill();
    for wire in [&mut primary, &mut secondary] {
        let told = wire.line("GET {t}0");
        assert!(told.starts_with("-TRYAGAIN "), "{told}");
        for line in
            ["MGET {t}49 {t}0 {t}nosuch", "EXISTS {t}49 {t}0", "INCR {t}1", "RENAME {t}2 {t}x", "SCAN 0", "KEYS *"]
        {
            let told = wire.line(line);
            assert!(told.starts_with("-TRYAGAIN "), "{line}: {told}");
        }
        assert_eq!(wire.line("GET {t}49"), r"$1\r\nv"); // in memory
        assert_eq!(wire.line("PING"), "+PONG");
    }
    database.restart().await;
    eventually("reads are answered again", async || (primary.line("GET {t}0") == r"$1\r\nv").then_some(())).await;
    assert_eq!(primary.line("MGET {t}49 {t}0 {t}nosuch"), r"*3\r\n$1\r\nv\r\n$1\r\nv\r\n$-1");
    cluster.stop();
}

#[test]
fn many_large_values_come_together_up_to_a_limit_and_beyond_it_an_error() {
    const MIB: usize = 1 << 20;
    let ours = Ours::start(2, 25);
    for port in [ours.primary(), ours.secondary(0)] {
        let mut wire = Wire::connect(port);
        // In cluster mode only one of the secondaries has the slot.
        let tag =
            (0..100).map(|i| format!("{{{i}}}")).find(|tag| wire.line(&format!("SET {tag}x 1")) == "+OK").unwrap();
        let key = |i: usize| format!("{tag}large{i}");
        for i in 0..40 {
            assert_eq!(
                wire.told(&[b"SET".as_slice(), key(i).as_bytes(), &vec![b'a' + (i % 26) as u8; 2 * MIB]]),
                "+OK\\r\\n"
            );
        }
        let mget =
            |count: usize| -> Vec<String> { std::iter::once("MGET".to_owned()).chain((0..count).map(key)).collect() };
        let reply = wire.ask(&mget(30));
        assert!(reply.starts_with(b"*30\r\n$2097152\r\na"));
        let mut at = 5;
        for i in 0..30 {
            let value = &reply[at + 10..at + 10 + 2 * MIB];
            assert!(value.iter().all(|&byte| byte == b'a' + (i % 26) as u8), "value {i}");
            at += 12 + 2 * MIB;
        }
        assert_eq!(at, reply.len());
        assert_eq!(wire.line(&mget(40).join(" ")), "-ERR the answer is too large: ask for fewer keys at a time");
        // One by one they come all, also in one pipeline; and those that are taken away come as well.
        let gets: Vec<u8> = (0..40).flat_map(|i| request(&["GET", &key(i)])).collect();
        wire.send(&gets);
        for i in 0..40 {
            let reply = wire.reply();
            assert!(
                reply.len() == 2 * MIB + 12 && reply[20] == b'a' + (i % 26) as u8,
                "value {i}: {}",
                reply[..60].escape_ascii()
            );
        }
        let takes: Vec<u8> = (0..40).flat_map(|i| request(&["GETDEL", &key(i)])).collect();
        wire.send(&takes);
        for i in 0..40 {
            let reply = wire.reply();
            assert!(
                reply.len() == 2 * MIB + 12 && reply[20] == b'a' + (i % 26) as u8,
                "value {i}: {}",
                reply[..60].escape_ascii()
            );
        }
        assert_eq!(wire.line(&format!("EXISTS {}", (0..40).map(key).collect::<Vec<_>>().join(" "))), ":0");
    }
}
