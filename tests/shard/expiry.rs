//! R27: expiry is absolute, an effect, and final.

use std::time::Duration;

use overspill::command::Expiry;

use crate::rig::{START, Setup, key, until};

#[tokio::test]
async fn what_has_expired_is_never_returned_from_memory_nor_tier() {
    let rig = Setup::new(1).start().await;
    rig.put_ttl("k", "v", 5000).await;
    assert_eq!(rig.ttl("k").await, Expiry::InMillis(5000));
    assert_eq!(rig.found("k").await.unwrap().expires_at.unwrap().0, START.0 + 5000, "absolute");
    rig.push_out().await;
    rig.clock.advance_ms(4999);
    assert_eq!(rig.get("k").await.as_deref(), Some("v"));
    assert_eq!(rig.ttl("k").await, Expiry::InMillis(1));
    rig.push_out().await;
    rig.clock.advance_ms(1);
    assert!(rig.tier.row(&key("k")).is_some(), "the row is still there");
    assert_eq!(rig.get("k").await, None);
    assert!(!rig.exists("k").await);
    assert!(!rig.delete("k").await && !rig.persist("k").await && !rig.expire("k", 9).await, "expired is gone");
}

#[tokio::test]
async fn what_expires_in_memory_is_deleted_from_memory_and_tier() {
    let rig = Setup::new(10).start().await;
    rig.put_ttl("memory", "v", 1000).await;
    rig.put_ttl("both", "v", 1000).await;
    rig.push_out().await;
    rig.get("both").await;
    rig.put("stays", "v").await;
    rig.clock.advance_ms(1000);
    assert_eq!(rig.get("both").await, None, "at once");
    rig.until_stats("memory is purged", |stats| stats.records == 1).await;
    rig.until_spilled().await;
    assert_eq!(rig.tier.row(&key("both")), None);
    assert!(rig.stats().await.expired >= 1);
    assert_eq!(rig.get("stays").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn what_expires_in_the_tier_is_swept_from_it_and_nothing_else() {
    let mut setup = Setup::new(2);
    setup.options.sweep_interval = Duration::from_millis(100);
    let rig = setup.start().await;
    for i in 0..20 {
        rig.put_ttl(&format!("dies{i}"), "v", 60_000).await;
        rig.put(&format!("stays{i}"), "v").await;
    }
    rig.push_out().await;
    assert_eq!(rig.tier.rows().len(), 40);
    rig.clock.advance_ms(60_000);
    until("they are swept", async || rig.tier.rows().len() == 20).await;
    rig.until_spilled().await;
    assert_eq!(rig.count().await, 20);
    assert!(rig.tier.rows().iter().all(|row| row.key.as_bytes().starts_with(b"stays")));
    for i in 0..20 {
        assert_eq!(rig.get(&format!("stays{i}")).await.as_deref(), Some("v"));
    }
}

#[tokio::test]
async fn a_put_without_a_time_to_live_forgets_the_old_one() {
    let rig = Setup::new(1).start().await;
    for is_spilled in [false, true] {
        rig.put_ttl("k", "v1", 1000).await;
        if is_spilled {
            rig.push_out().await;
        }
        rig.put("k", "v2").await;
        assert_eq!(rig.ttl("k").await, Expiry::Never);
        rig.clock.advance_ms(2000);
        tokio::time::sleep(Duration::from_millis(250)).await; // two rounds of the expirer
        assert_eq!(rig.get("k").await.as_deref(), Some("v2"));
        rig.push_out().await;
        assert_eq!(rig.get("k").await.as_deref(), Some("v2"));
    }
}

/// The proposer's clock decides when the write is evaluated, not when the record was looked at.
#[tokio::test]
async fn a_record_that_dies_while_a_write_waits_for_room_is_not_brought_back() {
    let mut setup = Setup::new(1000);
    setup.options.memory_bytes_max = overspill::store::MEMORY_BYTES_MIN;
    let rig = setup.start().await;
    rig.put_ttl("k", "v", 60_000).await;
    rig.tier.set_down(true);
    for i in 0.. {
        let fill = crate::rig::put_command(&format!("f{i}"), vec![1; 1024 * 1024]);
        if rig.one_within(fill, 50).await.is_err() {
            break;
        }
        rig.get("k").await; // stays the hottest
    }
    for i in 0.. {
        let fill = crate::rig::put_command(&format!("s{i}"), vec![1; 1024]);
        if rig.one_within(fill, 20).await.is_err() {
            break;
        }
    }
    for i in 0.. {
        let fill = crate::rig::put_command(&format!("t{i}"), "");
        if rig.one_within(fill, 20).await.is_err() {
            break;
        }
    }
    let asker = rig.clone();
    let expire = tokio::spawn(async move { asker.expire("k", 60_000).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!expire.is_finished(), "it waits for room");
    rig.clock.advance_ms(60_000);
    rig.tier.set_down(false);
    assert!(!expire.await.unwrap(), "the key is dead by now");
    assert_eq!(rig.get("k").await, None);
}
