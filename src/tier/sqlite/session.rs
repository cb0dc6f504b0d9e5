//! One connection to the file: statements with a deadline, transactions, and what failures mean.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
use sqlx::{Arguments, ConnectOptions, Connection, Encode, Executor, Sqlite, Type};

use super::super::TierError;
use super::super::pool::{Connector, Lease};

/// How long a statement waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// For one statement; only a disk that hangs takes as long.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
const BUSY: u32 = 5;

pub(super) struct Session(SqliteConnection);

/// The parameters of a statement.
#[derive(Default)]
pub(super) struct Args<'q>(SqliteArguments<'q>);

impl<'q> Args<'q> {
    pub(super) fn with<T: Encode<'q, Sqlite> + Type<Sqlite> + Send + 'q>(mut self, value: T) -> Result<Self, Failure> {
        self.0.add(value).map_err(|error| Failure::Sql(sqlx::Error::Encode(error)))?;
        Ok(self)
    }
}

/// SQLite's integers are signed.
pub(super) fn signed(number: u64) -> Result<i64, Failure> {
    i64::try_from(number).map_err(|_| Failure::Unfit(format!("{number} is too large for SQLite")))
}

impl Session {
    pub(super) async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        bounded(self.0.execute(sql)).await.map(|_| ())
    }

    /// A prepared statement; returns how many rows it changed.
    pub(super) async fn run(&mut self, sql: &str, args: Args<'_>) -> Result<u64, Failure> {
        Ok(bounded(self.0.execute(sqlx::query_with(sql, args.0))).await?.rows_affected())
    }

    pub(super) async fn fetch(&mut self, sql: &str, args: Args<'_>) -> Result<Vec<SqliteRow>, Failure> {
        bounded(self.0.fetch_all(sqlx::query_with(sql, args.0))).await
    }

    /// Immediate: a transaction that becomes a writer only later can fail without having waited.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.execute("BEGIN IMMEDIATE").await
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, work).await {
        Ok(done) => done.map_err(Failure::Sql),
        Err(_) => Err(Failure::Elapsed),
    }
}

/// Why a statement did not do its work.
#[derive(Debug)]
pub(super) enum Failure {
    Sql(sqlx::Error),
    Elapsed,
    /// What it is asked, or what the file holds, is not for us.
    Unfit(String),
}

/// Why a transaction is not to be committed.
pub(super) enum Abort {
    Fenced,
    Failed(Failure),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Failure> for Abort {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Failure {
    /// SQLite's primary result code: <https://sqlite.org/rescode.html>.
    fn code(&self) -> Option<u32> {
        match self {
            Self::Sql(error) => Some(error.as_database_error()?.code()?.parse::<u32>().ok()? & 0xff),
            Self::Elapsed | Self::Unfit(_) => None,
        }
    }

    /// Nothing was written. BUSY and LOCKED may pass; a row is to blame only for SCHEMA, TOOBIG, CONSTRAINT, MISMATCH and
    /// RANGE, and for what can't be encoded or decoded.
    fn before_commit(self) -> TierError {
        let text = self.to_string();
        match (&self, self.code()) {
            (Self::Unfit(_), _) | (_, Some(17..=20 | 25)) => TierError::Rejected(text),
            (_, Some(BUSY | 6)) => TierError::Conflict(text),
            (_, Some(_)) | (Self::Elapsed, None) => TierError::Unavailable(text),
            (Self::Sql(sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_)), None) => {
                TierError::Rejected(text)
            }
            (Self::Sql(_), None) => TierError::Unavailable(text),
        }
    }

    /// Whether SQLite has answered, so that the connection is still good.
    fn is_an_answer(&self) -> bool {
        matches!(self, Self::Unfit(_)) || self.code().is_some()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => write!(f, "SQLite: {}", error.message()),
            Self::Sql(error) => error.fmt(f),
            Self::Elapsed => write!(f, "no answer within {} s", STATEMENT_TIMEOUT.as_secs()),
            Self::Unfit(reason) => f.write_str(reason),
        }
    }
}

/// Hands the connection on if it is sound, closes it if not, and says what a failure outside a transaction means.
pub(super) fn settle<T>(lease: Lease<'_, File>, outcome: Result<T, Failure>) -> Result<T, TierError> {
    match outcome {
        Ok(value) => {
            lease.give_back();
            Ok(value)
        }
        Err(failure) => {
            if failure.is_an_answer() {
                lease.give_back()
            } else {
                lease.discard()
            }
            Err(failure.before_commit())
        }
    }
}

/// Ends a transaction: commits it, or rolls it back if it is to be aborted.
pub(super) async fn commit<T>(mut lease: Lease<'_, File>, written: Result<T, Abort>) -> Result<T, TierError> {
    let error = match written {
        Ok(value) => match lease.connection.execute("COMMIT").await {
            Ok(()) => {
                lease.give_back();
                return Ok(value);
            }
            // The transaction is still open.
            Err(failure) if failure.code() == Some(BUSY) => failure.before_commit(),
            Err(failure) => {
                lease.discard();
                return Err(TierError::OutcomeUnknown(failure.to_string()));
            }
        },
        Err(Abort::Fenced) => TierError::Fenced,
        Err(Abort::Failed(failure)) if !failure.is_an_answer() => {
            lease.discard();
            return Err(failure.before_commit());
        }
        Err(Abort::Failed(failure)) => failure.before_commit(),
    };
    match lease.connection.execute("ROLLBACK").await {
        Ok(()) => lease.give_back(),
        // Also when it never began, or has rolled itself back: a new connection costs little.
        Err(_) => lease.discard(),
    }
    Err(error)
}

/// Opens [`Session`]s.
pub(super) struct File {
    pub(super) path: PathBuf,
}

impl Connector for File {
    type Connection = Session;

    async fn connect(&self) -> Result<Session, TierError> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        let start = Instant::now();
        loop {
            let failure = match bounded(options.connect()).await {
                Ok(connection) => return Ok(Session(connection)),
                Err(failure) => failure,
            };
            // Several that turn a new file to WAL at once are told BUSY without having waited.
            if failure.code() != Some(BUSY) || start.elapsed() > BUSY_TIMEOUT {
                return Err(TierError::Unavailable(failure.to_string()));
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(1..=20))).await;
        }
    }

    async fn check(&self, _session: &mut Session) -> bool {
        true
    }

    async fn close(&self, session: Session) {
        // It was to be closed anyway.
        let _ = bounded(session.0.close()).await;
    }
}
