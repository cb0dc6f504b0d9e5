//! SCAN, COUNT and STATS over memory and tier.

use std::collections::{BTreeMap, BTreeSet};

use overspill::command::Cursor;
use overspill::slots::Slot;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::rig::{Setup, key};

#[tokio::test]
async fn a_scan_sees_every_key_once_while_records_come_and_go() {
    for limit in [1, 7, 1000] {
        let rig = Setup::new(10).start().await;
        let mut wanted = BTreeSet::new();
        for i in 0..100 {
            rig.put(&format!("k{i}"), "v").await;
            wanted.insert(key(format!("k{i}")));
        }
        for i in 0..100 {
            rig.put_ttl(&format!("dead{i}"), "v", 10).await;
            rig.put(&format!("deleted{i}"), "v").await;
            rig.delete(&format!("deleted{i}")).await;
        }
        rig.clock.advance_ms(10);
        let (mut next, mut all, mut page) = (Some(Cursor::START), Vec::new(), 0);
        while let Some(cursor) = next {
            (next, all) = rig.scan_on(cursor, limit, all).await;
            for _ in 0..5 {
                page += 7;
                assert!(rig.get(&format!("k{}", page % 100)).await.is_some()); // evicts others, without their leave
                rig.put(&format!("k{}", (page + 3) % 100), "w").await;
            }
        }
        assert_eq!(all.len(), 100, "limit {limit}: each once");
        assert!(all.is_sorted_by_key(|key| (Slot::of(key), key.clone())));
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), wanted);
    }
}

#[tokio::test]
async fn count_and_stats_agree_with_a_model() {
    for seed in 0..6 {
        let mut setup = Setup::new(8);
        setup.options.write_mode =
            [overspill::shard::WriteMode::Spill, overspill::shard::WriteMode::Behind][seed as usize % 2];
        let rig = setup.start().await;
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut model = BTreeMap::new();
        let (mut puts, mut reads) = (0, 0);
        for i in 0..600 {
            let name = format!("k{}", rng.random_range(0..40));
            match rng.random_range(0..10) {
                0..5 => {
                    rig.put(&name, i.to_string()).await;
                    model.insert(key(&name), i.to_string());
                    puts += 1;
                }
                5..7 => assert_eq!(rig.delete(&name).await, model.remove(&key(&name)).is_some(), "seed {seed}"),
                _ => {
                    assert_eq!(rig.get(&name).await, model.get(&key(&name)).cloned(), "seed {seed}");
                    reads += 1;
                }
            }
            assert_eq!(rig.count().await, model.len() as u64, "seed {seed}, step {i}");
        }
        assert_eq!(rig.scan(9).await.into_iter().collect::<BTreeSet<_>>(), model.keys().cloned().collect());
        rig.until_spilled().await;
        let stats = rig.stats().await;
        assert_eq!((stats.puts, stats.hits + stats.misses), (puts, reads), "{stats:?}");
        assert_eq!(stats.tier_records, rig.tier.rows().len() as u64, "{stats:?}");
        assert_eq!(stats.spilled_rows, rig.tier.calls().flushed_effects);
        assert_eq!(stats.spilled_batches, rig.tier.calls().flushes);
        assert!(stats.records <= 8 && stats.records_max == 8 && stats.records_spilling == 0);
        assert_eq!((stats.slots, stats.epoch, stats.tier_up, stats.policy.as_str()), (16384, 1, true, "lru"));
        rig.shutdown().await.unwrap();
        let rows: BTreeMap<_, _> = rig
            .tier
            .rows()
            .into_iter()
            .map(|row| (row.key, String::from_utf8(row.value.as_bytes().to_vec()).unwrap()))
            .collect();
        assert_eq!(rows, model, "a clean stop leaves exactly what exists");
    }
}
