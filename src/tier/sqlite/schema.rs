//! The tables: those of MySQL, in SQLite's words.

use sqlx::Row;

use super::super::{Prepared, SCHEMA_VERSION, schema_is_newer};
use super::session::{Abort, Args, Failure, Session};
use crate::cluster::TierId;

const CREATE: [&str; 7] = [
    "CREATE TABLE IF NOT EXISTS records (
       kv_key BLOB NOT NULL PRIMARY KEY,
       kv_value BLOB NOT NULL,
       epoch INTEGER NOT NULL,
       lsn INTEGER NOT NULL,
       expires_at INTEGER,
       slot INTEGER NOT NULL
     )",
    "CREATE INDEX IF NOT EXISTS records_by_slot ON records (slot, kv_key, expires_at)",
    "CREATE TABLE IF NOT EXISTS fences (
       shard BLOB NOT NULL PRIMARY KEY,
       token INTEGER NOT NULL,
       flushes INTEGER NOT NULL,
       incarnation INTEGER NOT NULL,
       epoch INTEGER NOT NULL,
       slots TEXT NOT NULL,
       lsn INTEGER NOT NULL,
       clean BOOLEAN NOT NULL,
       journal INTEGER NOT NULL DEFAULT 0
     )",
    "CREATE TABLE IF NOT EXISTS dead_letters (
       kv_key BLOB NOT NULL PRIMARY KEY,
       shard BLOB NOT NULL,
       slot INTEGER NOT NULL,
       effect TEXT NOT NULL,
       kv_value BLOB,
       epoch INTEGER NOT NULL,
       lsn INTEGER NOT NULL,
       expires_at INTEGER,
       reason TEXT NOT NULL,
       buried_at TEXT NOT NULL
     )",
    "CREATE INDEX IF NOT EXISTS dead_letters_by_slot ON dead_letters (slot)",
    "CREATE TABLE IF NOT EXISTS overspill (
       id INTEGER NOT NULL PRIMARY KEY,
       schema_version INTEGER NOT NULL,
       tier_id INTEGER NOT NULL
     )",
    "CREATE VIEW IF NOT EXISTS records_text AS SELECT
       CAST(kv_key AS TEXT) AS kv_key,
       CAST(kv_value AS TEXT) AS kv_value,
       epoch || '.' || lsn AS version,
       strftime('%Y-%m-%d %H:%M:%f', expires_at / 1000.0, 'unixepoch') AS expires_at,
       slot
     FROM records",
];

/// One transaction: of nodes that race here, one creates all.
pub(super) async fn create_and_check(session: &mut Session) -> Result<Prepared, Abort> {
    session.begin().await?;
    for statement in CREATE {
        session.execute(statement).await?;
    }
    let insert = "INSERT INTO overspill (id, schema_version, tier_id) VALUES (1, ?, ?) ON CONFLICT (id) DO NOTHING";
    session.run(insert, Args::default().with(SCHEMA_VERSION)?.with(rand::random::<i64>())?).await?;
    let select = "SELECT schema_version, tier_id FROM overspill WHERE id = 1";
    let rows = session.fetch(select, Args::default()).await?;
    let row = rows.first().ok_or(Failure::Sql(sqlx::Error::RowNotFound))?;
    let version: u32 = row.try_get(0).map_err(Failure::Sql)?;
    if version > SCHEMA_VERSION {
        return Err(Failure::Unfit(schema_is_newer(version)).into());
    }
    if version < 2 {
        session.execute("ALTER TABLE fences ADD COLUMN journal INTEGER NOT NULL DEFAULT 0").await?;
    }
    if version < SCHEMA_VERSION {
        // 3: its fences have one lane, since one connection writes.
        session.run("UPDATE overspill SET schema_version = ?", Args::default().with(SCHEMA_VERSION)?).await?;
    }
    let id: i64 = row.try_get(1).map_err(Failure::Sql)?;
    Ok(Prepared { id: TierId(id.cast_unsigned()), warnings: Vec::new() })
}
