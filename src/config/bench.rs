//! The command line of `kv bench`.

use std::time::Duration;

use anyhow::ensure;
use clap::{Args, ValueEnum};

use super::{HostPort, access};
use crate::bench::{self, Extent, Pattern, Plan, Wire};
use crate::record;

const TIME: Duration = Duration::from_secs(10);

/// Puts a load on a server and tells how long its answers took.
///
/// GETs and SETs, by the protocol of Redis or of memcached, so that one client measures them all: Overspill's secondaries and
/// primaries, Redis, Valkey, memcached, proxies. It writes keys that begin with the prefix, and leaves them there; fill them first with
/// `--gets 0 --pattern sequential --requests N` for N keys. It exits with 0, or 2 if there are no figures.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Address of the server
    #[arg(value_name = "HOST:PORT")]
    pub node: HostPort,

    /// What the server speaks
    #[arg(long, env = "KV_BENCH_PROTOCOL", default_value = "resp", value_name = "PROTOCOL")]
    protocol: WireArg,

    /// Connections in all
    #[arg(long, short = 'c', env = "KV_BENCH_CONNECTIONS", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N")]
    connections: u32,

    /// Threads; one does some 150,000 requests a second without pipelines
    #[arg(long, short = 't', env = "KV_BENCH_THREADS", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024), value_name = "N")]
    threads: u32,

    /// Most requests of a connection that are on their way at once
    #[arg(long, short = 'p', env = "KV_BENCH_PIPELINE", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N")]
    pipeline: u32,

    /// How many of a hundred requests are GETs; the others are SETs
    #[arg(long, env = "KV_BENCH_GETS", default_value = "90", value_parser = clap::value_parser!(u32).range(0..=100), value_name = "PERCENT")]
    gets: u32,

    /// How many keys there are
    #[arg(long, short = 'k', env = "KV_BENCH_KEYS", default_value = "100000", value_parser = clap::value_parser!(u64).range(1..=999_999_999_999), value_name = "N")]
    keys: u64,

    /// Which key is next: `uniform`, `zipf:S` (the n-th most popular is asked for n^-S times as often as the first), or `sequential`
    #[arg(long, env = "KV_BENCH_PATTERN", default_value = "uniform", value_name = "PATTERN")]
    pattern: Pattern,

    /// What keys begin with; twelve digits follow
    #[arg(long, env = "KV_BENCH_PREFIX", default_value = "key:", value_name = "TEXT")]
    prefix: String,

    /// Bytes of a value
    #[arg(long, short = 'd', env = "KV_BENCH_VALUE_SIZE", default_value = "100", value_name = "BYTES")]
    value_size: usize,

    /// How long, as in 30s; without --requests it is 10s
    #[arg(long, env = "KV_BENCH_TIME", value_parser = humantime::parse_duration, value_name = "TIME", conflicts_with = "requests")]
    time: Option<Duration>,

    /// How many requests in all
    #[arg(long, short = 'n', env = "KV_BENCH_REQUESTS", value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    requests: Option<u64>,

    /// Requests a second in all, whether or not the server keeps up: each latency counts from when its request was due, so that no
    /// waiting is hidden. Without it, each connection waits for its answers before it asks again
    #[arg(long, env = "KV_BENCH_RATE", value_parser = rate, value_name = "PER_SECOND")]
    rate: Option<f64>,

    /// The same seed, the same keys and commands; default: another one each time
    #[arg(long, env = "KV_BENCH_SEED", value_name = "N")]
    seed: Option<u64>,

    /// One JSON object instead of a table
    #[arg(long, env = "KV_BENCH_JSON")]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WireArg {
    Resp,
    Memcached,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.replace('_', "").parse::<f64>() {
        Ok(rate) if (1e-3..=1e9).contains(&rate) => Ok(rate),
        _ => Err("expected requests a second, from 0.001 to 1000000000".to_owned()),
    }
}

impl BenchArgs {
    /// # Errors
    /// If keys or values would be too long, or there is something wrong with the password.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let key_bytes = self.prefix.len() + bench::KEY_DIGITS;
        ensure!(
            key_bytes <= record::KEY_BYTES_MAX,
            "--prefix is too long: keys have at most {} bytes",
            record::KEY_BYTES_MAX
        );
        ensure!(
            !self.prefix.contains([' ', '\r', '\n']),
            "--prefix is part of keys: it may not have spaces or line ends"
        );
        ensure!(self.value_size <= record::VALUE_BYTES_MAX, "--value-size is at most {}", record::VALUE_BYTES_MAX);
        Ok(Plan {
            address: self.node.to_string(),
            wire: match self.protocol {
                WireArg::Resp => Wire::Resp,
                WireArg::Memcached => Wire::Memcached,
            },
            password: access::password()?,
            threads: self.threads as usize,
            connections: self.connections as usize,
            pipeline: self.pipeline as usize,
            gets_percent: self.gets,
            prefix: self.prefix.clone(),
            keys: self.keys,
            pattern: self.pattern,
            value_bytes: self.value_size,
            extent: self.requests.map_or(Extent::Time(self.time.unwrap_or(TIME)), Extent::Requests),
            rate: self.rate,
            seed: self.seed.unwrap_or_else(rand::random),
        })
    }
}
