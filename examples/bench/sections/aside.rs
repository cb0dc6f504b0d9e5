//! A skewed load on more data than fits in memory, beside an application that looks aside: Redis before MariaDB, kept by its own code.

mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use overspill::bench::Connection;
use overspill::rpc::Client;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};
use tokio::task::JoinSet;

use crate::callers::{connect, shard_stats, wait_spilled};
use crate::cluster::Cluster;
use crate::database::Database;
use crate::load;
use crate::page::Chapter;
use crate::peers::Kind;
use crate::plot::bars;
use crate::process::Server;
use crate::profile::{self, Look, Process};
use crate::rounds::{Goal, LATENCY, MICROS, PER_SECOND, Row, Sides, count, turns};
use crate::{Bench, OURS, Outcome};

use self::store::{Store, fill_items, key};

pub const TITLE: &str = "Aside";
const PEER: &str = "Redis + MariaDB";
const CALLERS: usize = 64;
const EXPONENT: f64 = 0.99;
/// Of the records, the part that memory is for.
const PART: usize = 10;
/// Of a hundred operations.
const WRITES_PERCENT: u32 = 5;
/// What an empty Redis counts.
const REDIS_BYTES: u64 = 1 << 20;

/// What callers found out in one turn.
#[derive(Default)]
struct Turn {
    rate: f64,
    p99_micros: f64,
    /// Of the reads, the share that memory answered.
    hits: f64,
}

/// What one caller did.
#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    reads: u64,
    hits: u64,
}

/// All that belongs to our side.
struct Ours {
    stores: Vec<Store>,
    /// To ask for its figures.
    clients: Vec<Arc<Client>>,
    cluster: Cluster,
    /// What its records take by its own count.
    counted: u64,
    /// Resident bytes of an empty one.
    empty: u64,
    database: Database,
}

/// All that belongs to the application.
struct Theirs {
    stores: Vec<Store>,
    redis: Server,
    /// Resident bytes of an empty one.
    empty: u64,
    _database: Database,
}

pub async fn run(bench: &Bench) -> Outcome<Chapter> {
    let records = bench.choose(2_000_000, 200_000);
    let time = 2 * bench.time;
    let mut ours = Ours::start(records).await?;
    let bytes = ours.counted + REDIS_BYTES;
    let mut theirs = Theirs::start(bench, records, bytes).await?;
    let mut samples = Sides::new();
    for round in 0..=bench.rounds {
        eprintln!("aside: {round} of {}", bench.rounds);
        for &name in turns(&[OURS, PEER], round) {
            let seed = round as u64;
            let turn = if name == OURS {
                ours.turn(records, time, seed).await?
            } else {
                drive(&mut theirs.stores, records, time, seed).await?
            };
            // The first round is to get warm.
            if round > 0 {
                samples.push(name, turn);
            }
        }
    }
    let mut chapter = Chapter::new(TITLE, method(records, bytes));
    let mut compare = |what, unit, goal, figure: fn(&Turn) -> f64| {
        chapter.rows.push(samples.compare(what, OURS, &[PEER], unit, Some(goal), figure));
    };
    compare("throughput", PER_SECOND, Goal::AtLeast(2.0), |turn| turn.rate);
    compare("99th percentile of all operations", LATENCY, Goal::AtMost(0.5), |turn| turn.p99_micros);
    if chapter.rows.iter().any(Row::is_missed) {
        chapter.more.push(look(&mut ours, &mut theirs, records, time, bench.rounds as u64 + 1).await?);
    }
    let hits = samples.medians(|turn| 100.0 * turn.hits);
    let told: Vec<String> = hits.iter().map(|(name, hits)| format!("{name} {hits:.1} %")).collect();
    chapter.more.push(format!(
        "Reads that memory answered: {}. What the processes have grown by since they were empty, with all else that they keep: ours {:.1} MiB, Redis {:.1} MiB.",
        told.join(", "),
        mebibytes(ours.cluster.secondary()?.resident()?.saturating_sub(ours.empty)),
        mebibytes(theirs.redis.resident()?.saturating_sub(theirs.empty))
    ));
    let plot = bars("Reads that memory answered, %", &[("Zipf 0.99, room for 10 %".to_owned(), hits)])?;
    chapter.plots.push(("aside", plot));
    chapter.command(&ours.cluster.secondary()?.command);
    chapter.command(&theirs.redis.command);
    Ok(chapter)
}

/// One more turn of each, and where its time goes.
async fn look(ours: &mut Ours, theirs: &mut Theirs, records: usize, time: Duration, seed: u64) -> Outcome<String> {
    let database = ours.database.process().await?;
    let mut processes = [Process::this(), Process::of("server", ours.cluster.secondary()?), database];
    let Some(look) = Look::start(&processes)? else { return Ok(profile::missing()) };
    let turn = ours.turn(records, time, seed).await?;
    let micros = |turn: &Turn| 1e6 / (turn.rate * time.as_secs_f64());
    let mut columns = vec![(OURS, look.end()?, micros(&turn))];
    processes[1] = Process::of("server", &theirs.redis);
    if let Some(look) = Look::start(&processes)? {
        let turn = drive(&mut theirs.stores, records, time, seed).await?;
        columns.push((PEER, look.end()?, micros(&turn)));
    }
    Ok(profile::table("in microseconds an operation", &columns, MICROS))
}

fn method(records: usize, bytes: u64) -> String {
    format!(
        "{} records, of which memory has room for a {PART}th, asked for by Zipf's law with exponent {EXPONENT}, {WRITES_PERCENT} % writes, by {CALLERS} callers. \
         Ours ask a secondary, which is all that they know of. The application looks aside: it reads Redis, after a miss MariaDB, and then fills Redis; it writes to MariaDB \
         and then deletes in Redis. Redis may use {:.1} MiB (`maxmemory`, `allkeys-lru`): what our records and their bookkeeping take by our own count, which is what \
         `--max-memory` bounds, and one more MiB for Redis itself. Both databases are on one server, whose buffer pool they share; a write of either side is on disk when it is \
         acknowledged. Keys are scattered, so that popular ones don't lie beside each other in a table.",
        count(records),
        mebibytes(bytes)
    )
}

impl Ours {
    /// With all records, and the most popular in memory.
    async fn start(records: usize) -> Outcome<Self> {
        eprintln!("aside: {records} records for us");
        let database = Database::create().await?;
        let cluster = Cluster::start(&database.url(), records / PART).await?;
        let secondary = cluster.secondary()?;
        let empty = secondary.resident()?;
        load::fill(secondary, records as u64)?;
        let clients = connect(&secondary.address, 1).await?;
        wait_spilled(&clients).await?;
        let mut stores = Vec::new();
        for _ in 0..CALLERS {
            stores.push(Store::Ours(Connection::open(&secondary.address, secondary.wire, None).await?));
        }
        warm(&mut stores, records).await?;
        let counted = shard_stats(&clients).await?.memory_bytes;
        Ok(Self { stores, clients, cluster, counted, empty, database })
    }

    async fn turn(&mut self, records: usize, time: Duration, seed: u64) -> Outcome<Turn> {
        let before = shard_stats(&self.clients).await?;
        let turn = drive(&mut self.stores, records, time, seed).await?;
        let after = shard_stats(&self.clients).await?;
        let (hits, misses) = (after.hits - before.hits, after.misses - before.misses);
        Ok(Turn { hits: hits as f64 / (hits + misses).max(1) as f64, ..turn })
    }
}

impl Theirs {
    /// As ours, with so many bytes for Redis.
    async fn start(bench: &Bench, records: usize, bytes: u64) -> Outcome<Self> {
        eprintln!("aside: {records} records for {PEER}");
        let database = Database::create().await?;
        fill_items(&database, records).await?;
        let redis = bench.peers.need(Kind::Redis)?;
        let redis = redis.start(&["--maxmemory", &bytes.to_string(), "--maxmemory-policy", "allkeys-lru"]).await?;
        let empty = redis.resident()?;
        let mut stores = Vec::new();
        for _ in 0..CALLERS {
            let cache = Connection::open(&redis.address, redis.wire, None).await?;
            stores.push(Store::Aside { cache, database: database.connect().await? });
        }
        warm(&mut stores, records).await?;
        Ok(Self { stores, redis, empty, _database: database })
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The number of the record of a rank: popular ones are scattered by a prime that no number of records has as a factor.
fn number(rank: usize, records: usize) -> usize {
    (rank as u64 * 2_654_435_761 % records as u64) as usize
}

/// Reads what memory has room for once, the most popular last.
async fn warm(stores: &mut Vec<Store>, records: usize) -> Outcome<()> {
    let mut callers = JoinSet::new();
    for (caller, mut store) in stores.drain(..).enumerate() {
        callers.spawn(async move {
            for rank in (caller..records / PART).step_by(CALLERS).collect::<Vec<_>>().into_iter().rev() {
                store.read(&key(number(rank, records))).await?;
            }
            Outcome::Ok(store)
        });
    }
    while let Some(store) = callers.join_next().await {
        stores.push(store??);
    }
    Ok(())
}

/// All callers for some time.
async fn drive(stores: &mut Vec<Store>, records: usize, time: Duration, seed: u64) -> Outcome<Turn> {
    let (started, mut callers) = (Instant::now(), JoinSet::new());
    let zipf = Zipf::new(records as f64, EXPONENT)?;
    for (caller, store) in stores.drain(..).enumerate() {
        let rng = SmallRng::seed_from_u64(seed << 32 | caller as u64);
        callers.spawn(call(store, rng, zipf, records, started + time));
    }
    let mut all = Tally::default();
    while let Some(caller) = callers.join_next().await {
        let (store, tally) = caller??;
        stores.push(store);
        all.latencies.extend(tally.latencies);
        all.reads += tally.reads;
        all.hits += tally.hits;
    }
    let rate = all.latencies.len() as f64 / started.elapsed().as_secs_f64();
    all.latencies.sort_unstable();
    let p99 = all.latencies.get(all.latencies.len() * 99 / 100).copied().unwrap_or_default();
    let hits = all.hits as f64 / all.reads.max(1) as f64;
    Ok(Turn { rate, p99_micros: p99.as_secs_f64() * 1e6, hits })
}

async fn call(
    mut store: Store,
    mut rng: SmallRng,
    zipf: Zipf<f64>,
    records: usize,
    until: Instant,
) -> Outcome<(Store, Tally)> {
    let mut tally = Tally::default();
    let mut now = Instant::now();
    while now < until {
        let key = key(number(zipf.sample(&mut rng) as usize - 1, records));
        if rng.random_range(0..100) < WRITES_PERCENT {
            store.write(&key).await?;
        } else {
            tally.reads += 1;
            tally.hits += u64::from(store.read(&key).await?);
        }
        let done = Instant::now();
        tally.latencies.push(done - now);
        now = done;
    }
    Ok((store, tally))
}
