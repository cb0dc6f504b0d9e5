//! What lies in the directory and should not, what does not and should, and a directory of the real file system.

use proptest::prelude::*;

use super::*;
use crate::journal::{Directory, check};
use crate::task::Threads;

const SEGMENT_1: &str = "segment-0000000000000001.log";
const SEGMENT_2: &str = "segment-0000000000000002.log";
const FIRST_FRAME: usize = 48;

/// A journal with an id, with one group in each of two segments.
async fn two_segments(id: JournalId) -> MemoryDisk {
    let disk = MemoryDisk::new();
    for lsn in [1, 2] {
        let attached: Arc<dyn Disk> = Arc::new(disk.attach());
        let (journal, _) = open(attached, options(Fsync::Always), id, &mut |_| {}).unwrap();
        let pending = journal.append(&[set(&format!("key {lsn}"), lsn, "value")]).unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        journal.run(&InPlace, &stop).await;
        pending.durable().await.unwrap();
    }
    disk
}

fn frame_len(frame: &[u8]) -> usize {
    40 + u32::from_le_bytes(frame[8..12].try_into().unwrap()).next_multiple_of(8) as usize
}

fn recover(disk: &MemoryDisk) -> Result<Recovered, OpenError> {
    open_with(disk, options(Fsync::Always)).map(|(_, recovered)| recovered)
}

fn corrupt(disk: &MemoryDisk) -> (String, u64, String) {
    match recover(disk) {
        Err(OpenError::Corrupt { file, offset, what }) => (file, offset, what),
        other => panic!("{other:?}"),
    }
}

/// Group 1 in the first segment, groups 2 and 3 in segment `number`.
async fn three_groups(id: JournalId, number: u64) -> (MemoryDisk, Vec<u8>) {
    let disk = MemoryDisk::new();
    let attached: Arc<dyn Disk> = Arc::new(disk.attach());
    let (journal, _) = open(attached, options(Fsync::Always), id, &mut |_| {}).unwrap();
    let stop = CancellationToken::new();
    let lives = async {
        for lsn in 1..=3 {
            while lsn == 2 && journal.usage().segments < number {
                drop(journal.begin_checkpoint(&InPlace).await.unwrap());
            }
            journal.append(&[set(&format!("key {lsn}"), lsn, "value")]).unwrap().durable().await.unwrap();
        }
    };
    tokio::select! {
        () = journal.run(&InPlace, &stop) => {}
        () = lives => {}
    }
    let groups = disk.bytes(&format!("segment-{number:016x}.log")).unwrap();
    (disk, groups[FIRST_FRAME..FIRST_FRAME + 2 * frame_len(&groups[FIRST_FRAME..])].to_vec())
}

#[tokio::test(start_paused = true)]
async fn group_of_another_journal_segment_or_place_never_counts() {
    let (disk, own) = three_groups(ID, 2).await;
    let header = disk.bytes(SEGMENT_2).unwrap()[..FIRST_FRAME].to_vec();
    let with = |groups: &[u8]| {
        disk.plant(SEGMENT_2, &[&header, groups].concat());
        recover(&disk).unwrap().effects
    };
    let first = [set("key 1", 1, "value")];
    assert_eq!(with(&three_groups(JournalId(7), 2).await.1), first, "another journal");
    assert_eq!(with(&three_groups(ID, 3).await.1), first, "another segment");
    // In the middle of a value that a crash tore; and it says that group 2 was durable.
    assert_eq!(with(&[&[7; 64], &own[own.len() / 2..]].concat()), first, "another place");
    assert_eq!(with(&own).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn file_of_another_journal_is_refused() {
    let disk = two_segments(ID).await;
    let other = two_segments(JournalId(7)).await;
    disk.plant(SEGMENT_2, &other.bytes(SEGMENT_2).unwrap());
    let (file, offset, what) = corrupt(&disk);
    assert_eq!((file.as_str(), offset), (SEGMENT_2, 0));
    assert_eq!(what, format!("it belongs to journal 0000000000000007, the others to {ID}"));
}

#[tokio::test(start_paused = true)]
async fn missing_and_renamed_segments_are_refused() {
    let disk = two_segments(ID).await;
    let bytes = disk.bytes(SEGMENT_2).unwrap();
    disk.attach().remove(SEGMENT_1).unwrap();
    assert_eq!(corrupt(&disk).2, "segments 0000000000000001 to 0000000000000001 are missing");
    disk.plant(SEGMENT_1, &bytes);
    assert_eq!(corrupt(&disk).2, "its header has number 0000000000000002: it was renamed");
}

#[tokio::test(start_paused = true)]
async fn group_that_is_gone_from_a_full_segment_is_refused() {
    let disk = two_segments(ID).await;
    let bytes = disk.bytes(SEGMENT_1).unwrap();
    // Zeros, as from a write that never reached the disk.
    disk.plant(SEGMENT_1, &bytes[..FIRST_FRAME]);
    let (file, offset, what) = corrupt(&disk);
    assert_eq!((file.as_str(), offset), (SEGMENT_1, FIRST_FRAME as u64));
    assert_eq!(what, "it should reach to group 2, and group 1 is missing");
}

#[tokio::test(start_paused = true)]
async fn error_says_where_what_and_what_to_do() {
    let disk = two_segments(ID).await;
    disk.rot(SEGMENT_1, 60);
    let text = recover(&disk).unwrap_err().to_string();
    let expected = "the journal is corrupt: `segment-0000000000000001.log` at byte 48: no group of this journal is there; \
                    restore the directory from a copy or move it away and accept the loss of what it held, `kv check` tells \
                    more";
    assert_eq!(text, expected);
}

#[tokio::test(start_paused = true)]
async fn check_tells_of_every_damage() {
    let disk = two_segments(ID).await;
    disk.rot(SEGMENT_1, 60);
    disk.rot(SEGMENT_2, 30);
    let report = check(&disk.attach(), &mut |_| {}).unwrap();
    let places: Vec<(&str, u64)> = report.problems.iter().map(|p| (p.file.as_str(), p.offset)).collect();
    assert!(places.contains(&(SEGMENT_1, 48)) && places.contains(&(SEGMENT_2, 0)), "{places:?}");
}

#[tokio::test(start_paused = true)]
async fn damaged_header_is_a_torn_one_only_if_nothing_follows_it() {
    let disk = two_segments(ID).await;
    let segment_3 = "segment-0000000000000003.log";
    disk.plant(segment_3, &[vec![7; 20], vec![0; 1000]].concat());
    assert_eq!(recover(&disk).unwrap().effects.len(), 2);
    assert!(disk.bytes(segment_3).is_none());
    disk.plant(segment_3, &[vec![7; 20], vec![0; 1000], vec![1]].concat());
    assert_eq!(corrupt(&disk), (segment_3.to_owned(), 0, "its header is damaged".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn journal_whose_making_a_crash_tore_is_made_anew() {
    let disk = MemoryDisk::new();
    disk.plant(SEGMENT_1, &[0; 500]);
    let recovered = recover(&disk).unwrap();
    assert!(recovered.is_new && recovered.id == ID);
}

#[tokio::test(start_paused = true)]
async fn later_format_is_refused_by_its_version() {
    let disk = two_segments(ID).await;
    let mut bytes = disk.bytes(SEGMENT_1).unwrap();
    bytes[8] = 2;
    disk.plant(SEGMENT_1, &bytes);
    let error = recover(&disk).unwrap_err().to_string();
    let text =
        "`segment-0000000000000001.log`: it has format version 2, and this program knows up to 1: use a newer program";
    assert_eq!(error, text);
    assert_eq!(check(&disk.attach(), &mut |_| {}).unwrap().problems.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn damaged_checkpoint_is_refused_wherever_it_is() {
    let disk = MemoryDisk::new();
    let rig = Rig::new(&disk, options(Fsync::Always));
    rig.write(&[set("a", 1, "x")]).await;
    rig.checkpoint(&[set("a", 1, "x")]).await;
    rig.stop().await;
    let name = "checkpoint-0000000000000002";
    let whole = disk.bytes(name).unwrap();
    for len in 0..whole.len() {
        disk.plant(name, &whole[..len]);
        assert_eq!(corrupt(&disk).0, name, "cut to {len} bytes");
    }
    for offset in (0..whole.len()).filter(|offset| !(8..12).contains(offset)) {
        disk.plant(name, &whole);
        disk.rot(name, offset as u64);
        assert_eq!(corrupt(&disk).0, name, "rot at {offset}");
    }
    disk.plant(name, &[&whole[..], &[1]].concat());
    assert_eq!(corrupt(&disk).0, name, "something behind its end");
    disk.plant(name, &whole);
    disk.attach().remove("segment-0000000000000002.log").unwrap();
    assert_eq!(corrupt(&disk).2, "segment 0000000000000002, which begins after it, is missing");
}

#[tokio::test(start_paused = true)]
async fn what_a_checkpoint_replaced_is_removed_by_the_next_start() {
    let disk = MemoryDisk::new();
    let rig = Rig::new(&disk, options(Fsync::Always));
    rig.write(&[set("a", 1, "x")]).await;
    let old = disk.bytes(SEGMENT_1).unwrap();
    rig.checkpoint(&[]).await;
    rig.stop().await;
    // The removal was not durable.
    disk.plant(SEGMENT_1, &old);
    disk.plant("notes.txt", b"not ours");
    assert!(recover(&disk).unwrap().effects.is_empty());
    assert_eq!(disk.files(), ["checkpoint-0000000000000002", "notes.txt", SEGMENT_2]);
}

#[tokio::test(start_paused = true)]
async fn group_that_is_longer_than_a_segment_gets_one_of_its_own() {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    let long = "x".repeat(100_000);
    rig.write(&[set("a", 1, &long)]).await;
    rig.write(&[set("b", 2, "x")]).await;
    let disk = rig.kill().await;
    assert_eq!(recover(&disk).unwrap().effects, [set("a", 1, &long), set("b", 2, "x")]);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), good in any::<bool>()) {
        let disk = MemoryDisk::new();
        drop(open_with(&disk, options(Fsync::Always)).unwrap());
        if good {
            bytes.splice(0..0, disk.bytes(SEGMENT_1).unwrap().into_iter().take(FIRST_FRAME));
        }
        disk.plant(SEGMENT_1, &bytes);
        let report = check(&disk.attach(), &mut |_| {}).unwrap();
        prop_assert_eq!(report.problems.is_empty(), recover(&disk).is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory_of_the_real_file_system_holds_a_journal() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("made/with/its/parents");
    for life in 0..3_u64 {
        let directory = Directory::create(&path).unwrap();
        let (journal, recovered) = open(Arc::new(directory.clone()), options(Fsync::Always), ID, &mut |_| {}).unwrap();
        assert_eq!(recovered.effects.len() as u64, life * 200);
        let locked = open(Arc::new(directory), options(Fsync::Always), ID, &mut |_| {}).err().unwrap().to_string();
        assert_eq!(locked, format!("`{}` is in use by process {}", path.display(), std::process::id()));
        let stop = CancellationToken::new();
        let (worker, token) = (journal.clone(), stop.clone());
        let task = tokio::spawn(async move { worker.run(&Threads, &token).await });
        let writers = (0..20_u64).map(|writer| {
            let journal = journal.clone();
            tokio::spawn(async move {
                for i in 0..10 {
                    let lsn = 1 + life * 200 + writer * 10 + i;
                    journal.append(&[set(&format!("key {lsn}"), lsn, "value")]).unwrap().durable().await.unwrap();
                }
            })
        });
        futures::future::join_all(writers).await.into_iter().for_each(Result::unwrap);
        if life == 1 {
            let unspilled = recovered.effects.iter().cloned();
            let unspilled = unspilled.chain((201..=400).map(|lsn| set(&format!("key {lsn}"), lsn, "value")));
            let mut checkpoint = journal.begin_checkpoint(&Threads).await.unwrap();
            checkpoint.write(&unspilled.collect::<Vec<_>>()).unwrap();
            checkpoint.finish().unwrap();
        }
        stop.cancel();
        task.await.unwrap();
    }
    let directory = Directory::open(&path).unwrap();
    let report = check(&directory, &mut |_| {}).unwrap();
    assert_eq!((report.problems.len(), report.unconfirmed, report.effects), (0, 600, 600));
    assert!(Directory::open(path.join("nowhere")).is_err());
}
