//! Random work while the database is killed and started again; then every value, and every count of STATS, is checked.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use overspill::command::{Command, Place, Reply, ShardStats};
use overspill::service::Error;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::client::{Client, get, key, put, text};
use crate::support::cluster::Cluster;
use crate::support::database::Database;
use crate::support::eventually;
use crate::support::mariadb::MariaDb;

const CLIENTS: usize = 8;
const KEYS: usize = 20_000;
const CAPACITY: usize = 1000;
const TIME: Duration = Duration::from_secs(10);

/// What a key may be, as far as its only writer knows: several answers after an outcome that nobody knows.
type Known = HashMap<usize, Vec<Option<String>>>;

/// What was answered to the clients.
#[derive(Debug, Default)]
struct Tally {
    puts: u64,
    /// Deletions of keys that existed: the others change nothing.
    deletes: u64,
    /// Writes of unknown outcome.
    puts_unknown: u64,
    deletes_unknown: u64,
    found: u64,
    absent: u64,
    /// Reads without an answer, which a shard may have counted or not.
    reads_failed: u64,
    /// Writes that were refused.
    refused: u64,
}

/// Each client writes keys of its own, so that it knows what they must be, and reads them among the work.
async fn work(client: Client, worker: usize, until: Instant) -> (Known, Tally) {
    let mut random = StdRng::seed_from_u64(worker as u64);
    let (mut known, mut tally) = (Known::new(), Tally::default());
    let mut count = 0_u64;
    while Instant::now() < until {
        let mut commands = Vec::new();
        for _ in 0..random.random_range(1..20) {
            let i = random.random_range(0..KEYS / CLIENTS) * CLIENTS + worker;
            count += 1;
            commands.push(match random.random_range(0..10) {
                0..5 => (i, put(&format!("k{i}"), &format!("{worker}.{count}"))),
                5..9 => (i, get(&format!("k{i}"))),
                _ => (i, Command::Delete { key: key(&format!("k{i}")) }),
            });
        }
        let replies = client.execute(commands.iter().map(|(_, command)| command.clone()).collect()).await;
        for ((i, command), reply) in commands.into_iter().zip(replies) {
            tally.note(&command, &reply);
            note(&mut known, i, command, reply);
        }
    }
    (known, tally)
}

fn note(known: &mut Known, i: usize, command: Command, reply: Result<Reply, Error>) {
    let possible = known.entry(i).or_insert_with(|| vec![None]);
    let written = match &command {
        Command::Put { value, .. } => Some(Some(String::from_utf8(value.as_bytes().to_vec()).unwrap())),
        Command::Delete { .. } => Some(None),
        _ => None,
    };
    match (written, reply) {
        (Some(now), Ok(_)) => *possible = vec![now],
        (Some(now), Err(Error::Unknown(_))) => possible.push(now),
        (None, Ok(Reply::Found(found))) => {
            let seen = found.as_ref().map(text);
            assert!(possible.contains(&seen), "k{i} is {seen:?}, but may only be {possible:?}");
        }
        (_, Err(Error::Busy(_) | Error::Unavailable(_))) => {}
        (_, other) => panic!("k{i}: {other:?}"),
    }
}

impl Tally {
    fn note(&mut self, command: &Command, reply: &Result<Reply, Error>) {
        let count = match (command, reply) {
            (_, Ok(Reply::Stored(_))) => &mut self.puts,
            (_, Ok(Reply::Done(true))) => &mut self.deletes,
            (_, Ok(Reply::Done(false))) => return,
            (_, Ok(Reply::Found(Some(_)))) => &mut self.found,
            (_, Ok(Reply::Found(None))) => &mut self.absent,
            (Command::Get { .. }, Err(_)) => &mut self.reads_failed,
            (Command::Put { .. }, Err(Error::Unknown(_))) => &mut self.puts_unknown,
            (Command::Delete { .. }, Err(Error::Unknown(_))) => &mut self.deletes_unknown,
            (_, Err(_)) => &mut self.refused,
            (_, other) => panic!("{other:?}"),
        };
        *count += 1;
    }

    fn add(&mut self, other: &Self) {
        self.puts += other.puts;
        self.deletes += other.deletes;
        self.puts_unknown += other.puts_unknown;
        self.deletes_unknown += other.deletes_unknown;
        self.found += other.found;
        self.absent += other.absent;
        self.reads_failed += other.reads_failed;
        self.refused += other.refused;
    }

    /// Compares the counts of a quiet shard, from `before` on, with what was answered.
    fn assert_adds_up(&self, before: &ShardStats, now: &ShardStats) {
        let told = format!("{self:#?}\nbefore: {before:#?}\nnow: {now:#?}");
        let (puts, deletes) = (now.puts - before.puts, now.deletes - before.deletes);
        assert!((self.puts..=self.puts + self.puts_unknown).contains(&puts), "puts: {told}");
        assert!((self.deletes..=self.deletes + self.deletes_unknown).contains(&deletes), "deletes: {told}");

        let (hits, misses) = (now.hits - before.hits, now.misses - before.misses);
        let answered = self.found + self.absent;
        assert!((answered..=answered + self.reads_failed).contains(&(hits + misses)), "reads: {told}");
        assert!(hits <= self.found + self.reads_failed, "a hit has a value: {told}");
        let (avoided, joined) = (now.loads_avoided - before.loads_avoided, now.loads_joined - before.loads_joined);
        assert!(
            avoided <= misses && avoided <= self.absent + self.reads_failed,
            "only absent keys need no load: {told}"
        );
        // A deletion looks its key up as well, and is no read.
        let deletions = self.deletes + self.deletes_unknown + self.refused;
        let loaded = now.loaded_rows - before.loaded_rows;
        assert!(loaded + joined <= misses - avoided + deletions, "loads: {told}");
        assert!(now.load_errors < now.load_batches && now.load_batches <= misses + deletions, "load batches: {told}");

        assert!(now.busy <= self.refused + self.puts_unknown + self.deletes_unknown, "busy: {told}");
        let none = [now.expired, now.dropped, now.dead_letters, now.losses_accepted];
        assert_eq!(none, [0; 4], "expired, dropped, dead letters, losses: {told}");
    }
}

/// What must hold of a shard that is left alone, whatever was done to it since it started with an empty tier.
fn assert_balanced(stats: &ShardStats) {
    let told = format!("{stats:#?}");
    assert!(stats.filter_ready && stats.tier_up, "{told}");
    assert_eq!((stats.slots, stats.records_max), (16_384, CAPACITY as u64), "{told}");
    assert_eq!((stats.records_spilling, stats.tombstones), (0, 0), "{told}");
    assert!(stats.records <= stats.records_max && stats.unspilled <= stats.records, "{told}");
    assert!(stats.memory_bytes <= stats.memory_bytes_max, "{told}");
    // Into memory by a write or a load, out of it by eviction or deletion.
    assert!(stats.records + stats.evicted <= stats.puts + stats.loaded_rows, "{told}");
    assert!(stats.records + stats.evicted + stats.deletes >= stats.loaded_rows, "{told}");
    // A row for a record that was evicted with news, and a statement for a deletion.
    assert!(stats.spilled_rows >= stats.tier_records, "{told}");
    assert!(stats.spilled_rows <= stats.evicted + stats.deletes, "{told}");
    assert!(stats.spilled_rows + stats.unspilled <= stats.puts + stats.deletes, "{told}");
    assert!((1..=stats.spilled_rows).contains(&stats.spilled_batches), "{told}");
}

/// The figures, once nothing changes them any more.
async fn quiet(client: &Client) -> ShardStats {
    let mut last = None;
    eventually("the tier has taken what was evicted, and all writes have ended", async || {
        let stats = ShardStats { uptime_ms: 0, ..client.stats().await.remove(0) };
        let is_over = stats.records_spilling == 0 && stats.tombstones == 0 && stats.filter_ready;
        let is_same = last.replace(stats.clone()) == Some(stats.clone());
        (is_over && is_same).then_some(stats)
    })
    .await
}

/// Reads all keys, one after another, in peace: each of them counts in exactly one way. Answers who lives.
async fn read_all(client: &Client, known: &Known) -> HashMap<String, String> {
    let before = quiet(client).await;
    let mut alive = HashMap::new();
    for (i, possible) in known {
        let name = format!("k{i}");
        let seen = client.get(&name).await.unwrap();
        assert!(possible.contains(&seen), "{name} is {seen:?}, but may only be {possible:?}");
        alive.extend(seen.map(|value| (name, value)));
    }
    let now = quiet(client).await;
    let told = format!("before: {before:#?}\nnow: {now:#?}");
    let (found, absent) = (alive.len() as u64, (known.len() - alive.len()) as u64);
    let loaded = found - (now.hits - before.hits);
    assert_eq!(now.misses - before.misses, absent + loaded, "{told}");
    assert_eq!(now.loads_avoided - before.loads_avoided, absent, "the filter knows who has no row: {told}");
    assert_eq!(now.loaded_rows - before.loaded_rows, loaded, "{told}");
    assert_eq!(now.load_batches - before.load_batches, loaded, "one after another: {told}");
    assert_eq!(now.records + now.evicted, before.records + before.evicted + loaded, "{told}");
    assert_eq!(now.spilled_rows + now.unspilled, before.spilled_rows + before.unspilled, "no news, only moved: {told}");
    assert_eq!((now.loads_joined, now.load_errors), (before.loads_joined, before.load_errors), "{told}");
    assert_eq!((now.puts, now.deletes, now.busy), (before.puts, before.deletes, before.busy), "{told}");
    alive
}

/// Compares the figures with where EXPLAIN says that each key is, and with the rows of the database.
async fn assert_places(client: &Client, known: &Known, alive: &HashMap<String, String>, database: &Database) {
    let stats = quiet(client).await;
    assert_balanced(&stats);
    let names: Vec<String> = known.keys().map(|i| format!("k{i}")).collect();
    let rows: HashSet<String> = database.column("SELECT kv_key FROM records").await.into_iter().collect();
    let (mut records, mut unspilled, mut rows_only, mut bytes) = (0, 0, 0, 0);
    for names in names.chunks(500) {
        let explain = names.iter().map(|name| Command::Explain { key: key(name) }).collect();
        for (name, reply) in names.iter().zip(client.execute(explain).await) {
            let Ok(Reply::Explained(explained)) = reply else { panic!("{name}: {reply:?}") };
            assert_eq!(explained.place != Place::Nowhere, alive.contains_key(name), "{name}: {explained:?}");
            match explained.place {
                Place::Memory { clean } => {
                    records += 1;
                    unspilled += u64::from(!clean);
                    bytes += name.len() as u64 + explained.value_bytes.unwrap();
                    assert!(!clean || rows.contains(name), "{name} has no row, and is said to be clean");
                }
                Place::Tier => {
                    rows_only += 1;
                    assert!(rows.contains(name), "{name} has no row");
                }
                Place::Nowhere => assert!(!rows.contains(name), "{name} is deleted, and has a row"),
                Place::Spilling | Place::Deleting => panic!("{name} is on its way: {explained:?}"),
            }
        }
    }
    assert_eq!((stats.records, stats.unspilled), (records, unspilled));
    assert_eq!(stats.tier_records, rows.len() as u64);
    let count = client.count().await.unwrap();
    assert_eq!(count, alive.len() as u64, "COUNT counts the living");
    assert_eq!(count, records + rows_only);
    assert!(count - stats.tier_records <= unspilled, "who has no row has news in memory");
    assert!(stats.evicted >= rows_only);
    let overhead_bytes = stats.memory_bytes - bytes;
    assert_eq!(overhead_bytes % records, 0, "the same for each record: {overhead_bytes} for {records}");
    assert_eq!(ShardStats { uptime_ms: 0, ..client.stats().await.remove(0) }, stats, "to ask changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_reads_back_and_the_counts_add_up_although_the_database_is_killed_twice() {
    let mut server = MariaDb::start().await;
    let mut cluster = Cluster::start(1, &[&server.url("overspill"), &CAPACITY.to_string()]).await;
    let client = cluster.client();
    let begun = quiet(&client).await;
    let until = Instant::now() + TIME;
    let workers: Vec<_> = (0..CLIENTS).map(|worker| tokio::spawn(work(cluster.client(), worker, until))).collect();
    for round in 1..=2 {
        // Kill it when it has work: a third of the time, then another.
        let due = until - TIME + TIME * round / 3;
        tokio::time::sleep_until(due.into()).await;
        server.kill();
        let resident = cluster.secondaries[0].resident_bytes();
        assert!(resident < 300 << 20, "memory is bounded: {resident} bytes");
        server.restart().await;
    }
    let (mut known, mut tally) = (Known::new(), Tally::default());
    for worker in workers {
        let (keys, answered) = worker.await.unwrap();
        known.extend(keys);
        tally.add(&answered);
    }
    let stats = quiet(&client).await;
    println!("{} keys; {tally:?}; {stats:?}", known.len());
    tally.assert_adds_up(&begun, &stats);
    assert!(stats.spill_errors > 0, "the database was away while it was needed");
    let alive = read_all(&client, &known).await;
    let database = Database::of(&server.url("overspill"));
    assert_places(&client, &known, &alive, &database).await;

    // What memory alone has goes to the database, and nothing else.
    let stats = quiet(&client).await;
    assert!(cluster.primary.stop().success());
    assert!(cluster.secondaries[0].stop().success());
    let log = cluster.secondaries[0].log();
    assert!(log.contains(&format!("nothing is left to spill spilled={} ", stats.unspilled)), "{stats:#?}\n{log}");
    let rows = database.column("SELECT CONCAT(kv_key, '=', kv_value) FROM records").await;
    let rows: HashSet<String> = rows.into_iter().collect();
    assert_eq!(rows, alive.iter().map(|(name, value)| format!("{name}={value}")).collect());
    let last_lsn = database.column("SELECT CAST(lsn AS BINARY) FROM fences WHERE clean").await;
    assert_eq!(last_lsn, [(stats.puts + stats.deletes).to_string()], "each put and deletion has a place in the log");
}
