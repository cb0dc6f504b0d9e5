//! The sections of the page, each with what it starts and what it asks.

mod absent;
mod aside;
mod client;
mod durable;
mod evicting;
mod growth;
mod hits;
mod instructions;
mod latency;
mod memory;
mod original;
mod proxied;
mod spilled;
mod spilling;

use clap::ValueEnum;

use crate::page::Chapter;
use crate::{Bench, Outcome};

/// In the order of the page.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Section {
    /// What a hit costs, beside Redis, Valkey and memcached
    Hits,
    /// What the way through the primary costs, beside twemproxy
    Proxied,
    /// Latency against throughput
    Latency,
    /// Resident bytes a record
    Memory,
    /// Writes that are synced, beside Redis; recovery
    Durable,
    /// Writes that do not fit, beside raw upserts
    Evicting,
    /// Reads of what is only in the database, beside raw SELECTs
    Spilled,
    /// Reads of what is nowhere
    Absent,
    /// A skewed load, beside an application with Redis and MariaDB
    Aside,
    /// Latency of hits while records are spilled
    Spilling,
    /// More rows, more secondaries
    Growth,
    /// Instructions of the hot paths, from the table of `make instructions`
    Instructions,
    /// The load generator beside redis-benchmark
    Client,
    /// The figures of the system that this one came from
    Original,
}

impl Section {
    pub fn title(self) -> &'static str {
        match self {
            Self::Hits => hits::TITLE,
            Self::Proxied => proxied::TITLE,
            Self::Latency => latency::TITLE,
            Self::Memory => memory::TITLE,
            Self::Durable => durable::TITLE,
            Self::Evicting => evicting::TITLE,
            Self::Spilled => spilled::TITLE,
            Self::Absent => absent::TITLE,
            Self::Aside => aside::TITLE,
            Self::Spilling => spilling::TITLE,
            Self::Growth => growth::TITLE,
            Self::Instructions => instructions::TITLE,
            Self::Client => client::TITLE,
            Self::Original => original::TITLE,
        }
    }

    pub async fn run(self, bench: &Bench) -> Outcome<Chapter> {
        match self {
            Self::Hits => hits::run(bench).await,
            Self::Proxied => proxied::run(bench).await,
            Self::Latency => latency::run(bench).await,
            Self::Memory => memory::run(bench).await,
            Self::Durable => durable::run(bench).await,
            Self::Evicting => evicting::run(bench).await,
            Self::Spilled => spilled::run(bench).await,
            Self::Absent => absent::run(bench).await,
            Self::Aside => aside::run(bench).await,
            Self::Spilling => spilling::run(bench).await,
            Self::Growth => growth::run(bench).await,
            Self::Instructions => Ok(instructions::run()),
            Self::Client => client::run(bench).await,
            Self::Original => original::run(bench).await,
        }
    }
}
