//! The dashboard and the alerts in `deploy/observability` speak of metrics that exist, with labels that they have.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "in a test a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use overspill::journal::{self, Fsync};
use overspill::node::{LocalCluster, LocalOptions};
use overspill::policy::PolicyKind;
use overspill::shard::{ShardOptions, WriteMode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The labels of each metric of a scrape.
type Known = BTreeMap<String, BTreeSet<String>>;

const PATIENCE: Duration = Duration::from_secs(20);
/// Put on by Prometheus.
const GIVEN_LABELS: [&str; 2] = ["instance", "job"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/observability").join(name)
}

fn dashboard() -> Value {
    serde_json::from_slice(&std::fs::read(file("grafana-dashboard.json")).unwrap()).unwrap()
}

async fn ask(address: SocketAddr, request: String) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await
}

/// What a primary and a secondary of a real cluster tell, after some work.
async fn scrapes() -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(LocalOptions {
        data_dir: folder.path().to_owned(),
        secondaries: 2,
        secret: None,
        journal: journal::Options { segment_bytes: 1 << 20, ..journal::Options::new(Fsync::Never, 1 << 26) },
        shard: ShardOptions {
            capacity: 10,
            memory_bytes_max: 64 * 1024 * 1024,
            policy: PolicyKind::Lru,
            write_mode: WriteMode::Spill,
            accept_loss: false,
            strict: false,
            drain_timeout: PATIENCE,
            sweep_interval: Duration::from_secs(3600),
            seed: 7,
        },
    })
    .await
    .unwrap();
    cluster.until_served(PATIENCE).await.unwrap();
    for i in 0..50 {
        let put = format!("PUT /v1/kv/key:{i} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1");
        assert!(ask(cluster.address(), put).await.starts_with("HTTP/1.1 204"));
    }
    get(cluster.address(), "/v1/kv/none").await;
    let mut scrapes = Vec::new();
    for address in std::iter::once(cluster.address()).chain(cluster.secondaries()) {
        let answer = get(address, "/metrics").await;
        scrapes.push(answer.split_once("\r\n\r\n").unwrap().1.to_owned());
    }
    cluster.stop().await.unwrap();
    scrapes
}

/// The samples of a scrape, and that it is as OpenMetrics wants it.
fn known(scrapes: &[String]) -> Known {
    let mut known = Known::new();
    for scrape in scrapes {
        assert!(scrape.ends_with("# EOF\n"));
        let mut families = BTreeSet::new();
        for line in scrape.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                assert!(families.insert(family.to_owned()), "twice: {family}");
            }
            if line.starts_with('#') {
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            assert!(name.starts_with("kv_"), "{line}");
            known.entry(name.to_owned()).or_default().extend(labels_of(labels));
        }
    }
    known
}

/// The names before `=`, `=~`, `!=` and `!~`.
fn labels_of(selector: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    let (mut word, mut is_quoted) = (String::new(), false);
    for c in selector.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            c if c.is_ascii_alphanumeric() || c == '_' => word.push(c),
            '=' | '!' if !word.is_empty() => {
                labels.insert(std::mem::take(&mut word));
            }
            _ => word.clear(),
        }
    }
    labels
}

/// Each metric that an expression names, with the labels that it selects by.
fn metrics_in(expression: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("kv_") {
        let name: String = rest[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        rest = &rest[at + name.len()..];
        let selector = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
        found.push((name, labels_of(selector)));
    }
    found
}

fn unknown(expression: &str, known: &Known) -> Vec<String> {
    let mut unknown = Vec::new();
    for (name, labels) in metrics_in(expression) {
        let Some(its) = known.get(&name) else {
            unknown.push(format!("no metric {name} in: {expression}"));
            continue;
        };
        let strange = labels.iter().filter(|label| !its.contains(*label) && !GIVEN_LABELS.contains(&label.as_str()));
        unknown.extend(strange.map(|label| format!("{name} has no label {label} in: {expression}")));
    }
    unknown
}

/// All texts under some keys, wherever they are.
fn texts<'a>(value: &'a Value, keys: &[&str], found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                found.extend(value.as_str().filter(|_| keys.contains(&key.as_str())));
                texts(value, keys, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| texts(value, keys, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// One alert, as far as it is read here.
#[derive(Debug, Default)]
struct Alert {
    name: String,
    fields: BTreeMap<String, String>,
}

/// The alerts of a rule file that is written as ours is: block style, folded text as `>-`. Anything else is a failure.
fn alerts(text: &str) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    let mut folded: Option<(usize, String)> = None;
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        assert!(!line.contains('\t') && !line.ends_with(' '), "{line:?}");
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some((of, key)) = &folded
            && indent > *of
        {
            let field = alerts.last_mut().unwrap().fields.get_mut(key).unwrap();
            field.push_str(line);
            field.push(' ');
            continue;
        }
        folded = None;
        let (key, value) = line.split_once(':').unwrap_or_else(|| panic!("no key: {line}"));
        let (key, value) = (key.trim_start_matches("- "), value.trim());
        if key == "alert" {
            alerts.push(Alert { name: value.to_owned(), ..Alert::default() });
        } else if let Some(alert) = alerts.last_mut().filter(|_| key != "name" && key != "rules") {
            let is_folded = value == ">-";
            let value = if is_folded { "" } else { value };
            assert!(alert.fields.insert(key.to_owned(), value.to_owned()).is_none(), "twice: {key} of {}", alert.name);
            folded = is_folded.then(|| (indent, key.to_owned()));
        }
    }
    alerts
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dashboard_and_alerts_name_is_there() {
    let known = known(&scrapes().await);
    let board = dashboard();
    let mut expressions = Vec::new();
    texts(&board, &["expr", "definition"], &mut expressions);
    assert!(expressions.len() > 50, "{}", expressions.len());
    let rules = std::fs::read_to_string(file("prometheus-alerts.yaml")).unwrap();
    let alerts = alerts(&rules);
    expressions.extend(alerts.iter().map(|alert| alert.fields["expr"].as_str()));
    let unknown: Vec<String> = expressions.iter().flat_map(|expression| unknown(expression, &known)).collect();
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
    // And the other way round: what nobody looks at is not worth its name.
    let named: BTreeSet<String> =
        expressions.iter().flat_map(|expression| metrics_in(expression)).map(|(name, _)| name).collect();
    let unseen: Vec<&String> = known.keys().filter(|name| !named.contains(*name)).collect();
    assert!(unseen.is_empty(), "in no panel and no alert: {unseen:?}");
}

#[test]
fn every_alert_says_what_is_wrong_and_what_to_do() {
    let alerts = alerts(&std::fs::read_to_string(file("prometheus-alerts.yaml")).unwrap());
    assert!(alerts.len() >= 8, "{}", alerts.len());
    let mut names = BTreeSet::new();
    for alert in &alerts {
        let Alert { name, fields } = alert;
        assert!(names.insert(name), "twice: {name}");
        assert!(name.starts_with("Overspill"), "{name}");
        for key in ["expr", "severity", "summary", "description"] {
            assert!(fields.get(key).is_some_and(|field| field.len() > 3), "{name} has no {key}");
        }
        assert!(["warning", "critical"].contains(&fields["severity"].as_str()), "{name}");
        assert!(fields["description"].len() > 80, "{name} does not say what to do");
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            let count = |c| fields["expr"].matches(c).count();
            assert_eq!(count(open), count(close), "{name}: {}", fields["expr"]);
        }
    }
}

#[test]
fn dashboard_has_its_rows_and_no_panel_twice() {
    let board = dashboard();
    let panels = board["panels"].as_array().unwrap();
    let rows: Vec<&str> =
        panels.iter().filter(|panel| panel["type"] == "row").map(|panel| panel["title"].as_str().unwrap()).collect();
    let expected = ["Cluster", "Traffic", "Latency", "Hits and misses", "Memory", "Spill and tier", "Journal"];
    assert_eq!(rows, expected);
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{}", panel["title"]);
    }
}

/// A real parser has the last word, where there is one.
#[test]
fn rules_are_yaml() {
    let code = "import sys, yaml; d = yaml.safe_load(open(sys.argv[1])); \
        print(sum(len(g['rules']) for g in d['groups']))";
    let mut python = Command::new("python3");
    let output = python.args(["-c", code]).arg(file("prometheus-alerts.yaml")).stderr(Stdio::piped()).output();
    let missing = |stderr: &[u8]| String::from_utf8_lossy(stderr).contains("No module named 'yaml'");
    let Some(output) = output.ok().filter(|output| !missing(&output.stderr)) else {
        eprintln!("SKIPPED: there is no python3 with yaml");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ours = alerts(&std::fs::read_to_string(file("prometheus-alerts.yaml")).unwrap()).len();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), ours.to_string());
}

#[test]
fn expressions_are_read_right() {
    let found = metrics_in("sum by (le) (rate(kv_a_bucket{x=~\"kv_no, y=z\",z!=\"\"}[5m])) / kv_b_total > 0");
    let labels = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(found[0], ("kv_a_bucket".to_owned(), labels(&["x", "z"])));
    assert!(found.iter().any(|(name, _)| name == "kv_b_total"));
    let known = Known::from([("kv_a".to_owned(), labels(&["x"]))]);
    assert!(unknown("kv_a{x=\"1\",instance=\"i\"}", &known).is_empty());
    assert_eq!(unknown("kv_a{y=\"1\"} + kv_c", &known).len(), 2);
}
