//! `kv check` on directories of journals: sound, torn, damaged, and in use.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overspill::check::{Verdict, check};
use overspill::cluster::{Incarnation, ShardName, TierId};
use overspill::command::Effect;
use overspill::journal::{self, Directory, Fsync, Journal, Options};
use overspill::record::{Epoch, JournalId, Key, Record, Value, Version};
use overspill::shard::Tenure;
use overspill::task::Threads;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const ID: JournalId = JournalId(0xfeed);
const FILE_HEADER_BYTES: usize = 48;

fn set(i: u64, value_bytes: usize) -> Effect {
    let (key, value) = (Key::new(format!("key {}", i % 50)).unwrap(), Value::new(vec![b'v'; value_bytes]).unwrap());
    Effect::Set(Record { key, value, version: Version::new(3, i), expires_at: None })
}

/// An open journal, its task running.
struct Open {
    journal: Journal,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Open {
    fn new(path: &Path) -> Self {
        let options = Options { fsync: Fsync::Never, bytes_max: 1 << 20, segment_bytes: 16 * 1024 };
        let disk = Arc::new(Directory::create(path).unwrap());
        let (journal, _) = journal::open(disk, options, ID, &mut |_| ()).unwrap();
        let (running, stop) = (journal.clone(), CancellationToken::new());
        let token = stop.clone();
        let task = tokio::spawn(async move { running.run(&Threads, &token).await });
        Self { journal, stop, task }
    }

    async fn write(&self, effects: &[Effect]) {
        self.journal.append(effects).unwrap().durable().await.unwrap();
    }

    async fn close(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Three groups and a note.
async fn sound() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let open = Open::new(folder.path());
    let tenure = Tenure {
        shard: Some(ShardName::new("localhost:8081").unwrap()),
        tier: Some(TierId(4711)),
        epoch: Epoch(3),
        shares: vec![(Epoch(2), "0-8191".parse().unwrap()), (Epoch(3), "9000".parse().unwrap())],
        incarnations: vec![Incarnation(1)],
    };
    let note = postcard::to_stdvec(&tenure).unwrap();
    open.journal.append_note(&note).unwrap().durable().await.unwrap();
    for i in 1..=3 {
        open.write(&[set(i, 100)]).await;
    }
    open.journal.confirm(&[set(1, 100)]);
    open.close().await;
    folder
}

fn told(path: &Path) -> (Verdict, String) {
    check(path, &mut |_| ())
}

fn assert_tells(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "`{expected}` is not in:\n{text}");
    }
}

fn segment(folder: &TempDir) -> PathBuf {
    let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

/// Where the frames of a segment begin, and the last one ends.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut at = vec![FILE_HEADER_BYTES];
    loop {
        let from = *at.last().unwrap();
        let len = u32::from_le_bytes(bytes[from + 8..from + 12].try_into().unwrap()) as usize;
        if bytes.len() < from + 48 || bytes[from..from + 4] == [0; 4] {
            return at;
        }
        at.push(from + 40 + len.next_multiple_of(8));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_journal_is_told_in_full() {
    let folder = sound().await;
    let (verdict, text) = told(folder.path());
    assert_eq!(verdict, Verdict::Sound, "{text}");
    let expected = [
        "000000000000feed",
        "localhost:8081, epoch 3",
        "4711",
        "0-8191 since epoch 2, 8192 slots",
        "9000 since epoch 3, 1 slots",
        "3 effects",
        "1 notes",
        "3.3 is the highest",
        "Sound.\n",
    ];
    assert_tells(&text, &expected);
    assert!(!text.contains("in use"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_sound_and_damage_before_it_is_not() {
    let folder = sound().await;
    let path = segment(&folder);
    let whole = std::fs::read(&path).unwrap();
    let frames = frames(&whole);
    assert!(frames.len() >= 5, "{frames:?}");
    let [.., last, end] = frames[..] else { panic!() };

    let mut torn = whole.clone();
    torn[last + 8..end].fill(0);
    std::fs::write(&path, &torn).unwrap();
    let (verdict, text) = told(folder.path());
    assert_eq!(verdict, Verdict::Sound, "{text}");
    assert_tells(&text, &["torn tail", &format!("at byte {last}"), "A crash left the last write half done"]);

    let mut damaged = whole.clone();
    let first = frames[1];
    damaged[first + 45] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let (verdict, text) = told(folder.path());
    assert_eq!(verdict, Verdict::Damaged, "{text}");
    let name = path.file_name().unwrap().to_str().unwrap();
    assert_tells(&text, &[&format!("damage       `{name}` at byte {first}: "), "Damaged in 1 place:", "--accept-loss"]);
    assert_eq!(std::fs::read(&path).unwrap(), damaged, "nothing is changed");

    std::fs::write(&path, &whole).unwrap();
    assert_eq!(told(folder.path()).0, Verdict::Sound);
}

#[test]
fn journals_of_earlier_programs_are_told() {
    for (name, verdict) in [("whole", Verdict::Sound), ("torn", Verdict::Sound), ("corrupt", Verdict::Damaged)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/journal").join(name);
        let (told, text) = told(&path);
        assert_eq!(told, verdict, "{name}:\n{text}");
        assert_eq!(text.contains("torn tail"), name == "torn", "{name}:\n{text}");
    }
}

/// Segments come and go, and the last group may be half written whenever it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_in_use_is_never_called_damaged_and_keeps_its_lock() {
    let folder = sound().await;
    let open = Open::new(folder.path());
    let done = Arc::new(AtomicBool::new(false));
    let (path, is_done) = (folder.path().to_owned(), Arc::clone(&done));
    let checks = tokio::task::spawn_blocking(move || {
        let mut checks = 0;
        while !is_done.load(Ordering::SeqCst) {
            let (verdict, text) = told(&path);
            assert_eq!(verdict, Verdict::Sound, "check {checks}:\n{text}");
            assert_tells(&text, &[&format!("by process {}", std::process::id())]);
            checks += 1;
        }
        checks
    });
    let mut i = 3;
    for _ in 0..40 {
        for _ in 0..25 {
            let effects: Vec<Effect> = (0..4).map(|j| set(i + j, 300)).collect();
            i += 4;
            open.write(&effects).await;
        }
        let mut checkpoint = open.journal.begin_checkpoint(&Threads).await.unwrap();
        let newest: Vec<Effect> = (i - 50..i).map(|i| set(i, 300)).collect();
        checkpoint.write(&newest).unwrap();
        checkpoint.finish().unwrap();
        assert!(!checks.is_finished(), "it failed");
    }
    done.store(true, Ordering::SeqCst);
    println!("{} checks", checks.await.unwrap());
    // Damage is told nevertheless.
    let path = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let checkpoint = path.filter(|path| path.to_str().unwrap().contains("checkpoint")).max().unwrap();
    let mut bytes = std::fs::read(&checkpoint).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&checkpoint, &bytes).unwrap();
    let (verdict, text) = told(folder.path());
    assert_eq!(verdict, Verdict::Damaged, "{text}");
    assert_tells(&text, &["in use", "checkpoint"]);
    open.close().await;
}
