//! Reads of what is only in the database.

use std::time::{Duration, Instant};

use overspill::bench::Plan;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sqlx::mysql::MySqlConnection;
use tokio::task::JoinSet;

use crate::callers::{connect, wait_spilled};
use crate::cluster::Cluster;
use crate::database::Database;
use crate::load::{self, PREFIX, mixed};
use crate::page::Chapter;
use crate::process::Server;
use crate::profile::{self, Look, Process};
use crate::rounds::{Goal, MICROS, PER_SECOND, Row, Sides, count, tell, turns};
use crate::{Bench, OURS, Outcome};

pub const TITLE: &str = "Spilled";
const CLIENTS: usize = 64;
const ALONE: &str = "Overspill, one at a time";
const IN: &str = "SELECT … IN (500), one connection";
const POINTS: &str = "SELECT … = ?, 64 clients";
const IN_ROWS: usize = 500;

#[derive(Clone, Copy)]
enum Side {
    /// With pipelines of so many.
    Ours(usize),
    In,
    Points,
}

const SIDES: [(&str, Side); 4] =
    [(OURS, Side::Ours(64)), (IN, Side::In), (POINTS, Side::Points), (ALONE, Side::Ours(1))];

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let records = bench.choose(500_000, 100_000);
    let mut chapter = Chapter::new(
        TITLE,
        format!(
            "GET of {} records, chosen evenly, of which a hundredth fits in memory, by 64 clients, 64 requests at a time each, straight to a secondary. Beside \
             it the same rows of the same table by SQL, prepared, through sqlx: 500 keys in a statement on one connection, and what 64 clients get \
             with a connection each that ask for one key after the other.",
            count(records)
        ),
    );
    let database = Database::create().await?;
    let cluster = Cluster::start(&database.url(), records / 100).await?;
    let secondary = cluster.secondary()?;
    load::fill(secondary, records as u64)?;
    wait_spilled(&connect(&secondary.address, 1).await?).await?;
    chapter.command(&secondary.command);
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(database.connect().await?);
    }
    let mut samples = Sides::new();
    for round in 0..bench.rounds {
        tell("spilled", round, bench.rounds);
        for &(name, side) in turns(&SIDES, round) {
            let seed = round as u64;
            let rate = match side {
                Side::Ours(pipeline) => ours(secondary, records, pipeline, seed, bench.time, &mut chapter)?,
                Side::In => {
                    let one = connections.pop().ok_or("no connection")?;
                    let (rate, one) = select(vec![one], IN_ROWS, records, seed, bench.time).await?;
                    connections.extend(one);
                    rate
                }
                Side::Points => {
                    let (rate, all) = select(std::mem::take(&mut connections), 1, records, seed, bench.time).await?;
                    connections = all;
                    rate
                }
            };
            samples.push(name, rate);
        }
    }
    let mut compare = |what: &str, ours: &str, peer: &str, goal: Option<Goal>| {
        chapter.rows.push(samples.compare(what, ours, &[peer], PER_SECOND, goal, |rate| *rate));
    };
    compare("64 clients, 64 at a time", OURS, IN, Some(Goal::AtLeast(0.4)));
    compare("64 clients, 64 at a time", OURS, POINTS, Some(Goal::AtLeast(4.0)));
    compare("64 clients, one at a time", ALONE, POINTS, None);
    if chapter.rows.iter().any(Row::is_missed) {
        let processes = [Process::this(), Process::of("server", secondary), database.process().await?];
        let Some(look) = Look::start(&processes)? else {
            chapter.more.push(profile::missing());
            return Ok(chapter);
        };
        let micros = |rate: f64| 1e6 / (rate * bench.time.as_secs_f64());
        let rate = ours(secondary, records, 64, 0, bench.time, &mut chapter)?;
        let mut columns = vec![(OURS, look.end()?, micros(rate))];
        if let Some(look) = Look::start(&processes)? {
            let (rate, _) = select(connections, 1, records, 0, bench.time).await?;
            columns.push((POINTS, look.end()?, micros(rate)));
        }
        chapter.more.push(profile::table("in microseconds a record", &columns, MICROS));
    }
    Ok(chapter)
}

fn ours(
    secondary: &Server,
    records: usize,
    pipeline: usize,
    seed: u64,
    time: Duration,
    chapter: &mut Chapter,
) -> Outcome<f64> {
    let plan =
        Plan { connections: CLIENTS, gets_percent: 100, seed, ..mixed(secondary, records as u64, pipeline, time) };
    let report = load::run(&plan)?;
    if report.hits < report.gets.count() {
        return Err(format!("{} records are lost", report.gets.count() - report.hits).into());
    }
    chapter.command(&load::command(&plan));
    Ok(report.rate())
}

/// Rows a second of all connections, each of which asks for so many at a time, and the connections.
async fn select(
    connections: Vec<MySqlConnection>,
    rows: usize,
    records: usize,
    seed: u64,
    time: Duration,
) -> Outcome<(f64, Vec<MySqlConnection>)> {
    let sql = format!(
        "SELECT kv_key, kv_value, epoch, lsn, expires_at FROM records WHERE kv_key IN ({})",
        vec!["?"; rows].join(",")
    );
    let (started, mut clients) = (Instant::now(), JoinSet::new());
    for (number, mut connection) in connections.into_iter().enumerate() {
        let (sql, mut rng) = (sql.clone(), SmallRng::seed_from_u64(seed << 32 | number as u64));
        clients.spawn(async move {
            let mut found = 0;
            while started.elapsed() < time {
                let mut query = sqlx::query(&sql);
                for _ in 0..rows {
                    query = query.bind(format!("{PREFIX}{:012}", rng.random_range(0..records)).into_bytes());
                }
                found += query.fetch_all(&mut connection).await?.len();
            }
            Outcome::Ok((found, connection))
        });
    }
    let (mut found, mut connections) = (0, Vec::new());
    while let Some(client) = clients.join_next().await {
        let (rows, connection) = client??;
        found += rows;
        connections.push(connection);
    }
    Ok((found as f64 / started.elapsed().as_secs_f64(), connections))
}
