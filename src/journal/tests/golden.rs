//! Journals that were written once and are kept: `tests/golden/journal/`. A program that can't read them any more, or writes
//! other bytes, has changed the format (`docs/formats.md`).

use std::path::PathBuf;

use super::*;
use crate::journal::check;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/journal")
}

/// A journal with every kind of file, frame and entry.
async fn written() -> MemoryDisk {
    let rig = Rig::new(&MemoryDisk::new(), options(Fsync::Always));
    rig.write(&[set("alice", 1, "one"), expiring("bob", 2, "two", 1_700_000_000_000), delete("carol", 3)]).await;
    rig.journal.append_note(b"note").unwrap().durable().await.unwrap();
    rig.checkpoint(&[set("alice", 1, "one"), expiring("bob", 2, "two", 1_700_000_000_000), delete("carol", 3)]).await;
    rig.write(&[set("dave", 4, "")]).await;
    // A mark follows.
    sleep_ms(200).await;
    rig.journal.confirm(&[set("alice", 1, "one")]);
    rig.write(&[expiring("dave", 5, "five", 1)]).await;
    rig.journal.append_note(b"later").unwrap().durable().await.unwrap();
    rig.kill().await
}

/// The files without the reserved space, which is zeros.
fn trimmed(disk: &MemoryDisk) -> BTreeMap<String, Vec<u8>> {
    let trim = |name: String| {
        let mut bytes = disk.bytes(&name).unwrap();
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).next_multiple_of(8)));
        (name, bytes)
    };
    disk.files().into_iter().map(trim).collect()
}

fn load(directory: &str) -> MemoryDisk {
    let disk = MemoryDisk::new();
    for entry in std::fs::read_dir(golden().join(directory)).unwrap() {
        let path = entry.unwrap().path();
        disk.plant(path.file_name().unwrap().to_str().unwrap(), &std::fs::read(&path).unwrap());
    }
    disk
}

fn expected() -> [Effect; 3] {
    [expiring("bob", 2, "two", 1_700_000_000_000), delete("carol", 3), expiring("dave", 5, "five", 1)]
}

/// Writes them anew; for a new version of the format only, into a directory of its own.
#[tokio::test(start_paused = true)]
#[ignore = "writes the golden files"]
async fn write_golden_files() {
    let files = trimmed(&written().await);
    let last = "segment-0000000000000002.log";
    for directory in ["whole", "torn", "corrupt"] {
        std::fs::create_dir_all(golden().join(directory)).unwrap();
        for (name, bytes) in &files {
            let mut bytes = bytes.clone();
            match directory {
                "torn" if name == last => bytes.truncate(bytes.len() - 11),
                "corrupt" if name == last => bytes[48 + 45] ^= 1,
                _ => {}
            }
            std::fs::write(golden().join(directory).join(name), bytes).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn same_entries_give_the_same_bytes() {
    assert_eq!(trimmed(&written().await), trimmed(&load("whole")));
}

#[test]
fn whole_journal_is_read() {
    let disk = load("whole");
    let report = check(&disk.attach(), &mut |_| {}).unwrap();
    assert_eq!(report.checkpoint, Some(("checkpoint-0000000000000002".into(), 3)));
    assert_eq!((report.groups, report.effects, report.confirms, report.notes), (4, 5, 1, 2));
    assert_eq!((report.torn, report.problems), (None, Vec::new()));
    let (_, recovered) = open_with(&disk, options(Fsync::Always)).unwrap();
    assert_eq!(recovered.effects, expected());
    assert_eq!((recovered.id, recovered.last), (ID, Some(Version::new(1, 5))));
    assert_eq!(recovered.note.as_deref(), Some(&b"later"[..]));
}

#[test]
fn torn_journal_is_cut() {
    let disk = load("torn");
    let (_, recovered) = open_with(&disk, options(Fsync::Always)).unwrap();
    assert_eq!(recovered.effects, expected());
    assert_eq!(recovered.note.as_deref(), Some(&b"note"[..]));
    assert!(recovered.torn_bytes > 0);
    let (_, again) = open_with(&disk, options(Fsync::Always)).unwrap();
    assert_eq!((again.effects, again.torn_bytes), (recovered.effects, 0));
}

#[test]
fn corrupt_journal_is_refused() {
    let disk = load("corrupt");
    let before = trimmed(&disk);
    let error = open_with(&disk, options(Fsync::Always)).err().unwrap();
    assert!(matches!(error, OpenError::Corrupt { ref file, offset: 48, .. } if file == "segment-0000000000000002.log"));
    assert_eq!(trimmed(&disk), before, "nothing was changed");
}
