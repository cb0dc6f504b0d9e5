//! Writing: each call is a transaction of its own.

use super::super::batch::{STATEMENT_BYTES_MAX, in_key_order, padded_runs, record_bytes, runs};
use super::super::pool::{Lease, Pool};
use super::super::{DeadLetter, Lane, TierError, check_rows};
use super::LANES;
use super::failure::{DUPLICATE_KEY, Failure};
use super::session::{Args, Server, Session};
use super::sql::{self, DELETE_ROWS_MAX};
use crate::cluster::{Fence, FenceToken, ShardName};
use crate::command::Effect;
use crate::record::{Key, Lsn, Record, Version};
use crate::slots::Slot;

/// What a statement has beside its rows: its text at most (1000 rows of `(?,?,?,?,?,?)` while preparing), and types.
const OVERHEAD_BYTES: usize = 64 * 1024;

/// Why a transaction is not to be committed.
enum Abort {
    Fenced,
    Failed(Failure),
}

impl From<Failure> for Abort {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

pub(super) async fn flush(
    pool: &Pool<Server>,
    shard: &ShardName,
    lane: Lane,
    token: FenceToken,
    effects: &[Effect],
    lsn: Lsn,
) -> Result<(), TierError> {
    check_rows(effects.len())?;
    let mut lease = pool.lease().await?;
    let written = write_effects(&mut lease.connection, shard, lane, token, effects, lsn).await;
    commit(lease, written).await
}

async fn write_effects(
    session: &mut Session,
    shard: &ShardName,
    lane: Lane,
    token: FenceToken,
    effects: &[Effect],
    lsn: Lsn,
) -> Result<(), Abort> {
    begin_fenced(session, shard, lane, token, lsn).await?;
    let (sets, deletes) = in_key_order(effects);
    let bytes_max = session.packet_bytes_max.saturating_sub(OVERHEAD_BYTES);
    if let Some(record) = sets.iter().find(|record| record_bytes(record) > bytes_max) {
        let max = session.packet_bytes_max;
        let reason = format!("`{}` is too large for max_allowed_packet = {max}", record.key);
        return Err(Failure::Unfit(reason).into());
    }
    for run in runs(&sets, usize::MAX, bytes_max.min(STATEMENT_BYTES_MAX), record_bytes) {
        upsert(session, run).await?;
    }
    for (run, size) in padded_runs(&deletes, DELETE_ROWS_MAX) {
        delete(session, run, size).await?;
    }
    Ok(())
}

/// R20: the fence row is written, not read. A new owner's swap waits for us here or has outdated our token; and where several nodes
/// write, two transactions that wrote one row can't both be certified. Goes with the begin, to save the lane a round trip.
async fn begin_fenced(
    session: &mut Session,
    shard: &ShardName,
    lane: Lane,
    token: FenceToken,
    lsn: Lsn,
) -> Result<(), Abort> {
    let (table, and_lane) = match lane {
        Lane::FIRST => ("fences", String::new()),
        Lane(lane) => ("lanes", format!(" AND lane = {lane}")),
    };
    let (shard, lsn, token) = (sql::literal(shard.as_str().as_bytes()), lsn.0, token.0);
    let written = session
        .execute(&format!(
            "START TRANSACTION; UPDATE {table} SET flushes = flushes + 1, lsn = GREATEST(lsn, {lsn}) \
             WHERE shard = {shard} AND token = {token}{and_lane}"
        ))
        .await?;
    if written == 1 { Ok(()) } else { Err(Abort::Fenced) }
}

async fn upsert(session: &mut Session, records: &[&Record]) -> Result<(), Failure> {
    let mut args = Args::with_capacity(records.len() * 6, records.iter().map(record_bytes).sum());
    for record in records {
        args.push(record.key.as_bytes())?;
        args.push(record.value.as_bytes())?;
        args.push(record.version.epoch.0)?;
        args.push(record.version.lsn.0)?;
        args.push(record.expires_at.map(|at| at.0))?;
        args.push(Slot::of(&record.key).get())?;
    }
    session.run(session.dialect.upsert(records.len()), args).await?;
    Ok(())
}

/// `size` rows: the last is repeated, which changes nothing.
async fn delete(session: &mut Session, deletes: &[(&Key, Version)], size: usize) -> Result<(), Failure> {
    let mut args = Args::with_capacity(size * 4, size * 64);
    let padding = deletes.last().into_iter().cycle();
    for (key, version) in deletes.iter().chain(padding).take(size) {
        push_not_newer(&mut args, key, *version)?;
    }
    session.run(sql::delete(size), args).await?;
    Ok(())
}

/// The parameters of `kv_key = ? AND (epoch < ? OR (epoch = ? AND lsn <= ?))`.
fn push_not_newer(args: &mut Args, key: &Key, version: Version) -> Result<(), Failure> {
    args.push(key.as_bytes())?;
    args.push(version.epoch.0)?;
    args.push(version.epoch.0)?;
    args.push(version.lsn.0)
}

pub(super) async fn swap_fence(
    pool: &Pool<Server>,
    expected: Option<FenceToken>,
    fence: &Fence,
) -> Result<bool, TierError> {
    let mut lease = pool.lease().await?;
    let swapped = write_fence(&mut lease.connection, expected, fence).await;
    commit(lease, swapped).await
}

async fn write_fence(session: &mut Session, expected: Option<FenceToken>, fence: &Fence) -> Result<bool, Abort> {
    begin(session).await?;
    let args = Args::default()
        .with(fence.token.0)?
        .with(fence.incarnation.0)?
        .with(fence.epoch.0)?
        .with(fence.slots.to_string())?
        .with(fence.lsn.0)?
        .with(fence.clean)?
        .with(fence.journal.0)?
        .with(fence.shard.as_str().as_bytes())?;
    let insert = "INSERT INTO fences (token, incarnation, epoch, slots, lsn, clean, journal, shard, flushes) \
                  VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)";
    let update = "UPDATE fences SET token = ?, incarnation = ?, epoch = ?, slots = ?, lsn = GREATEST(lsn, ?), clean = ?, \
                  journal = ? WHERE shard = ? AND token = ?";
    let written = match expected {
        None => session.run(insert, args).await,
        Some(expected) => session.run(update, args.with(expected.0)?).await,
    };
    match written {
        Ok(1) => write_lanes(session, fence).await.map(|()| true),
        Err(failure) if failure.code() != Some(DUPLICATE_KEY) => Err(failure.into()),
        Ok(_) | Err(_) => Ok(false),
    }
}

/// The same token for all lanes but the first, whose row is the fence's. All that are there, also those of a program that has more.
async fn write_lanes(session: &mut Session, fence: &Fence) -> Result<(), Abort> {
    let shard = fence.shard.as_str().as_bytes();
    let sql = "UPDATE lanes SET token = ? WHERE shard = ?";
    session.run(sql, Args::default().with(fence.token.0)?.with(shard)?).await?;
    for lane in 1..LANES {
        let sql = "INSERT IGNORE INTO lanes (shard, lane, token, lsn, flushes) VALUES (?, ?, ?, 0, 0)";
        session.run(sql, Args::default().with(shard)?.with(lane)?.with(fence.token.0)?).await?;
    }
    Ok(())
}

pub(super) async fn bury(pool: &Pool<Server>, shard: &ShardName, letter: &DeadLetter) -> Result<(), TierError> {
    let mut lease = pool.lease().await?;
    let buried = write_letter(&mut lease.connection, shard, letter).await;
    commit(lease, buried).await
}

async fn write_letter(session: &mut Session, shard: &ShardName, letter: &DeadLetter) -> Result<(), Abort> {
    begin(session).await?;
    let (key, version) = (letter.effect.key(), letter.effect.version());
    delete_letter(session, key, version).await?;
    let (effect, value, expires_at) = match &letter.effect {
        Effect::Set(record) => ("set", Some(record.value.as_bytes()), record.expires_at),
        Effect::Delete { .. } => ("delete", None, None),
    };
    let sql = "INSERT INTO dead_letters \
               (kv_key, shard, slot, effect, kv_value, epoch, lsn, expires_at, reason, buried_at) \
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(3))";
    let args = Args::default()
        .with(key.as_bytes())?
        .with(shard.as_str().as_bytes())?
        .with(Slot::of(key).get())?
        .with(effect)?
        .with(value)?
        .with(version.epoch.0)?
        .with(version.lsn.0)?
        .with(expires_at.map(|at| at.0))?
        .with(letter.reason.as_str())?;
    match session.run(sql, args).await {
        // What is still there is newer.
        Err(failure) if failure.code() == Some(DUPLICATE_KEY) => Ok(()),
        outcome => outcome.map(|_| ()).map_err(Abort::Failed),
    }
}

pub(super) async fn unbury(pool: &Pool<Server>, key: &Key, version: Version) -> Result<(), TierError> {
    let mut lease = pool.lease().await?;
    let session = &mut lease.connection;
    let deleted = async {
        begin(session).await?;
        Ok(delete_letter(session, key, version).await?)
    };
    let deleted = deleted.await;
    commit(lease, deleted).await
}

async fn delete_letter(session: &mut Session, key: &Key, version: Version) -> Result<(), Failure> {
    let sql = "DELETE FROM dead_letters WHERE kv_key = ? AND (epoch < ? OR (epoch = ? AND lsn <= ?))";
    let mut args = Args::default();
    push_not_newer(&mut args, key, version)?;
    session.run(sql, args).await?;
    Ok(())
}

async fn begin(session: &mut Session) -> Result<(), Failure> {
    session.execute("START TRANSACTION").await.map(|_| ())
}

/// Ends a transaction: commits it, or rolls it back if it is to be aborted. A connection goes back only if the server has
/// confirmed the end.
async fn commit<T>(mut lease: Lease<'_, Server>, written: Result<T, Abort>) -> Result<T, TierError> {
    let error = match written {
        Ok(value) => match lease.connection.execute("COMMIT").await {
            Ok(_) => {
                lease.give_back();
                return Ok(value);
            }
            Err(failure) => {
                lease.discard();
                return Err(failure.at_commit());
            }
        },
        Err(Abort::Failed(failure)) if !failure.is_an_answer() => {
            // The server rolls back what a closed connection left open.
            lease.discard();
            return Err(failure.before_commit());
        }
        Err(Abort::Failed(failure)) => failure.before_commit(),
        Err(Abort::Fenced) => TierError::Fenced,
    };
    match lease.connection.execute("ROLLBACK").await {
        Ok(_) => lease.give_back(),
        Err(_) => lease.discard(),
    }
    Err(error)
}
