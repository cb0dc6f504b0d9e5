//! What the binaries say to a wrong command line.

use crate::support::process::run;

#[test]
fn a_wrong_argument_ends_with_one_clear_line() {
    let wrong: [(&str, &[&str], &str); 11] = [
        ("secondary", &["localhost:8080", "8081", "none", "5", "mru"], "lfu"),
        ("secondary", &["localhost:8080", "70000"], "65535"),
        ("secondary", &["localhost:8080", "8081", "none", "0"], "at least 1"),
        ("secondary", &["localhost", "8081"], "HOST:PORT"),
        ("secondary", &["no-such-host.invalid:8080", "8081"], "no-such-host.invalid"),
        ("secondary", &["localhost:8080", "8081", "no-such-host.invalid:3306"], "no-such-host.invalid"),
        ("primary", &["8080", "localhost"], "HOST:PORT"),
        ("primary", &["8080", "no-such-host.invalid:8081"], "no-such-host.invalid"),
        ("primary", &["0", "localhost:8081"], "65535"),
        ("kv", &["localhost"], "HOST PORT"),
        ("kv", &["localhost", "70000"], "65535"),
    ];
    for (binary, args, expected) in wrong {
        let output = run(binary, args, "");
        let said = String::from_utf8(output.stderr).unwrap();
        // What was logged before is not the message.
        let said: Vec<&str> = said.lines().filter(|line| !line.contains(" INFO ")).collect();
        assert!(!output.status.success(), "{binary} {args:?}");
        assert_eq!(said.len(), 1, "{binary} {args:?} says: {said:?}");
        assert!(said[0].starts_with("error: ") && said[0].contains(expected), "{said:?} does not say `{expected}`");
    }
}

#[test]
fn no_argument_shows_the_usage_and_help_tells_everything() {
    for binary in ["secondary", "primary"] {
        let usage = run(binary, &[], "");
        assert_eq!(usage.status.code(), Some(2));
        assert!(String::from_utf8(usage.stderr).unwrap().contains("Usage: "));
    }
    for binary in ["secondary", "primary", "kv"] {
        let help = run(binary, &["--help"], "");
        assert!(help.status.success());
        let help = String::from_utf8(help.stdout).unwrap();
        for option in help.lines().filter(|line| line.trim_start().starts_with("--")) {
            assert!(!option.contains("<") || help.contains("[env: KV_"), "{option}");
        }
        let version = run(binary, &["--version"], "");
        assert_eq!(
            String::from_utf8(version.stdout).unwrap().trim(),
            format!("{binary} {}", env!("CARGO_PKG_VERSION"))
        );
    }
}

#[test]
fn a_port_that_is_taken_is_one_clear_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run("primary", &[&port, "localhost:1"], "");
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains(&format!("error: can't listen on 127.0.0.1:{port}")));
}
