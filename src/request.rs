//! Which request is being worked at, so that a log tells what one has caused: at its door, at the router, on the hop, and as statements
//! of the shard. All of it is logged at debug level under one target, `overspill::request`; while that is off, no request has an id, and
//! nothing is spent on it. With the feature `otel` and a collector the same places are spans, under the same id. Knows nothing of what
//! requests are.

#[cfg(not(feature = "otel"))]
mod no_span;
#[cfg(feature = "otel")]
mod span;
mod spans;

use std::fmt;
use std::future::Future;
use std::num::NonZeroU128;

use tracing::Level;

#[cfg(not(feature = "otel"))]
pub use self::no_span::{Span, is_traced};
#[cfg(feature = "otel")]
pub use self::span::{Span, is_traced, trace_with};
pub use self::spans::Spans;

/// The target of all that is logged of requests: `--log info,overspill::request=debug`.
pub const TARGET: &str = "overspill::request";

tokio::task_local! {
    static CURRENT: Option<Trace>;
}

/// Of one batch, from its door on. On the wire and for tracers it is the trace id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(NonZeroU128);

impl RequestId {
    /// A new one, if requests are logged.
    pub fn if_told() -> Option<Self> {
        if is_told() { Self::from_wire(rand::random()) } else { None }
    }

    /// Zero is none.
    pub fn from_wire(id: u128) -> Option<Self> {
        NonZeroU128::new(id).map(Self)
    }

    pub fn to_wire(self) -> u128 {
        self.0.get()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    pub request: RequestId,
    /// The span under which all that follows belongs; 0 is none.
    pub span: u64,
    /// Whether its spans are exported. Who sees it first decides.
    pub is_sampled: bool,
}

impl Trace {
    /// Of a new request, if requests are logged.
    pub fn if_told() -> Option<Self> {
        RequestId::if_told().map(|request| Self { request, span: 0, is_sampled: false })
    }
}

/// Whether a span stands for work that was asked for, or for work that is asked of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Server,
    Client,
}

/// Whether requests are logged.
pub fn is_told() -> bool {
    tracing::enabled!(target: TARGET, Level::DEBUG)
}

/// Whether requests leave any trace: logged, or as spans.
pub fn is_followed() -> bool {
    is_told() || is_traced()
}

/// The one that this task works at.
pub fn current() -> Option<RequestId> {
    trace().map(|trace| trace.request)
}

/// How far it has come.
pub fn trace() -> Option<Trace> {
    CURRENT.try_with(|trace| *trace).ok().flatten()
}

/// Does some work for a request. A task that the work starts is to be told again.
pub fn within<F: Future>(trace: Option<Trace>, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(trace, work)
}

/// Some requests in one field of a log line.
pub fn list(ids: impl IntoIterator<Item = RequestId>) -> String {
    let mut seen: Vec<RequestId> = Vec::new();
    for id in ids {
        if !seen.contains(&id) {
            seen.push(id);
        }
    }
    seen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_knows_its_request_and_a_task_that_it_starts_must_be_told() {
        assert_eq!(current(), None);
        let id = RequestId::from_wire(7);
        let inner = within(id.map(|request| Trace { request, span: 0, is_sampled: false }), async {
            let told = tokio::spawn(within(trace(), async { current() })).await.unwrap();
            (current(), told, tokio::spawn(async { current() }).await.unwrap())
        });
        assert_eq!(inner.await, (id, id, None));
        assert_eq!(within(None, async { current() }).await, None);
    }

    #[test]
    fn an_id_is_shown_as_tracers_show_it_and_zero_is_none() {
        let id = RequestId::from_wire(0xab).unwrap();
        assert_eq!(id.to_string(), "000000000000000000000000000000ab");
        assert_eq!((id.to_wire(), RequestId::from_wire(0)), (0xab, None));
        assert_eq!(list([id, id]), id.to_string());
        assert_eq!(RequestId::if_told(), None, "nothing is logged here");
    }
}
