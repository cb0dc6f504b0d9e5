//! The tables, and what `prepare` checks.

use std::time::Duration;

use sqlx::Row;

use super::super::pool::Pool;
use super::super::{Prepared, SCHEMA_VERSION, TierError};
use super::failure::{DUPLICATE_COLUMN, Failure, NO_DATABASE};
use super::session::{Args, Server, Session, settle};
use crate::cluster::TierId;
use crate::record::VALUE_BYTES_MAX;

/// Nodes that prepare at once may deadlock on the server's catalogue; each try gets further.
const TRIES_MAX: u32 = 10;
/// Below it not even a batch of keys fits.
const PACKET_BYTES_MIN: usize = 2 * 1024 * 1024;

const TABLES: [(&str, &str); 5] = [
    // The key's layout is argued in docs/adr/0001-key-layout.md. R21: keys are bytes.
    (
        "records",
        "CREATE TABLE IF NOT EXISTS records (
       kv_key VARBINARY(1024) NOT NULL,
       kv_value LONGBLOB NOT NULL,
       epoch BIGINT UNSIGNED NOT NULL,
       lsn BIGINT UNSIGNED NOT NULL,
       expires_at BIGINT UNSIGNED NULL COMMENT 'milliseconds since 1970, UTC',
       slot SMALLINT UNSIGNED NOT NULL,
       PRIMARY KEY (kv_key),
       KEY by_slot (slot, kv_key, expires_at)
     ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4",
    ),
    (
        "fences",
        "CREATE TABLE IF NOT EXISTS fences (
       shard VARBINARY(260) NOT NULL,
       token BIGINT UNSIGNED NOT NULL,
       flushes BIGINT UNSIGNED NOT NULL,
       incarnation BIGINT UNSIGNED NOT NULL,
       epoch BIGINT UNSIGNED NOT NULL,
       slots MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL,
       lsn BIGINT UNSIGNED NOT NULL,
       clean BOOLEAN NOT NULL,
       journal BIGINT UNSIGNED NOT NULL DEFAULT 0,
       PRIMARY KEY (shard)
     ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4",
    ),
    (
        "lanes",
        "CREATE TABLE IF NOT EXISTS lanes (
       shard VARBINARY(260) NOT NULL,
       lane TINYINT UNSIGNED NOT NULL COMMENT 'from 1: the row in fences is lane 0',
       token BIGINT UNSIGNED NOT NULL,
       flushes BIGINT UNSIGNED NOT NULL,
       lsn BIGINT UNSIGNED NOT NULL,
       PRIMARY KEY (shard, lane)
     ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4",
    ),
    (
        "dead_letters",
        "CREATE TABLE IF NOT EXISTS dead_letters (
       kv_key VARBINARY(1024) NOT NULL,
       shard VARBINARY(260) NOT NULL,
       slot SMALLINT UNSIGNED NOT NULL,
       effect VARCHAR(8) CHARACTER SET utf8mb4 NOT NULL COMMENT 'set or delete',
       kv_value LONGBLOB NULL,
       epoch BIGINT UNSIGNED NOT NULL,
       lsn BIGINT UNSIGNED NOT NULL,
       expires_at BIGINT UNSIGNED NULL,
       reason MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL,
       buried_at DATETIME(3) NOT NULL COMMENT 'UTC',
       PRIMARY KEY (kv_key),
       KEY by_slot (slot)
     ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4",
    ),
    (
        "overspill",
        "CREATE TABLE IF NOT EXISTS overspill (
       id TINYINT UNSIGNED NOT NULL,
       schema_version INT UNSIGNED NOT NULL,
       tier_id BIGINT UNSIGNED NOT NULL,
       PRIMARY KEY (id)
     ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4",
    ),
];

/// Bytes that are no text are shown in hexadecimal: servers differ in what converting them gives (`?`, or NULL).
const VIEW_NAME: &str = "records_text";
const VIEW: &str = "CREATE OR REPLACE SQL SECURITY INVOKER VIEW records_text AS SELECT
    CASE WHEN CAST(CONVERT(kv_key USING utf8mb4) AS BINARY) = kv_key THEN CONVERT(kv_key USING utf8mb4)
         ELSE CONCAT('0x', HEX(kv_key)) END AS kv_key,
    CASE WHEN CAST(CONVERT(kv_value USING utf8mb4) AS BINARY) = kv_value THEN CONVERT(kv_value USING utf8mb4)
         ELSE CONCAT('0x', HEX(kv_value)) END AS kv_value,
    CONCAT(epoch, '.', lsn) AS version,
    CAST('1970-01-01 00:00:00' AS DATETIME(3)) + INTERVAL (expires_at / 1000) SECOND AS expires_at,
    slot
  FROM records";

pub(super) async fn prepare(pool: &Pool<Server>) -> Result<Prepared, TierError> {
    create_database_if_missing(pool.connector()).await?;
    let mut tries = 1;
    loop {
        let mut lease = pool.lease().await?;
        let prepared = create_and_check(&mut lease.connection).await;
        match settle(lease, prepared) {
            Err(TierError::Conflict(_)) if tries < TRIES_MAX => {}
            outcome => return outcome,
        }
        tokio::time::sleep(Duration::from_millis(u64::from(rand::random_range(1..=20 * tries)))).await;
        tries += 1;
    }
}

async fn create_database_if_missing(server: &Server) -> Result<(), TierError> {
    let database = &server.options.database;
    match server.establish(Some(database)).await {
        Err(failure) if failure.code().is_some_and(|code| NO_DATABASE.contains(&code)) => {}
        outcome => return outcome.map(|_| ()).map_err(Failure::at_connect),
    }
    let mut session = server.establish(None).await.map_err(Failure::at_connect)?;
    let name = database.replace('`', "``");
    let create = format!("CREATE DATABASE IF NOT EXISTS `{name}` DEFAULT CHARACTER SET utf8mb4");
    session.execute(&create).await.map(|_| ()).map_err(Failure::before_commit)
}

async fn create_and_check(session: &mut Session) -> Result<Prepared, Failure> {
    let warnings = check_settings(session).await?;
    // Only what is missing: for the rest the right to create things is not needed.
    let there = tables(session).await?;
    let is_missing = |name: &str| !there.iter().any(|table| table == name);
    for (_, create) in TABLES.into_iter().filter(|(name, _)| is_missing(name)) {
        session.execute(create).await?;
    }
    if is_missing(VIEW_NAME) {
        create_view(session).await?;
    }
    let (version, id) = schema_row(session).await?;
    if version > SCHEMA_VERSION {
        return Err(Failure::Unfit(super::super::schema_is_newer(version)));
    }
    if version < 2 {
        upgrade_to_2(session).await?;
    }
    if version < SCHEMA_VERSION {
        // 3: the table of the lanes is there, and the next claim of a fence makes its rows.
        let raise = "UPDATE overspill SET schema_version = ? WHERE schema_version < ?";
        session.run(raise, Args::default().with(SCHEMA_VERSION)?.with(SCHEMA_VERSION)?).await?;
    }
    Ok(Prepared { id, warnings })
}

/// Fences tell the journal of their owner. Several nodes may do it at once.
async fn upgrade_to_2(session: &mut Session) -> Result<(), Failure> {
    let add = "ALTER TABLE fences ADD COLUMN journal BIGINT UNSIGNED NOT NULL DEFAULT 0";
    match session.execute(add).await {
        Err(failure) if failure.code() != Some(DUPLICATE_COLUMN) => Err(failure),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The names of the tables and views that are there.
async fn tables(session: &mut Session) -> Result<Vec<String>, Failure> {
    let sql = "SELECT CAST(table_name AS BINARY) FROM information_schema.tables WHERE table_schema = DATABASE()";
    let rows = session.fetch(sql, Args::default()).await?;
    rows.iter().map(|row| Ok(String::from_utf8_lossy(row.try_get(0)?).into_owned())).collect()
}

/// The view is for people; a server that has no views, or does not let us, still serves.
async fn create_view(session: &mut Session) -> Result<(), Failure> {
    match session.execute(VIEW).await {
        Err(failure) if failure.code().is_some() && !matches!(failure.code(), Some(1213 | 1205)) => {
            tracing::warn!(%failure, "the view `records_text` could not be created");
            Ok(())
        }
        outcome => outcome.map(|_| ()),
    }
}

/// Of nodes that race here, one inserts its id, and all read it.
async fn schema_row(session: &mut Session) -> Result<(u32, TierId), Failure> {
    let insert = "INSERT IGNORE INTO overspill (id, schema_version, tier_id) VALUES (1, ?, ?)";
    let select = "SELECT schema_version, tier_id FROM overspill WHERE id = 1";
    let mut rows = session.fetch(select, Args::default()).await?;
    if rows.is_empty() {
        session.run(insert, Args::default().with(SCHEMA_VERSION)?.with(rand::random::<u64>())?).await?;
        rows = session.fetch(select, Args::default()).await?;
    }
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok((row.try_get(0)?, TierId(row.try_get(1)?)))
}

/// Refuses what can't work, and returns a sentence for each setting that may lose or refuse data.
async fn check_settings(session: &mut Session) -> Result<Vec<String>, Failure> {
    let names = ["innodb_flush_log_at_trx_commit", "log_bin", "sync_binlog", "binlog_format"];
    let variables = session.variables(true, &names).await?;
    let get = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let logs = get("log_bin").is_some_and(|value| value.eq_ignore_ascii_case("ON") || value == "1");
    if logs && get("binlog_format").is_some_and(|value| value.eq_ignore_ascii_case("STATEMENT")) {
        return Err(Failure::Unfit("binlog_format = STATEMENT does not allow READ COMMITTED: use ROW or MIXED".into()));
    }
    let packet = session.packet_bytes_max;
    if packet < PACKET_BYTES_MIN {
        return Err(Failure::Unfit(format!("max_allowed_packet = {packet} is below {PACKET_BYTES_MIN}")));
    }
    let mut warnings = Vec::new();
    if let Some(value) = get("innodb_flush_log_at_trx_commit").filter(|value| *value != "1") {
        warnings.push(format!(
            "innodb_flush_log_at_trx_commit = {value}: a crash of the database server may lose what it acknowledged; set it to 1"
        ));
    }
    if let Some(value) = get("sync_binlog").filter(|value| logs && *value != "1") {
        warnings.push(format!(
            "sync_binlog = {value} with log_bin on: a crash of the database server may lose what it acknowledged to its replicas; set it to 1"
        ));
    }
    if packet < VALUE_BYTES_MAX + 64 * 1024 {
        warnings.push(format!(
            "max_allowed_packet = {packet}: larger values, up to {VALUE_BYTES_MAX} bytes, can't be spilled; raise it to 16 MiB"
        ));
    }
    Ok(warnings)
}
