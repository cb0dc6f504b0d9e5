//! Figures that belong to others, read when somebody asks for them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    CounterValueEncoder, DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, GaugeValueEncoder,
};

use super::{encode_counters, encode_gauges};

/// One metric with its samples.
#[derive(Debug, Clone)]
pub struct Figure {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<(Labels, Value)>,
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only rises; `_total` is put behind its name.
    Counter,
    Gauge,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Whole(u64),
    Fraction(f64),
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Self::Whole(n)
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Self {
        Self::Whole(is.into())
    }
}

impl Figure {
    pub fn new(name: &'static str, help: &'static str, kind: Kind) -> Self {
        Self { name, help, kind, samples: Vec::new() }
    }

    pub fn with(mut self, labels: impl Into<Labels>, value: impl Into<Value>) -> Self {
        self.samples.push((labels.into(), value.into()));
        self
    }
}

impl EncodeCounterValue for Value {
    fn encode(&self, encoder: &mut CounterValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(n) => EncodeCounterValue::encode(n, encoder),
            Self::Fraction(n) => EncodeCounterValue::encode(n, encoder),
        }
    }
}

impl EncodeGaugeValue for Value {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Whole(n) => EncodeGaugeValue::encode(n, encoder),
            Self::Fraction(n) => EncodeGaugeValue::encode(n, encoder),
        }
    }
}

#[derive(Debug)]
pub(super) struct Figures(pub Vec<Figure>);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Figure { name, help, kind, samples } in &self.0 {
            let (labeled, bare): (Vec<_>, Vec<_>) = samples.iter().partition(|(labels, _)| !labels.is_empty());
            let labeled = labeled.into_iter().map(|(labels, value)| (Some(labels.as_slice()), *value));
            let samples = labeled.chain(bare.into_iter().map(|(_, value)| (None, *value)));
            match kind {
                Kind::Counter => encode_counters(&mut encoder, name, help, samples)?,
                Kind::Gauge => encode_gauges(&mut encoder, name, help, samples)?,
            }
        }
        Ok(())
    }
}
