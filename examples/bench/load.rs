//! Loads, all made by the load generator of `kv bench`, and what they cost a server.

use std::time::Duration;

use overspill::bench::{Extent, Pattern, Plan, Report};
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::process::{Server, cpu};

pub const CONNECTIONS: usize = 50;
pub const VALUE_BYTES: usize = 100;
/// With the number, keys have 16 bytes.
pub const PREFIX: &str = "key:";
/// Of the writers that fill a server.
const FILL_PIPELINE: usize = 64;

/// What a load was answered, and at what cost.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Answers a second.
    pub rate: f64,
    /// Processor time of the servers, in microseconds an answer.
    pub cpu_micros: f64,
    pub p50_micros: f64,
    pub p99_micros: f64,
    /// Of the requests that were due, the share that was answered.
    pub answered: f64,
}

/// 50 connections from one thread, nine GETs to a SET.
pub fn mixed(server: &Server, keys: u64, pipeline: usize, time: Duration) -> Plan {
    Plan {
        address: server.address.clone(),
        wire: server.wire,
        password: None,
        threads: 1,
        connections: CONNECTIONS,
        pipeline,
        gets_percent: 90,
        prefix: PREFIX.to_owned(),
        keys,
        pattern: Pattern::Uniform,
        value_bytes: VALUE_BYTES,
        extent: Extent::Time(time),
        rate: None,
        seed: 1,
    }
}

/// A SET of each key.
pub fn writes(server: &Server, keys: u64) -> Plan {
    let (gets_percent, pattern, extent) = (0, Pattern::Sequential, Extent::Requests(keys));
    Plan { gets_percent, pattern, extent, ..mixed(server, keys, FILL_PIPELINE, Duration::ZERO) }
}

/// Runs a load. An error in an answer is one of ours.
pub fn run(plan: &Plan) -> Outcome<Report> {
    let report = tokio::task::block_in_place(|| plan.run(&CancellationToken::new(), |_| {}))?;
    match &report.first_error {
        None => Ok(report),
        Some(error) => Err(format!("{} of {} answers were errors: {error}", report.errors, report.count()).into()),
    }
}

/// Gives a server its keys.
pub fn fill(server: &Server, keys: u64) -> Outcome<()> {
    run(&writes(server, keys)).map(|_| ())
}

/// Runs a load, and what it cost `servers` in all.
pub fn measure(plan: &Plan, servers: &[&Server]) -> Outcome<Sample> {
    let before = cpu(servers.iter().copied())?;
    let report = run(plan)?;
    let spent = cpu(servers.iter().copied())?.saturating_sub(before);
    let (count, all) = (report.count().max(1) as f64, report.all());
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    Ok(Sample {
        rate: report.rate(),
        cpu_micros: micros(spent) / count,
        p50_micros: micros(all.percentile(50.0)),
        p99_micros: micros(all.percentile(99.0)),
        answered: count / (count + report.unsent as f64),
    })
}

/// The same load as a command line of `kv bench`.
pub fn command(plan: &Plan) -> String {
    let pattern = match plan.pattern {
        Pattern::Uniform => String::new(),
        Pattern::Zipf(exponent) => format!(" --pattern zipf:{exponent}"),
        Pattern::Sequential => " --pattern sequential".to_owned(),
    };
    let extent = match plan.extent {
        Extent::Time(time) => format!("--time {}ms", time.as_millis()),
        Extent::Requests(requests) => format!("--requests {requests}"),
    };
    let rate = plan.rate.map(|rate| format!(" --rate {rate}")).unwrap_or_default();
    format!(
        "kv bench HOST:PORT -c {} -t {} -p {} --gets {} --keys {}{pattern} --value-size {} {extent}{rate}",
        plan.connections, plan.threads, plan.pipeline, plan.gets_percent, plan.keys, plan.value_bytes
    )
}

/// In words.
pub fn how(pipeline: usize) -> String {
    if pipeline == 1 { "one request at a time".to_owned() } else { format!("pipelines of {pipeline}") }
}
