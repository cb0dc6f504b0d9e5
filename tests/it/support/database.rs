//! A database of the test's own, on the server that `KV_TEST_MYSQL_URL` names.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{ConnectOptions, Connection, Executor, Row};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Dropped on the server by [`Database::drop_it`]; a failed test leaves it, to be looked at.
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    pub async fn create() -> Self {
        let server = std::env::var("KV_TEST_MYSQL_URL")
            .expect("KV_TEST_MYSQL_URL is not set: run `make test`, or `scripts/with-mariadb cargo test`");
        Self::create_on(&server).await
    }

    pub async fn create_on(url: &str) -> Self {
        let name = format!("overspill_it_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let database = Self { name, ..Self::of(url) };
        let mut connection = connect(&database.url_of("")).await.unwrap();
        connection.execute(format!("CREATE DATABASE {}", database.name).as_str()).await.unwrap();
        database
    }

    /// One that is there, or is still to be made.
    pub fn of(url: &str) -> Self {
        let rest = url.split_once("://").unwrap().1;
        let mut parts = rest.split(['/', '?']).map(str::to_owned);
        Self { server: parts.next().unwrap(), name: parts.next().unwrap_or_default() }
    }

    /// For PERSISTENT.
    pub fn url(&self) -> String {
        self.url_of(&self.name)
    }

    fn url_of(&self, database: &str) -> String {
        format!("mysql://{}/{database}", self.server)
    }

    /// The first column of all rows, as text.
    pub async fn column(&self, sql: &str) -> Vec<String> {
        let mut connection = connect(&self.url()).await.unwrap();
        let rows = connection.fetch_all(sql).await.unwrap();
        rows.iter().map(|row| String::from_utf8(row.get::<Vec<u8>, _>(0)).unwrap()).collect()
    }

    /// One number.
    pub async fn number(&self, sql: &str) -> i64 {
        let mut connection = connect(&self.url()).await.unwrap();
        connection.fetch_one(sql).await.unwrap().get(0)
    }

    pub async fn drop_it(self) {
        let mut connection = connect(&self.url_of("")).await.unwrap();
        connection.execute(format!("DROP DATABASE {}", self.name).as_str()).await.unwrap();
    }
}

pub async fn connect(url: &str) -> Result<MySqlConnection, sqlx::Error> {
    let options: MySqlConnectOptions = url.parse()?;
    let options = options.disable_statement_logging();
    let connecting = MySqlConnection::connect_with(&options);
    tokio::time::timeout(std::time::Duration::from_secs(5), connecting)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))
}
