//! Changes of a key by what it is: wherever the key is, and in every mode.

use std::io::ErrorKind;
use std::time::Duration;

use overspill::command::{Command, Existence, ExpireWhen, NewExpiry, Place, Reply, Update};
use overspill::journal::memory::MemoryDisk;
use overspill::record::{Timestamp, VALUE_BYTES_MAX};
use overspill::service::{Error, REPLIES_BYTES_MAX};
use overspill::shard::WriteMode;

use crate::fences::run;
use crate::many::{copy, put_all_absent, rename};
use crate::rig::{Rig, Setup, get_command, key, put_command, ttl, until, value};

pub fn update(k: &str, update: Update) -> Command {
    Command::Update { key: key(k), update }
}

fn add(k: &str, by: i64) -> Command {
    update(k, Update::Add { by })
}

pub fn append(k: &str, tail: &str) -> Command {
    update(k, Update::Append { tail: value(tail) })
}

pub fn take(k: &str) -> Command {
    update(k, Update::Take)
}

/// What a reply says, in a word.
pub fn told(reply: Result<Reply, Error>) -> String {
    match reply {
        Ok(Reply::Found(found)) => {
            found.map_or("nil".to_owned(), |found| found.value.as_bytes().escape_ascii().to_string())
        }
        Ok(Reply::Stored(_)) => "stored".to_owned(),
        Ok(Reply::Conflict(_)) => "conflict".to_owned(),
        Ok(Reply::Number(number)) => number.to_string(),
        Ok(Reply::Done(done)) => done.to_string(),
        Ok(Reply::Moved(moved)) => format!("{moved:?}"),
        Ok(other) => panic!("{other:?}"),
        Err(Error::Invalid(reason)) => format!("! {reason}"),
        Err(other) => panic!("{other:?}"),
    }
}

/// Where a key is when a command comes to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Whereabouts {
    Absent,
    Memory,
    Expired,
    /// On its way to the tier.
    Spilling,
    Spilled,
}

/// All setups with the whereabouts that they have.
pub fn setups() -> Vec<(String, Setup, Vec<Whereabouts>)> {
    use Whereabouts::{Absent, Expired, Memory, Spilled, Spilling};
    let mut cache = Setup::new(100);
    cache.tier = None;
    let mut setups = vec![("pure cache".to_owned(), cache, vec![Absent, Memory, Expired])];
    for mode in [WriteMode::Spill, WriteMode::Behind, WriteMode::Through] {
        let places = match mode {
            WriteMode::Through => vec![Absent, Memory, Expired, Spilled],
            WriteMode::Spill | WriteMode::Behind => vec![Absent, Memory, Expired, Spilling, Spilled],
        };
        setups.push((format!("{mode:?}"), Setup::new(2).mode(mode), places.clone()));
        setups.push((format!("{mode:?}, journaled"), Setup::new(2).mode(mode).journaled(), places));
    }
    setups
}

/// Brings `k`, with this value, to where it is wanted.
pub async fn bring(rig: &Rig, k: &str, v: &str, to: Whereabouts) {
    match to {
        Whereabouts::Absent => {}
        Whereabouts::Memory => drop(rig.put(k, v).await),
        Whereabouts::Expired => {
            rig.put_ttl(k, v, 100).await;
            rig.clock.advance_ms(100);
        }
        Whereabouts::Spilling => {
            rig.tier.hold_flushes();
            rig.put(k, v).await;
            for i in 0..2 {
                rig.put(&format!("filler{i}"), "x").await;
            }
            assert!(matches!(rig.place(k).await, Place::Spilling), "{:?}", rig.place(k).await);
        }
        Whereabouts::Spilled => {
            rig.put_spilled(k, v).await;
            assert_eq!(rig.place(k).await, Place::Tier);
        }
    }
}

/// Every update, with what it answers and leaves behind of a key that is `5`, and of one that is not.
fn every_update() -> Vec<(Update, [&'static str; 2], [&'static str; 2])> {
    let set = |expiry, existence, answer_old| Update::Set { value: value("new"), expiry, existence, answer_old };
    let past = NewExpiry::At(Timestamp(1));
    vec![
        (set(NewExpiry::Keep, Existence::Any, true), ["5", "new"], ["nil", "new"]),
        (set(NewExpiry::Never, Existence::Any, false), ["stored", "new"], ["stored", "new"]),
        (set(NewExpiry::Never, Existence::Absent, false), ["conflict", "5"], ["stored", "new"]),
        (set(NewExpiry::Never, Existence::Present, false), ["stored", "new"], ["conflict", "nil"]),
        (set(past, Existence::Any, false), ["stored", "nil"], ["stored", "nil"]),
        (Update::Add { by: 2 }, ["7", "7"], ["2", "2"]),
        (Update::AddDecimal { by: value("0.5") }, ["5.5", "5.5"], ["0.5", "0.5"]),
        (Update::Append { tail: value("x") }, ["2", "5x"], ["1", "x"]),
        (Update::Overwrite { offset: 2, part: value("x") }, ["3", "5\\x00x"], ["3", "\\x00\\x00x"]),
        (Update::Take, ["5", "nil"], ["nil", "nil"]),
        (Update::GetAndExpire { expiry: past }, ["5", "nil"], ["nil", "nil"]),
        (Update::GetAndExpire { expiry: NewExpiry::In(ttl(5000)) }, ["5", "5"], ["nil", "nil"]),
        (Update::Expire { expiry: past, when: ExpireWhen::Always }, ["true", "nil"], ["false", "nil"]),
        (Update::Expire { expiry: past, when: ExpireWhen::Any }, ["false", "5"], ["false", "nil"]),
    ]
}

#[tokio::test]
async fn every_update_finds_the_key_wherever_it_is() {
    for (name, setup, places) in setups() {
        let rig = setup.start().await;
        for place in places {
            for (i, (change, of_live, of_none)) in every_update().into_iter().enumerate() {
                let k = &format!("k{i}{place:?}");
                bring(&rig, k, "5", place).await;
                let is_live = matches!(place, Whereabouts::Memory | Whereabouts::Spilling | Whereabouts::Spilled);
                let [answer, after] = if is_live { of_live } else { of_none };
                let reply = told(rig.one(update(k, change.clone())).await);
                assert_eq!(reply, answer, "{change:?} of a key that is {place:?}, {name}");
                assert_eq!(told(rig.one(get_command(k)).await), after, "after {change:?}, {place:?}, {name}");
                rig.tier.release_flushes();
                if setup.tier.is_some() {
                    rig.push_out().await;
                    assert_eq!(told(rig.one(get_command(k)).await), after, "back, {change:?}, {place:?}, {name}");
                }
            }
        }
        rig.shutdown().await.unwrap();
    }
}

/// R1: nobody's addition is lost, although all of them begin with a load.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_callers_add_to_a_spilled_key_and_it_sums_up() {
    for (name, setup, _) in setups().into_iter().filter(|(_, setup, _)| setup.tier.is_some()) {
        let rig = setup.start().await;
        rig.put_spilled("n", "1000").await;
        let callers = (0..50).map(|_| {
            let rig = rig.clone();
            tokio::spawn(async move {
                let first = rig.one(add("n", 1)).await;
                let rest = rig.run(vec![add("n", 1); 3], Duration::from_secs(10)).await;
                std::iter::once(first).chain(rest).map(told).collect::<Vec<_>>()
            })
        });
        let mut sums = Vec::new();
        for caller in callers.collect::<Vec<_>>() {
            sums.extend(caller.await.unwrap().iter().map(|sum| sum.parse::<i64>().unwrap()));
        }
        sums.sort_unstable();
        assert_eq!(sums, (1001..=1200).collect::<Vec<_>>(), "{name}");
        assert_eq!(rig.get("n").await.as_deref(), Some("1200"));
        rig.shutdown().await.unwrap();
    }
}

/// Within a group, by way of the tier, and in both.
#[tokio::test]
async fn updates_of_one_key_in_a_batch_follow_each_other() {
    for (name, setup, _) in setups() {
        let rig = setup.start().await;
        if setup.tier.is_some() {
            rig.put_spilled("k", "1").await;
        } else {
            rig.put("k", "1").await;
        }
        let commands = |k: &str| {
            let nx = Update::Set {
                value: value("z"),
                expiry: NewExpiry::Never,
                existence: Existence::Absent,
                answer_old: false,
            };
            vec![
                add(k, 1),
                append(k, "0"),
                add(k, 1),
                get_command(k),
                append(k, "x"),
                add(k, 1),
                take(k),
                update(k, nx.clone()),
                update(k, nx),
                get_command(k),
                Command::Delete { key: key(k) },
                add(k, 4),
            ]
        };
        let not = "! value is not an integer or out of range";
        for (k, expected) in [
            ("k", ["2", "2", "21", "21", "3", not, "21x", "stored", "conflict", "z", "true", "4"]),
            ("other", ["1", "2", "11", "11", "3", not, "11x", "stored", "conflict", "z", "true", "4"]),
        ] {
            let replies = rig.run(commands(k), Duration::from_secs(10)).await;
            assert_eq!(replies.into_iter().map(told).collect::<Vec<_>>(), expected, "{name}");
        }
        rig.shutdown().await.unwrap();
    }
}

/// R18: what a refusal, or a copy, tells of a key is told once the tier has it.
#[tokio::test]
async fn through_tells_nothing_that_the_tier_has_not_confirmed() {
    let rig = Setup::new(100).mode(WriteMode::Through).start().await;
    rig.put("{s}old", "1").await;
    rig.tier.hold_flushes();
    for k in ["{s}k", "{s}from"] {
        let put = rig.one_within(put_command(k, "not a number"), 30).await;
        assert!(matches!(put, Err(Error::Unknown(_))), "{put:?}");
    }
    let nx = Command::Move { from: key("{s}old"), to: key("{s}k"), is_copy: false, existence: Existence::Absent };
    let refused = vec![
        add("{s}k", 1),
        update("{s}k", Update::AddDecimal { by: value("1") }),
        update("{s}k", Update::Expire { expiry: NewExpiry::In(ttl(5)), when: ExpireWhen::Any }),
        update("{s}k", Update::GetAndExpire { expiry: NewExpiry::Keep }),
        append("{s}k", ""),
        nx,
        put_all_absent(&[("{s}k", "1"), ("{s}l", "1")]),
        rename("{s}k", "{s}k"),
    ];
    for command in &refused {
        let reply = rig.one_within(command.clone(), 50).await;
        assert!(matches!(reply, Err(Error::Unavailable(_))), "{command:?}: {reply:?}");
    }
    // The copy is confirmed before what it was made of.
    rig.tier.poison(key("{s}from"));
    rig.tier.release_flushes();
    until("the others are there", async || rig.tier.row(&key("{s}k")).is_some()).await;
    let copied = rig.one_within(copy("{s}from", "{s}to"), 300).await;
    assert!(matches!(copied, Err(Error::Unknown(_))), "{copied:?}");
    rig.tier.cure(&key("{s}from"));
    for command in refused {
        let reply = rig.one(command.clone()).await;
        assert!(matches!(reply, Ok(_) | Err(Error::Invalid(_))), "{command:?}: {reply:?}");
    }
}

/// R9: who gets no answer has not been served, and the others are.
#[test]
fn values_that_are_taken_in_one_batch_are_bounded() {
    const COUNT: usize = 40;
    const VALUE_BYTES: usize = 1 << 20;
    for is_spilled in [false, true] {
        for is_journaled in [false, true] {
            run(async {
                let mut setup = Setup::new(if is_spilled { 4 } else { 100 });
                setup.options.memory_bytes_max = 256 << 20;
                let setup = if is_journaled { setup.journaled() } else { setup };
                let rig = setup.start().await;
                for i in 0..COUNT {
                    rig.put(&format!("k{i}"), vec![i as u8; VALUE_BYTES]).await;
                }
                if is_spilled {
                    rig.push_out().await;
                }
                let swap = |i: usize| {
                    let (value, expiry, existence) = (value("small"), NewExpiry::Never, Existence::Any);
                    update(&format!("k{i}"), Update::Set { value, expiry, existence, answer_old: true })
                };
                let commands = (0..COUNT).map(|i| if i % 2 == 0 { take(&format!("k{i}")) } else { swap(i) }).collect();
                let replies = rig.run(commands, Duration::from_secs(20)).await;
                let mut given_bytes = 0;
                for (i, reply) in replies.into_iter().enumerate() {
                    let left = rig.found(&format!("k{i}")).await.map(|found| found.value.as_bytes().len());
                    match reply {
                        Ok(Reply::Found(Some(found))) => {
                            given_bytes += found.value.as_bytes().len();
                            assert_eq!(left, (i % 2 == 1).then_some(5), "it was done");
                        }
                        Err(Error::ReplyTooLarge) => assert_eq!(left, Some(VALUE_BYTES), "it was not done"),
                        other => panic!("{other:?}"),
                    }
                }
                let most = REPLIES_BYTES_MAX + if is_spilled { 0 } else { VALUE_BYTES };
                assert!((8 << 20..=most).contains(&given_bytes), "{given_bytes} bytes");
                rig.shutdown().await.unwrap();
            });
        }
    }
}

/// R9: many short commands on long values are more than one append takes, and are done all the same.
#[test]
fn short_updates_of_long_values_are_committed_in_parts() {
    run(async {
        let mut setup = Setup::new(100).journaled();
        setup.options.memory_bytes_max = 1 << 30;
        let rig = setup.start().await;
        for i in 0..12 {
            rig.put(&format!("k{i}"), vec![b'x'; VALUE_BYTES_MAX - 10]).await;
        }
        let commands = (0..12).map(|i| append(&format!("k{i}"), "y")).collect();
        for reply in rig.run(commands, Duration::from_secs(20)).await {
            assert_eq!(reply, Ok(Reply::Number(VALUE_BYTES_MAX as i64 - 9)));
        }
        let long = rig.one(append("k0", "ten bytes!")).await;
        assert!(matches!(&long, Err(Error::Invalid(reason)) if reason.contains("maximum")), "{long:?}");
        rig.shutdown().await.unwrap();
    });
}

/// R15: what is stored takes no more than was admitted, also where its length is not known before.
#[tokio::test]
async fn numbers_of_any_length_leave_the_budget_as_it_was() {
    let rig = Setup::new(10).start().await;
    let before = rig.stats().await.memory_bytes;
    for round in 0..3 {
        for by in ["1e300", "-1e300", "0.1", "1e21"] {
            let reply = rig.one(update("n", Update::AddDecimal { by: value(by) })).await;
            assert!(reply.is_ok(), "{reply:?} in round {round}");
        }
        assert!(rig.delete("n").await);
    }
    rig.until_spilled().await;
    assert_eq!(rig.stats().await.memory_bytes, before);
}

/// R9, R15: what waits for room does not keep the value that it has looked up, and looks again.
#[tokio::test]
async fn an_update_that_waited_for_room_still_knows_the_key() {
    let rig = Setup::new(4).start().await;
    for k in ["n", "s", "t"] {
        rig.put_spilled(k, "5").await;
    }
    rig.tier.hold_flushes();
    rig.fill().await;
    let commands = vec![add("n", 1), append("s", "6"), take("t")];
    let (replies, ()) = tokio::join!(rig.run(commands, Duration::from_secs(10)), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.tier.release_flushes();
    });
    assert_eq!(replies.into_iter().map(told).collect::<Vec<_>>(), ["6", "2", "5"]);
    assert_eq!((rig.get("n").await.as_deref(), rig.get("s").await.as_deref()), (Some("6"), Some("56")));
    assert_eq!(rig.get("t").await, None);
}

/// R2: a refusal that has seen what was not committed is told only if that is.
#[test]
fn what_a_group_that_failed_would_have_been_is_not_told() {
    let disk = MemoryDisk::new();
    let setup = Setup::new(10).journaled_on(&disk);
    run(async {
        let rig = setup.start().await;
        tokio::time::sleep(Duration::from_millis(300)).await; // until the journal has marked its end
        disk.fail_next_write(ErrorKind::StorageFull, 10);
        let commands = vec![put_command("k", "not a number"), add("k", 1), take("k"), get_command("k")];
        for reply in rig.run(commands, Duration::from_secs(1)).await {
            assert!(matches!(reply, Err(Error::Busy(_))), "{reply:?}");
        }
        assert_eq!(rig.get("k").await, None);
        assert_eq!(rig.one(add("k", 1)).await, Ok(Reply::Number(1)));
        rig.shutdown().await.unwrap();
    });
}

/// R23: of a write whose sync failed nobody knows, but who only saw it has done nothing, and may ask again.
#[test]
fn who_has_seen_a_write_whose_sync_failed_has_done_nothing() {
    let disk = MemoryDisk::new();
    let setup = Setup::new(10).journaled_on(&disk);
    run(async {
        let rig = setup.start().await;
        tokio::time::sleep(Duration::from_millis(300)).await; // until the journal has marked its end
        disk.fail_next_sync();
        let commands = vec![put_command("k", "not a number"), add("k", 1), get_command("k")];
        let replies = rig.run(commands, Duration::from_secs(1)).await;
        assert!(matches!(replies[0], Err(Error::Unknown(_))), "{replies:?}");
        assert!(replies[1..].iter().all(|reply| matches!(reply, Err(Error::Unavailable(_)))), "{replies:?}");
    });
}
