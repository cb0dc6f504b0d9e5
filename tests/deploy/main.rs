//! What deploys Overspill fits the binaries: manifests, the chart's renders, compose.yaml and the units are checked without a cluster,
//! and every command line in them is started.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "in a test a panic is the report")]

#[path = "../secure/certificates.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod certificates;
mod chaos;
mod chart;
mod manifests;
#[path = "../it/support/ports.rs"]
mod ports;
#[path = "../it/support/process.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod process;
mod runbook;
mod sets;
mod start;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use ports::free_port;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `certificates` needs of the place that it comes from.
mod redis {
    use std::net::TcpStream;

    pub fn tcp(port: u16) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
        stream
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Past what the test runner captures.
fn skip(what: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {reason}");
}
