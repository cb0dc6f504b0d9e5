//! Has a batch executed, for any door; logs it if requests are logged, and is its span if they are traced.

use std::net::SocketAddr;

use tokio::time::Instant;

use crate::request::{self, Kind, Span, TARGET, Trace};
use crate::service::{Batch, Replies, Service};

/// Where a batch came from.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    pub door: &'static str,
    pub peer: SocketAddr,
    /// What the peer calls it, and where it belongs there.
    pub trace: Option<Trace>,
}

/// Executes a batch as one request.
pub async fn ask<S: Service>(service: &S, batch: Batch, source: Source) -> Replies {
    let Source { door, peer, trace } = source;
    let commands = batch.commands.len();
    let mut span = Span::start(door, Kind::Server, trace);
    let Some(trace) = span.trace().or(trace).or_else(Trace::if_told) else { return service.execute(batch).await };
    if span.is_recorded() {
        span.set_text("network.peer.address", peer.ip().to_string());
        span.set_count("network.peer.port", peer.port().into());
        span.set_count("overspill.commands", commands);
    }
    let started = request::is_told().then(Instant::now);
    let replies = request::within(Some(trace), service.execute(batch)).await;
    if started.is_none() && !span.is_recorded() {
        return replies;
    }
    let errors = replies.iter().filter(|reply| reply.is_err()).count();
    span.set_errors(errors);
    if let Some(started) = started {
        let (request, micros) = (trace.request, started.elapsed().as_micros() as u64);
        tracing::debug!(target: TARGET, %request, door, %peer, commands, errors, micros, "answered");
    }
    replies
}
