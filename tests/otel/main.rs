//! Spans of real processes as a collector gets them: they join across the hop, and a collector that is away is nobody's trouble.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod collector;
#[path = "../../src/node/collector/http.rs"]
#[allow(dead_code, reason = "its own tests run here: so the library is not built for tests once more")]
mod http;
#[path = "../../src/node/collector/otlp.rs"]
#[allow(dead_code, reason = "as above")]
mod otlp;
#[path = "../it/support/process.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod process;
#[path = "../secure/redis.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod redis;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use collector::{Collector, Span};
use overspill::net; // for `http`
use process::Process;
use redis::Redis;
use tempfile::TempDir;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

const SERVER: u64 = 2;
const CLIENT: u64 = 3;

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Below those that the system gives to clients.
fn free_port() -> u16 {
    std::iter::repeat_with(|| fastrand::u16(12_000..30_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// A primary, and a secondary that has room for one record.
struct Cluster {
    port: u16,
    primary: Process,
    secondary: Process,
    _directory: TempDir,
}

impl Cluster {
    fn start(env: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let tier = format!("sqlite://{}", directory.path().join("tier.sqlite").display());
        let (own, port) = (free_port(), free_port());
        let own_env = [
            ("KV_LOG", "info,overspill::request=debug"),
            ("KV_LOG_FORMAT", "json"),
            ("KV_DATA_DIR", data.to_str().unwrap()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ];
        let env = [&own_env, env].concat();
        let secondary = Process::start("secondary", &["127.0.0.1:1", &own.to_string(), &tier, "1"], &env);
        let primary = Process::start("primary", &[&port.to_string(), &format!("127.0.0.1:{own}")], &env);
        let cluster = Self { port, primary, secondary, _directory: directory };
        eventually("served", || TcpListener::bind(("127.0.0.1", port)).is_err());
        let mut redis = cluster.redis();
        eventually("a shard", || redis.ask(&["SET", "a", "1"]) == "+OK");
        cluster
    }

    fn redis(&self) -> Redis {
        Redis::connect(self.port)
    }
}

/// The values of a field of the JSON lines that say `message` of requests.
fn values(log: &str, message: &str, field: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let lines = lines.filter(|line| line["target"] == "overspill::request" && line["message"] == message);
    lines.filter_map(|line| Some(line[field].as_str()?.to_owned())).collect()
}

#[test]
fn spans_of_both_nodes_join_under_the_name_that_the_logs_show() {
    let collector = Collector::start();
    let endpoint = collector.endpoint();
    let mut cluster = Cluster::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let mut redis = cluster.redis();
    assert_eq!(redis.ask(&["SET", "b", "2"]), "+OK");
    assert_eq!(redis.ask(&["GET", "b"]), "2");
    let loaded = || collector.spans().iter().any(|span| span.name == "load");
    eventually("one of both is in the tier only, and read", || {
        assert_eq!(redis.ask(&["GET", "a"]), "1");
        assert_eq!(redis.ask(&["GET", "b"]), "2");
        loaded()
    });
    // With what they have not exported yet.
    assert!(cluster.primary.stop().success() && cluster.secondary.stop().success());

    let spans = collector.spans();
    let find = |named: &str, below: &Span| {
        let found =
            spans.iter().find(|span| span.name == named && span.parent == below.id && span.trace == below.trace);
        found.unwrap_or_else(|| panic!("no `{named}` below {below:?}; there are {spans:#?}")).clone()
    };
    let told = values(&cluster.primary.log(), "answered", "request");
    let far = values(&cluster.secondary.log(), "executed", "request");
    let doors: Vec<&Span> = spans.iter().filter(|span| span.name == "resp").collect();
    assert!(doors.len() >= 4, "{spans:#?}");
    for door in doors {
        assert_eq!((door.service.as_str(), door.kind, door.parent.as_str()), ("overspill-primary", SERVER, ""));
        assert!(told.contains(&door.trace), "the log does not know {door:?}");
        // The first ones came before there was a shard.
        if door.is_error {
            continue;
        }
        let call = find("call", door);
        assert_eq!((call.service.as_str(), call.kind), ("overspill-primary", CLIENT));
        let executed = find("rpc", &call);
        assert_eq!((executed.service.as_str(), executed.kind), ("overspill-secondary", SERVER));
        assert!(far.contains(&door.trace), "the far log does not know {door:?}");
        assert!(door.start <= call.start && call.end <= door.end && door.end > 0);
    }
    let load = spans.iter().find(|span| span.name == "load").unwrap();
    let executed = spans.iter().find(|span| span.id == load.parent).unwrap();
    assert_eq!((executed.name.as_str(), &executed.trace), ("rpc", &load.trace));
    assert!(spans.iter().any(|span| span.name == "spill" && span.parent.is_empty()));
    let text = format!("{spans:?}");
    assert!(!text.contains("SET") && !text.contains("GET"), "neither commands nor keys are exported");
}

#[test]
fn requests_that_travel_together_are_linked() {
    let collector = Collector::start();
    let endpoint = format!("{}/v1/traces", collector.endpoint());
    let env = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x, tenant=1"),
        ("OTEL_SERVICE_NAME", "ours"),
    ];
    let cluster = Cluster::start(&env);
    eventually("a call with company", || {
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let mut redis = cluster.redis();
                    (0..50).for_each(|_| assert_eq!(redis.ask(&["SET", "a", "1"]), "+OK"));
                });
            }
        });
        collector.spans().iter().any(|span| !span.links.is_empty())
    });
    let mut found = None;
    eventually("what it is linked to", || {
        let spans = collector.spans();
        let linked = spans.iter().filter(|span| !span.links.is_empty());
        let mut ahead = linked.filter_map(|span| spans.iter().find(|ahead| ahead.id == span.links[0]));
        found = ahead.next().cloned();
        found.is_some()
    });
    let ahead = found.unwrap();
    let headers = collector.last_head();
    assert!(headers.contains(&"authorization: bearer x".to_owned()) && headers.contains(&"tenant: 1".to_owned()));
    assert_eq!((ahead.name.as_str(), ahead.service.as_str()), ("call", "ours"));
    eventually("it has a far end", || {
        collector.spans().iter().any(|span| span.parent == ahead.id && span.name == "rpc")
    });
}

#[test]
fn who_samples_nothing_exports_nothing() {
    let collector = Collector::start();
    let endpoint = collector.endpoint();
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_TRACES_SAMPLER", "always_off")];
    let mut cluster = Cluster::start(&env);
    assert_eq!(cluster.redis().ask(&["GET", "a"]), "1");
    assert!(cluster.primary.stop().success() && cluster.secondary.stop().success());
    assert_eq!(collector.spans().iter().filter(|span| span.name != "spill").count(), 0);
    assert!(!values(&cluster.secondary.log(), "executed", "request").is_empty(), "the log has names all the same");
}

/// Requests go on, the log tells why spans do not, once, and nodes end in time.
fn disturbs_nobody(endpoint: &str, reason: &str) {
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_EXPORTER_OTLP_TIMEOUT", "500")];
    let mut cluster = Cluster::start(&env);
    let mut redis = cluster.redis();
    let started = Instant::now();
    // More than the queue of spans holds.
    for n in 0..3_000 {
        assert_eq!(redis.ask(&["SET", "a", &n.to_string()]), "+OK");
    }
    assert!(started.elapsed() < PATIENCE / 2, "{:?}", started.elapsed());
    let warnings = |log: &str| log.lines().filter(|line| line.contains("spans are not exported")).count();
    eventually("told", || warnings(&cluster.primary.log()) > 0);
    let stopping = Instant::now();
    assert!(cluster.primary.stop().success() && cluster.secondary.stop().success());
    assert!(stopping.elapsed() < Duration::from_secs(20), "{:?}", stopping.elapsed());
    let log = cluster.primary.log();
    assert_eq!(warnings(&log), 1, "told once");
    assert!(log.contains(reason), "{log}");
}

#[test]
fn a_collector_that_refuses_connections_disturbs_nobody() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    disturbs_nobody(&format!("http://{gone}"), "refused");
}

#[test]
fn a_collector_that_never_answers_disturbs_nobody() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    disturbs_nobody(&format!("http://{}", deaf.local_addr().unwrap()), "no answer within");
}

#[test]
fn without_a_collector_or_with_a_wrong_one_nodes_serve() {
    let cluster = Cluster::start(&[]);
    assert_eq!(cluster.redis().ask(&["GET", "a"]), "1");
    assert!(!cluster.primary.log().contains("spans"));
    for wrong in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ] {
        let cluster = Cluster::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), wrong]);
        assert_eq!(cluster.redis().ask(&["GET", "a"]), "1");
        assert!(cluster.primary.log().contains("spans are not exported"), "{}", cluster.primary.log());
    }
}
