//! What a node counts of its doors, and how figures become OpenMetrics text. One registry a node, never a global one: several
//! nodes share a process in tests. Knows nothing of commands, shards or protocols but their names.
//!
//! Counting is atomic additions only. What belongs to others is read when somebody asks: it comes as [`Figure`]s.

mod commands;
mod doors;
mod figures;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use commands::Commands;
pub use commands::{CommandMetrics, Outcome};
use doors::Doors;
pub use doors::{Connected, DoorMetrics, DoorName, Refusal};
pub use figures::{Figure, Kind, Value};

/// The content type of what [`Metrics::encode`] makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a node counts.
pub struct Metrics {
    commands: Arc<Commands>,
    doors: Arc<Doors>,
    registry: Registry,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let (commands, doors) = (Arc::<Commands>::default(), Arc::<Doors>::default());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&commands)));
        registry.register_collector(Box::new(Arc::clone(&doors)));
        Arc::new(Self { commands, doors, registry })
    }

    /// The counts of a command at a door: looked up once and kept, since looking up takes a lock.
    pub fn command(&self, door: DoorName, name: &'static str) -> Arc<CommandMetrics> {
        self.commands.of(door, name)
    }

    pub fn door(&self, door: DoorName) -> &DoorMetrics {
        self.doors.of(door)
    }

    /// A connection that is served at a door, until this is dropped.
    pub fn connected(&self, door: DoorName) -> Connected {
        Connected::new(Arc::clone(&self.doors), door)
    }

    /// A connection was not served.
    pub fn refused(&self, why: Refusal) {
        self.doors.refused(why);
    }

    /// An answer of the HTTP door went out.
    pub fn responded(&self, status: u16) {
        self.doors.responded(status);
    }

    /// Everything, with figures of others, as OpenMetrics text.
    pub fn encode(&self, others: Vec<Figure>) -> String {
        let mut more = Registry::default();
        more.register_collector(Box::new(figures::Figures(others)));
        let mut text = String::new();
        let encoded = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &more))
            .and_then(|()| encode_eof(&mut text));
        debug_assert!(encoded.is_ok(), "a string takes everything");
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A count that many threads add to.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

// Relaxed: a figure for people, no memory depends on it.
impl Counter {
    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn subtract(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn encode_counters<L: EncodeLabelSet, V: EncodeCounterValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (Option<L>, V)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        match labels {
            Some(labels) => family.encode_family(&labels)?.encode_counter::<NoLabelSet, V, f64>(&value, None)?,
            None => family.encode_counter::<NoLabelSet, V, f64>(&value, None)?,
        }
    }
    Ok(())
}

fn encode_gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (Option<L>, V)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        match labels {
            Some(labels) => family.encode_family(&labels)?.encode_gauge(&value)?,
            None => family.encode_gauge(&value)?,
        }
    }
    Ok(())
}

impl Collector for Commands {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_into(encoder)
    }
}

impl Collector for Doors {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_into(encoder)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lines(metrics: &Metrics, figures: Vec<Figure>) -> Vec<String> {
        metrics.encode(figures).lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_counted_is_told_as_openmetrics() {
        let metrics = Metrics::new();
        let get = metrics.command(DoorName::Http, "get");
        get.record(Outcome::Ok, 2, Duration::from_micros(300));
        metrics.command(DoorName::Http, "get").record(Outcome::Busy, 1, Duration::from_secs(60));
        metrics.door(DoorName::Rpc).received(10);
        let _connected = metrics.connected(DoorName::Http);
        drop(metrics.connected(DoorName::Http));
        metrics.refused(Refusal::TooMany);
        metrics.responded(404);
        metrics.responded(0);
        let figure = Figure::new("kv_records", "Records.", Kind::Gauge)
            .with([("shard", "a\"b".to_owned())], Value::Whole(7))
            .with([("shard", "c".to_owned())], Value::Fraction(0.5));
        let bare = Figure::new("kv_ready", "Fit.", Kind::Gauge).with([], true);
        let text = lines(&metrics, vec![figure, bare]);
        for expected in [
            r#"kv_commands_total{door="http",command="get",result="ok"} 2"#,
            r#"kv_commands_total{door="http",command="get",result="busy"} 1"#,
            "# TYPE kv_command_seconds histogram",
            r#"kv_command_seconds_bucket{le="0.00025",door="http",command="get"} 0"#,
            r#"kv_command_seconds_bucket{le="0.0005",door="http",command="get"} 2"#,
            r#"kv_command_seconds_bucket{le="10.0",door="http",command="get"} 2"#,
            r#"kv_command_seconds_bucket{le="+Inf",door="http",command="get"} 3"#,
            r#"kv_command_seconds_count{door="http",command="get"} 3"#,
            r#"kv_received_bytes_total{door="rpc"} 10"#,
            r#"kv_connections{door="http"} 1"#,
            r#"kv_connections_accepted_total{door="http"} 2"#,
            r#"kv_connections_refused_total{reason="too_many"} 1"#,
            r#"kv_http_responses_total{status="404"} 1"#,
            "# TYPE kv_records gauge",
            r#"kv_records{shard="a\"b"} 7"#,
            r#"kv_records{shard="c"} 0.5"#,
            "kv_ready 1",
        ] {
            assert!(text.iter().any(|line| line == expected), "{expected} in\n{}", text.join("\n"));
        }
        assert_eq!(text.last().map(String::as_str), Some("# EOF"));
        assert_eq!(text.iter().filter(|line| line.starts_with("# TYPE kv_commands ")).count(), 1);
    }

    #[test]
    fn two_nodes_in_one_process_count_for_themselves() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.command(DoorName::Rpc, "put").record(Outcome::Ok, 1, Duration::ZERO);
        assert!(one.encode(Vec::new()).contains("command=\"put\""));
        assert!(!other.encode(Vec::new()).contains("command=\"put\""));
    }
}
