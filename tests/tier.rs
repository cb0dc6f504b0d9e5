//! All tiers behave alike, and each keeps the rules. `tests/tier/harness.rs` says which tiers are tested.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "tier/equivalence.rs"]
mod equivalence;
#[path = "tier/faults.rs"]
mod faults;
#[path = "tier/harness.rs"]
mod harness;
#[path = "tier/schema.rs"]
mod schema;

use harness::*;
use overspill::cluster::{Fence, FenceToken};
use overspill::record::{KEY_BYTES_MAX, Lsn, VALUE_BYTES_MAX, Version};
use overspill::slots::Slot;
use overspill::tier::{DeadLetter, Lane, ROWS_MAX, TierError};
use sqlx::{Executor, Row};

/// R19. Every order of three versions, of which one has the highest epoch and another the highest lsn.
#[tokio::test]
async fn an_older_version_never_overwrites_and_the_version_columns_tell_whose_value_it_is() {
    let versions = [(1, 9), (2, 3), (2, 4), (3, 1)];
    for place in places() {
        let tier = owned(&place).await;
        for (n, order) in permutations(&versions).into_iter().enumerate() {
            let k = format!("order {n}");
            let mut newest = (0, 0);
            for version in order {
                newest = newest.max(version);
                write(&tier, &[expiring(set(&k, format!("{version:?}"), version), version.1)]).await;
                let row = load_one(&tier, &k).await.unwrap();
                assert_eq!(row.version, Version::new(newest.0, newest.1), "{}", tier.describe());
                assert_eq!(row.value.as_bytes(), format!("{newest:?}").as_bytes(), "{}", tier.describe());
                assert_eq!(row.expires_at.unwrap().0, newest.1, "{}", tier.describe());
            }
        }
    }
}

fn permutations(items: &[(u64, u64)]) -> Vec<Vec<(u64, u64)>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for i in 0..items.len() {
        let mut rest = items.to_vec();
        let first = rest.remove(i);
        all.extend(permutations(&rest).into_iter().map(|tail| [vec![first], tail].concat()));
    }
    all
}

#[tokio::test]
async fn a_delete_takes_its_own_version_and_older_ones_and_leaves_newer_rows() {
    for place in places() {
        let tier = owned(&place).await;
        for (row, deletion, stays) in
            [((1, 5), (1, 4), true), ((1, 5), (1, 5), false), ((1, 5), (1, 6), false), ((2, 1), (1, 9), true)]
        {
            write(&tier, &[set("k", "v", row)]).await;
            write(&tier, &[delete("k", deletion)]).await;
            assert_eq!(load_one(&tier, "k").await.is_some(), stays, "{row:?} {deletion:?} {}", tier.describe());
            write(&tier, &[delete("k", (9, 9))]).await;
        }
    }
}

/// R20
#[tokio::test]
async fn a_zombie_with_the_old_token_can_write_nothing() {
    for place in places() {
        let (zombie, heir) = (owned(&place).await, place.prepared().await);
        write(&zombie, &[set("k", "old", (1, 1))]).await;
        assert!(!heir.swap_fence(None, &fence(2)).await.unwrap());
        assert!(!heir.swap_fence(Some(FenceToken(7)), &fence(8)).await.unwrap());
        assert!(heir.swap_fence(Some(FenceToken(1)), &fence(2)).await.unwrap());
        heir.flush(&shard(), Lane::FIRST, FenceToken(2), &[delete("k", (1, 2))], Lsn(2)).await.unwrap();
        for lane in (0..zombie.lanes()).map(Lane) {
            // Without the fence, the version guard would let this row be born again.
            let late = [set("k", "old", (1, 1)), delete("other", (9, 9))];
            let flushed = zombie.flush(&shard(), lane, FenceToken(1), &late, Lsn(9)).await;
            assert_eq!(flushed, Err(TierError::Fenced), "{lane:?}");
        }
        assert_eq!(load_one(&heir, "k").await, None);
        assert_eq!(heir.fences().await.unwrap(), [Fence { lsn: Lsn(2), ..fence(2) }]);
    }
}

/// R20: the new owner's swap waits for the transactions that hold a row of the fence.
#[tokio::test]
async fn a_swap_waits_for_a_running_flush_in_any_lane() {
    for row in LANE_ROWS {
        let Some(database) = mysql() else { return };
        let place = Place::MySql(database);
        let tier = owned(&place).await;
        let Place::MySql(database) = &place else { unreachable!() };
        let mut flush = database.connect().await;
        flush.execute("START TRANSACTION").await.unwrap();
        flush.execute(format!("UPDATE {row} AND token = 1").as_str()).await.unwrap();
        let heir = tier.clone();
        let swap = tokio::spawn(async move { heir.swap_fence(Some(FenceToken(1)), &fence(2)).await });
        wait_until_blocked(database).await;
        assert!(!swap.is_finished());
        flush.execute("COMMIT").await.unwrap();
        assert_eq!(swap.await.unwrap(), Ok(true));
    }
}

/// The rows of a fence, a lane each, as a flush writes them.
const LANE_ROWS: [&str; 2] = [
    "fences SET flushes = flushes + 1 WHERE shard = 'localhost:8081'",
    "lanes SET flushes = flushes + 1 WHERE shard = 'localhost:8081' AND lane = 1",
];

/// R20: and a flush that meets a swap half way finds its token gone.
#[tokio::test]
async fn a_flush_waits_for_a_running_swap_and_is_fenced() {
    for (lane, row) in (0..).map(Lane).zip(LANE_ROWS) {
        let Some(database) = mysql() else { return };
        let place = Place::MySql(database);
        let tier = owned(&place).await;
        let Place::MySql(database) = &place else { unreachable!() };
        let mut swap = database.connect().await;
        swap.execute("START TRANSACTION").await.unwrap();
        swap.execute(format!("UPDATE {}", row.replace("flushes = flushes + 1", "token = 2")).as_str()).await.unwrap();
        let zombie = tier.clone();
        let effects = [set("k", "v", (1, 1))];
        let flush = tokio::spawn(async move { zombie.flush(&shard(), lane, FenceToken(1), &effects, Lsn(1)).await });
        wait_until_blocked(database).await;
        assert!(!flush.is_finished());
        swap.execute("COMMIT").await.unwrap();
        assert_eq!(flush.await.unwrap(), Err(TierError::Fenced));
        assert_eq!(scan_all(&tier).await, []);
    }
}

#[tokio::test]
async fn flushes_in_different_lanes_do_not_wait_for_each_other() {
    for (lane, row) in [Lane(1), Lane(0)].into_iter().zip(LANE_ROWS) {
        let Some(database) = mysql() else { return };
        let place = Place::MySql(database);
        let tier = owned(&place).await;
        let Place::MySql(database) = &place else { unreachable!() };
        let mut other = database.connect().await;
        other.execute("START TRANSACTION").await.unwrap();
        other.execute(format!("UPDATE {row}").as_str()).await.unwrap();
        tier.flush(&shard(), lane, FenceToken(1), &[set("k", "v", (1, 1))], Lsn(7)).await.unwrap();
        assert_eq!(tier.fences().await.unwrap(), [Fence { lsn: Lsn(7), ..fence(1) }]);
    }
}

async fn wait_until_blocked(database: &Database) {
    let mut connection = database.connect().await;
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{}' \
         AND (info LIKE 'UPDATE fences%' OR info LIKE 'UPDATE lanes%')",
        database.name()
    );
    loop {
        let blocked: i64 = connection.fetch_one(sql.as_str()).await.unwrap().get(0);
        if blocked > 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lock_that_is_never_released_is_a_conflict() {
    let Some(mut database) = mysql() else { return };
    database.options.statement_timeout = std::time::Duration::from_secs(3);
    let place = Place::MySql(database);
    let tier = owned(&place).await;
    let Place::MySql(database) = &place else { unreachable!() };
    let mut holder = database.connect().await;
    holder.execute("START TRANSACTION").await.unwrap();
    holder.execute("UPDATE fences SET flushes = flushes + 1").await.unwrap();
    let flushed = tier.flush(&shard(), Lane::FIRST, FenceToken(1), &[set("k", "v", (1, 1))], Lsn(1)).await;
    assert!(matches!(flushed, Err(TierError::Conflict(_))), "{flushed:?}");
    holder.execute("ROLLBACK").await.unwrap();
    write(&tier, &[set("k", "v", (1, 1))]).await;
}

/// R21
#[tokio::test]
async fn keys_are_bytes() {
    let keys: [&[u8]; 12] = [
        b"bob",
        b"BOB",
        b"bob ",
        b"Bob",
        b"bob\0",
        b"bob\0\0",
        b"\0",
        b"\0\0",
        b"\xff\xfe",
        b"\xc3\x28",
        "bób".as_bytes(),
        b"'; DROP TABLE records; --",
    ];
    for place in places() {
        let tier = owned(&place).await;
        let effects: Vec<_> = keys.iter().map(|k| set(k, k, (1, 1))).collect();
        write(&tier, &effects).await;
        for k in keys {
            assert_eq!(load_one(&tier, k).await, Some(record(k, k, (1, 1))), "{}", tier.describe());
        }
        let mut scanned: Vec<_> = scan_all(&tier).await;
        assert!(scanned.is_sorted_by_key(|row| (row.slot, row.key.clone())));
        assert!(scanned.iter().all(|row| row.slot == Slot::of(&row.key)));
        scanned.dedup();
        assert_eq!(scanned.len(), keys.len(), "{}", tier.describe());
        write(&tier, &[delete("bob", (1, 2))]).await;
        assert_eq!(scan_all(&tier).await.len(), keys.len() - 1, "{}", tier.describe());
    }
}

#[tokio::test]
async fn values_and_keys_of_every_allowed_size_come_back() {
    for place in places() {
        let tier = owned(&place).await;
        let large: Vec<u8> = (0..VALUE_BYTES_MAX).map(|i| (i * 31 % 251) as u8).collect();
        let long_key = vec![0xff; KEY_BYTES_MAX];
        write(&tier, &[set("large", &large, (1, 1)), set("empty", "", (1, 1)), set(&long_key, "v", (1, 1))]).await;
        assert_eq!(load_one(&tier, "large").await.unwrap().value.as_bytes(), large);
        assert_eq!(load_one(&tier, "empty").await, Some(record("empty", "", (1, 1))), "an empty value is a value");
        assert_eq!(load_one(&tier, &long_key).await, Some(record(&long_key, "v", (1, 1))));
        write(&tier, &[set("large", "", (1, 2))]).await;
        assert_eq!(load_one(&tier, "large").await, Some(record("large", "", (1, 2))));
        let letter = DeadLetter { effect: set("empty", "", (1, 3)), reason: "ü".repeat(40_000) };
        tier.bury(&shard(), &letter).await.unwrap();
        assert_eq!(tier.buried(Slot::FIRST, Slot::LAST).await.unwrap(), [letter]);
    }
}

#[tokio::test]
async fn the_largest_batch_is_one_transaction() {
    for place in places() {
        let tier = owned(&place).await;
        let name = |i: usize| format!("{:0>600}", i * 7919 % ROWS_MAX);
        let sets: Vec<_> = (0..ROWS_MAX).map(|i| set(name(i), vec![b'v'; 8000], (1, 1))).collect();
        write(&tier, &sets).await;
        let keys: Vec<_> = (0..ROWS_MAX).map(|i| key(name(i))).collect();
        assert_eq!(tier.load(&keys).await.unwrap().len(), ROWS_MAX);
        let mixed: Vec<_> = (0..ROWS_MAX)
            .map(|i| if i % 4 == 0 { set(name(i), "new", (1, 2)) } else { delete(name(i), (1, 2)) })
            .collect();
        write(&tier, &mixed).await;
        assert_eq!(scan_all(&tier).await.len(), ROWS_MAX / 4);
        let too_many = vec![key("k"); ROWS_MAX + 1];
        assert!(matches!(tier.load(&too_many).await, Err(TierError::Rejected(_))));
        assert_eq!(tier.load(&[]).await, Ok(Vec::new()));
    }
}

#[tokio::test]
async fn a_letter_is_forgotten_only_by_its_own_version_or_a_newer_one() {
    for place in places() {
        let tier = owned(&place).await;
        let letter = |version| DeadLetter { effect: set("k", "v", version), reason: format!("{version:?}") };
        tier.bury(&shard(), &letter((2, 1))).await.unwrap();
        tier.bury(&shard(), &letter((1, 9))).await.unwrap();
        tier.unbury(&key("k"), Version::new(1, 9)).await.unwrap();
        assert_eq!(tier.buried(Slot::FIRST, Slot::LAST).await.unwrap(), [letter((2, 1))], "{}", tier.describe());
        tier.unbury(&key("k"), Version::new(2, 1)).await.unwrap();
        assert_eq!(tier.buried(Slot::FIRST, Slot::LAST).await.unwrap(), []);
    }
}
