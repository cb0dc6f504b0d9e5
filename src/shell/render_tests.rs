//! What replies look like, style by style.

use super::*;
use crate::command::{Explanation, Found, Place, ShardStats};
use crate::protocol::line::{Request, parse_line};
use crate::record::{Timestamp, Value};

/// Renders the replies to a line: what it shows, and what it says went wrong.
fn render(line: &str, style: Style, replies: &[Result<Reply, Error>]) -> (String, Status, Vec<String>) {
    let Some(Request::Run { commands, show }) = parse_line(line.as_bytes()).unwrap() else { panic!("{line}") };
    assert_eq!(commands.len(), replies.len(), "{line}");
    let mut renderer = Renderer::new(show, style, commands.len());
    let mut out = Vec::new();
    for (command, reply) in commands.iter().zip(replies) {
        renderer.push(command, reply.clone(), &mut out);
    }
    let Outcome { status, errors } = renderer.finish(&mut out);
    (String::from_utf8_lossy(&out).into_owned(), status, errors)
}

/// Typed and raw text of replies that are no errors, and the status.
fn both(line: &str, replies: &[Reply]) -> (String, String, Status) {
    let replies: Vec<_> = replies.iter().cloned().map(Ok).collect();
    let (typed, status, errors) = render(line, Style::Typed, &replies);
    let (raw, raw_status, _) = render(line, Style::Raw, &replies);
    assert_eq!((status, errors.len()), (raw_status, 0));
    (typed, raw, status)
}

fn found(value: &'static [u8]) -> Reply {
    Reply::Found(Some(Found { value: Value::new(value).unwrap(), version: Version::new(1, 7), expires_at: None }))
}

fn key(key: &'static str) -> Key {
    Key::new(key).unwrap()
}

const MISSING: Reply = Reply::Found(None);

#[test]
fn single_replies_are_typed_for_people_and_raw_for_programs() {
    use Status::{NotFound, Ok};
    let v17 = Version::new(1, 7);
    let table: Vec<(&str, Reply, &str, &str, Status)> = vec![
        ("GET a", found(b"bob@gmail.com"), "\"bob@gmail.com\"\n", "bob@gmail.com\n", Ok),
        ("GET a", found(b"\"\n\x1b\\"), "\"\\\"\\n\\x1b\\\\\"\n", "\"\n\x1b\\\n", Ok),
        ("GET a", found(b""), "\"\"\n", "\n", Ok),
        ("GET a", MISSING, "(nil)\n", "\n", NotFound),
        ("GET a \"\"", MISSING, "\"\"\n", "\n", Ok),
        ("GET a none", MISSING, "\"none\"\n", "none\n", Ok),
        ("PUT a b", Reply::Stored(v17), "OK (version 1.7)\n", "OK\n", Ok),
        ("PUT a b NX", Reply::Conflict(Some(v17)), "(conflict) the key has version 1.7\n", "CONFLICT 1.7\n", NotFound),
        ("CAS a 1.6 b", Reply::Stored(v17), "OK (version 1.7)\n", "OK 1.7\n", Ok),
        ("CAS a 1.6 b", Reply::Conflict(Some(v17)), "(conflict) the key has version 1.7\n", "CONFLICT 1.7\n", NotFound),
        ("CAS a 1.6 b", Reply::Conflict(None), "(conflict) the key does not exist\n", "CONFLICT 0\n", NotFound),
        ("VERSION a", found(b"x"), "1.7\n", "1.7\n", Ok),
        ("VERSION a", MISSING, "(nil)\n", "0\n", NotFound),
        ("DEL a", Reply::Done(true), "(integer) 1\n", "1\n", Ok),
        ("DEL a", Reply::Done(false), "(integer) 0\n", "0\n", NotFound),
        ("EXPIRE a 1", Reply::Done(true), "(integer) 1\n", "1\n", Ok),
        ("PERSIST a", Reply::Done(false), "(integer) 0\n", "0\n", NotFound),
        ("TTL a", Reply::Expiry(Expiry::InMillis(1)), "(integer) 1\n", "1\n", Ok),
        ("TTL a", Reply::Expiry(Expiry::InMillis(60_000)), "(integer) 60\n", "60\n", Ok),
        ("TTL a", Reply::Expiry(Expiry::Never), "(never expires)\n", "-1\n", Ok),
        ("TTL a", Reply::Expiry(Expiry::Missing), "(nil)\n", "-2\n", NotFound),
        ("COUNT", Reply::Count(12), "(integer) 12\n", "12\n", Ok),
        ("COUNT", Reply::Count(0), "(integer) 0\n", "0\n", Ok),
    ];
    for (line, reply, typed, raw, status) in table {
        assert_eq!(both(line, &[reply]), (typed.to_owned(), raw.to_owned(), status), "{line}");
    }
}

#[test]
fn replies_to_many_keys_are_lists_and_sums() {
    let (typed, raw, status) = both("MGET a b c", &[found(b"1"), MISSING, found(b"two words")]);
    assert_eq!(typed, "1) \"1\"\n2) (nil)\n3) \"two words\"\n");
    assert_eq!(raw, "1\n\ntwo words\n");
    assert_eq!(status, Status::Ok);
    assert_eq!(both("MGET a", &[MISSING]).2, Status::NotFound);
    let (typed, raw, _) = both("DEL a b c", &[Reply::Done(true), Reply::Done(false), Reply::Done(true)]);
    assert_eq!((typed.as_str(), raw.as_str()), ("(integer) 2\n", "2\n"));
    let (typed, raw, _) = both("MPUT a 1 b 2", &[Reply::Stored(Version::new(1, 1)), Reply::Stored(Version::new(1, 2))]);
    assert_eq!((typed.as_str(), raw.as_str()), ("OK (2 values)\n", "OK\n"));
    let ten: Vec<Reply> = (0..10).map(|_| MISSING).collect();
    let typed = both("MGET a b c d e f g h i j", &ten).0;
    assert!(typed.starts_with(" 1) (nil)\n") && typed.ends_with("\n10) (nil)\n"), "{typed}");
}

#[test]
fn pages_tell_where_to_go_on() {
    let keys = vec![key("a"), key("b c")];
    let next = Some(Cursor { slot: 5, after: Some(key("b c")) });
    let (typed, raw, _) = both("SCAN", &[Reply::Page { keys: keys.clone(), next }]);
    assert_eq!(typed, "1) \"a\"\n2) \"b c\"\n(more) SCAN 5:b%20c\n");
    assert_eq!(raw, "5:b%20c\na\nb c\n");
    let (typed, raw, status) = both("SCAN", &[Reply::Page { keys, next: None }]);
    assert_eq!((typed.as_str(), raw.as_str()), ("1) \"a\"\n2) \"b c\"\n(end)\n", "0\na\nb c\n"));
    assert_eq!(status, Status::Ok);
    assert_eq!(both("SCAN", &[Reply::Page { keys: Vec::new(), next: None }]).0, "(end)\n");
}

#[test]
fn failures_are_told_apart_from_what_was_found() {
    let busy = || Err(Error::Busy("memory is full".to_owned()));
    let unknown = || Err(Error::Unknown("connection lost".to_owned()));
    let busy_text = "busy: memory is full (nothing was done: trying again may help)";
    let unknown_text = "outcome unknown: connection lost (it may have been done or not: look before you try again)";

    let failed = |out: &str, errors: &[&str]| {
        (out.to_owned(), Status::Failed, errors.iter().map(|&error| error.to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(render("GET a", Style::Raw, &[busy()]), failed("", &[busy_text]));
    assert_eq!(render("PUT a b", Style::Typed, &[unknown()]), failed("", &[unknown_text]));
    assert_eq!(render("DEL a", Style::Typed, &[unknown()]), failed("", &[unknown_text]));
    let some = [Ok(Reply::Done(true)), busy(), busy(), unknown()];
    let errors = [format!("`b` and 1 more: {busy_text}"), format!("`d`: {unknown_text}")];
    assert_eq!(render("DEL a b c d", Style::Raw, &some), failed("1\n", &[&errors[0], &errors[1]]));
    let some = [Ok(found(b"1")), busy(), Ok(MISSING)];
    let error = format!("`b`: {busy_text}");
    assert_eq!(render("MGET a b c", Style::Typed, &some), failed("1) \"1\"\n2) (error)\n3) (nil)\n", &[&error]));
    assert_eq!(render("MGET a b c", Style::Raw, &some), failed("1\n\n\n", &[&error]));
    let some = [Ok(Reply::Stored(Version::new(1, 1))), busy()];
    assert_eq!(render("MPUT a 1 b 2", Style::Typed, &some), failed("stored 1 of 2 values\n", &[&error]));
    assert_eq!(render("MPUT a 1 b 2", Style::Raw, &some), failed("", &[&error]));
    assert_eq!(
        render("COUNT", Style::Raw, &[Ok(Reply::Done(true))]),
        failed("", &["the answer does not fit the question"])
    );
}

#[test]
fn stats_have_a_column_for_each_shard() {
    let shard = |name: &str, records| ShardStats {
        shard: name.to_owned(),
        policy: "lru".to_owned(),
        tier_up: true,
        uptime_ms: 3_725_999,
        records,
        memory_bytes: 1_572_864,
        hits: 3,
        misses: 1,
        ..ShardStats::default()
    };
    let (typed, raw, _) =
        both("STATS", &[Reply::Stats(vec![shard("localhost:8081", 5), shard("localhost:8082", 1_234_567)])]);
    let typed_lines: Vec<&str> = typed.lines().collect();
    for expected in [
        "shard              localhost:8081  localhost:8082",
        "tier_up                       yes             yes",
        "uptime                   1h 2m 5s        1h 2m 5s",
        "records                         5       1,234,567",
        "memory_bytes              1.5 MiB         1.5 MiB",
        "hit_rate                   75.0 %          75.0 %",
    ] {
        assert!(typed_lines.contains(&expected), "{expected:?} in\n{typed}");
    }
    let raw_lines: Vec<&str> = raw.lines().collect();
    for expected in [
        "localhost:8082 records 1234567",
        "localhost:8081 memory_bytes 1572864",
        "localhost:8081 tier_up true",
        "localhost:8082 uptime_ms 3725999",
    ] {
        assert!(raw_lines.contains(&expected), "{expected:?} in\n{raw}");
    }
    assert_eq!(both("STATS", &[Reply::Stats(Vec::new())]).0, "(no shards)\n");
}

#[test]
fn explanation_names_the_place_and_says_what_it_means() {
    let explained = Explanation {
        slot: 5798,
        shard: "localhost:8081".to_owned(),
        place: Place::Memory { clean: false },
        version: Some(Version::new(1, 42)),
        expires_at: Some(Timestamp(1_700_000_000_000)),
        value_bytes: Some(13),
        rank: Some(4),
        policy: "lru".to_owned(),
    };
    let (typed, raw, status) = both("EXPLAIN bob", &[Reply::Explained(Box::new(explained.clone()))]);
    assert_eq!(
        typed,
        "place        memory, unspilled\n\
         shard        localhost:8081\n\
         slot         5,798\n\
         version      1.42\n\
         value_bytes  13 B\n\
         expires_at   2023-11-14T22:13:20Z\n\
         policy       lru\n\
         rank         4\n\
         It is in memory, and the database does not have this version yet. 4 of its partition leave memory before it.\n"
    );
    assert_eq!(
        raw,
        "place memory, unspilled\nshard localhost:8081\nslot 5798\nversion 1.42\nvalue_bytes 13\n\
         expires_at 1700000000000\npolicy lru\nrank 4\n"
    );
    assert_eq!(status, Status::Ok);

    let nowhere = Explanation {
        place: Place::Nowhere,
        version: None,
        expires_at: None,
        value_bytes: None,
        rank: None,
        ..explained.clone()
    };
    let (typed, _, status) = both("EXPLAIN bob", &[Reply::Explained(Box::new(nowhere))]);
    assert!(typed.starts_with("place        nowhere\n") && typed.ends_with("\nIt does not exist.\n"), "{typed}");
    assert_eq!(status, Status::NotFound);
    let far = Explanation { expires_at: Some(Timestamp(u64::MAX)), ..explained };
    assert!(both("EXPLAIN bob", &[Reply::Explained(Box::new(far))]).0.contains(" ms\n"));
}
