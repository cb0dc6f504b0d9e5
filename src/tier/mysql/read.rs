//! Reading: rows, keys, fences and dead letters, each statement in autocommit (R16).

use sqlx::Row;
use sqlx::mysql::MySqlRow;

use super::super::batch::padded_runs;
use super::super::pool::Pool;
use super::super::{DeadLetter, ROWS_MAX, RowKey, TierError, check_rows};
use super::failure::Failure;
use super::session::{Args, Server, Session, settle};
use super::sql;
use crate::cluster::{Fence, FenceToken, Incarnation, ShardName};
use crate::command::Effect;
use crate::record::{Epoch, JournalId, Key, Lsn, Record, Timestamp, Value, Version};
use crate::slots::{Slot, SlotSet};

pub(super) async fn load(pool: &Pool<Server>, keys: &[Key]) -> Result<Vec<Record>, TierError> {
    check_rows(keys.len())?;
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut sorted: Vec<&Key> = keys.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut lease = pool.lease().await?;
    let records = load_runs(&mut lease.connection, &sorted).await;
    settle(lease, records)
}

async fn load_runs(session: &mut Session, keys: &[&Key]) -> Result<Vec<Record>, Failure> {
    let mut records = Vec::with_capacity(keys.len());
    for (run, size) in padded_runs(keys, ROWS_MAX) {
        let mut args = Args::with_capacity(size, run.iter().map(|key| key.as_bytes().len() + 4).sum());
        let padding = run.last().into_iter().cycle();
        for key in run.iter().chain(padding).take(size) {
            args.push(key.as_bytes())?;
        }
        for row in session.fetch(sql::load(size), args).await? {
            records.push(record(&row)?);
        }
    }
    Ok(records)
}

pub(super) async fn scan(
    pool: &Pool<Server>,
    first: Slot,
    after: Option<&Key>,
    last: Slot,
    limit: usize,
) -> Result<Vec<RowKey>, TierError> {
    let mut lease = pool.lease().await?;
    let keys = scan_page(&mut lease.connection, first, after, last, limit).await;
    settle(lease, keys)
}

/// The two alternatives are two ranges of the index, so that a page in the middle of a large slot does not start at the
/// slot's beginning.
async fn scan_page(
    session: &mut Session,
    first: Slot,
    after: Option<&Key>,
    last: Slot,
    limit: usize,
) -> Result<Vec<RowKey>, Failure> {
    if first > last {
        return Ok(Vec::new());
    }
    let (first, last, limit) = (first.get(), last.get(), limit as u64);
    let rows = match after {
        None => {
            let sql = "SELECT slot, kv_key, expires_at FROM records WHERE slot >= ? AND slot <= ? \
                       ORDER BY slot, kv_key LIMIT ?";
            session.fetch(sql, Args::default().with(first)?.with(last)?.with(limit)?).await?
        }
        Some(after) => {
            let sql = "SELECT slot, kv_key, expires_at FROM records \
                       WHERE (slot = ? AND kv_key > ?) OR (slot > ? AND slot <= ?) ORDER BY slot, kv_key LIMIT ?";
            let args = Args::default().with(first)?.with(after.as_bytes())?.with(first)?.with(last)?.with(limit)?;
            session.fetch(sql, args).await?
        }
    };
    let row_key = |row: &MySqlRow| {
        let slot = Slot::try_from(row.try_get::<u16, _>(0)?).map_err(broken)?;
        Ok(RowKey { slot, key: key(row, 1)?, expires_at: expiry(row, 2)? })
    };
    rows.iter().map(row_key).collect()
}

pub(super) async fn fences(pool: &Pool<Server>) -> Result<Vec<Fence>, TierError> {
    let mut lease = pool.lease().await?;
    // Plain columns: what a function of unsigned numbers is, servers differ in.
    let sql = "SELECT fences.shard, fences.token, incarnation, epoch, slots, fences.lsn, clean, journal, lanes.lsn \
               FROM fences LEFT JOIN lanes ON lanes.shard = fences.shard ORDER BY fences.shard";
    let rows = lease.connection.fetch(sql, Args::default()).await;
    settle(lease, rows.and_then(|rows| with_lanes(&rows)))
}

/// A row for each further lane, or one where there is none.
fn with_lanes(rows: &[MySqlRow]) -> Result<Vec<Fence>, Failure> {
    let mut fences: Vec<Fence> = Vec::new();
    for row in rows {
        let lane_lsn = Lsn(row.try_get::<Option<u64>, _>(8)?.unwrap_or_default());
        let fence = fence(row)?;
        match fences.last_mut().filter(|last| last.shard == fence.shard) {
            Some(last) => last.lsn = last.lsn.max(lane_lsn),
            None => fences.push(Fence { lsn: fence.lsn.max(lane_lsn), ..fence }),
        }
    }
    Ok(fences)
}

pub(super) async fn buried(pool: &Pool<Server>, first: Slot, last: Slot) -> Result<Vec<DeadLetter>, TierError> {
    let mut lease = pool.lease().await?;
    let sql = "SELECT kv_key, kv_value, epoch, lsn, expires_at, effect, reason FROM dead_letters \
               WHERE slot >= ? AND slot <= ? ORDER BY kv_key";
    let letters = async {
        let args = Args::default().with(first.get())?.with(last.get())?;
        lease.connection.fetch(sql, args).await?.iter().map(letter).collect()
    };
    let letters = letters.await;
    settle(lease, letters)
}

/// A row that starts with key, value, epoch, lsn and expiry.
fn record(row: &MySqlRow) -> Result<Record, Failure> {
    let value = Value::new(row.try_get::<Vec<u8>, _>(1)?).map_err(broken)?;
    Ok(Record { key: key(row, 0)?, value, version: version(row, 2)?, expires_at: expiry(row, 4)? })
}

fn letter(row: &MySqlRow) -> Result<DeadLetter, Failure> {
    let effect = match row.try_get::<&str, _>(5)? {
        "delete" => Effect::Delete { key: key(row, 0)?, version: version(row, 2)? },
        _ => Effect::Set(record(row)?),
    };
    Ok(DeadLetter { effect, reason: row.try_get(6)? })
}

fn fence(row: &MySqlRow) -> Result<Fence, Failure> {
    let shard = String::from_utf8(row.try_get(0)?).map_err(broken)?;
    Ok(Fence {
        shard: ShardName::new(shard).map_err(broken)?,
        token: FenceToken(row.try_get(1)?),
        incarnation: Incarnation(row.try_get(2)?),
        epoch: Epoch(row.try_get(3)?),
        slots: row.try_get::<String, _>(4)?.parse::<SlotSet>().map_err(broken)?,
        lsn: Lsn(row.try_get(5)?),
        clean: row.try_get(6)?,
        journal: JournalId(row.try_get(7)?),
    })
}

fn key(row: &MySqlRow, column: usize) -> Result<Key, Failure> {
    Key::copy_from(row.try_get::<&[u8], _>(column)?).map_err(broken)
}

fn version(row: &MySqlRow, column: usize) -> Result<Version, Failure> {
    Ok(Version { epoch: Epoch(row.try_get(column)?), lsn: Lsn(row.try_get(column + 1)?) })
}

fn expiry(row: &MySqlRow, column: usize) -> Result<Option<Timestamp>, Failure> {
    Ok(row.try_get::<Option<u64>, _>(column)?.map(Timestamp))
}

/// Something in the table that we did not write.
fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Sql(sqlx::Error::Decode(Box::new(error)))
}
