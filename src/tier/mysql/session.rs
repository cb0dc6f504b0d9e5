//! One connection to the server: how it is set up, and statements with a deadline.

use std::time::Duration;

use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::{Arguments, ConnectOptions, Connection, Encode, Executor, MySql, Row, Type};

use super::super::TierError;
use super::super::pool::{Connector, Lease};
use super::failure::{Failure, bounded};
use super::options::MySqlOptions;
use super::sql::Dialect;

/// For what is asked of a connection that is about to be reused or closed.
const COURTESY: Duration = Duration::from_millis(500);
/// Assumed where the server does not tell: MySQL's smallest default.
const PACKET_BYTES_DEFAULT: usize = 4 * 1024 * 1024;

pub(super) struct Session {
    connection: MySqlConnection,
    pub(super) dialect: Dialect,
    /// The largest statement that the server takes.
    pub(super) packet_bytes_max: usize,
    limit: Duration,
}

/// The parameters of a statement.
#[derive(Default)]
pub(super) struct Args(MySqlArguments);

impl Args {
    pub(super) fn with_capacity(values: usize, bytes: usize) -> Self {
        let mut args = MySqlArguments::default();
        args.reserve(values, bytes);
        Self(args)
    }

    pub(super) fn push<'q, T: Encode<'q, MySql> + Type<MySql> + Send + 'q>(&mut self, value: T) -> Result<(), Failure> {
        self.0.add(value).map_err(|error| Failure::Sql(sqlx::Error::Encode(error)))
    }

    pub(super) fn with<'q, T: Encode<'q, MySql> + Type<MySql> + Send + 'q>(
        mut self,
        value: T,
    ) -> Result<Self, Failure> {
        self.push(value)?;
        Ok(self)
    }
}

impl Session {
    /// Statements without parameters that return no rows, in the text protocol and in one round trip; returns how many rows their
    /// conditions matched. Behind one that fails, none is executed.
    pub(super) async fn execute(&mut self, sql: &str) -> Result<u64, Failure> {
        bounded(self.limit, self.connection.execute(sql)).await.map(|done| done.rows_affected())
    }

    /// A statement without parameters, in the text protocol: its columns are text, whatever type they claim.
    pub(super) async fn show(&mut self, sql: &str) -> Result<Vec<MySqlRow>, Failure> {
        bounded(self.limit, self.connection.fetch_all(sql)).await
    }

    /// A prepared statement; returns how many rows its condition matched (sqlx sets CLIENT_FOUND_ROWS, so for an
    /// upsert that tells nothing).
    pub(super) async fn run(&mut self, sql: &str, args: Args) -> Result<u64, Failure> {
        let done = bounded(self.limit, self.connection.execute(sqlx::query_with(sql, args.0))).await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn fetch(&mut self, sql: &str, args: Args) -> Result<Vec<MySqlRow>, Failure> {
        bounded(self.limit, self.connection.fetch_all(sqlx::query_with(sql, args.0))).await
    }

    /// Server variables by name, those that exist.
    pub(super) async fn variables(&mut self, global: bool, names: &[&str]) -> Result<Vec<(String, String)>, Failure> {
        let scope = if global { "GLOBAL " } else { "" };
        let sql = format!("SHOW {scope}VARIABLES WHERE Variable_name IN ('{}')", names.join("','"));
        let rows = self.show(&sql).await?;
        rows.iter().map(|row| Ok((text(row, 0)?.to_ascii_lowercase(), text(row, 1)?))).collect()
    }

    /// READ COMMITTED: a flush writes single rows by their keys and needs no gap locks, which would only deadlock. Strict, so that
    /// nothing is cut to fit. On Galera a load waits for what other nodes have committed (R16). Whoever will not take several
    /// statements at once is found out here, and not in a flush.
    async fn set_up(&mut self) -> Result<(), Failure> {
        let lock_wait_s = (self.limit.as_secs() / 2).max(1);
        let set = format!(
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', autocommit = 1, \
             innodb_lock_wait_timeout = {lock_wait_s}; \
             SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
        );
        self.execute(&set).await?;
        for (name, value) in self.variables(false, &["version", "max_allowed_packet", "wsrep_on"]).await? {
            match name.as_str() {
                "version" => self.dialect = Dialect::of_version(&value),
                "max_allowed_packet" => self.packet_bytes_max = value.parse().unwrap_or(PACKET_BYTES_DEFAULT),
                "wsrep_on" if value.eq_ignore_ascii_case("ON") => {
                    self.execute("SET SESSION wsrep_sync_wait = 1").await?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A column of a text-protocol row.
pub(super) fn text(row: &MySqlRow, column: usize) -> Result<String, Failure> {
    let bytes: Vec<u8> = row.try_get_unchecked(column)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Hands the connection on if it is sound, closes it if not, and says what a failure outside a transaction means.
pub(super) fn settle<T>(lease: Lease<'_, Server>, outcome: Result<T, Failure>) -> Result<T, TierError> {
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

/// Makes [`Session`]s.
pub(super) struct Server {
    pub(super) options: MySqlOptions,
}

impl Server {
    /// A session in `database`, or in none.
    pub(super) async fn establish(&self, database: Option<&str>) -> Result<Session, Failure> {
        let limit = self.options.connect_timeout;
        let made = async {
            let connection = self.options.to_sqlx(database).connect().await?;
            let mut session = Session {
                connection,
                dialect: Dialect::Values,
                packet_bytes_max: PACKET_BYTES_DEFAULT,
                limit: self.options.statement_timeout,
            };
            session.set_up().await?;
            Ok(session)
        };
        tokio::time::timeout(limit, made).await.unwrap_or(Err(Failure::Elapsed(limit)))
    }
}

impl Connector for Server {
    type Connection = Session;

    async fn connect(&self) -> Result<Session, TierError> {
        self.establish(Some(&self.options.database)).await.map_err(Failure::at_connect)
    }

    async fn check(&self, session: &mut Session) -> bool {
        bounded(COURTESY, session.connection.ping()).await.is_ok()
    }

    async fn close(&self, session: Session) {
        // It was to be closed anyway; the server notices.
        let _ = bounded(COURTESY, session.connection.close()).await;
    }
}
