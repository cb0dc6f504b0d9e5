//! What `prepare` makes, checks and refuses, and what people see.

use std::collections::HashSet;

use overspill::cluster::{Fence, FenceToken};
use overspill::record::{JournalId, Lsn, Timestamp};
use overspill::tier::mysql::{MySqlOptions, MySqlTier};
use overspill::tier::{Lane, SharedTier, TierError};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};

use super::harness::*;

#[tokio::test]
async fn eight_nodes_prepare_at_once_and_agree_on_the_id() {
    for place in places() {
        let tiers: Vec<_> = (0..8).map(|_| place.open()).collect();
        let prepared = futures::future::join_all(tiers.iter().map(|tier| tier.prepare())).await;
        let ids: HashSet<_> = prepared.into_iter().map(|prepared| prepared.unwrap().id).collect();
        assert_eq!(ids.len(), 1, "{}", tiers[0].describe());
        let again = place.open().prepare().await.unwrap();
        assert!(ids.contains(&again.id));
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    for place in real_places() {
        let tier = place.prepared().await;
        alter(&place, &["UPDATE overspill SET schema_version = 4"]).await;
        let refused = tier.prepare().await;
        assert!(matches!(&refused, Err(TierError::Rejected(why)) if why.contains("newer")), "{refused:?}");
    }
}

#[tokio::test]
async fn a_schema_of_version_1_is_upgraded_and_its_fences_kept() {
    for place in real_places() {
        let tier = owned(&place).await;
        let before = tier.fences().await.unwrap();
        alter(&place, &["ALTER TABLE fences DROP COLUMN journal", "UPDATE overspill SET schema_version = 1"]).await;
        let upgraded = upgraded(&place).await.fences().await.unwrap();
        let expected: Vec<_> = before.into_iter().map(|fence| Fence { journal: JournalId(0), ..fence }).collect();
        assert_eq!(upgraded, expected, "a fence of old tells no journal");
    }
}

#[tokio::test]
async fn a_fence_of_version_2_gets_its_lanes_when_it_is_claimed() {
    for place in real_places() {
        let before = owned(&place).await.fences().await.unwrap();
        let lanes = if matches!(place, Place::MySql(_)) { &["DROP TABLE lanes"][..] } else { &[] };
        alter(&place, &[lanes, &["UPDATE overspill SET schema_version = 2"]].concat()).await;
        let tier = upgraded(&place).await;
        assert_eq!(tier.fences().await.unwrap(), before);
        assert!(tier.swap_fence(Some(FenceToken(1)), &fence(2)).await.unwrap());
        for lane in (0..tier.lanes()).map(Lane) {
            tier.flush(&shard(), lane, FenceToken(2), &[set("k", "v", (1, 1))], Lsn(1)).await.unwrap();
        }
    }
}

async fn alter(place: &Place, statements: &[&str]) {
    for statement in statements {
        match place {
            Place::MySql(database) => drop(database.connect().await.execute(*statement).await.unwrap()),
            Place::Sqlite(folder) => drop(sqlite(folder).await.execute(*statement).await.unwrap()),
            Place::Memory(_) => unreachable!(),
        }
    }
}

/// By several nodes at once.
async fn upgraded(place: &Place) -> SharedTier {
    let tiers: Vec<_> = (0..4).map(|_| place.open()).collect();
    for prepared in futures::future::join_all(tiers.iter().map(|tier| tier.prepare())).await {
        prepared.unwrap();
    }
    tiers[0].clone()
}

async fn sqlite(folder: &tempfile::TempDir) -> sqlx::SqliteConnection {
    SqliteConnectOptions::new().filename(folder.path().join("tier.db")).connect().await.unwrap()
}

#[tokio::test]
async fn people_can_read_the_view() {
    for place in real_places() {
        let tier = owned(&place).await;
        let at = Timestamp(1_700_000_000_123);
        let effects = [expiring(set("name", "grüße", (1, 42)), at.0), set("never", "", (2, 1))];
        write(&tier, &effects).await;
        let sql = "SELECT kv_key, kv_value, version, CAST(expires_at AS CHAR) FROM records_text ORDER BY kv_key";
        let rows: Vec<(String, String, String, Option<String>)> = match &place {
            Place::MySql(database) => sqlx::query_as(sql).fetch_all(&mut database.connect().await).await.unwrap(),
            Place::Sqlite(folder) => sqlx::query_as(sql).fetch_all(&mut sqlite(folder).await).await.unwrap(),
            Place::Memory(_) => unreachable!(),
        };
        let expiry = rows[0].3.clone().unwrap();
        assert_eq!((rows[0].0.as_str(), rows[0].1.as_str(), rows[0].2.as_str()), ("name", "grüße", "1.42"));
        assert!(expiry.starts_with("2023-11-14 22:13:20.123"), "{expiry}");
        assert_eq!(rows[1], ("never".into(), String::new(), "2.1".into(), None));
    }
}

#[tokio::test]
async fn the_view_shows_bytes_that_are_no_text_in_hexadecimal() {
    let Some(database) = mysql() else { return };
    let place = Place::MySql(database);
    let tier = owned(&place).await;
    write(&tier, &[expiring(set(b"\xff\xfe", b"a\x80b", (1, 1)), u64::MAX)]).await;
    let Place::MySql(database) = &place else { unreachable!() };
    let sql = "SELECT kv_key, kv_value FROM records_text";
    let row: (String, String) = sqlx::query_as(sql).fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!(row, ("0xFFFE".into(), "0x618062".into()));
}

#[tokio::test]
async fn a_user_without_the_right_to_create_things_can_use_what_is_there_and_is_told_what_is_not() {
    let Some(database) = mysql() else { return };
    let place = Place::MySql(database);
    drop(place.prepared().await);
    let Place::MySql(database) = &place else { unreachable!() };
    let mut admin = database.connect().await;
    let user = format!("u{:08x}", rand::random::<u32>());
    // Both: a fresh MariaDB has an anonymous user at localhost, who goes before anybody at `%`.
    for at in ["%", "localhost"] {
        let database = database.name();
        let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO '{user}'@'{at}'");
        admin.execute(format!("CREATE USER '{user}'@'{at}' IDENTIFIED BY 'pw'").as_str()).await.unwrap();
        admin.execute(grant.as_str()).await.unwrap();
    }
    let options = MySqlOptions { user: user.clone(), password: Some("pw".into()), ..database.options.clone() };
    let tier = SharedTier::new(MySqlTier::new(options));
    let prepared = tier.prepare().await;
    let swapped = tier.swap_fence(None, &fence(1)).await;
    alter(&place, &["DROP TABLE lanes"]).await;
    let refused = tier.prepare().await;
    admin.execute(format!("DROP USER '{user}'@'%', '{user}'@'localhost'").as_str()).await.unwrap();
    assert!(prepared.is_ok(), "{prepared:?}");
    assert_eq!(swapped, Ok(true));
    let reason = refused.unwrap_err().to_string();
    assert!(reason.contains("CREATE") && reason.contains("lanes"), "{reason}");
}

#[tokio::test]
async fn a_database_that_may_lose_what_it_acknowledged_is_warned_of() {
    let Some(database) = mysql() else { return };
    let place = Place::MySql(database);
    assert_eq!(place.open().prepare().await.unwrap().warnings, Vec::<String>::new(), "the test server is safe");
}
