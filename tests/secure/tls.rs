//! TLS, on the port where everything else is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::certificates::{Authority, Pair, read, shown};
use crate::process::{Process, run_in};
use crate::redis::{Redis, tcp};
use crate::{eventually, free_port, said};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The options of a node, or of `kv`.
fn options<'a>(pair: &'a Pair, ca: &'a Path) -> Vec<&'a str> {
    vec!["--tls-cert", text(&pair.cert), "--tls-key", text(&pair.key), "--tls-ca", text(ca)]
}

fn secondary(port: u16, more: &[&str]) -> Process {
    Process::start("secondary", &[&["localhost:1", &port.to_string()], more].concat(), &[])
}

fn primary(port: u16, secondary: u16, more: &[&str]) -> Process {
    Process::start("primary", &[&[port.to_string().as_str(), &format!("localhost:{secondary}")], more].concat(), &[])
}

/// `kv` with options and a command.
fn kv(host: &str, port: u16, options: &[&str], words: &[&str]) -> (i32, String) {
    said(&run_in("kv", &[options, &[host, &port.to_string()], words].concat(), "", &[]))
}

/// Until `kv` is refused with these words: on a machine that is busy with other things it may be too slow at first.
fn until_refused(expected: &str, kv: impl Fn() -> (i32, String)) {
    eventually(expected, || {
        let (code, said) = kv();
        assert_eq!(code, 2, "{said}");
        said.starts_with("error: ") && said.contains(expected)
    });
}

struct Cluster {
    authority: Authority,
    pair: Pair,
    secondary: Process,
    primary: Process,
    first: u16,
    port: u16,
}

impl Cluster {
    /// A primary and a secondary with one certificate, which is for 127.0.0.1 and localhost; serving.
    fn start(more: &[&str]) -> Self {
        let authority = Authority::new();
        let pair = authority.node("node");
        let (first, port) = (free_port(), free_port());
        let ca = authority.ca();
        let all = [&options(&pair, &ca), more].concat();
        let (secondary, primary) = (secondary(first, &all), primary(port, first, &all));
        let with = options(&pair, &ca);
        eventually("served", || kv("localhost", port, &with, &["PUT", "there", "1"]).0 == 0);
        Self { authority, pair, secondary, primary, first, port }
    }

    fn kv(&self, options: &[&str], words: &[&str]) -> (i32, String) {
        kv("localhost", self.port, options, words)
    }
}

#[test]
fn with_certificates_all_around_every_door_is_behind_tls_and_nothing_else_is_heard() {
    let cluster = Cluster::start(&[]);
    let ca = cluster.authority.ca();
    let with = options(&cluster.pair, &ca);
    assert_eq!(cluster.kv(&with, &["GET", "there"]), (0, "1".to_owned()));
    assert_eq!(kv("127.0.0.1", cluster.port, &with, &["GET", "there"]), (0, "1".to_owned()), "by address");
    for port in [cluster.port, cluster.first] {
        let mut redis = Redis::over(cluster.authority.connect(port, Some(&cluster.pair)).unwrap());
        assert_eq!(redis.ask(&["SET", "a", "2"]), "+OK");
        assert_eq!(redis.ask(&["GET", "a"]), "2");
        let large = "x".repeat(4 << 20);
        assert_eq!(redis.ask(&["SET", "large", &large]), "+OK");
        assert!(redis.ask(&["GET", "large"]) == large);
        let mut http = cluster.authority.connect(port, Some(&cluster.pair)).unwrap();
        http.write_all(b"GET /v1/kv/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        http.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("\r\n\r\n2"), "{answer}");
    }
    // In clear, each protocol is told in its own words.
    until_refused("refused by the other side: this node speaks TLS only", || cluster.kv(&[], &["GET", "a"]));
    assert_eq!(Redis::connect(cluster.port).ask(&["GET", "a"]), "-ERR this node speaks TLS only");
    let mut http = tcp(cluster.port);
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("this node speaks TLS only\n"), "{answer}");
    // Without a certificate of one's own.
    until_refused("asks for a certificate", || cluster.kv(&["--tls-ca", text(&ca)], &["GET", "a"]));
    eventually("it is told", || cluster.primary.log().contains("TLS handshake failed"));
}

#[test]
fn what_is_wrong_with_a_certificate_is_told_in_words() {
    let cluster = Cluster::start(&[]);
    let ca = cluster.authority.ca();
    let stranger = Authority::new();
    let (theirs, other_ca) = (stranger.node("theirs"), stranger.ca());
    for (with, expected) in [
        (options(&cluster.pair, &other_ca), "is not signed by the authority of --tls-ca"),
        (options(&theirs, &ca), "does not know who signed our certificate"),
    ] {
        until_refused(expected, || cluster.kv(&with, &["GET", "there"]));
    }
    // A node whose certificate is for another name, and one that does not speak TLS.
    let port = free_port();
    let elsewhere = cluster.authority.sign("elsewhere", &["elsewhere.example"]);
    let _node = secondary(port, &options(&elsewhere, &ca));
    let open = free_port();
    let _open = secondary(open, &[]);
    for (port, expected) in [(port, "is for another name"), (open, "does not speak TLS")] {
        until_refused(expected, || kv("localhost", port, &options(&cluster.pair, &ca), &["GET", "there"]));
        // The primary says the same of its secondary.
        let primary = primary(free_port(), port, &options(&cluster.pair, &ca));
        eventually(expected, || primary.log().contains(expected));
    }
}

#[test]
fn certificates_of_clients_may_be_optional_and_clear_text_allowed_for_a_while() {
    let cluster = Cluster::start(&["--tls-client-certs", "optional", "--tls", "preferred"]);
    let ca = cluster.authority.ca();
    assert_eq!(cluster.kv(&["--tls-ca", text(&ca)], &["GET", "there"]), (0, "1".to_owned()));
    assert_eq!(cluster.kv(&[], &["GET", "there"]), (0, "1".to_owned()));
    assert_eq!(Redis::connect(cluster.port).ask(&["GET", "there"]), "1");
    let mut redis = Redis::over(cluster.authority.connect(cluster.port, None).unwrap());
    assert_eq!(redis.ask(&["GET", "there"]), "1");
    let stranger = Authority::new().node("stranger");
    assert_eq!(cluster.kv(&options(&stranger, &ca), &["GET", "there"]).0, 2, "one that is shown must be right");
}

#[test]
fn a_wrong_set_of_options_or_files_is_an_error() {
    let authority = Authority::new();
    let (pair, other, ca) = (authority.node("a"), authority.node("b"), authority.ca());
    let (cert, key, ca) = (text(&pair.cert), text(&pair.key), text(&ca));
    let mixed = ["--tls-cert", cert, "--tls-key", text(&other.key), "--tls-ca", ca];
    let port = free_port().to_string();
    let run = |binary: &str, options: &[&str]| {
        let words: [&str; 2] = match binary {
            "primary" => [&port, "127.0.0.1:1"],
            "secondary" => ["127.0.0.1:1", &port],
            _ => ["127.0.0.1", "1"],
        };
        let (code, said) = said(&run_in(binary, &[options, &words].concat(), "", &[]));
        assert_ne!(code, 0);
        said
    };
    for binary in ["primary", "secondary", "kv"] {
        assert!(run(binary, &["--tls-cert", cert]).contains("--tls-cert and --tls-key go together"), "{binary}");
        assert!(run(binary, &mixed).contains("the key is not that of the certificate"), "{binary}");
        let gone = ["--tls-cert", "/no/such", "--tls-key", key, "--tls-ca", ca];
        assert!(run(binary, &gone).contains("`/no/such` can't be read"), "{binary}");
    }
    assert!(run("secondary", &["--tls-ca", ca]).contains("--tls-cert and --tls-key are missing"));
    assert!(run("primary", &["--tls-cert", cert, "--tls-key", key]).contains("--tls-cert needs --tls-ca"));
    assert!(run("kv", &["--tls-cert", cert, "--tls-key", key]).contains("--tls-cert needs --tls-ca"));
}

#[test]
fn certificates_are_read_again_on_sighup_and_bad_ones_are_not_taken() {
    let cluster = Cluster::start(&[]);
    let (authority, ca) = (&cluster.authority, cluster.authority.ca());
    let client = authority.sign("client", &["client"]);
    let first = read(&cluster.pair.cert);
    let nodes = [(&cluster.primary, cluster.port), (&cluster.secondary, cluster.first)];
    let old = nodes.map(|(_, port)| authority.connect(port, Some(&client)).unwrap());
    assert!(old.iter().all(|stream| shown(stream) == first));

    // A key of another certificate: all stays as it was.
    let good = std::fs::read(&cluster.pair.key).unwrap();
    std::fs::copy(&client.key, &cluster.pair.key).unwrap();
    for (node, port) in nodes {
        node.signal("-HUP");
        eventually("it is told", || node.log().contains("the certificates stay as they were"));
        assert!(node.log().contains("the key is not that of the certificate"));
        assert_eq!(shown(&authority.connect(port, Some(&client)).unwrap()), first);
    }
    std::fs::write(&cluster.pair.key, good).unwrap();

    authority.node("node");
    let second = read(&cluster.pair.cert);
    assert_ne!(first, second);
    for (node, port) in nodes {
        assert_eq!(shown(&authority.connect(port, Some(&client)).unwrap()), first, "not before it is told");
        node.signal("-HUP");
        eventually("it is told", || node.log().contains("certificates that were read again"));
        assert_eq!(shown(&authority.connect(port, Some(&client)).unwrap()), second);
    }
    for stream in old {
        assert_eq!(Redis::over(stream).ask(&["GET", "there"]), "1", "old connections live on");
    }
    assert_eq!(cluster.kv(&options(&client, &ca), &["GET", "there"]), (0, "1".to_owned()));
    let open = secondary(free_port(), &[]);
    eventually("it listens", || open.log().contains("secondary listens"));
    open.signal("-HUP");
    eventually("it lives on", || open.log().contains("there are no certificates to read again"));
}

#[test]
fn garbage_and_half_handshakes_are_closed_and_hold_up_nobody() {
    let cluster = Cluster::start(&[]);
    let ca = cluster.authority.ca();
    let mut seed = 7;
    for round in 0..200_u32 {
        let mut stream = tcp(cluster.port);
        let bytes: Vec<u8> = (0..round * 7 % 300).map(|_| random(&mut seed)).collect();
        // A record of a handshake, as it begins, and then anything; or anything at all.
        let head: &[u8] = if round % 2 == 0 { &[0x16, 3, 1, 0, 200] } else { &[0x16] };
        let _ = stream.write_all(&[head, &bytes].concat()); // it may be closed before
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new()); // a reset is an end too
    }
    let half_open: Vec<TcpStream> = (0..1000)
        .map(|i| {
            let mut stream = tcp(cluster.port);
            stream.write_all(if i % 2 == 0 { &[0x16] } else { &[0x16, 3, 1, 2, 0, 1, 0, 1, 252] }).unwrap();
            stream
        })
        .collect();
    let started = Instant::now();
    let with = options(&cluster.pair, &ca);
    for _ in 0..5 {
        assert_eq!(cluster.kv(&with, &["GET", "there"]), (0, "1".to_owned()));
    }
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    for mut stream in half_open {
        // Closed when the time for a handshake, 10 s, is up.
        let _ = stream.read_to_end(&mut Vec::new());
        assert!(started.elapsed() < Duration::from_secs(40));
    }
}

fn random(seed: &mut u32) -> u8 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*seed >> 24) as u8
}

#[test]
fn redis_cli_and_openssl_speak_tls_with_a_node() {
    let cluster = Cluster::start(&["--tls-client-certs", "optional"]);
    let (ca, port) = (cluster.authority.ca(), cluster.port.to_string());
    let run = |program: &str, args: &[&str], input: &str| {
        let started = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = started else {
            eprintln!("SKIPPED: there is no {program}");
            return None;
        };
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let secure = ["-h", "localhost", "-p", &port, "--tls", "--cacert", text(&ca)];
    if let Some(said) = run("redis-cli", &[&secure[..], &["GET", "there"]].concat(), "") {
        assert_eq!(said.trim(), "1");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let address = format!("localhost:{port}");
        let words = ["s_client", "-connect", &address, "-CAfile", text(&ca), version, "-quiet", "-verify_return_error"];
        if let Some(said) = run("openssl", &words, "GET there\r\nQUIT\r\n") {
            assert!(said.contains("$1\r\n1\r\n+OK"), "{version}: {said}");
        }
    }
}
