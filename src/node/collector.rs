//! Spans of requests on their way to an OpenTelemetry collector, by OTLP over HTTP, as the environment says. What the SDK does: it
//! samples, collects spans in a bounded queue and hands them over in batches, on a thread of its own; a full queue drops them. So
//! nothing waits for the collector.

mod http;
mod otlp;

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use opentelemetry::trace::TracerProvider;
use opentelemetry::{Key, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Handle;

use self::http::Endpoint;
use crate::request;
use crate::sync::Mutex;

/// How long the end of the process waits for the last spans.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// Between two warnings.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Runs a node and exports its spans as those of `service`, if the environment names a collector. What is not exported when it ends
/// gets a few seconds.
pub async fn traced<T>(service: &'static str, run: impl Future<Output = T>) -> T {
    let provider = match Endpoint::from_env() {
        Ok(None) => None,
        Ok(Some(endpoint)) => Some(start(service, endpoint)),
        Err(reason) => {
            tracing::warn!(reason, "spans are not exported");
            None
        }
    };
    let output = run.await;
    if let Some(provider) = provider {
        // It blocks, and waits for tasks of this runtime.
        let stopped = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_MAX)).await;
        let failed = |reason: &dyn Display| tracing::warn!(%reason, "the last spans were not exported");
        match stopped {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        }
    }
    output
}

fn start(service: &'static str, endpoint: Endpoint) -> SdkTracerProvider {
    tracing::info!(%endpoint, "spans are exported");
    let resource = resource(service);
    let exporter = Exporter {
        endpoint,
        runtime: Handle::current(),
        resource: Resource::builder_empty().build(),
        failing: Mutex::default(),
    };
    let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
    request::trace_with(provider.tracer("overspill"));
    provider
}

/// Who exports. What the environment says of it comes first.
fn resource(service: &'static str) -> Resource {
    let instance = format!("{:032x}", rand::random::<u128>());
    let of_env = EnvResourceDetector::new();
    let name = http::variable("OTEL_SERVICE_NAME")
        .or_else(|| Some(of_env.detect().get(&Key::new("service.name"))?.to_string()));
    Resource::builder_empty()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", instance))
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(of_env)])
        .with_service_name(name.unwrap_or_else(|| service.to_owned()))
        .build()
}

#[derive(Debug)]
struct Exporter {
    endpoint: Endpoint,
    /// Where the connection lives.
    runtime: Handle,
    resource: Resource,
    failing: Mutex<Failing>,
}

#[derive(Debug, Default)]
struct Failing {
    told_at: Option<Instant>,
    /// Since the last warning.
    lost: usize,
}

impl SpanExporter for Exporter {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let sending = self.endpoint.clone().send(otlp::encode(&self.resource, &spans));
        // The caller's thread has no runtime.
        let sent = match self.runtime.spawn(sending).await {
            Ok(sent) => sent,
            Err(error) => Err(error.to_string()),
        };
        self.tell(&sent, spans.len());
        sent.map_err(OTelSdkError::InternalFailure)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.clone();
    }
}

impl Exporter {
    fn tell(&self, sent: &Result<(), String>, spans: usize) {
        let mut failing = self.failing.lock();
        let Err(reason) = sent else {
            let was_told = std::mem::take(&mut *failing).told_at.is_some();
            drop(failing);
            if was_told {
                tracing::info!(endpoint = %self.endpoint, "spans are exported again");
            }
            return;
        };
        failing.lost += spans;
        if failing.told_at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        failing.told_at = Some(Instant::now());
        let lost = std::mem::take(&mut failing.lost);
        drop(failing);
        tracing::warn!(endpoint = %self.endpoint, reason, lost, "spans are not exported");
    }
}
