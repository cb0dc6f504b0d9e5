//! Secondaries as a Redis cluster: whoever is asked tells the same map, and every client finds its way.

use std::time::Instant;

use crate::clients::{DEFAULT, benchmark, cli, ioredis, redis_py};
use crate::differential::strings;
use crate::wire::{Wire, request};
use crate::world::{Ours, PATIENCE, Redis, has};

const SECONDARIES: usize = 3;

/// A cluster whose nodes all know the whole map: who has just been told his slots may not know yet what others were told.
fn start() -> Ours {
    let ours = Ours::start(SECONDARIES, 25);
    let started = Instant::now();
    for port in ports(&ours) {
        let mut wire = Wire::connect(port);
        while !wire.line("CLUSTER INFO").contains("cluster_state:ok") {
            assert!(started.elapsed() < PATIENCE, "{port} does not learn the map");
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
    }
    ours
}

/// The secondaries, and the primary.
fn ports(ours: &Ours) -> Vec<u16> {
    (0..SECONDARIES).map(|i| ours.secondary(i)).chain([ours.primary()]).collect()
}

#[test]
fn every_node_tells_the_same_map() {
    let ours = start();
    let told: Vec<_> = ports(&ours)
        .into_iter()
        .map(|port| {
            let mut wire = Wire::connect(port);
            let slots = wire.told(&["CLUSTER", "SLOTS"]);
            let shards = wire.told(&["CLUSTER", "SHARDS"]);
            // Each says of itself that it is itself.
            let nodes = wire.told(&["CLUSTER", "NODES"]).replace("myself,", "");
            let nodes = nodes.split_once("\\n").unwrap().1.to_owned();
            (slots, shards, nodes)
        })
        .collect();
    for other in &told[1..] {
        assert_eq!(*other, told[0]);
    }
    for i in 0..SECONDARIES {
        let port = ours.secondary(i);
        assert!(told[0].0.contains(&format!(r"$9\r\n127.0.0.1\r\n:{port}\r\n$40\r\n")), "{}", told[0].0);
        let mut wire = Wire::connect(port);
        let id = wire.line("CLUSTER MYID");
        let id = id.split("\\n").nth(1).unwrap();
        let nodes = wire.line("CLUSTER NODES");
        assert!(
            nodes.contains(&format!("{id} 127.0.0.1:{port}@{},127.0.0.1 myself,master - 0 0 ", port + 10_000)),
            "{nodes}"
        );
    }
}

/// In version 3 as well: what has which type there.
#[test]
fn the_map_has_the_form_that_redis_gives_it() {
    if !has("redis-server") {
        return;
    }
    let (redis, ours) = (Redis::clustered(), Ours::start(1, 25));
    assert_eq!(Wire::connect(redis.port).line("CLUSTER ADDSLOTSRANGE 0 16383"), "+OK");
    // What stands in it differs: only types, counts and names are compared.
    let form = |reply: &str| -> Vec<String> {
        let names =
            ["slots", "nodes", "id", "port", "ip", "endpoint", "role", "master", "replication-offset", "health"];
        let lines = reply.split("\\r\\n").map(|line| match line.chars().next() {
            _ if names.contains(&line) => line.to_owned(),
            Some('*' | '%' | '~') => line.to_owned(),
            Some(':') => ":".to_owned(),
            _ => String::new(),
        });
        lines.filter(|line| !line.is_empty()).collect()
    };
    for connect in [Wire::connect, Wire::connect_3] {
        let (mut redis, mut ours) = (connect(redis.port), connect(ours.secondary(0)));
        for what in ["SLOTS", "SHARDS"] {
            let [redis, ours] = [&mut redis, &mut ours].map(|wire| form(&wire.line(&format!("CLUSTER {what}"))));
            if what == "SLOTS" {
                assert_eq!(redis, ours);
            } else {
                let sorted = |mut form: Vec<String>| {
                    form.sort();
                    form
                };
                assert_eq!(sorted(redis), sorted(ours), "in some order");
            }
        }
    }
}

#[test]
fn who_asks_the_wrong_secondary_is_sent_to_the_right_one() {
    let ours = start();
    let mut wires: Vec<Wire> = (0..SECONDARIES).map(|i| Wire::connect(ours.secondary(i))).collect();
    for i in 0..60 {
        let told: Vec<String> = wires.iter_mut().map(|wire| wire.line(&format!("SET k{i} {i}"))).collect();
        let owner = told.iter().position(|told| told == "+OK").unwrap_or_else(|| panic!("{told:?}"));
        for (other, told) in told.iter().enumerate().filter(|(other, _)| *other != owner) {
            let slot = wires[other].line(&format!("CLUSTER KEYSLOT k{i}"));
            assert_eq!(*told, format!("-MOVED {} 127.0.0.1:{}", &slot[1..], ours.secondary(owner)));
            assert!(wires[other].line(&format!("MGET k{i}")).starts_with("-MOVED "));
        }
        let value = i.to_string();
        assert_eq!(wires[owner].line(&format!("GET k{i}")), format!("${}\\r\\n{value}", value.len()));
    }
    // Each tells of its own keys only; together they have all.
    let own: Vec<_> = wires.iter_mut().map(|wire| strings(&wire.ask(&["KEYS", "*"]))).collect();
    assert_eq!(own.iter().map(std::collections::BTreeSet::len).sum::<usize>(), 60);
    assert_eq!(own.into_iter().flatten().collect::<std::collections::BTreeSet<_>>().len(), 60);
}

#[test]
fn redis_py_and_ioredis_use_the_secondaries_as_a_cluster() {
    let ours = start();
    redis_py("cluster", ours.secondary(0), 2);
    redis_py("cluster", ours.secondary(1), 3);
    ioredis("cluster", ours.secondary(2));
    // Also who knows only the primary.
    redis_py("cluster", ours.primary(), DEFAULT);
}

#[test]
fn redis_cli_and_redis_benchmark_use_the_secondaries_as_a_cluster() {
    if !has("redis-benchmark") {
        return;
    }
    let ours = start();
    let sets: String = (0..50).map(|i| format!("set k{i} {i}\n")).collect();
    let printed = cli(ours.secondary(0), &["-c"], sets.as_bytes());
    assert_eq!(printed.lines().filter(|line| *line == "OK").count(), 50, "{printed}");
    let gets: String = (0..50).map(|i| format!("get k{i}\n")).collect();
    let printed = cli(ours.secondary(1), &["-c", "-3"], gets.as_bytes());
    assert!((0..50).all(|i| printed.lines().any(|line| line == i.to_string())), "{printed}");
    // Those of its own slots go through a pipe as well.
    let scanned = cli(ours.secondary(0), &["--scan"], b"");
    let again: Vec<u8> = scanned.lines().flat_map(|key| request(&["SET", key, "v"])).collect();
    assert!(cli(ours.secondary(0), &["--pipe"], &again).contains("errors: 0"));
    benchmark(ours.secondary(0), &["-P", "1", "--cluster"]);
    benchmark(ours.secondary(2), &["-P", "16", "--cluster"]);
}
