//! What the log tells of a request, from its door to the statement that it causes.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::process::{Process, run_in};
use crate::redis::Redis;
use crate::{eventually, free_port};

/// The values of a field of the JSON lines that say `message` of requests.
fn values(log: &str, message: &str, field: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let lines = lines.filter(|line| line["target"] == "overspill::request" && line["message"] == message);
    lines.filter_map(|line| Some(line[field].as_str()?.to_owned())).collect()
}

#[test]
fn a_request_has_one_name_from_its_door_over_the_hop_to_its_statement() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let tier = format!("sqlite://{}", directory.path().join("tier.sqlite").display());
    let (first, port) = (free_port(), free_port());
    let (own, front) = (first.to_string(), port.to_string());
    let env = [
        ("KV_LOG", "info,overspill::request=debug"),
        ("KV_LOG_FORMAT", "json"),
        ("KV_DATA_DIR", data.to_str().unwrap()),
    ];
    let shard = Process::start("secondary", &["127.0.0.1:1", &own, &tier, "1"], &env);
    let primary = Process::start("primary", &[&front, &format!("127.0.0.1:{first}")], &env);
    let put = |key: &str| run_in("kv", &["127.0.0.1", &front, "PUT", key, "1"], "", &[]);
    eventually("served", || put("a").status.success());
    eventually("another", || put("b").status.success());
    let spilled = || shard.log().lines().any(|line| line.contains("\"spilled\""));
    eventually("spilled", spilled);
    // One of both is in the tier only, sooner or later.
    let mut redis = Redis::connect(port);
    eventually("loaded", || {
        for key in ["a", "b"] {
            run_in("kv", &["127.0.0.1", &front, "GET", key], "", &[]);
        }
        shard.log().lines().any(|line| line.contains("\"loaded\""))
    });
    assert_eq!(redis.ask(&["GET", "a"]), "1");
    let loaded = values(&shard.log(), "loaded", "requests");
    let name = loaded.first().unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(name.len(), 32, "{name}");
    eventually("it is told everywhere", || {
        let (log, far) = (primary.log(), shard.log());
        let told = [
            values(&log, "answered", "request"),
            values(&log, "routed", "request"),
            values(&log, "sent", "request"),
            values(&far, "executed", "request"),
            values(&far, "answered", "request"),
        ];
        told.iter().all(|requests| requests.contains(&name))
    });
    let mut http = TcpStream::connect(("127.0.0.1", port)).unwrap();
    http.write_all(b"GET /v1/kv/a HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK") && answer.ends_with('1'), "{answer}");
    let doors = ["rpc", "resp", "http"].map(str::to_owned);
    eventually("of every door", || {
        let told = values(&primary.log(), "answered", "door");
        doors.iter().all(|door| told.contains(door))
    });
    // A hit, which may be answered at once, on the shard itself.
    redis.ask(&["SET", "c", "1"]);
    assert_eq!(Redis::connect(first).ask(&["GET", "c"]), "1");
    eventually("of a shard's own", || values(&shard.log(), "answered", "door").contains(&"resp".to_owned()));
    assert!(!primary.log().contains("\"PUT\""), "neither commands nor keys are logged");
}

#[test]
fn nothing_is_told_of_requests_unless_it_is_asked_for() {
    let (first, port) = (free_port(), free_port());
    let shard = Process::start("secondary", &["127.0.0.1:1", &first.to_string()], &[]);
    let primary = Process::start("primary", &[&port.to_string(), &format!("127.0.0.1:{first}")], &[]);
    let put = || run_in("kv", &["127.0.0.1", &port.to_string(), "PUT", "a", "1"], "", &[]);
    eventually("served", || put().status.success());
    assert!(!primary.log().contains("request") && !shard.log().contains("request"));
}
