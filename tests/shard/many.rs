//! Changes of several keys in one step: wherever the keys are, in every mode, and across a crash.

use std::time::Duration;

use overspill::command::{Command, Existence, Moved, PAIRS_MAX, Reply, Update};
use overspill::journal::memory::MemoryDisk;
use overspill::service::Error;
use overspill::shard::WriteMode;

use crate::fences::{crash_after, run};
use crate::rig::{Setup, get_command, key, put_command, value};
use crate::updates::{Whereabouts, append, bring, setups, take, told, update};

pub fn rename(from: &str, to: &str) -> Command {
    Command::Move { from: key(from), to: key(to), is_copy: false, existence: Existence::Any }
}

pub fn copy(from: &str, to: &str) -> Command {
    Command::Move { from: key(from), to: key(to), is_copy: true, existence: Existence::Any }
}

pub fn put_all_absent(pairs: &[(&str, &str)]) -> Command {
    let mut pairs = pairs.iter().map(|(k, v)| (key(k), value(v)));
    Command::PutAllAbsent { first: pairs.next().unwrap(), more: pairs.collect() }
}

const DONE: Result<Reply, Error> = Ok(Reply::Moved(Moved::Done));

/// In a batch, a command on several keys comes after what was asked of any of them before, and before what is asked later.
#[tokio::test]
async fn commands_on_several_keys_keep_their_order_within_a_batch() {
    for (name, setup, _) in setups() {
        let rig = setup.start().await;
        if setup.tier.is_some() {
            rig.put_spilled("{s}b", "spilled").await;
        } else {
            rig.put("{s}b", "spilled").await;
        }
        let commands = vec![
            put_command("{s}a", "1"),
            append("{s}b", "!"),
            put_command("{s}c", "3"),
            rename("{s}a", "{s}b"),
            get_command("{s}b"),
            get_command("{s}a"),
            put_command("{s}b", "4"),
            rename("{s}b", "{s}c"),
            get_command("{s}c"),
            get_command("{s}b"),
            put_all_absent(&[("{s}a", "5"), ("{s}c", "6")]),
            Command::Delete { key: key("{s}c") },
            put_all_absent(&[("{s}a", "5"), ("{s}c", "6"), ("{s}a", "7")]),
            get_command("{s}a"),
            take("{s}c"),
        ];
        let expected = [
            "stored", "8", "stored", "Done", "1", "nil", "stored", "Done", "4", "nil", "false", "true", "true", "7",
            "6",
        ];
        let replies = rig.run(commands, Duration::from_secs(10)).await;
        assert_eq!(replies.into_iter().map(told).collect::<Vec<_>>(), expected, "{name}");
        rig.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_key_is_moved_from_and_onto_any_place() {
    for (name, setup, places) in setups() {
        let rig = setup.start().await;
        for from in &places {
            for to in places.iter().filter(|to| **to == Whereabouts::Absent || **to != Whereabouts::Spilling) {
                let (a, b) = (&format!("{{s}}a{from:?}{to:?}"), &format!("{{s}}b{from:?}{to:?}"));
                bring(&rig, b, "b", *to).await;
                bring(&rig, a, "a", *from).await;
                let is_live = |at: &Whereabouts| !matches!(at, Whereabouts::Absent | Whereabouts::Expired);
                let told = told(rig.one(rename(a, b)).await);
                let of_b = if is_live(from) {
                    assert_eq!(told, "Done", "from {from:?} to {to:?}, {name}");
                    Some("a")
                } else {
                    assert_eq!(told, "Missing", "from {from:?} to {to:?}, {name}");
                    is_live(to).then_some("b")
                };
                rig.tier.release_flushes();
                assert_eq!(rig.get(b).await.as_deref(), of_b, "from {from:?} to {to:?}, {name}");
                assert_eq!(rig.get(a).await, None, "from {from:?} to {to:?}, {name}");
                if setup.tier.is_some() {
                    rig.push_out().await;
                    assert_eq!(rig.get(b).await.as_deref(), of_b, "back, from {from:?} to {to:?}, {name}");
                    assert_eq!(rig.get(a).await, None);
                    assert!(!is_live(from) || rig.tier.row(&key(a)).is_none());
                }
            }
        }
        rig.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_key_is_not_moved_onto_one_that_exists_if_it_must_not() {
    for (name, setup, places) in setups() {
        let rig = setup.start().await;
        for to in places {
            let (a, b) = (&format!("{{s}}a{to:?}"), &format!("{{s}}b{to:?}"));
            rig.put(a, "a").await;
            bring(&rig, b, "b", to).await;
            let command = Command::Move { from: key(a), to: key(b), is_copy: false, existence: Existence::Absent };
            let is_live = !matches!(to, Whereabouts::Absent | Whereabouts::Expired);
            let expected = if is_live { Moved::Refused } else { Moved::Done };
            assert_eq!(rig.one(command).await, Ok(Reply::Moved(expected)), "{to:?}, {name}");
            rig.tier.release_flushes();
            assert_eq!(rig.get(a).await.as_deref(), is_live.then_some("a"), "{to:?}, {name}");
            assert_eq!(rig.get(b).await.as_deref(), Some(if is_live { "b" } else { "a" }), "{to:?}, {name}");
        }
        rig.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn the_expiry_goes_along_and_a_copy_leaves_the_key() {
    let rig = Setup::new(10).start().await;
    rig.put_ttl("{s}a", "v", 5000).await;
    rig.put_ttl("{s}b", "old", 9000).await;
    assert_eq!(rig.one(copy("{s}a", "{s}b")).await, DONE);
    assert_eq!(rig.one(rename("{s}a", "{s}c")).await, DONE);
    assert_eq!((rig.get("{s}a").await, rig.get("{s}b").await.as_deref()), (None, Some("v")));
    rig.clock.advance_ms(5000);
    assert_eq!((rig.get("{s}b").await, rig.get("{s}c").await), (None, None));
    assert_eq!(rig.one(rename("{s}c", "{s}a")).await, Ok(Reply::Moved(Moved::Missing)), "it has expired");
}

#[tokio::test]
async fn all_absent_are_stored_or_none() {
    for (name, setup, places) in setups() {
        let rig = setup.start().await;
        for place in places {
            let keys: Vec<String> = (0..2).map(|i| format!("{{s}}{i}{place:?}")).collect();
            let pairs = [(keys[0].as_str(), "x"), (keys[1].as_str(), "y"), (keys[0].as_str(), "z")];
            bring(&rig, &keys[1], "there", place).await;
            let is_live = !matches!(place, Whereabouts::Absent | Whereabouts::Expired);
            assert_eq!(rig.one(put_all_absent(&pairs)).await, Ok(Reply::Done(!is_live)), "{place:?}, {name}");
            rig.tier.release_flushes();
            let (of_0, of_1) = if is_live { (None, Some("there")) } else { (Some("z"), Some("y")) };
            assert_eq!(rig.get(&keys[0]).await.as_deref(), of_0, "{place:?}, {name}");
            assert_eq!(rig.get(&keys[1]).await.as_deref(), of_1, "{place:?}, {name}");
        }
        rig.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn keys_of_several_slots_and_too_many_keys_are_refused_undone() {
    let rig = Setup::new(10).start().await;
    rig.put("a", "v").await;
    for command in [rename("a", "b"), copy("a", "b"), put_all_absent(&[("x", "1"), ("y", "2")])] {
        let refused = rig.one(command).await;
        assert!(matches!(&refused, Err(Error::Invalid(reason)) if reason.contains("slot")), "{refused:?}");
    }
    let more = (0..PAIRS_MAX).map(|i| (key(format!("{{x}}{i}")), value(""))).collect();
    let refused = rig.one(Command::PutAllAbsent { first: (key("{x}"), value("")), more }).await;
    assert!(matches!(&refused, Err(Error::Invalid(reason)) if reason.contains("4096")), "{refused:?}");
    assert_eq!(rig.get("a").await.as_deref(), Some("v"));
    assert_eq!(rig.count().await, 1);
}

/// Latches are taken in the order of the keys: two that want each other's don't wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moves_to_and_fro_and_batches_across_them_never_wait_in_a_circle() {
    for setup in [Setup::new(2), Setup::new(2).journaled(), Setup::new(100).mode(WriteMode::Through)] {
        let rig = setup.start().await;
        rig.put("{s}0", "the one").await;
        let callers = (0..8_usize).map(|caller| {
            let rig = rig.clone();
            tokio::spawn(async move {
                for round in 0..40 {
                    let (a, b) = ((caller + round) % 4, (caller * 3 + round + 1) % 4);
                    let (a, b) = (format!("{{s}}{a}"), format!("{{s}}{b}"));
                    let commands = vec![append(&b, ""), rename(&a, &b), get_command(&a), rename(&b, &a)];
                    for reply in rig.run(commands, Duration::from_secs(10)).await {
                        assert!(reply.is_ok(), "{reply:?}");
                    }
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.unwrap();
        }
        rig.shutdown().await.unwrap();
    }
}

/// Readers see a key at its old name or at its new one; whoever has seen it at the new one does not find it at the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_half_of_a_move() {
    for setup in [Setup::new(100), Setup::new(100).journaled()] {
        let rig = setup.start().await;
        rig.put("{s}a", "0").await;
        let mover = {
            let rig = rig.clone();
            tokio::spawn(async move {
                for round in 1..=1500 {
                    assert_eq!(rig.one(rename("{s}a", "{s}b")).await, DONE);
                    assert!(rig.one(put_command("{s}a", round.to_string())).await.is_ok());
                }
            })
        };
        let mut seen = 0;
        while !mover.is_finished() {
            // What is at the new name was at the old one before: there is something newer now, or nothing.
            let Some(moved) = rig.get("{s}b").await else { continue };
            let left = rig.get("{s}a").await;
            let moved: i64 = moved.parse().unwrap();
            assert!(left.as_deref().is_none_or(|left| left.parse::<i64>().unwrap() > moved), "{moved} and {left:?}");
            seen += 1;
        }
        mover.await.unwrap();
        assert!(seen > 20);
        rig.shutdown().await.unwrap();
    }
}

/// The bytes of the journal's last segment, and how far it was written.
fn last_segment(disk: &MemoryDisk) -> (String, Vec<u8>, usize) {
    let name = disk.files().into_iter().rfind(|name| name.starts_with("segment-")).unwrap();
    let bytes = disk.bytes(&name).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (name, bytes, written)
}

/// One append is one frame: torn at any place, a moved key is at one of its names, and stored keys are there all or none.
#[test]
fn after_a_crash_all_of_a_command_on_several_keys_is_there_or_nothing() {
    let (mut moved, mut stored) = ([0, 0], [0, 0]);
    for step in 0.. {
        let disk = MemoryDisk::new();
        let mut setup = Setup::new(1).journaled_on(&disk);
        setup.journal.as_mut().unwrap().options.segment_bytes = 1 << 20;
        let mut begin = 0;
        crash_after(&setup, async |rig| {
            rig.put_spilled("{s}a", "of a").await;
            rig.put_spilled("{s}b", "of b").await;
            rig.tier.hold_flushes();
            begin = last_segment(&disk).2;
            assert_eq!(rig.one(rename("{s}a", "{s}b")).await, DONE);
            let pairs = [("{s}x", "1"), ("{s}y", "2"), ("{s}z", "3")];
            assert_eq!(rig.one(put_all_absent(&pairs)).await, Ok(Reply::Done(true)));
        });
        setup.tier.as_ref().unwrap().release_flushes();
        disk.kill();
        let (name, mut bytes, end) = last_segment(&disk);
        let cut = (begin + step * 7).min(end);
        bytes[cut..].fill(0);
        disk.plant(&name, &bytes);
        run(async {
            let rig = setup.start().await;
            let (a, b) = (rig.get("{s}a").await, rig.get("{s}b").await);
            let is_moved = a.is_none();
            let expected = if is_moved { (None, Some("of a")) } else { (Some("of a"), Some("of b")) };
            assert_eq!((a.as_deref(), b.as_deref()), expected, "cut at {cut}");
            moved[usize::from(is_moved)] += 1;
            let mut there = 0;
            for k in ["{s}x", "{s}y", "{s}z"] {
                there += usize::from(rig.exists(k).await);
            }
            assert!(there == 0 || there == 3 && is_moved, "{there} of 3, cut at {cut}");
            stored[usize::from(there > 0)] += 1;
            rig.shutdown().await.unwrap();
        });
        if cut == end {
            break;
        }
    }
    assert!(moved.iter().all(|n| *n > 5) && stored.iter().all(|n| *n > 0), "one-sided: {moved:?}, {stored:?}");
}

/// R13: in write-through without a journal, the tier has the new key before it loses the old one.
#[tokio::test]
async fn through_without_a_journal_never_takes_the_old_key_out_of_the_tier_first() {
    let rig = Setup::new(100).mode(WriteMode::Through).start().await;
    rig.put("{s}a", "v").await;
    rig.tier.poison(key("{s}b"));
    let reply = rig.one_within(rename("{s}a", "{s}b"), 300).await;
    assert!(matches!(reply, Err(Error::Unknown(_))), "{reply:?}");
    assert_eq!(rig.tier.row(&key("{s}a")).unwrap().value, value("v"), "a crash now would lose it");
    rig.tier.cure(&key("{s}b"));
    rig.put("{s}c", "w").await;
    assert_eq!(rig.one(rename("{s}c", "{s}d")).await, DONE);
    assert_eq!((rig.tier.row(&key("{s}c")), rig.tier.row(&key("{s}d")).unwrap().value), (None, value("w")));
}

/// R1: whoever adds to a key while it is moved adds to what was moved or to what comes after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_doubled_between_additions_and_moves() {
    const ADDITIONS: i64 = 400;
    for setup in [Setup::new(2), Setup::new(100).journaled()] {
        let rig = setup.start().await;
        let adders = (0..4).map(|_| {
            let rig = rig.clone();
            tokio::spawn(async move {
                for _ in 0..ADDITIONS / 4 {
                    rig.one(update("{s}a", Update::Add { by: 1 })).await.unwrap();
                }
            })
        });
        let adders: Vec<_> = adders.collect();
        let mut sum = 0;
        while sum < ADDITIONS {
            let is_over = adders.iter().all(tokio::task::JoinHandle::is_finished);
            rig.one(rename("{s}a", "{s}b")).await.unwrap();
            sum += told(rig.one(take("{s}b")).await).parse().unwrap_or(0);
            assert!(!is_over || sum == ADDITIONS, "{sum} of {ADDITIONS}");
        }
        assert_eq!((sum, rig.get("{s}a").await, rig.get("{s}b").await), (ADDITIONS, None, None));
        for adder in adders {
            adder.await.unwrap();
        }
        rig.shutdown().await.unwrap();
    }
}

/// R15: who needs more room than there is holds none of it against others, who may hold the rest against it.
#[tokio::test]
async fn commands_on_several_keys_take_their_room_at_once() {
    let rig = Setup::new(4).start().await;
    let bound = rig.shard.store().stats().records_bound as usize;
    let count = bound / 2 + 1; // there is room for one of them
    let many = |name: &str| {
        let mut pairs = (0..count).map(|i| (key(format!("{{s}}{name}{i}")), value("v")));
        Command::PutAllAbsent { first: pairs.next().unwrap(), more: pairs.collect() }
    };
    rig.tier.hold_flushes();
    for i in 0..bound - 100 {
        rig.put(&format!("fill{i}"), "x").await;
    }
    let (a, b, ()) = tokio::join!(rig.one(many("a")), rig.one(many("b")), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        for i in 0..50 {
            rig.one_within(put_command(&format!("beside{i}"), "x"), 1000).await.expect("there is room for it");
        }
        rig.tier.release_flushes();
    });
    assert_eq!((a, b), (Ok(Reply::Done(true)), Ok(Reply::Done(true))));
    rig.until_spilled().await;
    assert_eq!(rig.count().await as usize, bound - 50 + 2 * count);
}
