//! A database of our own on the server that `KV_TEST_MYSQL_URL` names.

use std::sync::atomic::{AtomicU32, Ordering};

use overspill::cluster::{Fence, FenceToken, Incarnation, ShardName};
use overspill::record::{Epoch, JournalId, Lsn};
use overspill::slots::SlotSet;
use overspill::tier::Tier;
use overspill::tier::mysql::{MySqlOptions, MySqlTier};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{ConnectOptions, Executor, Row};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::Outcome;
use crate::process::directory;
use crate::profile::Process;

const URL: &str = "KV_TEST_MYSQL_URL";

/// Dropped with it.
pub struct Database {
    /// `mysql://USER:PASSWORD@HOST:PORT/`
    server: String,
    name: String,
}

impl Database {
    /// An empty one.
    pub async fn create() -> Outcome<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let url =
            std::env::var(URL).map_err(|_| format!("there is no database: {URL} is not set (scripts/with-mariadb)"))?;
        let (_, rest) = url.split_once("://").unwrap_or_default();
        let server = rest.split(['/', '?']).next().unwrap_or(rest);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed); // a name of its own is all it is for
        let name = format!("overspill_bench_{}_{number}", std::process::id());
        let database = Self { server: format!("mysql://{server}/"), name };
        let create = format!("CREATE DATABASE {}", database.name);
        database.options()?.connect().await?.execute(create.as_str()).await?;
        Ok(database)
    }

    fn options(&self) -> Outcome<MySqlConnectOptions> {
        Ok(self.server.parse()?)
    }

    /// For a secondary.
    pub fn url(&self) -> String {
        format!("{}{}", self.server, self.name)
    }

    /// A plain connection.
    pub async fn connect(&self) -> Outcome<MySqlConnection> {
        Ok(self.options()?.database(&self.name).connect().await?)
    }

    /// The server's.
    pub async fn process(&self) -> Outcome<Process> {
        let row = self.connect().await?.fetch_one("SELECT @@GLOBAL.pid_file").await?;
        let file: String = row.try_get(0)?;
        let id = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        Ok(Process { role: "database", id: id.trim().parse()? })
    }

    /// Overspill's own tables, without a shard.
    pub async fn tier(&self) -> Outcome<MySqlTier> {
        let tier = MySqlTier::new(MySqlOptions::from_url(&self.url())?);
        tier.prepare().await?;
        Ok(tier)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {}", self.name);
        let dropped = block_in_place(|| {
            Handle::current()
                .block_on(async { Outcome::Ok(self.options()?.connect().await?.execute(drop.as_str()).await?) })
        });
        if let Err(error) = dropped {
            eprintln!("{} is left behind: {error}", self.name);
        }
    }
}

/// Where records go: a database, or SQLite if there is no server.
pub enum Place {
    Database(Database),
    Sqlite(TempDir),
}

impl Place {
    pub async fn create() -> Outcome<Self> {
        match std::env::var_os(URL) {
            Some(_) => Ok(Self::Database(Database::create().await?)),
            None => Ok(Self::Sqlite(directory()?)),
        }
    }

    /// For a secondary.
    pub fn url(&self) -> String {
        match self {
            Self::Database(database) => database.url(),
            Self::Sqlite(directory) => format!("sqlite://{}", directory.path().join("tier.sqlite").display()),
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Database(_) => "the database",
            Self::Sqlite(_) => "SQLite",
        }
    }
}

/// A shard that may write, under its token.
pub async fn claim(tier: &MySqlTier, name: &str) -> Outcome<(ShardName, FenceToken)> {
    let (shard, token) = (ShardName::new(name)?, FenceToken(1));
    let fence = Fence {
        shard: shard.clone(),
        token,
        incarnation: Incarnation(1),
        journal: JournalId(1),
        epoch: Epoch(1),
        slots: SlotSet::all(),
        lsn: Lsn(0),
        clean: false,
    };
    if tier.swap_fence(None, &fence).await? { Ok((shard, token)) } else { Err("the fence is taken".into()) }
}

/// Of the server, if there is one.
pub async fn version() -> Option<String> {
    let url = std::env::var(URL).ok()?;
    let options: MySqlConnectOptions = url.parse().ok()?;
    let mut connection = options.connect().await.ok()?;
    let version: String = connection.fetch_one("SELECT VERSION()").await.ok()?.try_get(0).ok()?;
    let number = version.split('-').next().unwrap_or(&version);
    Some(if version.contains("MariaDB") { format!("MariaDB {number}") } else { format!("MySQL {number}") })
}
