//! Spans as an `ExportTraceServiceRequest` in protobuf (opentelemetry-proto 1, `trace/v1/trace.proto`), which is all that would be used
//! of opentelemetry-otlp and the dozen crates below it. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Link, SpanContext, SpanKind, Status};
use opentelemetry::{Key, SpanId, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;

/// The spans of one process.
pub fn encode(resource: &Resource, spans: &[SpanData]) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |resource_spans| {
        resource_spans.message(1, |of| resource.iter().for_each(|(key, value)| of.attribute(1, key, value)));
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(1, |scope| scope.bytes(1, env!("CARGO_PKG_NAME").as_bytes()));
            spans.iter().for_each(|span| scope_spans.message(2, |message| message.span(span)));
        });
    });
    request.0
}

/// The fields of a message, one after the other. Those that have their default are left out.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    const VARINT: u64 = 0;
    const FIXED64: u64 = 1;
    const BYTES: u64 = 2;
    const FIXED32: u64 = 5;

    fn span(&mut self, span: &SpanData) {
        self.context(&span.span_context);
        if span.parent_span_id != SpanId::INVALID {
            self.bytes(4, &span.parent_span_id.to_bytes());
        }
        self.bytes(5, span.name.as_bytes());
        self.varint(6, kind(&span.span_kind));
        self.fixed64(7, nanos(span.start_time));
        self.fixed64(8, nanos(span.end_time));
        span.attributes.iter().for_each(|attribute| self.attribute(9, &attribute.key, &attribute.value));
        self.varint(10, span.dropped_attributes_count.into());
        span.links.iter().for_each(|link| self.message(13, |message| message.link(link)));
        self.varint(14, span.links.dropped_count.into());
        self.message(15, |message| message.status(&span.status));
        self.fixed32(16, span.span_context.trace_flags().to_u8().into());
    }

    fn link(&mut self, link: &Link) {
        self.context(&link.span_context);
        self.fixed32(6, link.span_context.trace_flags().to_u8().into());
    }

    /// How spans and links begin.
    fn context(&mut self, context: &SpanContext) {
        self.bytes(1, &context.trace_id().to_bytes());
        self.bytes(2, &context.span_id().to_bytes());
    }

    fn status(&mut self, status: &Status) {
        match status {
            Status::Unset => {}
            Status::Ok => self.varint(3, 1),
            Status::Error { description } => {
                self.bytes(2, description.as_bytes());
                self.varint(3, 2);
            }
        }
    }

    fn attribute(&mut self, field: u64, key: &Key, value: &Value) {
        self.message(field, |message| {
            message.bytes(1, key.as_str().as_bytes());
            // Which of the kinds it is shows by its field, so a default is told too.
            message.message(2, |any| match value {
                Value::Bool(is) => any.told_varint(2, (*is).into()),
                Value::I64(n) => any.told_varint(3, n.cast_unsigned()),
                Value::F64(n) => any.told_fixed64(4, n.to_bits()),
                text => any.told_bytes(1, text.as_str().as_bytes()),
            });
        });
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.told_bytes(field, &inner.0);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.told_bytes(field, bytes);
        }
    }

    fn varint(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.told_varint(field, value);
        }
    }

    fn fixed64(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.told_fixed64(field, value);
        }
    }

    fn fixed32(&mut self, field: u64, value: u32) {
        if value != 0 {
            self.tag(field, Self::FIXED32);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn told_bytes(&mut self, field: u64, bytes: &[u8]) {
        self.tag(field, Self::BYTES);
        self.raw(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn told_varint(&mut self, field: u64, value: u64) {
        self.tag(field, Self::VARINT);
        self.raw(value);
    }

    fn told_fixed64(&mut self, field: u64, value: u64) {
        self.tag(field, Self::FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn tag(&mut self, field: u64, wire_type: u64) {
        self.raw(field << 3 | wire_type);
    }

    fn raw(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

fn kind(kind: &SpanKind) -> u64 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

fn nanos(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_as_protobuf_has_them() {
        let mut message = Message::default();
        message.varint(1, 150);
        message.bytes(2, b"testing");
        message.fixed32(16, 1);
        message.fixed64(7, 2);
        message.message(3, |inner| inner.varint(1, 150));
        message.varint(1, 0);
        let expected: &[&[u8]] = &[
            &[0x08, 0x96, 0x01, 0x12, 0x07],
            b"testing",
            &[0x85, 0x01, 1, 0, 0, 0, 0x39, 2, 0, 0, 0, 0, 0, 0, 0],
            &[0x1a, 0x03, 0x08, 0x96, 0x01],
        ];
        assert_eq!(message.0, expected.concat());
    }
}
