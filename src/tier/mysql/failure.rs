//! What can go wrong with a statement, and what it means to the caller.

use std::fmt;
use std::time::Duration;

use sqlx::mysql::MySqlDatabaseError;

use super::super::TierError;

/// Why a statement did not do its work.
#[derive(Debug)]
pub(super) enum Failure {
    Sql(sqlx::Error),
    /// No answer in time. Its connection has lost its place in the protocol.
    Elapsed(Duration),
    /// The server answers, and is not fit for us.
    Unfit(String),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

pub(super) const DUPLICATE_KEY: u16 = 1062;
pub(super) const DUPLICATE_COLUMN: u16 = 1060;
/// Unknown database; and access denied to it, which is what one who may not see it is told.
pub(super) const NO_DATABASE: [u16; 2] = [1049, 1044];

/// The transaction was rolled back and may go through now: lock wait, deadlock (and failed certification on Galera), NOWAIT,
/// Group Replication's certification, and TiDB's write conflicts and schema changes.
const CONFLICTS: [u16; 9] = [1205, 1213, 3572, 3101, 8002, 8022, 8028, 9007, 8005];

/// Nothing that a row can be blamed for: to call these `Rejected` would send every row to the dead letters.
const UNAVAILABLE: [u16; 54] = [
    // Full, broken or out of memory: disk full, write error, out of memory, table full, storage engine error.
    1021, 1026, 1030, 1034, 1037, 1038, 1041, 1114, 1194, 1195, //
    // Too many connections, of a host, of a user; host blocked or unknown; limits of a user.
    1040, 1203, 1226, 1129, 1130, //
    // Access denied, to a database, a table, a column; missing privilege; password expired.
    1044, 1045, 1142, 1143, 1227, 1698, 1820, 1862, //
    // No such database or table: dropped under our feet.
    1046, 1049, 1146, 1932, //
    // Galera's "not yet prepared"; shutdown; aborted, killed, interrupted, timed out by the server.
    1047, 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1317, 1927, 1969, 3024, 4031, //
    // Read-only server or transaction; binlog format; Group Replication's hooks.
    1290, 1792, 1836, 1665, 3100, //
    // Vitess says 1105 for all that happens behind it; TiDB: schema outdated, PD, TiKV and regions away or busy.
    1105, 8027, 9001, 9002, 9003, 9005,
];

impl Failure {
    /// The server's error number.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Sql(error) => error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(|e| e.number()),
            Self::Elapsed(_) | Self::Unfit(_) => None,
        }
    }

    /// Whether the server has answered, so that the connection knows where it is.
    pub(super) fn is_an_answer(&self) -> bool {
        match self {
            Self::Sql(_) => self.code().is_some_and(|code| !UNAVAILABLE.contains(&code)),
            Self::Elapsed(_) => false,
            Self::Unfit(_) => true,
        }
    }

    /// For anything but a COMMIT: nothing was written.
    pub(super) fn before_commit(self) -> TierError {
        let text = self.to_string();
        match (&self, self.code()) {
            (Self::Unfit(_), _) => TierError::Rejected(text),
            (_, Some(code)) if CONFLICTS.contains(&code) => TierError::Conflict(text),
            (_, Some(code)) if UNAVAILABLE.contains(&code) => TierError::Unavailable(text),
            (_, Some(_)) => TierError::Rejected(text),
            (Self::Sql(error), None) if is_about_data(error) => TierError::Rejected(text),
            (Self::Sql(_) | Self::Elapsed(_), None) => TierError::Unavailable(text),
        }
    }

    /// For a COMMIT: only a named conflict says for sure that nothing was written (R26).
    pub(super) fn at_commit(self) -> TierError {
        match self.code() {
            Some(code) if CONFLICTS.contains(&code) => TierError::Conflict(self.to_string()),
            _ => TierError::OutcomeUnknown(self.to_string()),
        }
    }

    /// For a connection that could not be made: whatever it is, a person or time may mend it.
    pub(super) fn at_connect(self) -> TierError {
        TierError::Unavailable(self.to_string())
    }
}

/// A row that can't be understood, unlike a connection that can't.
fn is_about_data(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::RowNotFound
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
    )
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => {
                write!(f, "error {}: {}", self.code().unwrap_or_default(), error.message())
            }
            Self::Sql(error) => error.fmt(f),
            Self::Elapsed(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
            Self::Unfit(reason) => f.write_str(reason),
        }
    }
}

/// Runs something on a connection for as long as it may take. On [`Failure::Elapsed`] the connection is to be closed.
pub(super) async fn bounded<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(Failure::Sql),
        Err(_) => Err(Failure::Elapsed(limit)),
    }
}
