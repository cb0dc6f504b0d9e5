//! Has a batch executed, for any door, and logs it if requests are logged.

use std::net::SocketAddr;

use tokio::time::Instant;

use crate::request::{self, RequestId, TARGET};
use crate::service::{Batch, Replies, Service};

/// Where a batch came from.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    pub door: &'static str,
    pub peer: SocketAddr,
    /// What the peer calls it.
    pub request: Option<RequestId>,
}

/// Executes a batch as one request.
pub async fn ask<S: Service>(service: &S, batch: Batch, source: Source) -> Replies {
    let Source { door, peer, request } = source;
    let is_told = request::is_told();
    let Some(request) = request.or_else(RequestId::if_told) else { return service.execute(batch).await };
    let commands = batch.commands.len();
    let started = is_told.then(Instant::now);
    let replies = request::within(Some(request), service.execute(batch)).await;
    if let Some(started) = started {
        let errors = replies.iter().filter(|reply| reply.is_err()).count();
        let micros = started.elapsed().as_micros() as u64;
        tracing::debug!(target: TARGET, %request, door, %peer, commands, errors, micros, "answered");
    }
    replies
}
