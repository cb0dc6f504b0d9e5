//! Spans with the feature `otel`: OpenTelemetry's, from when there is a tracer. Who is sampled, what ids there are and what becomes of
//! an ended span is the tracer's business.

use std::sync::OnceLock;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceFlags, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

use super::{Kind, RequestId, Trace};

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// From now on there are spans, in the whole process. The first tracer stays.
pub fn trace_with(tracer: SdkTracer) {
    TRACER.get_or_init(|| tracer);
}

/// Whether there are spans.
pub fn is_traced() -> bool {
    TRACER.get().is_some()
}

/// Some work for a request. Ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    trace: Option<Trace>,
    /// Boxed because it is large, and futures hold it.
    recorded: Option<Box<SdkSpan>>,
}

impl Span {
    /// The first of a request has no parent.
    pub fn start(name: &'static str, kind: Kind, parent: Option<Trace>) -> Self {
        let Some(tracer) = TRACER.get() else { return Self { trace: None, recorded: None } };
        let kind = match kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
        };
        let parent = parent.map(|parent| Context::new().with_remote_span_context(parent.into()));
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        let span = tracer.build_with_context(builder, &parent.unwrap_or_default());
        let trace = trace_of(span.span_context());
        Self { trace, recorded: span.is_recording().then(|| Box::new(span)) }
    }

    /// Where what it causes belongs. None while nothing is traced.
    pub fn trace(&self) -> Option<Trace> {
        self.trace
    }

    /// Whether what is set is kept.
    pub fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// It has to do with that one, and is not below it.
    pub fn link(&mut self, other: Trace) {
        if let Some(span) = &mut self.recorded {
            span.add_link(other.into(), Vec::new());
        }
    }

    pub fn set_text(&mut self, key: &'static str, text: String) {
        if let Some(span) = &mut self.recorded {
            span.set_attribute(KeyValue::new(key, text));
        }
    }

    pub fn set_count(&mut self, key: &'static str, count: usize) {
        if let Some(span) = &mut self.recorded {
            span.set_attribute(KeyValue::new(key, i64::try_from(count).unwrap_or(i64::MAX)));
        }
    }

    /// Before it would be dropped.
    pub fn end(self) {}

    /// So many of its commands failed; none is fine.
    pub fn set_errors(&mut self, errors: usize) {
        if errors > 0 {
            self.set_count("overspill.errors", errors);
            if let Some(span) = &mut self.recorded {
                span.set_status(Status::error(""));
            }
        }
    }
}

fn trace_of(context: &SpanContext) -> Option<Trace> {
    let request = RequestId::from_wire(u128::from_be_bytes(context.trace_id().to_bytes()))?;
    let span = u64::from_be_bytes(context.span_id().to_bytes());
    Some(Trace { request, span, is_sampled: context.is_sampled() })
}

impl From<Trace> for SpanContext {
    fn from(Trace { request, span, is_sampled }: Trace) -> Self {
        let flags = TraceFlags::default().with_sampled(is_sampled);
        SpanContext::new(request.to_wire().into(), span.into(), flags, true, TraceState::NONE)
    }
}
