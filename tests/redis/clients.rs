//! Clients as people use them: redis-py, ioredis, redis-cli, redis-benchmark. `scripts/setup` installs them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::wire::request;
use crate::world::{Ours, has};

/// Where `scripts/setup` puts what comes from PyPI and npm. `None` if it is not there, which is no failure outside of CI.
fn installed(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(path);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing: run scripts/setup", path.display());
    eprintln!("SKIPPED: {} is missing: run scripts/setup", path.display());
    None
}

/// Runs a client to its end, which is good, with `input` on its standard input; what it printed.
fn run(command: &mut Command, input: &[u8]) -> String {
    let shown = format!("{command:?}");
    // It ends although what it waits for does not come.
    let mut limited = Command::new("timeout");
    limited.arg("100").arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = limited.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input); // it may not read all
    });
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{shown}: {status}\n{stdout}{stderr}");
    stdout.into_owned()
}

/// The protocol that redis-py takes by itself.
pub const DEFAULT: u8 = 0;

pub fn redis_py(mode: &str, port: u16, protocol: u8) {
    let Some(python) = installed("py/bin/python") else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redis/clients/redis_py.py");
    let printed = run(Command::new(python).arg(script).args([mode, &port.to_string(), &protocol.to_string()]), b"");
    assert_eq!(printed, "ok\n");
}

pub fn ioredis(mode: &str, port: u16) {
    let Some(modules) = installed("js/node_modules") else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redis/clients/ioredis.js");
    let printed = run(Command::new("node").arg(script).args([mode, &port.to_string()]).env("NODE_PATH", modules), b"");
    assert_eq!(printed, "ok\n");
}

pub fn cli(port: u16, args: &[&str], input: &[u8]) -> String {
    run(Command::new("redis-cli").args(["-p", &port.to_string()]).args(args), input)
}

pub fn benchmark(port: u16, args: &[&str]) {
    let common = ["-q", "-n", "1000", "-c", "20", "-t", "ping,set,get,incr,mset"];
    let printed = run(Command::new("redis-benchmark").args(["-p", &port.to_string()]).args(common).args(args), b"");
    assert!(printed.matches("requests per second").count() >= 6, "{printed}");
    assert!(!printed.contains("rror") && !printed.contains("WARN"), "{printed}");
}

#[test]
fn redis_py_and_ioredis_use_a_primary_as_one_redis() {
    let ours = Ours::start(2, 25);
    redis_py("plain", ours.primary(), DEFAULT);
    redis_py("plain", ours.primary(), 2);
    redis_py("plain", ours.primary(), 3);
    ioredis("plain", ours.primary());
}

#[test]
fn redis_cli_talks_to_a_primary() {
    if !has("redis-cli") {
        return;
    }
    let ours = Ours::start(2, 25);
    let port = ours.primary();
    assert_eq!(cli(port, &["set", "a", "1"], b""), "OK\n");
    assert_eq!(cli(port, &["-3", "incr", "a"], b""), "2\n");
    assert_eq!(cli(port, &["-3", "--no-raw", "get", "missing"], b""), "(nil)\n");
    let printed = cli(port, &[], b"set b \"two words\"\nget b\nmget a b c\n");
    assert_eq!(printed, "OK\ntwo words\n2\ntwo words\n\n");
    assert!(cli(port, &[], b"help get\n").contains("The value of a key."));
    let sets: Vec<u8> = (0..2000).flat_map(|i| request(&["SET", &format!("piped:{i}"), "v"])).collect();
    assert!(cli(port, &["--pipe"], &sets).ends_with("errors: 0, replies: 2000\n"));
    let scanned = cli(port, &["--scan", "--pattern", "piped:*"], b"");
    assert_eq!(scanned.lines().collect::<std::collections::BTreeSet<_>>().len(), 2000);
    assert_eq!(scanned.lines().count(), 2000);
    assert!(cli(port, &["info", "server"], b"").contains("redis_version:"));
    assert_eq!(cli(port, &["--no-raw", "dbsize"], b""), "(integer) 2002\n");
}

#[test]
fn redis_benchmark_runs_on_a_primary_and_on_a_secondary_that_has_all_slots() {
    if !has("redis-benchmark") {
        return;
    }
    let ours = Ours::start(1, 1000);
    for port in [ours.primary(), ours.secondary(0)] {
        benchmark(port, &["-P", "1"]);
        benchmark(port, &["-P", "16"]);
    }
    // With keys of many slots, of which a secondary takes no MSET.
    benchmark(ours.primary(), &["-P", "16", "-r", "1000"]);
}
