//! `kv export`, `kv import` and `kv check` as they are used.

use overspill::command::{Command, Condition, Cursor, Reply};
use overspill::record::{Key, Ttl, Value};

use crate::support::client::Client;
use crate::support::cluster::Cluster;
use crate::support::database::Database;
use crate::support::eventually;
use crate::support::process::{Process, run};

const RECORDS: usize = 20_000;
const CAPACITY: &str = "300";
const BATCH: usize = 500;

/// Text and bytes of all lengths, some with a time to live.
fn record(i: usize) -> Command {
    let key = if i.is_multiple_of(3) {
        format!("user:{i}").into_bytes()
    } else {
        [&[0xff, 0], i.to_string().as_bytes()].concat()
    };
    let value: Vec<u8> = match i % 4 {
        0 => Vec::new(),
        1 => format!("value \"{i}\"\n").into_bytes(),
        _ => (0..i % 301).map(|j| (i * 31 + j * j) as u8).collect(),
    };
    let ttl = i.is_multiple_of(5).then(|| Ttl::from_millis(3_600_000).unwrap());
    let (key, value) = (Key::new(key).unwrap(), Value::new(value).unwrap());
    Command::Put { key, value, ttl, condition: Condition::Always }
}

async fn fill(client: &Client) {
    for from in (0..RECORDS).step_by(BATCH) {
        let replies = client.execute((from..from + BATCH).map(record).collect()).await;
        assert!(replies.iter().all(Result::is_ok), "{:?}", replies.iter().find(|reply| reply.is_err()));
    }
}

/// Everything that should be there is, and nothing else.
async fn assert_all(client: &Client) {
    assert_eq!(client.count().await.unwrap(), RECORDS as u64);
    for from in (0..RECORDS).step_by(BATCH) {
        let records: Vec<Command> = (from..from + BATCH).map(record).collect();
        let gets = records.iter().map(|put| Command::Get { key: put.key().unwrap().clone() }).collect();
        for (put, reply) in records.iter().zip(client.execute(gets).await) {
            let Command::Put { key, value, ttl, .. } = put else { panic!() };
            let Ok(Reply::Found(Some(found))) = reply else { panic!("{key}: {reply:?}") };
            assert_eq!(found.value, *value, "{key}");
            assert_eq!(found.expires_at.is_some(), ttl.is_some(), "{key}");
        }
    }
    let mut keys = 0;
    let mut next = Some(Cursor::START);
    while let Some(cursor) = next {
        let Ok(Reply::Page { keys: page, next: more }) = client.one(Command::Scan { cursor, limit: 1000 }).await else {
            panic!()
        };
        keys += page.len();
        next = more;
    }
    assert_eq!(keys, RECORDS);
}

fn address(cluster: &Cluster) -> String {
    format!("127.0.0.1:{}", cluster.port)
}

/// What it said on standard error, after it ended with this code.
fn kv(args: &[&str], code: i32) -> String {
    let output = run("kv", args, "");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "kv {args:?} says: {said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_moves_to_a_cluster_of_another_size_although_both_tools_are_killed_half_way() {
    let (from, to) = (Database::create().await, Database::create().await);
    let source = Cluster::start(2, &[&from.url(), CAPACITY]).await;
    fill(&source.client()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.jsonl");
    let (file, part) = (file.to_str().unwrap(), folder.path().join("all.jsonl.part"));
    let at = address(&source);

    let mut export = Process::start("kv", &["export", &at, file], &[]);
    let bytes = || std::fs::metadata(&part).map_or(0, |metadata| metadata.len());
    eventually("half of it is written", async || (bytes() > 500_000).then_some(())).await;
    export.kill();
    assert!(part.exists(), "it was too fast: {}", export.log());
    let mut export = Process::start("kv", &["export", &at, file], &[]);
    eventually("it goes on", async || (export.log().contains("going on with")).then_some(())).await;
    export.signal("-INT");
    match export.wait().code() {
        Some(1) => {
            assert!(
                export.log().contains("interrupted") && export.log().contains("the same command"),
                "{}",
                export.log()
            );
            kv(&["export", &at, file], 0);
        }
        code => assert_eq!(code, Some(0), "{}", export.log()),
    }
    assert!(!part.exists());
    assert!(kv(&["export", &at, file], 2).contains("--force"));

    let target = Cluster::start(3, &[&to.url(), CAPACITY]).await;
    let at = address(&target);
    let mut import = Process::start("kv", &["import", &at, file], &[]);
    let client = target.client();
    eventually("some of it is stored", async || (client.count().await.unwrap() > 3000).then_some(())).await;
    import.kill();
    assert!(folder.path().join("all.jsonl.import").exists(), "it was too fast: {}", import.log());
    let said = kv(&["import", &at, file], 0);
    assert!(said.contains(&format!("{RECORDS} are the same")), "{said}");
    assert!(!folder.path().join("all.jsonl.import").exists());
    assert_all(&target.client()).await;

    // Once more by a pipe, into one that has it all.
    let output = run("kv", &["export", &address(&source), "-"], "");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let output = run("kv", &["import", &at, "-", "--if-absent"], &text);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains(&format!("the keys of {RECORDS} existed")), "{said}");
    source.stop();
    target.stop();
    from.drop_it().await;
    to.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_that_is_killed_meanwhile_is_waited_for() {
    let database = Database::create().await;
    let mut cluster = Cluster::start(2, &[&database.url(), CAPACITY, "--write", "through"]).await;
    let client = cluster.client();
    fill(&client).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.jsonl");
    let file = file.to_str().unwrap();
    cluster.secondaries[1].kill();
    // The journals, of one that runs and of one that was killed.
    let (mut in_use, ports) = (0, cluster.secondary_ports());
    for port in ports {
        let directory = cluster.data.path().join(port.to_string());
        let output = run("kv", &["check", directory.to_str().unwrap()], "");
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(&format!("127.0.0.1:{port}, epoch")) && said.contains("Sound."), "{said}");
        in_use += usize::from(said.contains(&format!("by process {}", cluster.secondaries[0].pid())));
    }
    assert_eq!(in_use, 1);
    let mut export = Process::start("kv", &["export", &address(&cluster), file], &[]);
    eventually("it tells", async || export.log().contains("trying again").then_some(())).await;
    cluster.restart_secondary(1, &[]);
    assert!(export.wait().success(), "{}", export.log());
    assert!(export.log().contains(&format!("exported {RECORDS} records")), "{}", export.log());

    cluster.secondaries[0].kill();
    let mut import = Process::start("kv", &["import", &address(&cluster), file], &[]);
    eventually("it tells", async || import.log().contains("trying again").then_some(())).await;
    cluster.restart_secondary(0, &[]);
    assert!(import.wait().success(), "{}", import.log());
    assert_all(&client).await;
    cluster.stop();
    database.drop_it().await;
}

#[test]
fn what_can_not_be_done_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("strange"), "key,value\n").unwrap();
    let header = r#"{"format":"overspill-export","version":1,"exported_at":1,"from":"localhost:1"}"#;
    std::fs::write(path("cut"), format!("{header}\n{{\"key\":\"k\",\"value\":\"v\",\"version\":\"1.1\"}}\n")).unwrap();
    let wrong: [(&[&str], i32, &str); 9] = [
        (&["export", "localhost", "f"], 2, "expected HOST:PORT"),
        (&["export", "localhost:8080"], 2, "FILE"),
        (&["import", "localhost:8080", "f", "--force"], 2, "--force"),
        (&["export", "no-such-host.invalid:1", &path("f")], 2, "no-such-host.invalid"),
        (&["export", "127.0.0.1:1", &path("strange")], 2, "--force"),
        (&["import", "127.0.0.1:1", &path("nothing")], 2, "nothing"),
        (&["import", "127.0.0.1:1", &path("strange")], 2, "line 1: this is no file that `kv export` wrote"),
        (&["import", "127.0.0.1:1", &path("cut")], 2, "line 3: the file ends here, after 1 records"),
        (&["check"], 2, "DIR"),
    ];
    for (args, code, expected) in wrong {
        let said = kv(args, code);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("error: ") && said.contains(expected), "`{said}` does not say `{expected}`");
    }
    let said = kv(&["export", "127.0.0.1:1", &path("f"), "--patience", "300ms"], 1);
    assert!(said.contains("trying again") && said.contains("given up after 300ms"), "{said}");
    assert!(!folder.path().join("f.part").exists());
}

#[test]
fn each_subcommand_has_its_help_and_hosts_are_still_hosts() {
    for (args, expected) in [
        (&["--help"][..], "kv [OPTIONS] export HOST:PORT FILE"),
        (&["check", "--help"], "Usage: kv check"),
        (&["export", "--help"], "FILE.part"),
        (&["import", "--help"], "--if-absent"),
    ] {
        let output = run("kv", args, "");
        assert!(output.status.success());
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains(expected), "{args:?} does not tell `{expected}`:\n{help}");
    }
    for host in [&["check", "8080"][..], &["127.0.0.1:1", "check"], &["127.0.0.1", "1", "GET", "export"]] {
        let said = kv(&[&["--timeout", "100ms"], host].concat(), 2);
        assert!(!said.contains("Usage"), "{said}");
    }
}

#[test]
fn a_directory_without_a_journal_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    for directory in [folder.path().to_owned(), folder.path().join("nowhere")] {
        let output = run("kv", &["check", directory.to_str().unwrap()], "");
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(folder.path().to_str().unwrap()), "{said}");
    }
}
