//! The figures of the system that this one came from, and ours: everything through the primary, by RPC, all readings checked.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::callers::{
    CALLERS_PER_CONNECTION, CONNECTIONS, connect, drive, get, get_absent, put, shard_stats, wait_spilled,
};
use crate::cluster::Cluster;
use crate::database::Place;
use crate::page::Chapter;
use crate::rounds::count;
use crate::{Bench, Outcome};

pub const TITLE: &str = "Beside the original";

/// What the original system did on two cores: PUT and GET a second with room for everything, and with eviction.
const ORIGINAL: [(&str, f64); 4] =
    [("PUT in memory", 8_000.0), ("GET in memory", 5_600.0), ("PUT evicting", 2_000.0), ("GET of spilled", 1_700.0)];
/// What is asked in one call.
const BATCHES: [(usize, &str); 2] = [(1, "one at a time"), (64, "64 a batch")];

/// A table of what was done, and how often a second.
struct Table {
    records: usize,
    text: String,
}

impl Table {
    fn new(records: usize) -> Self {
        Self { records, text: "| | a second | times original |\n|---|---|---|\n".to_owned() }
    }

    fn report(&mut self, what: &str, how: &str, took: Duration) {
        let rate = self.records as f64 / took.as_secs_f64();
        let times = ORIGINAL.iter().find(|(name, _)| *name == what).map(|(_, original)| rate / original);
        let times = times.map(|times| format!("{times:.1}")).unwrap_or_default();
        let _ = writeln!(self.text, "| {what}, {how} | {} | {times} |", count(rate.round())); // a string takes it
    }
}

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let records = bench.choose(1_000_000, 100_000);
    let place = Place::create().await?;
    let mut table = Table::new(records);

    let cluster = Cluster::start("none", 10 * records).await?;
    let clients = connect(&cluster.primary.address, CONNECTIONS).await?;
    for (batch, name) in BATCHES {
        eprintln!("in memory, {name}");
        table.report("PUT in memory", name, drive(&clients, records, batch, put).await?);
        table.report("GET in memory", name, drive(&clients, records, batch, get).await?);
    }
    drop((clients, cluster));

    let cluster = Cluster::start(&place.url(), 1_000).await?;
    let clients = connect(&cluster.primary.address, CONNECTIONS).await?;
    eprintln!("evicting");
    table.report("PUT evicting", "one at a time", drive(&clients, records, 1, put).await?);
    let before = wait_spilled(&clients).await?.spilled_rows;
    let started = Instant::now();
    table.report("PUT evicting", "64 a batch", drive(&clients, records, 64, put).await?);
    let stats = wait_spilled(&clients).await?;
    let rate = (stats.spilled_rows - before) as f64 / started.elapsed().as_secs_f64().max(0.001);
    for (batch, name) in BATCHES {
        eprintln!("spilled, {name}");
        table.report("GET of spilled", name, drive(&clients, records, batch, get).await?);
    }
    let before = shard_stats(&clients).await?.load_batches;
    table.report("GET of absent", "64 a batch", drive(&clients, records, 64, get_absent).await?);
    let statements = shard_stats(&clients).await?.load_batches - before;
    let mut chapter = Chapter::new(
        TITLE,
        format!(
            "What the system that Overspill came from did on two cores, and what a secondary and a primary do here with {} records: by RPC through the primary, {CONNECTIONS} \
             connections with {CALLERS_PER_CONNECTION} callers each; evicting, memory has room for 1,000, the rest goes to {}.",
            count(records),
            place.kind()
        ),
    );
    chapter.more.push(table.text);
    chapter.more.push(format!(
        "{} rows were spilled in {} batches, {rate:.0} a second in the second run. {statements} SQL statements were made for {records} absent keys. Every one of the {records} records was \
         read back as last written.",
        stats.spilled_rows, stats.spilled_batches
    ));
    chapter.command(&cluster.secondary()?.command);
    chapter.command(&cluster.primary.command);
    Ok(chapter)
}
