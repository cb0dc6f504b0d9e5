//! The client that comes with Redis, to check ours by.

use std::process::Command;

use tokio::task::block_in_place;

use crate::Outcome;
use crate::process::Server;

/// How it is called for a server, for people.
pub fn command(test: &str, options: &[String]) -> String {
    format!("redis-benchmark -p PORT -t {test} -d 100 {}", options.join(" "))
}

/// Requests a second of one kind, `set` or `get`.
pub fn run(server: &Server, test: &str, options: &[String]) -> Outcome<f64> {
    let (_, port) = server.address.rsplit_once(':').ok_or("no port")?;
    let mut process = Command::new("redis-benchmark");
    process.args(["-p", port, "-t", test, "-d", "100", "--csv"]).args(options);
    let output = block_in_place(|| process.output()).map_err(|error| format!("redis-benchmark is needed: {error}"))?;
    let text = String::from_utf8(output.stdout)?;
    let name = format!("\"{}\",", test.to_uppercase());
    let row = text.lines().find_map(|line| line.strip_prefix(&name)).ok_or("redis-benchmark has failed")?;
    let rate = row.split(',').next().ok_or("no rate")?;
    Ok(rate.trim_matches('"').parse()?)
}
