//! Sessions with a fake service that is a map in memory: exact output and exit codes.

use std::collections::BTreeMap;
use std::io::Cursor as Bytewise;
use std::sync::{Arc, Mutex};

use super::*;
use crate::command::{Command, Condition, Cursor, Expiry, Found, Reply};
use crate::record::{Key, Value, Version};
use crate::service::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, Batch, Error, Replies};
use crate::slots::Slot;

/// Keys that begin with `busy` are refused; those that begin with `large` are too large beside others, and of those that
/// begin with `ten`, ten may be read at once.
#[derive(Default)]
struct Fake {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<(u16, Key), (Value, Version)>,
    lsn: u64,
    /// How many commands came in each batch.
    batches: Vec<usize>,
}

impl Service for Fake {
    async fn execute(&self, batch: Batch) -> Replies {
        let mut state = self.state.lock().unwrap();
        state.batches.push(batch.commands.len());
        assert!(batch.commands.len() <= BATCH_COMMANDS_MAX);
        let bytes: usize = batch.commands.iter().map(Command::size_bytes).sum();
        assert!(bytes <= BATCH_BYTES_MAX || batch.commands.len() == 1);
        let alone = batch.commands.len() == 1;
        let mut tens = 0;
        let execute = |command: Command| {
            if let Command::Get { key } = &command
                && key.as_bytes().starts_with(b"ten")
            {
                tens += 1;
                if tens > 10 {
                    return Err(Error::ReplyTooLarge);
                }
            }
            state.execute(command, alone)
        };
        batch.commands.into_iter().map(execute).collect()
    }
}

impl State {
    fn execute(&mut self, command: Command, alone: bool) -> Result<Reply, Error> {
        let at = |key: &Key| (Slot::of(key).get(), key.clone());
        if let Some(key) = command.key() {
            match key.as_bytes() {
                bytes if bytes.starts_with(b"busy") => return Err(Error::Busy("memory is full".to_owned())),
                bytes if bytes.starts_with(b"large") && !alone => return Err(Error::ReplyTooLarge),
                _ => {}
            }
        }
        Ok(match command {
            Command::Get { key } => Reply::Found(self.records.get(&at(&key)).map(|(value, version)| Found {
                value: value.clone(),
                version: *version,
                expires_at: None,
            })),
            Command::Put { key, value, condition, .. } => {
                let current = self.records.get(&at(&key)).map(|(_, version)| *version);
                let holds = match condition {
                    Condition::Always => true,
                    Condition::Absent => current.is_none(),
                    Condition::Version(version) => current == Some(version),
                };
                if !holds {
                    return Ok(Reply::Conflict(current));
                }
                self.lsn += 1;
                let version = Version::new(1, self.lsn);
                self.records.insert(at(&key), (value, version));
                Reply::Stored(version)
            }
            Command::Delete { key } => Reply::Done(self.records.remove(&at(&key)).is_some()),
            Command::Exists { key } | Command::Expire { key, .. } | Command::Persist { key } => {
                Reply::Done(self.records.contains_key(&at(&key)))
            }
            Command::Ttl { key } if self.records.contains_key(&at(&key)) => Reply::Expiry(Expiry::Never),
            Command::Ttl { .. } => Reply::Expiry(Expiry::Missing),
            Command::Scan { cursor, limit } => self.scan(&cursor, limit as usize),
            Command::Count => Reply::Count(self.records.len() as u64),
            Command::Stats => Reply::Stats(Vec::new()),
            Command::Explain { .. } | Command::Update { .. } | Command::Move { .. } | Command::PutAllAbsent { .. } => {
                return Err(Error::Unavailable("not here".to_owned()));
            }
        })
    }

    fn scan(&self, cursor: &Cursor, limit: usize) -> Reply {
        let seen = |slot: u16, key: &Key| (slot, Some(key)) <= (cursor.slot, cursor.after.as_ref());
        let mut rest = self.records.keys().filter(|(slot, key)| !seen(*slot, key));
        let page: Vec<_> = rest.by_ref().take(limit).cloned().collect();
        let last = page.last().filter(|_| rest.next().is_some());
        let next = last.map(|(slot, key)| Cursor { slot: *slot, after: Some(key.clone()) });
        Reply::Page { keys: page.into_iter().map(|(_, key)| key).collect(), next }
    }
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn streams(style: Style) -> (Streams, Sink, Sink) {
    let (out, err) = (Sink::default(), Sink::default());
    (Streams { out: Box::new(out.clone()), err: Box::new(err.clone()), style }, out, err)
}

fn shell(service: &Arc<Fake>) -> Shell<Arc<Fake>> {
    Shell::new(service.clone(), ShellOptions::default())
}

/// Standard output, standard error and exit code of a run of lines.
async fn lines_on(service: &Arc<Fake>, lines: impl Into<Vec<u8>>) -> (String, String, Status) {
    let (streams, out, err) = streams(Style::Raw);
    let status = shell(service).run_lines(Bytewise::new(lines.into()), streams).await.unwrap();
    (out.text(), err.text(), status)
}

async fn lines(lines: impl Into<Vec<u8>>) -> (String, String, Status) {
    lines_on(&Arc::default(), lines).await
}

async fn one(service: &Arc<Fake>, style: Style, words: &[&str]) -> (String, String, Status) {
    let (streams, out, err) = streams(style);
    let status = shell(service).run_one(words.iter().map(OsString::from), streams).await.unwrap();
    (out.text(), err.text(), status)
}

#[tokio::test]
async fn session_of_the_original_works_word_for_word() {
    let session = "GET bob \"\"\nPUT bob bob@gmail.com\nGET bob \"\"\nPUT alice alice@gmail.com\n";
    assert_eq!(lines(session).await, ("\nOK\nbob@gmail.com\nOK\n".to_owned(), String::new(), Status::Ok));
}

#[tokio::test]
async fn line_that_is_wrong_does_not_stop_the_next() {
    let (out, err, status) = lines("PUT alice \"two words\nGTE alice\nPUT alice \"two words\"\nGET alice").await;
    assert_eq!(out, "OK\ntwo words\n");
    assert_eq!(
        err,
        "error: unbalanced quotes: the \" in column 11 is never closed\n\
         error: unknown command `GTE`: did you mean GET? (HELP lists the commands)\n"
    );
    assert_eq!(status, Status::Failed);
}

#[tokio::test]
async fn blank_lines_and_comments_are_skipped_and_exit_ends_the_run() {
    let (out, err, status) = lines("\n# don't\r\n  \nCOUNT\r\nexit\nCOUNT\n").await;
    assert_eq!((out.as_str(), err.as_str(), status), ("0\n", "", Status::Ok));
}

#[tokio::test]
async fn what_is_not_found_is_no_failure_among_lines_but_an_error_is() {
    assert_eq!(lines("GET a\nDEL a\nCAS a 1.1 x\n").await, ("\n0\nCONFLICT 0\n".to_owned(), String::new(), Status::Ok));
    let (out, err, status) = lines("PUT busy x\nPUT a x\n").await;
    assert_eq!((out.as_str(), status), ("OK\n", Status::Failed));
    assert_eq!(err, "error: busy: memory is full (nothing was done: trying again may help)\n");
}

#[tokio::test]
async fn word_of_a_hundred_thousand_characters_is_handled() {
    let word = "x".repeat(100_000);
    let (out, err, status) = lines(format!("PUT a {word}\nGET a\nPUT {word} a\nPUT b b\n")).await;
    assert_eq!(out, format!("OK\n{word}\nOK\n"));
    assert_eq!(err, "error: the key has 100000 bytes: at most 1024 are allowed\n");
    assert_eq!(status, Status::Failed);
}

#[tokio::test]
async fn line_without_an_end_is_refused_and_the_next_one_runs() {
    let long = io::repeat(b'x').take(LINE_BYTES_MAX as u64 + 1).chain(Bytewise::new("\nCOUNT\n"));
    let (streams, out, err) = streams(Style::Raw);
    let status = shell(&Arc::default()).run_lines(long, streams).await.unwrap();
    assert_eq!((out.text().as_str(), status), ("0\n", Status::Failed));
    assert_eq!(err.text(), "error: the line is too long: at most 67108864 bytes are allowed\n");
}

#[tokio::test]
async fn values_are_binary_from_end_to_end() {
    let service = Arc::default();
    let (streams, out, _) = streams(Style::Raw);
    let session = Bytewise::new(b"PUT \\x00 \"\\xff\\n\\x00\"\nGET \\x00\nPUT raw \xfe\xff\nGET raw\n".to_vec());
    shell(&service).run_lines(session, streams).await.unwrap();
    assert_eq!(*out.0.lock().unwrap(), b"OK\n\xff\n\x00\nOK\n\xfe\xff\n");
}

#[tokio::test]
async fn one_command_tells_by_its_exit_code_what_it_found() {
    let service: Arc<Fake> = Arc::default();
    let table: [(&[&str], &str, Status); 16] = [
        (&["GET", "bob"], "\n", Status::NotFound),
        (&["GET", "bob", ""], "\n", Status::Ok),
        (&["EXISTS", "bob"], "0\n", Status::NotFound),
        (&["CAS", "bob", "1.1", "x"], "CONFLICT 0\n", Status::NotFound),
        (&["VERSION", "bob"], "0\n", Status::NotFound),
        (&["put", "bob", "\"two words\" \\x41"], "OK\n", Status::Ok),
        (&["get", "bob"], "\"two words\" \\x41\n", Status::Ok),
        (&["PUT", "bob", "x", "NX"], "CONFLICT 1.1\n", Status::NotFound),
        (&["CAS", "bob", "1.1", "x"], "OK 1.2\n", Status::Ok),
        (&["TTL", "bob"], "-1\n", Status::Ok),
        (&["KEYS"], "bob\n", Status::Ok),
        (&["DEL", "bob", "eve"], "1\n", Status::Ok),
        (&["DEL", "bob"], "0\n", Status::NotFound),
        (&["KEYS"], "", Status::Ok),
        (&["COUNT"], "0\n", Status::Ok),
        (&["EXIT"], "", Status::Ok),
    ];
    for (words, out, status) in table {
        assert_eq!(one(&service, Style::Raw, words).await, (out.to_owned(), String::new(), status), "{words:?}");
    }
    for (words, error) in [
        (&["GET"][..], "usage: GET key [default]"),
        (&[], "no command: HELP lists them"),
        (&["GET", "busy"], "busy: memory is full (nothing was done: trying again may help)"),
        (&["EXPLAIN", "a"], "unavailable: not here (nothing was done: trying again may help)"),
    ] {
        let expected = (String::new(), format!("error: {error}\n"), Status::Failed);
        assert_eq!(one(&service, Style::Raw, words).await, expected, "{words:?}");
    }
}

#[tokio::test]
async fn one_command_on_a_terminal_is_typed() {
    let service: Arc<Fake> = Arc::default();
    assert_eq!(one(&service, Style::Typed, &["KEYS"]).await.0, "(empty)\n");
    assert_eq!(one(&service, Style::Typed, &["PUT", "bob", "x"]).await.0, "OK (version 1.1)\n");
    assert_eq!(one(&service, Style::Typed, &["GET", "bob"]).await.0, "\"x\"\n");
    assert_eq!(one(&service, Style::Typed, &["GET", "eve"]).await.0, "(nil)\n");
    assert!(one(&service, Style::Typed, &["HELP", "put"]).await.0.starts_with("PUT key value [EX"));
}

#[tokio::test]
async fn large_requests_travel_in_batches() {
    let service: Arc<Fake> = Arc::default();
    let pairs: Vec<String> = (0..10_000).map(|i| format!("k{i} v{i}")).collect();
    let keys: Vec<String> = (0..10_000).map(|i| format!("k{i}")).collect();
    let (keys, values) = (keys.join(" "), (0..10_000).map(|i| format!("v{i}\n")).collect::<String>());
    let session = format!("MPUT {}\nMGET {keys}\nCOUNT\nMDEL {keys}\nCOUNT\n", pairs.join(" "));
    let (out, err, status) = lines_on(&service, session).await;
    assert_eq!((out, err, status), (format!("OK\n{values}10000\n10000\n0\n"), String::new(), Status::Ok));
    let batches = service.state.lock().unwrap().batches.clone();
    assert_eq!(batches, [4096, 4096, 1808, 4096, 4096, 1808, 1, 4096, 4096, 1808, 1]);
}

#[tokio::test]
async fn keys_and_scan_give_every_key_once() {
    let service: Arc<Fake> = Arc::default();
    let pairs: Vec<String> = (0..2500).map(|i| format!("\"k {i}\" v")).collect();
    lines_on(&service, format!("MPUT {}", pairs.join(" "))).await;
    let (out, _, _) = lines_on(&service, "KEYS").await;
    let mut keys: Vec<&str> = out.lines().collect();
    assert_eq!(keys.len(), 2500);
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 2500);

    let (mut cursor, mut scanned) = ("0".to_owned(), Vec::new());
    loop {
        let (page, _, _) = one(&service, Style::Raw, &["SCAN", &cursor, "LIMIT", "999"]).await;
        let (next, page) = page.split_once('\n').unwrap();
        scanned.extend(page.lines().map(str::to_owned));
        cursor = next.to_owned();
        if cursor == "0" {
            break;
        }
    }
    scanned.sort_unstable();
    assert_eq!(scanned, keys);
}

#[tokio::test]
async fn value_too_large_beside_others_is_fetched_alone() {
    let service: Arc<Fake> = Arc::default();
    lines_on(&service, "PUT a 1\nPUT large 2\n").await;
    let (out, err, status) = lines_on(&service, "MGET a large a").await;
    assert_eq!((out.as_str(), err.as_str(), status), ("1\n2\n1\n", "", Status::Ok));
    lines_on(&service, "PUT large2 3\n").await;
    let (out, err, status) = lines_on(&service, "MGET large a large2 large").await;
    assert_eq!((out.as_str(), err.as_str(), status), ("2\n1\n3\n2\n", "", Status::Ok));
}

#[tokio::test]
async fn values_too_large_for_one_answer_are_fetched_in_few() {
    let service: Arc<Fake> = Arc::default();
    let keys: Vec<String> = (0..100).map(|i| format!("ten{i}")).collect();
    let pairs: Vec<String> = keys.iter().map(|key| format!("{key} {key}")).collect();
    lines_on(&service, format!("MPUT {}", pairs.join(" "))).await;
    let (out, err, status) = lines_on(&service, format!("MGET {}", keys.join(" "))).await;
    assert_eq!((out, err, status), (format!("{}\n", keys.join("\n")), String::new(), Status::Ok));
    let batches = service.state.lock().unwrap().batches.clone();
    assert_eq!(batches[1..], [100, 90, 80, 70, 60, 50, 40, 30, 20, 10]);
}

/// Never answers, or answers too little.
struct Silent {
    hangs: bool,
}

impl Service for Silent {
    async fn execute(&self, _: Batch) -> Replies {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Vec::new()
    }
}

#[tokio::test]
async fn silence_is_an_unknown_outcome_for_writes_only() {
    let read = "error: unavailable: no answer in time (nothing was done: trying again may help)\n";
    let write = "error: outcome unknown: no answer in time \
                 (it may have been done or not: look before you try again)\n";
    let table =
        [(false, "GET a\nPUT a b\nKEYS\n", format!("{read}{write}{read}")), (true, "PUT a b\n", write.to_owned())];
    for (hangs, session, errors) in table {
        let (streams, out, err) = streams(Style::Raw);
        let options = ShellOptions { timeout: Duration::from_millis(1), ..ShellOptions::default() };
        let shell = Shell::new(Silent { hangs }, options);
        let status = shell.run_lines(Bytewise::new(session), streams).await.unwrap();
        assert_eq!((out.text().as_str(), err.text(), status), ("", errors, Status::Failed));
    }
}

/// Scans that never end.
struct Looping;

impl Service for Looping {
    async fn execute(&self, _: Batch) -> Replies {
        vec![Ok(Reply::Page { keys: Vec::new(), next: Some(Cursor::START) })]
    }
}

#[tokio::test]
async fn scan_that_does_not_advance_is_given_up() {
    let (streams, _, err) = streams(Style::Raw);
    let shell = Shell::new(Looping, ShellOptions::default());
    let status = shell.run_one([OsString::from("KEYS")], streams).await.unwrap();
    assert_eq!((err.text().as_str(), status), ("error: the scan does not advance\n", Status::Failed));
}

struct Closed(ErrorKind);

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn reader_that_goes_away_ends_the_run_quietly_and_a_full_disk_does_not() {
    let run = async |kind, session: &'static str| {
        let streams = Streams { out: Box::new(Closed(kind)), err: Box::new(Sink::default()), style: Style::Raw };
        shell(&Arc::default()).run_lines(Bytewise::new(session), streams).await
    };
    let long: &'static str = Box::leak("COUNT\n".repeat(1000).into_boxed_str());
    for session in ["COUNT\n", long] {
        assert_eq!(run(ErrorKind::BrokenPipe, session).await.unwrap(), Status::Ok);
        assert!(run(ErrorKind::StorageFull, session).await.is_err());
    }
}
