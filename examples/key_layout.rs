//! Measures the candidate key layouts of the `records` table; `docs/adr/0001-key-layout.md` holds its numbers.
//!
//! ```text
//! cargo run --example key_layout -- mysql://root@127.0.0.1:3306 [TRANSACTIONS]
//! ```
//! It makes the database `overspill_key_layout` on that server, and drops it at the end. The layouts take turns, a slice
//! of transactions each, so that a noisy machine hits them alike; compare within one run only.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlConnection};
use sqlx::{Arguments, ConnectOptions, Executor, Row};

const ROWS: usize = 1000;
const SLOTS: u16 = 16384;
const LOAD_KEYS: usize = 500;
const SLICE: usize = 25;

struct Layout {
    name: &'static str,
    keys: &'static str,
    /// How a row is addressed: by its key alone, or by slot and key.
    by_slot: bool,
    /// Whether one slot can be read in key order at all.
    scans: bool,
}

const LAYOUTS: [Layout; 5] = [
    Layout { name: "c   PK(key)", keys: "PRIMARY KEY (kv_key)", by_slot: false, scans: false },
    Layout { name: "a   PK(key) KEY(slot)", keys: "PRIMARY KEY (kv_key), KEY (slot)", by_slot: false, scans: true },
    Layout {
        name: "a2  PK(key) KEY(slot,key,expires)",
        keys: "PRIMARY KEY (kv_key), KEY (slot, kv_key, expires_at)",
        by_slot: false,
        scans: true,
    },
    Layout {
        name: "b   PK(slot,key) UNIQUE(key)",
        keys: "PRIMARY KEY (slot, kv_key), UNIQUE (kv_key)",
        by_slot: false,
        scans: true,
    },
    Layout {
        name: "d   PK(slot,key) KEY(key) by slot",
        keys: "PRIMARY KEY (slot, kv_key), KEY (kv_key)",
        by_slot: true,
        scans: true,
    },
];

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row116 {
    slot: u16,
    key: [u8; 16],
}

#[derive(Default, Clone)]
struct Figures {
    fresh: Duration,
    overwrite: Duration,
    /// Overwrites that also move the expiry.
    touch: Duration,
    load: Duration,
    loaded: usize,
    scan: Duration,
    scanned: usize,
    bytes: u64,
}

struct Bench {
    connection: MySqlConnection,
    random: StdRng,
    lsn: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let url = args.next().context("usage: key_layout URL [TRANSACTIONS]")?;
    let transactions: usize = args.next().map_or(Ok(300), |n| n.parse())?;
    let options: MySqlConnectOptions = url.parse()?;
    let mut connection = options.connect().await?;
    connection.execute("DROP DATABASE IF EXISTS overspill_key_layout").await?;
    connection.execute("CREATE DATABASE overspill_key_layout").await?;
    connection.execute("USE overspill_key_layout").await?;
    let mut bench = Bench { connection, random: StdRng::seed_from_u64(1), lsn: 0 };
    let figures = bench.run(transactions).await?;
    bench.connection.execute("DROP DATABASE overspill_key_layout").await?;
    print(&figures, transactions * ROWS);
    Ok(())
}

impl Bench {
    async fn run(&mut self, transactions: usize) -> Result<Vec<Figures>> {
        let mut figures = vec![Figures::default(); LAYOUTS.len()];
        for (i, layout) in LAYOUTS.iter().enumerate() {
            let create = format!(
                "CREATE TABLE t{i} (kv_key VARBINARY(1024) NOT NULL, kv_value LONGBLOB NOT NULL, epoch BIGINT UNSIGNED NOT NULL,
                 lsn BIGINT UNSIGNED NOT NULL, expires_at BIGINT UNSIGNED NULL, slot SMALLINT UNSIGNED NOT NULL, {})
                 ENGINE = InnoDB ROW_FORMAT = DYNAMIC",
                layout.keys
            );
            self.connection.execute(create.as_str()).await?;
        }
        let mut rows: Vec<Row116> = (0..transactions * ROWS)
            .map(|_| Row116 { slot: self.random.random_range(0..SLOTS), key: self.random.random() })
            .collect();
        self.write_all(&rows, false, &mut figures, |f| &mut f.fresh).await?;
        rows.shuffle(&mut self.random);
        let half = rows.get(..rows.len() / 2).unwrap_or_default();
        self.write_all(half, false, &mut figures, |f| &mut f.overwrite).await?;
        self.write_all(half, true, &mut figures, |f| &mut f.touch).await?;
        rows.shuffle(&mut self.random);
        for _ in 0..2 {
            for (i, layout) in LAYOUTS.iter().enumerate() {
                for keys in rows.chunks_exact(LOAD_KEYS).take(100) {
                    self.load(i, layout, keys, &mut figures).await?;
                }
            }
        }
        for (i, layout) in LAYOUTS.iter().enumerate() {
            if layout.scans {
                self.scan(i, &mut figures).await?;
            }
            self.size(i, &mut figures).await?;
        }
        Ok(figures)
    }

    async fn write_all(
        &mut self,
        rows: &[Row116],
        expiring: bool,
        figures: &mut [Figures],
        counter: impl Fn(&mut Figures) -> &mut Duration,
    ) -> Result<()> {
        for slice in rows.chunks(SLICE * ROWS) {
            for (i, figures) in figures.iter_mut().enumerate() {
                for batch in slice.chunks_exact(ROWS) {
                    *counter(figures) += self.write(i, batch, expiring).await?;
                }
            }
        }
        Ok(())
    }

    /// One transaction of upserts, in the order of the table's primary key.
    async fn write(&mut self, i: usize, batch: &[Row116], expiring: bool) -> Result<Duration> {
        let mut batch: Vec<&Row116> = batch.iter().collect();
        batch.sort_by_key(|row| {
            (if LAYOUTS.get(i).is_some_and(|l| l.keys.contains("(slot, kv_key),")) { row.slot } else { 0 }, row.key)
        });
        self.lsn += 1;
        let mut sql = format!("INSERT INTO t{i} (kv_key, kv_value, epoch, lsn, expires_at, slot) VALUES ");
        let mut args = MySqlArguments::default();
        let value = [b'v'; 84];
        for (n, row) in batch.iter().enumerate() {
            sql.push_str(if n == 0 { "(?,?,?,?,?,?)" } else { ",(?,?,?,?,?,?)" });
            let added = [
                args.add(row.key.as_slice()),
                args.add(value.as_slice()),
                args.add(1u64),
                args.add(self.lsn),
                args.add(expiring.then_some(self.lsn)),
                args.add(row.slot),
            ];
            added.into_iter().collect::<Result<(), _>>().map_err(anyhow::Error::from_boxed)?;
        }
        sql.push_str(
            " ON DUPLICATE KEY UPDATE
              kv_value = IF((VALUES(epoch),VALUES(lsn)) > (epoch,lsn), VALUES(kv_value), kv_value),
              expires_at = IF((VALUES(epoch),VALUES(lsn)) > (epoch,lsn), VALUES(expires_at), expires_at),
              lsn = IF(VALUES(epoch) > epoch OR (VALUES(epoch) = epoch AND VALUES(lsn) > lsn), VALUES(lsn), lsn),
              epoch = GREATEST(epoch, VALUES(epoch))",
        );
        let start = Instant::now();
        self.connection.execute("BEGIN").await?;
        self.connection.execute(sqlx::query_with(&sql, args)).await?;
        self.connection.execute("COMMIT").await?;
        Ok(start.elapsed())
    }

    async fn load(&mut self, i: usize, layout: &Layout, rows: &[Row116], figures: &mut [Figures]) -> Result<()> {
        let mut args = MySqlArguments::default();
        let mut conditions = String::new();
        for (n, row) in rows.iter().enumerate() {
            if layout.by_slot {
                write!(conditions, "{}(slot = ? AND kv_key = ?)", if n == 0 { "" } else { " OR " })?;
                args.add(row.slot).map_err(anyhow::Error::from_boxed)?;
            } else {
                conditions.push_str(if n == 0 { "?" } else { ",?" });
            }
            args.add(row.key.as_slice()).map_err(anyhow::Error::from_boxed)?;
        }
        let condition = if layout.by_slot { conditions } else { format!("kv_key IN ({conditions})") };
        let sql = format!("SELECT kv_key, kv_value, epoch, lsn, expires_at FROM t{i} WHERE {condition}");
        let start = Instant::now();
        let found = self.connection.fetch_all(sqlx::query_with(&sql, args)).await?.len();
        if let Some(figures) = figures.get_mut(i) {
            figures.load += start.elapsed();
            figures.loaded += found;
        }
        Ok(())
    }

    /// Pages of 1000 keys through the first eighth of the slots: keys with their expiry, in order.
    async fn scan(&mut self, i: usize, figures: &mut [Figures]) -> Result<()> {
        let sql = format!(
            "SELECT slot, kv_key, expires_at FROM t{i} WHERE slot BETWEEN ? AND ? AND (slot > ? OR kv_key > ?)
             ORDER BY slot, kv_key LIMIT 1000"
        );
        let (mut slot, mut after) = (0u16, Vec::new());
        let start = Instant::now();
        let mut scanned = 0;
        loop {
            let query = sqlx::query(&sql).bind(slot).bind(SLOTS / 8).bind(slot).bind(&after);
            let rows = self.connection.fetch_all(query).await?;
            scanned += rows.len();
            let Some(last) = rows.last() else { break };
            (slot, after) = (last.try_get(0)?, last.try_get(1)?);
        }
        if let Some(figures) = figures.get_mut(i) {
            figures.scan = start.elapsed();
            figures.scanned = scanned;
        }
        Ok(())
    }

    async fn size(&mut self, i: usize, figures: &mut [Figures]) -> Result<()> {
        self.connection.execute(format!("ANALYZE TABLE t{i}").as_str()).await?;
        let sql = format!(
            "SELECT data_length + index_length FROM information_schema.tables
             WHERE table_schema = 'overspill_key_layout' AND table_name = 't{i}'"
        );
        let row = self.connection.fetch_one(sql.as_str()).await?;
        if let Some(figures) = figures.get_mut(i) {
            figures.bytes = row.try_get_unchecked(0)?;
        }
        Ok(())
    }
}

fn print(figures: &[Figures], rows: usize) {
    println!(
        "| layout | new rows/s | overwrites/s | with a new expiry/s | loads IN (500) rows/s | scan keys/s | bytes a row |"
    );
    println!("|---|---|---|---|---|---|---|");
    let per_second = |rows: usize, time: Duration| rows as f64 / time.as_secs_f64().max(1e-9) / 1000.0;
    for (layout, f) in LAYOUTS.iter().zip(figures) {
        println!(
            "| `{}` | {:.1} k | {:.1} k | {:.1} k | {:.0} k | {:.0} k | {} |",
            layout.name,
            per_second(rows, f.fresh),
            per_second(rows / 2, f.overwrite),
            per_second(rows / 2, f.touch),
            per_second(f.loaded, f.load),
            per_second(f.scanned, f.scan),
            f.bytes / rows as u64,
        );
    }
}
