//! Who is let in, and what others on the network may see: passwords and TLS at every door, with real processes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod certificates;
mod passwords;
#[path = "../it/support/ports.rs"]
mod ports;
#[path = "../it/support/process.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod process;
mod redis;
mod requests;
mod tls;

use std::process::Output;
use std::time::{Duration, Instant};

use ports::free_port;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until it is so.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// How a program ended, and what it said.
fn said(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).trim().to_owned())
}
