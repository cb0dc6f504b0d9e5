//! What an application does to read and to write.

use overspill::bench::{Connection, Reply};
use sqlx::mysql::MySqlConnection;
use sqlx::{Executor, Row};

use crate::Outcome;
use crate::database::Database;
use crate::load::{PREFIX, VALUE_BYTES};

/// Rows of a statement that fills the table.
const FILL_ROWS: usize = 1000;
const VALUE: [u8; VALUE_BYTES] = [b'v'; VALUE_BYTES];

/// What a caller asks.
pub enum Store {
    /// Overspill, which does the rest.
    Ours(Connection),
    /// A cache and a database, which the application keeps together.
    Aside { cache: Connection, database: MySqlConnection },
}

impl Store {
    /// Whether the cache had it; ours does not say.
    pub async fn read(&mut self, key: &str) -> Outcome<bool> {
        match self {
            Self::Ours(connection) => match get(connection, key).await? {
                Reply::Hit(_) => Ok(false),
                other => Err(format!("record {key} is lost: {other:?}").into()),
            },
            Self::Aside { cache, database } => {
                if matches!(get(cache, key).await?, Reply::Hit(_)) {
                    return Ok(true);
                }
                let row =
                    sqlx::query("SELECT v FROM items WHERE k = ?").bind(key.as_bytes()).fetch_one(database).await?;
                let value: Vec<u8> = row.try_get(0)?;
                cache.set(key.as_bytes(), &value);
                answer(cache).await?;
                Ok(false)
            }
        }
    }

    pub async fn write(&mut self, key: &str) -> Outcome<()> {
        match self {
            Self::Ours(connection) => {
                connection.set(key.as_bytes(), &VALUE);
                answer(connection).await?;
            }
            Self::Aside { cache, database } => {
                let upsert = "INSERT INTO items (k, v) VALUES (?, ?) ON DUPLICATE KEY UPDATE v = VALUES(v)";
                sqlx::query(upsert).bind(key.as_bytes()).bind(VALUE.as_slice()).execute(database).await?;
                cache.delete(key.as_bytes());
                answer(cache).await?;
            }
        }
        Ok(())
    }
}

async fn get(connection: &mut Connection, key: &str) -> Outcome<Reply> {
    connection.get(key.as_bytes());
    answer(connection).await
}

async fn answer(connection: &mut Connection) -> Outcome<Reply> {
    connection.send().await?;
    match connection.receive().await? {
        (Reply::Error(error), _) => Err(error.into()),
        (reply, _) => Ok(reply),
    }
}

pub fn key(number: usize) -> String {
    format!("{PREFIX}{number:012}")
}

/// The application's own table.
pub async fn fill_items(database: &Database, records: usize) -> Outcome<()> {
    let mut connection = database.connect().await?;
    connection
        .execute("CREATE TABLE items (k VARBINARY(255) NOT NULL PRIMARY KEY, v LONGBLOB NOT NULL) ENGINE = InnoDB")
        .await?;
    let numbers: Vec<usize> = (0..records).collect();
    for numbers in numbers.chunks(FILL_ROWS) {
        let sql = format!("INSERT INTO items (k, v) VALUES {}", vec!["(?,?)"; numbers.len()].join(","));
        let mut insert = sqlx::query(&sql);
        for number in numbers {
            insert = insert.bind(key(*number).into_bytes()).bind(VALUE.as_slice());
        }
        insert.execute(&mut connection).await?;
    }
    Ok(())
}
