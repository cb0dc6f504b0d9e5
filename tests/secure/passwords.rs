//! Passwords.

use std::process::Output;

use crate::process::{Process, run_in};
use crate::redis::Redis;
use crate::{eventually, free_port, said};

const PASSWORD: (&str, &str) = ("KV_PASSWORD", "correct horse");

fn secondary(port: u16, env: &[(&str, &str)]) -> Process {
    Process::start("secondary", &["127.0.0.1:1", &port.to_string()], env)
}

fn primary(port: u16, secondary: u16, env: &[(&str, &str)]) -> Process {
    Process::start("primary", &[&port.to_string(), &format!("127.0.0.1:{secondary}")], env)
}

fn kv(port: u16, words: &[&str], env: &[(&str, &str)]) -> Output {
    run_in("kv", &[&["127.0.0.1", &port.to_string()], words].concat(), "", env)
}

/// Until the primary serves its one shard.
fn until_served(port: u16, env: &[(&str, &str)]) {
    eventually("served", || kv(port, &["PUT", "there", "1"], env).status.success());
}

#[test]
fn a_cluster_with_a_password_serves_those_who_know_it_and_says_so_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, format!("{}\n", PASSWORD.1)).unwrap();
    let in_file = ("KV_PASSWORD_FILE", file.to_str().unwrap());
    let (first, port) = (free_port(), free_port());
    let shard = secondary(first, &[PASSWORD]);
    let front = primary(port, first, &[in_file]);
    until_served(port, &[PASSWORD]);
    for right in [PASSWORD, in_file] {
        assert_eq!(said(&kv(port, &["PUT", "a", "1"], &[right])), (0, "OK".to_owned()));
        assert_eq!(said(&kv(port, &["GET", "a"], &[right])), (0, "1".to_owned()));
    }
    for node in [port, first] {
        let refusal = (2, format!("error: 127.0.0.1:{node}: wrong password"));
        eventually("refused", || said(&kv(node, &["GET", "a"], &[("KV_PASSWORD", "wrong")])) == refusal);
        eventually("refused", || {
            let (code, text) = said(&kv(node, &["GET", "a"], &[]));
            code == 2 && text.contains("asks for a password") && text.contains("KV_PASSWORD_FILE")
        });
    }
    let words = [&format!("127.0.0.1:{port}"), directory.path().join("export").to_str().unwrap()].map(str::to_owned);
    let export = |env| said(&run_in("kv", &["export", &words[0], &words[1]], "", env));
    assert_eq!(export(&[]).0, 2);
    assert_eq!(export(&[PASSWORD]).0, 0);
    let import = |env| said(&run_in("kv", &["import", &words[0], &words[1]], "", env));
    assert!(import(&[("KV_PASSWORD", "wrong")]).1.contains("wrong password"));
    assert_eq!(import(&[in_file]).0, 0);
    for node in [&front, &shard] {
        eventually("the refusals are told", || node.log().contains("wrong password"));
        assert!(!node.log().contains(PASSWORD.1));
    }
}

#[test]
fn a_secondary_with_another_password_is_not_served_and_the_primary_says_why() {
    let (first, port) = (free_port(), free_port());
    let shard = secondary(first, &[PASSWORD]);
    let front = primary(port, first, &[("KV_PASSWORD", "another")]);
    eventually("it is told", || front.log().contains("wrong password") && shard.log().contains("wrong password"));
    eventually("who asks is told", || {
        let (code, text) = said(&kv(port, &["GET", "a"], &[("KV_PASSWORD", "another")]));
        code == 2 && text.contains("wrong password")
    });
    drop(front);
    // And the other way round: a primary with a password does not take just anybody for its secondary.
    let open = free_port();
    let _shard = secondary(open, &[]);
    let front = primary(port, open, &[PASSWORD]);
    eventually("it is told", || front.log().contains("does not ask for the password"));
}

#[test]
fn redis_clients_give_the_password_before_anything_else() {
    let (first, port) = (free_port(), free_port());
    let _shard = secondary(first, &[PASSWORD]);
    let front = primary(port, first, &[PASSWORD]);
    until_served(port, &[PASSWORD]);
    let mut redis = Redis::connect(port);
    for words in [&["PING"][..], &["SET", "a", "1"], &["GET", "a"], &["INFO"], &["FLUSHALL"], &["CLIENT", "LIST"]] {
        assert_eq!(redis.ask(words), "-NOAUTH Authentication required.", "{words:?}");
    }
    assert!(redis.ask(&["HELLO", "3"]).starts_with("-NOAUTH "));
    for words in [
        &["AUTH", "wrong"][..],
        &["AUTH", ""],
        &["AUTH", "bob", PASSWORD.1],
        &["AUTH", "default", "wrong"],
        &["HELLO", "3", "AUTH", "default", "wrong"],
    ] {
        assert!(redis.ask(words).starts_with("-WRONGPASS "), "{words:?}");
        assert!(redis.ask(&["GET", "a"]).starts_with("-NOAUTH "), "{words:?}");
    }
    eventually("it is told", || front.log().contains("wrong password"));
    // Strangers may not say much.
    let long = "x".repeat(17 * 1024);
    for words in [&["SET", "a", &long][..], &["MGET"; 11]] {
        assert!(Redis::connect(port).ask(words).starts_with("-ERR Protocol error"), "{}", words.len());
    }
    assert_eq!(redis.ask(&["AUTH", PASSWORD.1]), "+OK");
    assert_eq!(redis.ask(&["SET", "long", &long]), "+OK");
    assert_eq!(redis.ask(&["SET", "a", "1"]), "+OK");
    assert_eq!(redis.ask(&["AUTH", "default", PASSWORD.1]), "+OK");
    assert!(redis.ask(&["AUTH", "wrong"]).starts_with("-WRONGPASS "));
    assert_eq!(redis.ask(&["GET", "a"]), "1", "who is in stays in");
    assert_eq!(redis.ask(&["RESET"]), "+RESET");
    assert!(redis.ask(&["GET", "a"]).starts_with("-NOAUTH "), "RESET forgets it");
    assert_eq!((redis.ask(&["QUIT"]), redis.rest()), ("+OK".to_owned(), String::new()));
    let mut redis = Redis::connect(first);
    assert_eq!(redis.ask(&["HELLO", "3", "AUTH", "default", PASSWORD.1]), "%7");
}

#[test]
fn an_open_node_says_that_it_has_no_password() {
    let (first, port) = (free_port(), free_port());
    let _shard = secondary(first, &[]);
    let _front = primary(port, first, &[]);
    until_served(port, &[]);
    assert!(Redis::connect(port).ask(&["AUTH", "any"]).starts_with("-ERR AUTH <password> called without any password"));
    let (code, text) = said(&kv(port, &["GET", "a"], &[PASSWORD]));
    assert!(code == 2 && text.contains("does not ask for the password"), "{text}");
}

#[test]
fn a_node_that_others_can_reach_needs_a_password_or_to_be_told_that_it_does_not() {
    let started = |binary: &str, bind: &str, more: &[&str], env: &[(&str, &str)]| {
        let port = free_port().to_string();
        let words: &[&str] = if binary == "primary" { &[&port, "127.0.0.1:1"] } else { &["127.0.0.1:1", &port] };
        Process::start(binary, &[words, &["--bind", bind], more].concat(), env)
    };
    for binary in ["primary", "secondary"] {
        for bind in ["0.0.0.0", "::"] {
            let mut node = started(binary, bind, &[], &[]);
            assert_eq!(node.wait().code(), Some(1));
            eventually("it says why", || node.log().contains("error: "));
            let log = node.log();
            let line = log.lines().find(|line| line.starts_with("error: ")).unwrap();
            for way in [bind, "KV_PASSWORD", "KV_PASSWORD_FILE", "--insecure-no-auth"] {
                assert!(line.contains(way), "`{line}` does not name {way}");
            }
        }
        let insecure = ("KV_INSECURE_NO_AUTH", "1");
        let ways = [
            started(binary, "0.0.0.0", &["--insecure-no-auth"], &[]),
            started(binary, "0.0.0.0", &[], &[insecure]),
            started(binary, "0.0.0.0", &[], &[PASSWORD]),
            started(binary, "localhost", &[], &[]),
        ];
        for node in ways {
            eventually("it listens", || node.log().contains(&format!("{binary} listens")));
        }
    }
}

#[test]
fn an_empty_password_or_a_file_that_is_not_there_is_an_error() {
    let port = free_port().to_string();
    for (variable, value, expected) in [
        ("KV_PASSWORD", "", "KV_PASSWORD is empty"),
        ("KV_PASSWORD_FILE", "/dev/null", "KV_PASSWORD_FILE is empty"),
        ("KV_PASSWORD_FILE", "/no/such/file", "KV_PASSWORD_FILE `/no/such/file` can't be read"),
    ] {
        for (binary, words) in [
            ("primary", [port.as_str(), "127.0.0.1:1"]),
            ("secondary", ["127.0.0.1:1", &port]),
            ("kv", ["127.0.0.1", &port]),
        ] {
            let (code, text) = said(&run_in(binary, &words, "", &[(variable, value)]));
            assert!(code != 0 && text.contains("error: ") && text.contains(expected), "{binary}: {text}");
        }
    }
}
