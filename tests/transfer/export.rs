//! From a shard to a file.

use std::collections::BTreeSet;
use std::time::Duration;

use overspill::command::{Command, Reply};
use overspill::record::VALUE_BYTES_MAX;
use overspill::service::Error;
use overspill::transfer::{Failure, Status};

use crate::world::World;

#[tokio::test]
async fn all_kinds_of_records_make_the_trip_hot_or_cold() {
    let world = World::start(50).await;
    world.fill(500).await;
    world.put(b"empty", b"", None).await;
    world.put(b"dies", b"soon", Some(60_000)).await;
    world.put(b"dead", b"already", Some(10)).await;
    world.put(&[0, 0xff, b'\n', b'"'], &(0..=255).collect::<Vec<u8>>(), None).await;
    world.put("schlüssel".as_bytes(), "wert\twith\n\"quotes\" \\ and more".as_bytes(), Some(100_000)).await;
    world.put(&[b'x'; 1024], &vec![0; VALUE_BYTES_MAX], None).await;
    world.put(b"random", &(0..VALUE_BYTES_MAX).map(|i| ((i * i) >> 7) as u8).collect::<Vec<u8>>(), None).await;
    world.put(b"quotes", &vec![b'"'; VALUE_BYTES_MAX], None).await;
    world.rig().clock.advance_ms(1000);
    let data = world.data().await;
    assert_eq!(data.len(), 507);
    let exported = world.export().await.unwrap();
    assert_eq!((exported.records, exported.resumed_records), (507, 0));
    assert_eq!(exported.bytes, world.read("").len() as u64);
    assert!(!world.file(".part").exists());

    for capacity in [5, 10_000] {
        let other = world.other(capacity).await;
        other.rig().clock.advance_ms(1000);
        let imported = other.import().await.unwrap();
        assert_eq!((imported.records, imported.stored, imported.expired), (507, 507, 0));
        let verified = imported.verified.clone().unwrap();
        assert_eq!((verified.same, verified.is_good()), (507, true), "{verified}");
        assert_eq!(imported.status(), Status::Done);
        assert!(!other.file(".import").exists());
        assert_eq!(other.data().await, data);
    }
    // A minute later two of them are dead.
    let other = world.other(100).await;
    other.rig().clock.advance_ms(100_000);
    let imported = other.import().await.unwrap();
    assert_eq!((imported.stored, imported.expired, imported.verified.unwrap().expired), (505, 2, 2));
    assert_eq!(other.rig().count().await, 505);
}

#[tokio::test]
async fn nothing_is_a_data_set_too() {
    let world = World::start(10).await;
    assert_eq!(world.export().await.unwrap().records, 0);
    assert_eq!(String::from_utf8(world.read("")).unwrap().lines().count(), 2);
    let other = world.other(10).await;
    assert_eq!(other.import().await.unwrap().records, 0);
}

#[tokio::test]
async fn interrupted_at_any_call_it_goes_on_to_the_same_set() {
    let world = World::start(300).await;
    world.fill(2500).await;
    let wanted: BTreeSet<String> = (0..2500).map(|i| format!("k{i}")).collect();
    let mut runs = 0;
    for stop_at in 1.. {
        match world.export_until(Some(stop_at)).await {
            Ok(exported) => {
                assert_eq!(exported.records, 2500);
                break;
            }
            Err(failure) => {
                assert_eq!(failure.status(), Status::Unfinished, "{failure}");
                assert!(failure.to_string().contains("interrupted"), "{failure}");
                assert!(stop_at == 1 || failure.to_string().contains("records are in `"), "{failure}");
            }
        }
        let before = world.file(".part").exists().then(|| world.read(".part").len());
        let exported = world.export().await.unwrap();
        assert_eq!(exported.records, 2500);
        assert!(before.is_none() || world.said().contains("going on with `"), "{}", world.said());
        let keys = world.keys_in_file();
        assert_eq!(keys.len(), 2500, "stopped at {stop_at}: each once");
        assert_eq!(keys.into_iter().collect::<BTreeSet<_>>(), wanted);
        std::fs::remove_file(world.file("")).unwrap();
        runs += 1;
    }
    assert!(runs > 10, "{runs}");
    // The same, from one interruption to the next.
    std::fs::remove_file(world.file("")).unwrap();
    let mut times = 0;
    while world.export_until(Some(4)).await.is_err() {
        times += 1;
        assert!(times < 2000, "{}", world.said());
    }
    assert!(times > 3);
    let other = world.other(10_000).await;
    assert_eq!(other.import().await.unwrap().stored, 2500);
    assert_eq!(other.data().await, world.data().await);
}

/// As `kill -9` and a loss of power leave it.
#[tokio::test]
async fn whatever_follows_the_last_progress_line_is_cut_off() {
    let world = World::start(10_000).await;
    world.fill(2500).await;
    world.export().await.unwrap();
    let whole = world.read("");
    std::fs::remove_file(world.file("")).unwrap();
    let garbage: [&[u8]; 4] =
        [b"", b"\0\0\0\0", b"{\"key\":\"k1\"", b"{\"end\":true,\"records\":1,\"crc32c\":\"0\"}\n"];
    let step = whole.len() / 60;
    for (i, len) in (0..whole.len()).step_by(step).chain(whole.len() - 5..=whole.len()).enumerate() {
        let mut left = whole[..len].to_vec();
        left.extend_from_slice(garbage[i % garbage.len()]);
        // A header that is cut off is none; one with garbage in it is not ours.
        if len < 100 && !garbage[i % garbage.len()].is_empty() {
            continue;
        }
        std::fs::write(world.file(".part"), &left).unwrap();
        let exported = world.export().await.unwrap();
        assert_eq!(exported.records, 2500, "cut at {len}");
        let mut keys = world.keys_in_file();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 2500, "cut at {len}");
        std::fs::remove_file(world.file("")).unwrap();
    }
    assert!(world.said().contains("after the last progress line were cut off"));
    // A loss of power in the middle: what was written after the zeros can't be trusted.
    let mut torn = whole.clone();
    torn[40_000..45_000].fill(0);
    std::fs::write(world.file(".part"), &torn).unwrap();
    assert_eq!(world.export().await.unwrap().records, 2500);
    let other = world.other(10_000).await;
    assert_eq!(other.import().await.unwrap().stored, 2500);
}

#[tokio::test]
async fn records_that_stay_are_exported_once_while_others_come_and_go() {
    let world = World::start(100).await;
    world.fill(1500).await;
    let (rig, writing) = (world.rig().clone(), tokio_util::sync::CancellationToken::new());
    let writer = {
        let writing = writing.clone();
        tokio::spawn(async move {
            let mut n = 0;
            while !writing.is_cancelled() {
                n += 1;
                rig.put(&format!("k{}", n * 7 % 1500), format!("new {n}")).await;
                rig.put(&format!("comes{}", n % 100), "x").await;
                rig.delete(&format!("comes{}", (n + 50) % 100)).await;
                tokio::task::yield_now().await;
            }
        })
    };
    for _ in 0..5 {
        world.export().await.unwrap();
        let keys = world.keys_in_file();
        let staying = keys.iter().filter(|key| key.starts_with('k')).count();
        assert_eq!(staying, 1500);
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "each once");
        let other = world.other(50).await;
        assert!(other.import().await.unwrap().verified.unwrap().is_good());
        std::fs::remove_file(world.file("")).unwrap();
    }
    writing.cancel();
    writer.await.unwrap();
}

#[tokio::test]
async fn trouble_is_told_and_tried_again() {
    let world = World::start(100).await;
    world.fill(1500).await;
    world.service.trouble(|call, _| match call % 3 {
        0 => Some(Err(Error::Busy("memory is full".into()))),
        1 => Some(Err(Error::Unavailable("the tier is away".into()))),
        _ => None,
    });
    assert_eq!(world.export().await.unwrap().records, 1500);
    assert!(world.said().contains("the tier is away: trying again"), "{}", world.said());
}

#[tokio::test]
async fn given_up_it_can_be_gone_on_with() {
    let mut world = World::start(10_000).await;
    world.fill(1500).await;
    world.patience = Duration::ZERO;
    world.service.trouble(|call, _| (call > 8).then(|| Err(Error::Unavailable("gone".into()))));
    let failure = world.export().await.unwrap_err();
    assert_eq!(failure.status(), Status::Unfinished);
    assert!(failure.to_string().contains("gone") && failure.to_string().contains("the same command"), "{failure}");
    world.service.calm();
    let exported = world.export().await.unwrap();
    assert!(exported.resumed_records > 0);
    assert_eq!(exported.records, 1500);
    assert_eq!(world.keys_in_file().len(), 1500);
}

/// What a node can't answer at once it answers in parts; nothing is skipped.
#[tokio::test]
async fn too_large_answers_are_asked_for_in_smaller_batches() {
    let world = World::start(10_000).await;
    for i in 0..300 {
        world.put(format!("k{i}").as_bytes(), &vec![b'x'; i * 100], None).await;
    }
    // Of each batch, only the first two reads fit.
    let last = std::sync::Mutex::new((0, 0));
    world.service.trouble(move |call, command| {
        let Command::Get { .. } = command else { return None };
        let mut last = last.lock().unwrap();
        *last = if last.0 == call { (call, last.1 + 1) } else { (call, 1) };
        (last.1 > 2 || call % 5 == 0).then_some(Err(Error::ReplyTooLarge))
    });
    assert_eq!(world.export().await.unwrap().records, 300);
    assert_eq!(world.keys_in_file().len(), 300);
}

#[tokio::test]
async fn what_is_there_is_not_overwritten_unless_it_is_said() {
    let mut world = World::start(100).await;
    world.fill(10).await;
    world.export().await.unwrap();
    let refused = |failure: Failure, expected: &str| {
        assert_eq!(failure.status(), Status::Failed, "{failure}");
        assert!(failure.to_string().contains(expected), "`{failure}` does not say `{expected}`");
    };
    refused(world.export().await.unwrap_err(), "--force");
    world.put(b"more", b"", None).await;
    world.force = true;
    assert_eq!(world.export().await.unwrap().records, 11);

    // An unfinished export from elsewhere, and something that is none.
    let mut elsewhere = world.other(10).await;
    elsewhere.force = true;
    let first = world.read("").split_inclusive(|&byte| byte == b'\n').next().unwrap().to_vec();
    std::fs::write(world.file(".part"), &first).unwrap();
    refused(elsewhere.export().await.unwrap_err(), "from a:1");
    std::fs::write(world.file(".part"), "my thesis\n").unwrap();
    refused(world.export().await.unwrap_err(), "--restart");
    assert_eq!(world.read(".part"), b"my thesis\n");
    world.restart = true;
    assert_eq!(world.export().await.unwrap().records, 11);

    // Another process is at it.
    let part = std::fs::File::create(world.file(".part")).unwrap();
    part.lock().unwrap();
    refused(world.export().await.unwrap_err(), "another process");
}

#[tokio::test]
async fn a_scan_that_stands_still_is_no_endless_file() {
    let world = World::start(100).await;
    world.fill(10).await;
    world.service.trouble(|_, command| match command {
        Command::Scan { cursor, .. } => Some(Ok(Reply::Page { keys: Vec::new(), next: Some(cursor.clone()) })),
        _ => None,
    });
    let failure = world.export().await.unwrap_err();
    assert_eq!(failure.status(), Status::Failed);
    assert!(failure.to_string().contains("does not advance"));
}
