//! What a node tells of itself.

use std::sync::Arc;

use overspill::doors::http::Http;
use overspill::doors::{self, Access};
use overspill::service::Error;

use crate::world::{Refusing, World, connect, until};

#[tokio::test]
async fn routes_that_are_not_there_name_those_that_are() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    for path in ["/", "/v1", "/v1/kv", "/store/get/", "/metrics/", "/v2/kv/a"] {
        let sentence = caller.get(path).await.sentence(404).to_owned();
        assert!(sentence.contains("/v1/kv/KEY") && sentence.contains("/readyz"), "{path}: {sentence}");
    }
    for (method, path, allow) in [
        ("POST", "/v1/kv/a", "GET,HEAD,PUT,DELETE"),
        ("BREW", "/v1/kv/a", "GET,HEAD,PUT,DELETE"),
        ("DELETE", "/metrics", "GET,HEAD"),
        ("GET", "/store/set", "POST"),
        ("OPTIONS", "/store/get/a", "GET,HEAD"),
    ] {
        let refused = caller.ask(method, path, &[], b"").await;
        assert!(refused.sentence(405).starts_with(method), "{refused:?}");
        assert_eq!(refused.header("allow"), Some(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn a_node_lives_before_it_is_ready_and_says_what_it_waits_for() {
    let world = World::new(1);
    let mut caller = world.caller();
    assert_eq!(caller.get("/livez").await.sentence(200), "alive");
    assert_eq!(caller.get("/readyz").await.sentence(503), "not ready");
    let verbose = caller.get("/readyz?verbose").await;
    assert_eq!(verbose.status, 503);
    let lines: Vec<&str> = verbose.text().lines().collect();
    assert!(lines[0].starts_with("[-] slots: no primary"), "{lines:?}");
    assert_eq!(lines[1], "[+] journal: there is none");
    assert!(lines[2].starts_with("[-] tier (not required): "), "{lines:?}");
    assert_eq!(lines[3..], ["not ready"]);

    world.assign("0-16383".parse().unwrap()).await;
    until("it is ready", async || world.caller().get("/readyz").await.status == 200).await;
    let verbose = caller.get("/readyz?verbose=1").await;
    assert_eq!(verbose.status, 200);
    assert!(verbose.text().ends_with("\nready\n") && !verbose.text().contains("[-]"), "{}", verbose.text());
    assert_eq!(caller.ask("HEAD", "/readyz", &[], b"").await.status, 200);
}

#[tokio::test]
async fn with_the_tier_away_a_node_lives_is_ready_and_answers_what_it_can() {
    let world = World::serving(1).await;
    let mut caller = world.caller();
    world.tier.set_down(true);
    caller.put("/v1/kv/a", &[], "1").await;
    caller.put("/v1/kv/b", &[], "2").await; // evicts "a"
    until("the tier is missed", async || {
        world.caller().get("/readyz?verbose").await.text().contains("[-] tier (not required): ")
    })
    .await;
    assert_eq!(caller.get("/livez").await.status, 200);
    assert_eq!(caller.get("/readyz").await.sentence(200), "ready");
    assert_eq!((caller.get("/v1/kv/a").await.text(), caller.get("/v1/kv/b").await.text()), ("1", "2"));
    let metrics = caller.get("/metrics").await;
    assert!(metrics.text().contains("kv_tier_up{shard=\"localhost:1\"} 0\n"), "{}", metrics.text());
    assert!(metrics.text().contains("kv_spill_queue_records{shard=\"localhost:1\"} 1\n"), "{}", metrics.text());
}

#[tokio::test]
async fn a_node_whose_service_fails_still_lives_and_can_be_scraped() {
    let mut caller = Refusing::with(Error::Unavailable("all is lost".to_owned())).caller();
    assert_eq!(caller.get("/livez").await.status, 200);
    let metrics = caller.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.text().contains("kv_uptime_seconds ") && metrics.text().ends_with("# EOF\n"));
}

#[tokio::test]
async fn figures_and_map_are_json() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    caller.put("/v1/kv/a", &[], "1").await;
    let stats = caller.get("/v1/stats").await.json();
    assert_eq!(stats["shards"][0]["shard"], "localhost:1");
    assert_eq!((&stats["shards"][0]["puts"], &stats["shards"][0]["records"]), (&1.into(), &1.into()));
    let map = caller.get("/v1/map").await.json();
    let expected = serde_json::json!({
        "epoch": 1,
        "complete": true,
        "shards": [{
            "name": "localhost:1",
            "address": "localhost:1",
            "me": true,
            "epoch": 1,
            "slots": [[0, 16383]],
            "unserved": [],
        }],
    });
    assert_eq!(map, expected);
}

#[tokio::test]
async fn metrics_count_what_was_done() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    caller.put("/v1/kv/a", &[], "1").await;
    caller.get("/v1/kv/a").await;
    caller.get("/v1/kv/b").await;
    caller.put("/v1/kv/a", &[("If-None-Match", "*")], "1").await;
    let metrics = caller.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    for line in [
        r#"kv_commands_total{door="http",command="put",result="ok"} 1"#,
        r#"kv_commands_total{door="http",command="put",result="conflict"} 1"#,
        r#"kv_commands_total{door="http",command="get",result="missing"} 1"#,
        r#"kv_command_seconds_count{door="http",command="get"} 2"#,
        r#"kv_http_responses_total{status="404"} 1"#,
        r#"kv_hits_total{shard="localhost:1"} 1"#,
        r#"kv_records{shard="localhost:1"} 1"#,
        r#"kv_shard_up{shard="localhost:1"} 1"#,
        r#"kv_shard_info{shard="localhost:1",policy="lru",write_mode="spill",tier="memory"} 1"#,
        r#"kv_slots_served{shard="localhost:1"} 16384"#,
        "kv_slots_unserved 0",
        "kv_ready 1",
        "kv_map_epoch 1",
    ] {
        assert!(metrics.text().lines().any(|told| told == line), "{line} in\n{}", metrics.text());
    }
}

#[tokio::test]
async fn with_a_password_only_probes_go_without() {
    let world = World::serving(100).await;
    let options = doors::Options { access: Access::with_password("secret"), ..doors::Options::default() };
    let mut caller = connect(&Http::new(&Arc::new(world.door(options))));
    for path in ["/v1/kv/a", "/metrics", "/v1/stats", "/readyz?verbose", "/none"] {
        let refused = caller.get(path).await;
        refused.sentence(401);
        assert_eq!(refused.header("www-authenticate"), Some("Basic realm=\"overspill\""));
    }
    for credentials in ["Bearer wrong", "Basic ZGVmYXVsdDp3cm9uZw==", "Basic Ym9iOnNlY3JldA==", "secret"] {
        caller.put("/v1/kv/a", &[("Authorization", credentials)], "1").await.sentence(401);
    }
    assert_eq!((caller.get("/livez").await.status, caller.get("/readyz").await.status), (200, 200));
    for credentials in ["Bearer secret", "Basic ZGVmYXVsdDpzZWNyZXQ=", "Basic OnNlY3JldA=="] {
        assert_eq!(caller.put("/v1/kv/a", &[("Authorization", credentials)], "1").await.status, 204, "{credentials}");
    }
}
