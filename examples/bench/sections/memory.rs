//! What a record takes in memory.

use crate::cluster::Cluster;
use crate::load;
use crate::page::Chapter;
use crate::peers::Peer;
use crate::plot::bars;
use crate::process::Server;
use crate::rounds::{BYTES, Sides, count, tell, turns};
use crate::{Bench, OURS, Outcome};

pub const TITLE: &str = "Memory";
const BYTES_MAX: f64 = 150.0;
/// As `docs/adr/0011` tells.
const BLOCK_BYTES: f64 = 128.0;
const BY_HANDLE_BYTES: f64 = 12.0;

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let records = bench.choose(1_000_000, 200_000);
    let mut chapter = Chapter::new(
        TITLE,
        format!(
            "What {} records of a 16-byte key and a 100-byte value add to the resident memory of a server (VmRSS) that was started for it, divided by their number.",
            count(records)
        ),
    );
    // `None`: we.
    let sides: Vec<Option<&Peer>> = std::iter::once(None).chain(bench.peers.caches().map(Some)).collect();
    let mut samples = Sides::new();
    for round in 0..bench.rounds {
        tell("memory", round, bench.rounds);
        for side in turns(&sides, round) {
            let (name, bytes) = match side {
                None => {
                    let cluster = Cluster::start("none", 2 * records as usize).await?;
                    (OURS.to_owned(), bytes_a_record(cluster.secondary()?, records, &mut chapter)?)
                }
                Some(peer) => {
                    let server = peer.start(&[]).await?;
                    (peer.kind.to_string(), bytes_a_record(&server, records, &mut chapter)?)
                }
            };
            samples.push(&name, bytes);
        }
    }
    let names: Vec<String> = bench.peers.caches().map(|peer| peer.kind.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut row = samples.compare("resident bytes a record", OURS, &names, BYTES, None, |bytes| *bytes);
    let medians = samples.medians(|bytes| *bytes);
    row.goal = format!("≤ {BYTES_MAX} B");
    row.is_reached = medians.first().map(|(_, ours)| *ours <= BYTES_MAX);
    if let Some((_, ours)) = medians.first().filter(|_| row.is_missed()) {
        chapter.more.push(format!(
            "What stands in the way: of our {ours:.0} bytes, {BLOCK_BYTES} are the block with head, key and value, {BY_HANDLE_BYTES} where it is, its slot's chain and its last use, \
             and {:.0} the index, and what is free beside these.",
            ours - (BLOCK_BYTES + BY_HANDLE_BYTES)
        ));
    }
    chapter.rows.push(row);
    chapter
        .plots
        .push(("memory", bars("Resident bytes a record", &[("16-byte key, 100-byte value".to_owned(), medians)])?));
    Ok(chapter)
}

fn bytes_a_record(server: &Server, records: u64, chapter: &mut Chapter) -> Outcome<f64> {
    let before = server.resident()?;
    load::fill(server, records)?;
    chapter.command(&server.command);
    Ok(server.resident()?.saturating_sub(before) as f64 / records as f64)
}
