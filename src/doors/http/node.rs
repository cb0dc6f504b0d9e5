//! What a node tells of itself: figures, the map, whether it lives and whether it is ready.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::timeout;

use super::answer::{self, Answer, text};
use super::figures::{Seen, figures};
use super::{Peer, ask, unexpected};
use crate::cluster::{MapView, Readiness, ShardView};
use crate::command::{Command, Reply, ShardStats};
use crate::doors::Door;
use crate::metrics::CONTENT_TYPE as METRICS_TYPE;
use crate::service::{Batch, Service};
use crate::slots::SlotSet;

/// How long a scrape waits for figures; Prometheus waits ten seconds by default.
const FIGURES_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn stats<S: Service, M: Send + Sync + 'static>(
    State(door): State<Arc<Door<S, M>>>,
    Extension(peer): Extension<Arc<Peer>>,
) -> Answer {
    match ask(&door, &peer, Command::Stats).await? {
        Reply::Stats(shards) => answer::json(&json!({ "shards": shards })),
        _ => Err(unexpected()),
    }
}

pub(super) async fn map<S: Service, M: Send + Sync + 'static>(State(door): State<Arc<Door<S, M>>>) -> Answer {
    answer::json(&map_json(&door.topology.map()))
}

fn map_json(map: &MapView) -> serde_json::Value {
    let ranges = |slots: &SlotSet| -> Vec<[u16; 2]> {
        slots.ranges().iter().map(|&(first, last)| [first.get(), last.get()]).collect()
    };
    let shard = |shard: &ShardView| {
        let unserved: Vec<_> = shard
            .unserved
            .iter()
            .map(|unserved| json!({ "slots": ranges(&unserved.slots), "reason": unserved.reason }))
            .collect();
        json!({
            "name": shard.name,
            "address": shard.address,
            "me": shard.is_me,
            "epoch": shard.epoch,
            "slots": ranges(&shard.served),
            "unserved": unserved,
        })
    };
    let shards: Vec<_> = map.shards.iter().map(shard).collect();
    json!({ "epoch": map.epoch, "complete": map.is_complete(), "shards": shards })
}

/// Figures of shards that do not answer in time are missing; the node's own are always there.
pub(super) async fn metrics<S: Service, M: Send + Sync + 'static>(State(door): State<Arc<Door<S, M>>>) -> Response {
    let batch = Batch { commands: vec![Command::Stats], epoch: None, timeout: FIGURES_TIMEOUT };
    let replies = timeout(FIGURES_TIMEOUT, door.service.execute(batch)).await.unwrap_or_default();
    let stats: Vec<ShardStats> = match replies.into_iter().next() {
        Some(Ok(Reply::Stats(stats))) => stats,
        Some(Ok(_) | Err(_)) | None => Vec::new(),
    };
    let seen = Seen {
        role: door.options.role,
        uptime: door.started.elapsed(),
        map: &door.topology.map(),
        is_ready: door.topology.readiness().is_ready(),
        stats: &stats,
    };
    ([(CONTENT_TYPE, METRICS_TYPE)], door.metrics.encode(figures(&seen))).into_response()
}

/// That it answers is the answer.
pub(super) async fn livez() -> Response {
    text(StatusCode::OK, "alive")
}

pub(super) async fn readyz<S: Service, M: Send + Sync + 'static>(
    State(door): State<Arc<Door<S, M>>>,
    uri: Uri,
) -> Response {
    let readiness = door.topology.readiness();
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let is_verbose = uri.query().is_some_and(|query| query.split('&').any(|word| word.starts_with("verbose")));
    text(status, &if is_verbose { verbose(&readiness) } else { verdict(&readiness).to_owned() })
}

fn verdict(readiness: &Readiness) -> &'static str {
    if readiness.is_ready() { "ready" } else { "not ready" }
}

/// A line for each check, and the verdict.
fn verbose(readiness: &Readiness) -> String {
    let mut lines = String::new();
    for check in &readiness.checks {
        let (sign, sentence) = match &check.outcome {
            Ok(sentence) => ('+', sentence),
            Err(sentence) => ('-', sentence),
        };
        let note = if check.is_required { "" } else { " (not required)" };
        // A string takes everything.
        let _ = writeln!(lines, "[{sign}] {}{note}: {}", check.name, sentence.replace(char::is_control, " "));
    }
    lines.push_str(verdict(readiness));
    lines
}
