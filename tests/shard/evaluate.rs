//! R1, and the meaning of commands whose keys are not in memory.

use overspill::command::{Command, Condition, Expiry, Place, Reply};
use overspill::policy::PolicyKind;
use overspill::record::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use crate::rig::{Setup, get_command, key, put_command, until};

/// R1, defect 1.
#[tokio::test]
async fn a_spilled_key_can_be_deleted_and_never_comes_back() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "v").await;
    assert!(rig.delete("k").await, "it existed, in the tier");
    assert_eq!(rig.get("k").await, None, "while its tombstone waits");
    assert!(!rig.delete("k").await, "only once");
    rig.until_spilled().await;
    assert_eq!(rig.tier.row(&key("k")), None);
    assert_eq!(rig.get("k").await, None, "after its deletion reached the tier");
    assert_eq!(rig.place("k").await, Place::Nowhere);
}

/// R1: outcomes are evaluated against the tier's row.
#[tokio::test]
async fn conditions_see_the_row_of_a_spilled_key() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "v1").await;
    let version = rig.tier.row(&key("k")).unwrap().version;
    assert_eq!(rig.put_if("k", "v2", Condition::Absent).await, Reply::Conflict(Some(version)));
    rig.push_out().await;
    assert!(rig.exists("k").await);
    rig.push_out().await;
    assert_eq!(rig.ttl("k").await, Expiry::Never);
    rig.push_out().await;
    let Reply::Stored(newer) = rig.put_if("k", "v2", Condition::Version(version)).await else { panic!("a conflict") };
    assert!(newer > version);
    rig.push_out().await;
    assert_eq!(rig.put_if("k", "v3", Condition::Version(version)).await, Reply::Conflict(Some(newer)));
    assert_eq!(rig.get("k").await.as_deref(), Some("v2"));
    assert_eq!(rig.put_if("none", "v", Condition::Version(version)).await, Reply::Conflict(None));
    assert!(matches!(rig.put_if("none", "v", Condition::Absent).await, Reply::Stored(_)));
}

/// R1, R27.
#[tokio::test]
async fn the_expiry_of_a_spilled_key_can_be_set_and_taken_away() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "v").await;
    assert!(rig.expire("k", 5000).await);
    rig.push_out().await;
    assert_eq!(rig.ttl("k").await, Expiry::InMillis(5000));
    rig.push_out().await;
    assert!(rig.persist("k").await);
    assert!(!rig.persist("k").await, "there is none any more");
    rig.push_out().await;
    rig.clock.advance_ms(10_000);
    assert_eq!(rig.get("k").await.as_deref(), Some("v"));
    assert!(!rig.expire("none", 1).await);
    assert_eq!(rig.ttl("none").await, Expiry::Missing);
}

#[tokio::test]
async fn commands_on_one_key_keep_their_order_within_a_batch() {
    let rig = Setup::new(1).start().await;
    rig.put_spilled("k", "old").await;
    rig.tier.hold_loads();
    let commands = vec![
        get_command("k"),
        put_command("k", "new"),
        get_command("k"),
        Command::Delete { key: key("k") },
        get_command("k"),
        put_command("k", "last"),
        get_command("k"),
    ];
    let (replies, ()) = tokio::join!(rig.run(commands, std::time::Duration::from_secs(5)), async {
        until("the load is under way", async || rig.tier.loads() > 0).await;
        rig.tier.release_loads();
    });
    let seen: Vec<String> = replies
        .into_iter()
        .map(|reply| match reply.unwrap() {
            Reply::Found(found) => {
                found.map_or("none".into(), |f| String::from_utf8(f.value.as_bytes().to_vec()).unwrap())
            }
            Reply::Stored(_) => "stored".into(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, ["old", "stored", "new", "Done(true)", "none", "stored", "last"]);
}

/// Defect 5.
#[tokio::test]
async fn an_empty_value_is_a_value_in_memory_and_in_the_tier() {
    let rig = Setup::new(1).start().await;
    rig.put("k", "").await;
    assert_eq!(rig.get("k").await.as_deref(), Some(""));
    rig.push_out().await;
    assert_eq!(rig.place("k").await, Place::Tier);
    assert!(rig.exists("k").await);
    assert_eq!(rig.get("k").await.as_deref(), Some(""));
    assert!(rig.delete("k").await);
}

/// Defect 7.
#[tokio::test]
async fn the_largest_records_survive_the_way_out_and_back() {
    let mut setup = Setup::new(2);
    setup.options.memory_bytes_max = overspill::store::MEMORY_BYTES_MIN;
    let rig = setup.start().await;
    let long = |last: char| "k".repeat(KEY_BYTES_MAX - 1) + &last.to_string();
    for last in ['a', 'A', 'b', 'c', 'd'] {
        rig.put(&long(last), vec![last as u8; VALUE_BYTES_MAX]).await;
    }
    rig.until_spilled().await;
    for last in ['a', 'A', 'b', 'c', 'd'] {
        let found = rig.found(&long(last)).await.expect("keys are bytes: `a` is not `A`");
        assert!(found.value.as_bytes().iter().all(|&byte| byte == last as u8));
        assert_eq!(found.value.as_bytes().len(), VALUE_BYTES_MAX);
    }
    let stats = rig.stats().await;
    assert!(stats.memory_bytes <= stats.memory_bytes_max, "{stats:?}");
}

/// Defect 6.
#[tokio::test]
async fn policies_evict_different_records() {
    let mut victims = Vec::new();
    for policy in [PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::Fifo] {
        let mut setup = Setup::new(3);
        setup.options.policy = policy;
        let rig = setup.start().await;
        for k in ["a", "b", "c"] {
            rig.put(k, "v").await;
        }
        for k in ["a", "a", "a", "b", "b", "b", "c", "b", "a", "c"] {
            rig.get(k).await;
        }
        rig.get("a").await; // oldest a, least frequent c, least recent b
        rig.get("c").await;
        rig.get("a").await;
        rig.put("d", "v").await;
        rig.until_spilled().await;
        victims.push(rig.tier.rows().remove(0).key);
        assert_eq!(rig.tier.rows().len(), 1);
    }
    assert_eq!(victims, [key("b"), key("c"), key("a")]);
}

#[tokio::test]
async fn a_pure_cache_drops_what_it_evicts_and_says_so() {
    let mut setup = Setup::new(2);
    setup.tier = None;
    let rig = setup.start().await;
    for i in 0..10 {
        rig.put(&format!("k{i}"), "v").await;
    }
    assert_eq!(rig.get("k0").await, None, "never `unavailable`");
    assert!(!rig.delete("k0").await);
    assert_eq!(rig.get("k9").await.as_deref(), Some("v"));
    let stats = rig.stats().await;
    assert_eq!((stats.records, stats.dropped, stats.evicted), (2, 8, 8));
    assert_eq!((stats.unspilled, stats.tombstones, stats.tier.as_str()), (0, 0, "none"));
    assert_eq!(rig.count().await, 2);
    assert_eq!(rig.scan(100).await.len(), 2);
    assert_eq!(rig.shutdown().await.unwrap().spilled, 0);
}
