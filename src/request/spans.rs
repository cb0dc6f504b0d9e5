//! Work that several requests share: what travels or is loaded together.

use super::{Kind, Span, Trace, is_traced};

/// A span for each request that is sampled. What the work causes belongs under one of them; the others are linked to that.
#[derive(Debug)]
pub struct Spans {
    trace: Option<Trace>,
    spans: Vec<Span>,
}

impl Spans {
    /// The first that is sampled goes ahead, else the first.
    pub fn start(name: &'static str, traces: impl Iterator<Item = Trace> + Clone) -> Self {
        let first = || traces.clone().next();
        let Some(ahead) = traces.clone().find(|trace| trace.is_sampled).or_else(first) else {
            return Self { trace: None, spans: Vec::new() };
        };
        if !is_traced() {
            return Self { trace: Some(ahead), spans: Vec::new() };
        }
        let span = Span::start(name, Kind::Client, Some(ahead));
        let trace = span.trace().unwrap_or(ahead);
        let mut spans = vec![span];
        for other in traces.filter(|other| other.is_sampled && *other != ahead) {
            let mut span = Span::start(name, Kind::Client, Some(other));
            span.link(trace);
            spans.push(span);
        }
        Self { trace: Some(trace), spans }
    }

    /// Where what the work causes belongs.
    pub fn trace(&self) -> Option<Trace> {
        self.trace
    }

    /// The work is done: what there is to say of it.
    pub fn end_with(self, mut tell: impl FnMut(&mut Span)) {
        for mut span in self.spans {
            if span.is_recorded() {
                tell(&mut span);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::RequestId;

    #[test]
    fn who_is_sampled_goes_ahead() {
        let trace = |id, is_sampled| Trace { request: RequestId::from_wire(id).unwrap(), span: 1, is_sampled };
        let ahead = |traces: &[Trace]| Spans::start("work", traces.iter().copied()).trace();
        assert_eq!(ahead(&[]), None);
        assert_eq!(ahead(&[trace(1, false), trace(2, false)]), Some(trace(1, false)));
        assert_eq!(ahead(&[trace(1, false), trace(2, true), trace(3, true)]), Some(trace(2, true)));
    }
}
