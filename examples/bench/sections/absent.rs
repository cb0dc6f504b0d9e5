//! What it costs to ask for what is not there.

use crate::callers::{CONNECTIONS, connect, drive, get_absent, put, shard_stats, wait_spilled};
use crate::cluster::Cluster;
use crate::database::Place;
use crate::page::Chapter;
use crate::rounds::{Row, count};
use crate::{Bench, Outcome};

pub const TITLE: &str = "Absent";

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let (records, batch) = (bench.choose(1_000_000, 100_000), 64);
    let place = Place::create().await?;
    let cluster = Cluster::start(&place.url(), 1_000).await?;
    let clients = connect(&cluster.primary.address, CONNECTIONS).await?;
    drive(&clients, records / 10, batch, put).await?;
    wait_spilled(&clients).await?;
    let before = shard_stats(&clients).await?;
    let took = drive(&clients, records, batch, get_absent).await?;
    let after = shard_stats(&clients).await?;
    let statements = after.load_batches - before.load_batches;
    let mut chapter = Chapter::new(
        TITLE,
        format!(
            "GET of {} keys that do not exist, {batch} at a time through the primary, with {} records in the tier: {} a second.",
            count(records),
            count(after.spilled_rows),
            count((records as f64 / took.as_secs_f64()).round())
        ),
    );
    chapter.rows.push(Row {
        what: format!("SQL statements for {} absent keys", count(records)),
        ours: statements.to_string(),
        peers: String::new(),
        ratio: String::new(),
        goal: "0".to_owned(),
        is_reached: Some(statements == 0),
    });
    chapter.command(&cluster.secondary()?.command);
    Ok(chapter)
}
