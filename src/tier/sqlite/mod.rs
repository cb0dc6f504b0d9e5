//! The tier in an SQLite file, for a cluster that is embedded in one program; several processes may share the file.
//!
//! One connection writes and a few read, beside it: in WAL mode readers see what was last committed and block nobody. A
//! commit is synced to disk before it is acknowledged. Numbers are signed here: a version beyond 2^63 is refused;
//! tokens and ids, which have no order, keep their bits.

mod schema;
mod session;

use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::batch::{in_key_order, padded_runs, record_bytes, runs};
use super::pool::{Lease, Pool};
use super::{Connections, DeadLetter, Lane, Prepared, ROWS_MAX, RowKey, Tier, TierError, TierFuture, check_rows};
use crate::cluster::{Fence, FenceToken, Incarnation, ShardName};
use crate::command::Effect;
use crate::record::{Epoch, JournalId, Key, Lsn, Record, Timestamp, Value, Version};
use crate::slots::{Slot, SlotSet};
use session::{Abort, Args, Failure, File, Session, commit, settle, signed};

const READERS_MAX: u32 = 4;
/// Values of a statement, in bytes. A statement here is a call, not a packet: larger ones gain nothing.
const STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a call waits for a free connection.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A database file.
pub struct SqliteTier {
    writer: Pool<File>,
    readers: Pool<File>,
}

impl SqliteTier {
    /// Opens the file, or creates it, when it is first used. Its folder must exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let readers = Pool::new(File { path: path.clone() }, READERS_MAX, WAIT_MAX);
        Self { writer: Pool::new(File { path }, 1, WAIT_MAX), readers }
    }

    async fn flush(&self, shard: &ShardName, token: FenceToken, effects: &[Effect], lsn: Lsn) -> Result<(), TierError> {
        check_rows(effects.len())?;
        let mut lease = self.writer.lease().await?;
        let written = write_effects(&mut lease.connection, shard, token, effects, lsn).await;
        commit(lease, written).await
    }

    async fn swap_fence(&self, expected: Option<FenceToken>, fence: &Fence) -> Result<bool, TierError> {
        let mut lease = self.writer.lease().await?;
        let swapped = write_fence(&mut lease.connection, expected, fence).await;
        commit(lease, swapped).await
    }

    async fn load(&self, keys: &[Key]) -> Result<Vec<Record>, TierError> {
        check_rows(keys.len())?;
        let mut sorted: Vec<&Key> = keys.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut lease = self.readers.lease().await?;
        let records = load_runs(&mut lease.connection, &sorted).await;
        settle(lease, records)
    }

    async fn read<T>(
        &self,
        sql: &str,
        args: Result<Args<'_>, Failure>,
        row: impl Fn(&SqliteRow) -> Result<T, Failure>,
    ) -> Result<Vec<T>, TierError> {
        let mut lease = self.readers.lease().await?;
        let rows = match args {
            Ok(args) => lease.connection.fetch(sql, args).await,
            Err(failure) => Err(failure),
        };
        settle(lease, rows.and_then(|rows| rows.iter().map(row).collect()))
    }

    async fn scan(&self, first: Slot, after: Option<&Key>, last: Slot, limit: usize) -> Result<Vec<RowKey>, TierError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let row_key = |row: &SqliteRow| {
            let slot = Slot::try_from(row.try_get::<u16, _>(0)?).map_err(broken)?;
            Ok(RowKey { slot, key: key(row, 1)?, expires_at: expiry(row, 2)? })
        };
        // No key is empty, so every key of the first slot comes after the empty one.
        let after = after.map_or(&b""[..], |key| key.as_bytes());
        let sql = "SELECT slot, kv_key, expires_at FROM records WHERE (slot, kv_key) > (?, ?) AND slot <= ? \
                   ORDER BY slot, kv_key LIMIT ?";
        let args = || Args::default().with(first.get())?.with(after)?.with(last.get())?.with(limit);
        self.read(sql, args(), row_key).await
    }

    async fn bury(&self, shard: &ShardName, letter: &DeadLetter) -> Result<(), TierError> {
        let mut lease = self.writer.lease().await?;
        let buried = write_letter(&mut lease.connection, shard, letter).await;
        commit(lease, buried).await
    }

    async fn unbury(&self, key: &Key, version: Version) -> Result<(), TierError> {
        let mut lease = self.writer.lease().await?;
        let session = &mut lease.connection;
        let deleted = async {
            session.begin().await?;
            let sql = "DELETE FROM dead_letters WHERE kv_key = ? AND (epoch, lsn) <= (?, ?)";
            let args = Args::default().with(key.as_bytes())?;
            session.run(sql, with_version(args, version)?).await?;
            Ok(())
        };
        let deleted = deleted.await;
        commit(lease, deleted).await
    }
}

async fn write_effects(
    session: &mut Session,
    shard: &ShardName,
    token: FenceToken,
    effects: &[Effect],
    lsn: Lsn,
) -> Result<(), Abort> {
    session.begin().await?;
    // R20
    let sql = "UPDATE fences SET flushes = flushes + 1, lsn = MAX(lsn, ?) WHERE shard = ? AND token = ?";
    let args = Args::default().with(signed(lsn.0)?)?.with(shard.as_str().as_bytes())?.with(token.0.cast_signed())?;
    if session.run(sql, args).await? != 1 {
        return Err(Abort::Fenced);
    }
    let (sets, deletes) = in_key_order(effects);
    for run in runs(&sets, usize::MAX, STATEMENT_BYTES_MAX, record_bytes) {
        upsert(session, run).await?;
    }
    for (key, version) in deletes {
        let sql = "DELETE FROM records WHERE kv_key = ? AND (epoch, lsn) <= (?, ?)";
        session.run(sql, with_version(Args::default().with(key.as_bytes())?, version)?).await?;
    }
    Ok(())
}

/// R19: here the whole row changes or none of it; assignments see the old row, in whatever order they stand.
async fn upsert(session: &mut Session, records: &[&Record]) -> Result<(), Failure> {
    let rows = vec!["(?,?,?,?,?,?)"; records.len()].join(",");
    let sql = format!(
        "INSERT INTO records (kv_key, kv_value, epoch, lsn, expires_at, slot) VALUES {rows} \
         ON CONFLICT (kv_key) DO UPDATE SET kv_value = excluded.kv_value, expires_at = excluded.expires_at, \
         epoch = excluded.epoch, lsn = excluded.lsn \
         WHERE (excluded.epoch, excluded.lsn) > (records.epoch, records.lsn)"
    );
    let mut args = Args::default();
    for record in records {
        args = args.with(record.key.as_bytes())?.with(record.value.as_bytes())?;
        args = with_version(args, record.version)?.with(signed_expiry(record.expires_at)?)?;
        args = args.with(Slot::of(&record.key).get())?;
    }
    session.run(&sql, args).await?;
    Ok(())
}

async fn write_fence(session: &mut Session, expected: Option<FenceToken>, fence: &Fence) -> Result<bool, Abort> {
    session.begin().await?;
    let args = Args::default()
        .with(fence.token.0.cast_signed())?
        .with(fence.incarnation.0.cast_signed())?
        .with(signed(fence.epoch.0)?)?
        .with(fence.slots.to_string())?
        .with(signed(fence.lsn.0)?)?
        .with(fence.clean)?
        .with(fence.journal.0.cast_signed())?
        .with(fence.shard.as_str().as_bytes())?;
    let Some(expected) = expected else {
        let sql = "INSERT INTO fences (token, incarnation, epoch, slots, lsn, clean, journal, shard, flushes) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (shard) DO NOTHING";
        return Ok(session.run(sql, args).await? == 1);
    };
    let sql = "UPDATE fences SET token = ?, incarnation = ?, epoch = ?, slots = ?, lsn = MAX(lsn, ?), clean = ?, \
               journal = ? WHERE shard = ? AND token = ?";
    Ok(session.run(sql, args.with(expected.0.cast_signed())?).await? == 1)
}

async fn write_letter(session: &mut Session, shard: &ShardName, letter: &DeadLetter) -> Result<(), Abort> {
    session.begin().await?;
    let (effect, value, expires_at) = match &letter.effect {
        Effect::Set(record) => ("set", Some(record.value.as_bytes()), record.expires_at),
        Effect::Delete { .. } => ("delete", None, None),
    };
    let sql = "INSERT INTO dead_letters \
               (kv_key, epoch, lsn, shard, slot, effect, kv_value, expires_at, reason, buried_at) \
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, strftime('%Y-%m-%d %H:%M:%f', 'now')) \
               ON CONFLICT (kv_key) DO UPDATE SET epoch = excluded.epoch, lsn = excluded.lsn, shard = excluded.shard, \
               effect = excluded.effect, kv_value = excluded.kv_value, expires_at = excluded.expires_at, \
               reason = excluded.reason, buried_at = excluded.buried_at \
               WHERE (excluded.epoch, excluded.lsn) >= (dead_letters.epoch, dead_letters.lsn)";
    let key = letter.effect.key();
    let args = with_version(Args::default().with(key.as_bytes())?, letter.effect.version())?
        .with(shard.as_str().as_bytes())?
        .with(Slot::of(key).get())?
        .with(effect)?
        .with(value)?
        .with(signed_expiry(expires_at)?)?
        .with(letter.reason.as_str())?;
    session.run(sql, args).await?;
    Ok(())
}

async fn load_runs(session: &mut Session, keys: &[&Key]) -> Result<Vec<Record>, Failure> {
    let mut records = Vec::with_capacity(keys.len());
    for (run, size) in padded_runs(keys, ROWS_MAX) {
        let marks = vec!["?"; size].join(",");
        let sql = format!("SELECT kv_key, kv_value, epoch, lsn, expires_at FROM records WHERE kv_key IN ({marks})");
        let mut args = Args::default();
        for key in run.iter().chain(run.last().into_iter().cycle()).take(size) {
            args = args.with(key.as_bytes())?;
        }
        for row in session.fetch(&sql, args).await? {
            records.push(record(&row)?);
        }
    }
    Ok(records)
}

fn with_version(args: Args<'_>, version: Version) -> Result<Args<'_>, Failure> {
    args.with(signed(version.epoch.0)?)?.with(signed(version.lsn.0)?)
}

fn signed_expiry(expires_at: Option<Timestamp>) -> Result<Option<i64>, Failure> {
    expires_at.map(|at| signed(at.0)).transpose()
}

/// A row that starts with key, value, epoch, lsn and expiry.
fn record(row: &SqliteRow) -> Result<Record, Failure> {
    let value = Value::new(row.try_get::<Vec<u8>, _>(1)?).map_err(broken)?;
    Ok(Record { key: key(row, 0)?, value, version: version(row, 2)?, expires_at: expiry(row, 4)? })
}

fn letter(row: &SqliteRow) -> Result<DeadLetter, Failure> {
    let effect = match row.try_get::<&str, _>(5)? {
        "delete" => Effect::Delete { key: key(row, 0)?, version: version(row, 2)? },
        _ => Effect::Set(record(row)?),
    };
    Ok(DeadLetter { effect, reason: row.try_get(6)? })
}

fn fence(row: &SqliteRow) -> Result<Fence, Failure> {
    let shard = String::from_utf8(row.try_get(0)?).map_err(broken)?;
    Ok(Fence {
        shard: ShardName::new(shard).map_err(broken)?,
        token: FenceToken(row.try_get::<i64, _>(1)?.cast_unsigned()),
        incarnation: Incarnation(row.try_get::<i64, _>(2)?.cast_unsigned()),
        epoch: Epoch(unsigned(row, 3)?),
        slots: row.try_get::<String, _>(4)?.parse::<SlotSet>().map_err(broken)?,
        lsn: Lsn(unsigned(row, 5)?),
        clean: row.try_get(6)?,
        journal: JournalId(row.try_get::<i64, _>(7)?.cast_unsigned()),
    })
}

fn key(row: &SqliteRow, column: usize) -> Result<Key, Failure> {
    Key::copy_from(row.try_get::<&[u8], _>(column)?).map_err(broken)
}

fn version(row: &SqliteRow, column: usize) -> Result<Version, Failure> {
    Ok(Version { epoch: Epoch(unsigned(row, column)?), lsn: Lsn(unsigned(row, column + 1)?) })
}

fn expiry(row: &SqliteRow, column: usize) -> Result<Option<Timestamp>, Failure> {
    let at = row.try_get::<Option<i64>, _>(column)?;
    at.map(|at| u64::try_from(at).map(Timestamp).map_err(broken)).transpose()
}

fn unsigned(row: &SqliteRow, column: usize) -> Result<u64, Failure> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(broken)
}

/// Something in the table that we did not write.
fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Sql(sqlx::Error::Decode(Box::new(error)))
}

impl Tier for SqliteTier {
    fn describe(&self) -> String {
        format!("sqlite://{}", self.writer.connector().path.display())
    }

    fn connections(&self) -> Connections {
        let (writer, readers) = (self.writer.connections(), self.readers.connections());
        Connections { used: writer.used + readers.used, max: writer.max + readers.max }
    }

    fn prepare(&self) -> TierFuture<'_, Prepared> {
        Box::pin(async {
            let mut lease: Lease<'_, File> = self.writer.lease().await?;
            let prepared = schema::create_and_check(&mut lease.connection).await;
            commit(lease, prepared).await
        })
    }

    fn fences(&self) -> TierFuture<'_, Vec<Fence>> {
        let sql = "SELECT shard, token, incarnation, epoch, slots, lsn, clean, journal FROM fences ORDER BY shard";
        Box::pin(self.read(sql, Ok(Args::default()), fence))
    }

    fn swap_fence<'a>(&'a self, expected: Option<FenceToken>, fence: &'a Fence) -> TierFuture<'a, bool> {
        Box::pin(self.swap_fence(expected, fence))
    }

    fn flush<'a>(
        &'a self,
        shard: &'a ShardName,
        _lane: Lane,
        token: FenceToken,
        effects: &'a [Effect],
        lsn: Lsn,
    ) -> TierFuture<'a, ()> {
        Box::pin(self.flush(shard, token, effects, lsn))
    }

    fn load<'a>(&'a self, keys: &'a [Key]) -> TierFuture<'a, Vec<Record>> {
        Box::pin(self.load(keys))
    }

    fn scan<'a>(
        &'a self,
        first: Slot,
        after: Option<&'a Key>,
        last: Slot,
        limit: usize,
    ) -> TierFuture<'a, Vec<RowKey>> {
        Box::pin(self.scan(first, after, last, limit))
    }

    fn bury<'a>(&'a self, shard: &'a ShardName, letter: &'a DeadLetter) -> TierFuture<'a, ()> {
        Box::pin(self.bury(shard, letter))
    }

    fn buried(&self, first: Slot, last: Slot) -> TierFuture<'_, Vec<DeadLetter>> {
        let sql = "SELECT kv_key, kv_value, epoch, lsn, expires_at, effect, reason FROM dead_letters \
                   WHERE slot BETWEEN ? AND ? ORDER BY kv_key";
        let args = Args::default().with(first.get()).and_then(|args| args.with(last.get()));
        Box::pin(self.read(sql, args, letter))
    }

    fn unbury<'a>(&'a self, key: &'a Key, version: Version) -> TierFuture<'a, ()> {
        Box::pin(self.unbury(key, version))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.readers.close().await;
            self.writer.close().await;
        })
    }
}
