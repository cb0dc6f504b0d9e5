//! From a file to a shard.

use std::time::Duration;

use overspill::command::{Command, Reply};
use overspill::record::Version;
use overspill::service::Error;
use overspill::transfer::{Failure, Status};

use crate::rig::{Setup, key};
use crate::world::World;

/// A shard with this many records, its export, and an empty shard.
async fn exported(records: usize) -> (World, World) {
    let world = World::start(1000).await;
    world.fill(records).await;
    world.export().await.unwrap();
    let other = world.other(300).await;
    (world, other)
}

fn refused_at(failure: &Failure, line: usize) -> String {
    assert_eq!(failure.status(), Status::Failed, "{failure}");
    let text = failure.to_string();
    assert!(text.contains(&format!(" line {line}: ")), "`{text}` does not say line {line}");
    text
}

#[tokio::test]
async fn interrupted_at_any_call_it_goes_on_to_the_same_set() {
    let (world, _) = exported(2500).await;
    let data = world.data().await;
    let mut runs = 0;
    for stop_at in 1.. {
        let other = world.other(300).await;
        let Err(failure) = other.import_until(Some(stop_at)).await else { break };
        assert_eq!(failure.status(), Status::Unfinished, "{failure}");
        let imported = other.import().await.unwrap();
        assert_eq!((imported.records, imported.stored), (2500, 2500), "stopped at {stop_at}");
        assert_eq!(imported.verified.unwrap().same, 2500);
        assert!(!other.file(".import").exists());
        if stop_at % 5 == 0 {
            assert_eq!(other.data().await, data, "stopped at {stop_at}");
        }
        runs += 1;
    }
    assert!(runs > 10, "{runs}");
    let other = world.other(300).await;
    assert_eq!(other.import_until(Some(5)).await.unwrap_err().status(), Status::Unfinished);
    let failure = world.import().await.unwrap_err();
    assert!(failure.to_string().contains("into b:2"), "{failure}");
    let imported = other.import().await.unwrap();
    assert!(imported.resumed_records > 0 && other.said().contains("going on with"), "{}", other.said());
}

#[tokio::test]
async fn a_damaged_file_is_refused_at_its_line_and_nothing_is_stored() {
    let (_world, mut other) = exported(2500).await;
    let whole = String::from_utf8(other.read("")).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let last = lines.len();
    let write = |lines: &[&str]| std::fs::write(other.file(""), lines.join("\n") + "\n").unwrap();
    let marks: Vec<usize> = (1..=last).filter(|line| lines[line - 1].starts_with("{\"cursor\"")).collect();

    // Cut between two lines, and in the middle of one.
    write(&lines[..1700]);
    assert!(refused_at(&other.import().await.unwrap_err(), 1701).contains("not finished"));
    std::fs::write(other.file(""), &whole.as_bytes()[..whole.len() - 10]).unwrap();
    refused_at(&other.import().await.unwrap_err(), last);
    // A value altered: the next progress line tells.
    let mut altered = lines.clone();
    let value = lines[1499].replace("value ", "VALUE ");
    altered[1499] = &value;
    write(&altered);
    let mark = *marks.iter().find(|mark| **mark > 1500).unwrap();
    assert!(refused_at(&other.import().await.unwrap_err(), mark).contains("altered"));
    // A line that is none, one that is gone, one more.
    altered[1499] = "{\"key\":\"k1\"";
    write(&altered);
    refused_at(&other.import().await.unwrap_err(), 1500);
    write(&[&lines[..1499], &lines[1500..]].concat());
    assert!(refused_at(&other.import().await.unwrap_err(), mark - 1).contains("records up to here"));
    write(&[&lines[..], &lines[1500..1501]].concat());
    assert!(refused_at(&other.import().await.unwrap_err(), last + 1).contains("follows the last line"));
    // Of another kind altogether.
    std::fs::write(other.file(""), "a,b\n").unwrap();
    refused_at(&other.import().await.unwrap_err(), 1);
    std::fs::write(other.file(""), "").unwrap();
    refused_at(&other.import().await.unwrap_err(), 1);
    assert_eq!(other.service.calls(), 0, "nobody was asked for anything");

    // What is whole of a cut file can be had.
    write(&lines[..1700]);
    other.allow_partial = true;
    let imported = other.import().await.unwrap();
    let mark = *marks.iter().rfind(|mark| **mark <= 1700).unwrap();
    let records = mark - 1 - marks.iter().filter(|m| **m <= mark).count();
    assert!(imported.is_partial);
    assert_eq!((imported.stored, other.rig().count().await), (records as u64, records as u64));
    assert!(other.said().contains("left out"), "{}", other.said());
}

#[tokio::test]
async fn a_file_that_has_changed_since_is_not_gone_on_with() {
    let (_world, mut other) = exported(2500).await;
    other.import_until(Some(4)).await.unwrap_err();
    let (another, _) = exported(2400).await;
    std::fs::copy(another.file(""), other.file("")).unwrap();
    let failure = other.import().await.unwrap_err();
    assert!(failure.to_string().contains("is not the file that"), "{failure}");
    other.restart = true;
    assert_eq!(other.import().await.unwrap().stored, 2400);
}

#[tokio::test]
async fn trouble_is_told_and_tried_again() {
    let (world, _) = exported(2500).await;
    let data = world.data().await;
    for trouble in [
        Error::Busy("memory is full".into()),
        Error::Unavailable("nobody is there".into()),
        Error::Unknown("the connection broke".into()),
        Error::WrongShard { epoch: Default::default(), reason: "moved".into() },
    ] {
        let other = world.other(300).await;
        let told = trouble.to_string();
        let is_write_only = matches!(trouble, Error::Unknown(_));
        other.service.trouble(move |call, command| {
            let is_troubled = call % 3 > 0 && (command.is_write() || !is_write_only);
            is_troubled.then(|| Err(trouble.clone()))
        });
        let imported = other.import().await.unwrap();
        assert_eq!((imported.stored, imported.status()), (2500, Status::Done), "{told}");
        assert!(other.said().contains(&format!("{told}: trying again")), "{}", other.said());
        assert_eq!(other.data().await, data, "{told}");
    }
}

/// The answers of writes are lost, and they were done: they are done twice, and once is what is seen.
#[tokio::test]
async fn writes_of_unknown_outcome_are_done_again() {
    let (world, other) = exported(500).await;
    let rig = other.rig().clone();
    other.service.trouble(move |call, command| {
        let Command::Put { .. } = command else { return None };
        if call > 4 {
            return None;
        }
        let (rig, command) = (rig.clone(), command.clone());
        tokio::spawn(async move { rig.one(command).await });
        Some(Err(Error::Unknown("no answer".into())))
    });
    let imported = other.import().await.unwrap();
    assert_eq!((imported.stored, imported.status()), (500, Status::Done));
    assert_eq!(other.data().await, world.data().await);
}

#[tokio::test]
async fn given_up_it_can_be_gone_on_with() {
    let (world, mut other) = exported(2500).await;
    other.patience = Duration::ZERO;
    other.service.trouble(|call, _| (call > 3).then(|| Err(Error::Busy("full".into()))));
    let failure = other.import().await.unwrap_err();
    assert_eq!(failure.status(), Status::Unfinished);
    assert!(failure.to_string().contains("full") && failure.to_string().contains("goes on"), "{failure}");
    other.service.calm();
    assert_eq!(other.import().await.unwrap().stored, 2500);
    assert_eq!(other.data().await, world.data().await);
}

#[tokio::test]
async fn keys_that_exist_are_overwritten_or_left_as_it_is_said() {
    let (world, mut other) = exported(100).await;
    other.put(b"k7", b"mine", None).await;
    other.put(b"k8", b"value 8", None).await;
    other.put(b"another", b"mine", None).await;
    other.if_absent = true;
    let imported = other.import().await.unwrap();
    assert_eq!((imported.stored, imported.kept, imported.status()), (98, 2, Status::Done));
    let verified = imported.verified.unwrap();
    assert_eq!((verified.same, verified.kept), (99, 1));
    assert_eq!(other.rig().get("k7").await.as_deref(), Some("mine"));
    other.if_absent = false;
    assert_eq!(other.import().await.unwrap().stored, 100);
    assert_eq!(other.rig().get("k7").await.as_deref(), Some("value 7"));
    let mut data = world.data().await;
    data.insert(b"another".to_vec(), (b"mine".to_vec(), None));
    assert_eq!(other.data().await, data);
}

#[tokio::test]
async fn what_is_not_there_as_it_was_imported_is_told() {
    let (_world, other) = exported(100).await;
    // A target that forgets one record, and alters another.
    other.service.trouble(|_, command| match command {
        Command::Put { key: k, .. } if [key("k5"), key("k6")].contains(k) => {
            Some(Ok(Reply::Stored(Version::new(1, 1_000_000))))
        }
        _ => None,
    });
    other.put(b"k6", b"something else", None).await;
    let imported = other.import().await.unwrap();
    assert_eq!(imported.status(), Status::Unfinished);
    let verified = imported.verified.clone().unwrap();
    assert_eq!((verified.same, verified.missing, verified.different), (98, 1, 1));
    let text = imported.to_string();
    assert!(text.contains("`k5` is missing") && text.contains("`k6` is different"), "{text}");
}

#[tokio::test]
async fn what_others_have_changed_meanwhile_is_told_apart() {
    let (_world, other) = exported(100).await;
    let rig = other.rig().clone();
    // Before the first record is read back.
    let once = std::sync::Once::new();
    other.service.trouble(move |_, command| {
        if let Command::Get { .. } = command {
            once.call_once(|| {
                let rig = rig.clone();
                let write = async move { rig.put("k5", "newer").await };
                let runtime = tokio::runtime::Handle::current();
                std::thread::spawn(move || runtime.block_on(write)).join().unwrap();
            });
        }
        None
    });
    let imported = other.import().await.unwrap();
    let verified = imported.verified.clone().unwrap();
    assert_eq!((verified.same, verified.changed), (99, 1), "{verified}");
    assert_eq!(imported.status(), Status::Done);
}

#[tokio::test]
async fn two_imports_of_one_file_at_once_are_refused() {
    let (_world, other) = exported(10).await;
    let file = std::fs::File::open(other.file("")).unwrap();
    file.lock().unwrap();
    let failure = other.import().await.unwrap_err();
    assert!(failure.to_string().contains("another process"), "{failure}");
}

/// The whole way through a target whose tier can't be written for a while.
#[tokio::test]
async fn a_target_that_is_full_is_waited_for() {
    let world = World::start(1000).await;
    world.fill(1000).await;
    world.export().await.unwrap();
    let mut setup = Setup::new(100);
    setup.options.memory_bytes_max = 64 * 1024 * 1024;
    let mut other = World::of(setup).await;
    other.folder = std::sync::Arc::clone(&world.folder);
    other.rig().tier.hold_flushes();
    let tier = other.rig().tier.clone();
    let releasing = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tier.release_flushes();
    });
    assert_eq!(other.import().await.unwrap().stored, 1000);
    releasing.await.unwrap();
    assert_eq!(other.data().await, world.data().await);
}
