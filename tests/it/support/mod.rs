//! Processes, databases and clients for the tests; everything ends with the value that started it.

pub mod client;
pub mod cluster;
pub mod database;
pub mod mariadb;
pub mod ports;
pub mod process;

use std::time::{Duration, Instant};

pub use ports::free_port;

/// For whatever should take a moment: long, since test machines are slow; a pass does not wait for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until `probe` answers something, or panics with `what` was waited for.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
