//! The tiers under test: memory and SQLite always, and a server if `KV_TEST_MYSQL_URL` names one. Each test gets its own
//! rows: a temporary folder, or a database that is dropped afterwards, also when the test fails.

use std::io::Write as _;
use std::sync::Once;
use std::time::Duration;

use overspill::cluster::{Fence, FenceToken, Incarnation, ShardName};
use overspill::command::Effect;
use overspill::record::{Epoch, JournalId, Key, Lsn, Record, Timestamp, Value, Version};
use overspill::slots::{Slot, SlotSet};
use overspill::tier::memory::MemoryTier;
use overspill::tier::mysql::{MySqlOptions, MySqlTier, TlsMode};
use overspill::tier::sqlite::SqliteTier;
use overspill::tier::{Lane, RowKey, SharedTier};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{ConnectOptions, Executor};

/// Somewhere to keep rows, which any number of tiers can be opened on.
pub enum Place {
    Memory(MemoryTier),
    Sqlite(tempfile::TempDir),
    MySql(Database),
}

impl Place {
    pub fn open(&self) -> SharedTier {
        match self {
            Self::Memory(tier) => SharedTier::new(tier.clone()),
            Self::Sqlite(folder) => SharedTier::new(SqliteTier::new(folder.path().join("tier.db"))),
            Self::MySql(database) => SharedTier::new(MySqlTier::new(database.options.clone())),
        }
    }

    pub async fn prepared(&self) -> SharedTier {
        let tier = self.open();
        tier.prepare().await.unwrap();
        tier
    }
}

/// Every tier that can be tested here.
pub fn places() -> Vec<Place> {
    let mut places = vec![Place::Memory(MemoryTier::new())];
    places.extend(real_places());
    places
}

/// Those that speak SQL.
pub fn real_places() -> Vec<Place> {
    let mut places = vec![Place::Sqlite(tempfile::tempdir().unwrap())];
    places.extend(mysql().map(Place::MySql));
    places
}

/// A database of its own on the test server, not made yet; `None`, loudly, without a server.
pub fn mysql() -> Option<Database> {
    static SKIPPED: Once = Once::new();
    let Ok(url) = std::env::var("KV_TEST_MYSQL_URL") else {
        // Not a print macro: the test harness would swallow it.
        SKIPPED.call_once(|| {
            let line = "SKIPPED: KV_TEST_MYSQL_URL is not set, so nothing here ran against MySQL (see `make test`)";
            std::io::stderr().write_all(format!("\n*** {line} ***\n\n").as_bytes()).unwrap();
        });
        return None;
    };
    let mut options = MySqlOptions::from_url(&url).unwrap();
    options.database = format!("overspill_test_{:016x}", rand::random::<u64>());
    Some(Database { options })
}

pub struct Database {
    pub options: MySqlOptions,
}

impl Database {
    pub fn name(&self) -> &str {
        &self.options.database
    }

    /// A plain connection to the server, in this database if it exists.
    pub async fn connect(&self) -> MySqlConnection {
        let mut connection = plain(&self.options).connect().await.unwrap();
        connection.execute(format!("USE {}", self.name()).as_str()).await.unwrap();
        connection
    }
}

fn plain(options: &MySqlOptions) -> MySqlConnectOptions {
    let tls = if options.tls == TlsMode::Off { MySqlSslMode::Disabled } else { MySqlSslMode::Preferred };
    let plain = MySqlConnectOptions::new().host(&options.host).port(options.port).username(&options.user).ssl_mode(tls);
    options.password.iter().fold(plain, |plain, password| plain.password(password))
}

impl Drop for Database {
    fn drop(&mut self) {
        let (options, drop) = (plain(&self.options), format!("DROP DATABASE IF EXISTS {}", self.name()));
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let work = async { options.connect().await?.execute(drop.as_str()).await };
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), work).await })
        });
        if !std::thread::panicking() {
            dropped.join().unwrap().unwrap().unwrap();
        }
    }
}

pub fn shard() -> ShardName {
    ShardName::new("localhost:8081").unwrap()
}

pub fn fence(token: u64) -> Fence {
    Fence {
        shard: shard(),
        token: FenceToken(token),
        incarnation: Incarnation(u64::MAX - 7),
        journal: JournalId(u64::MAX - 8),
        epoch: Epoch(1),
        slots: SlotSet::all(),
        lsn: Lsn(0),
        clean: false,
    }
}

pub fn key(bytes: impl AsRef<[u8]>) -> Key {
    Key::new(bytes.as_ref().to_vec()).unwrap()
}

pub fn record(k: impl AsRef<[u8]>, value: impl AsRef<[u8]>, version: (u64, u64)) -> Record {
    let value = Value::new(value.as_ref().to_vec()).unwrap();
    Record { key: key(k), value, version: Version::new(version.0, version.1), expires_at: None }
}

pub fn set(k: impl AsRef<[u8]>, value: impl AsRef<[u8]>, version: (u64, u64)) -> Effect {
    Effect::Set(record(k, value, version))
}

pub fn delete(k: impl AsRef<[u8]>, version: (u64, u64)) -> Effect {
    Effect::Delete { key: key(k), version: Version::new(version.0, version.1) }
}

pub fn expiring(effect: Effect, at: u64) -> Effect {
    match effect {
        Effect::Set(record) => Effect::Set(Record { expires_at: Some(Timestamp(at)), ..record }),
        Effect::Delete { .. } => effect,
    }
}

/// Flushes under token 1, which a first call must have been given by [`owned`].
pub async fn write(tier: &SharedTier, effects: &[Effect]) {
    tier.flush(&shard(), Lane::FIRST, FenceToken(1), effects, Lsn(0)).await.unwrap();
}

/// A tier that is prepared and whose shard is owned under token 1.
pub async fn owned(place: &Place) -> SharedTier {
    let tier = place.prepared().await;
    assert!(tier.swap_fence(None, &fence(1)).await.unwrap());
    tier
}

pub async fn load_one(tier: &SharedTier, k: impl AsRef<[u8]>) -> Option<Record> {
    let mut rows = tier.load(&[key(k)]).await.unwrap();
    assert!(rows.len() <= 1);
    rows.pop()
}

pub async fn scan_all(tier: &SharedTier) -> Vec<RowKey> {
    tier.scan(Slot::FIRST, None, Slot::LAST, usize::MAX >> 1).await.unwrap()
}
