//! What the tests run against: a real Redis, and nodes of ours.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use overspill::journal::{self, Fsync};
use overspill::node::{LocalCluster, LocalOptions};
use overspill::policy::PolicyKind;
use overspill::shard::{ShardOptions, WriteMode};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::free_port;
use crate::wire::Wire;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a program that `scripts/setup` installs. Without it, a test outside of CI says so and is over.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{program} is missing: run scripts/setup");
        eprintln!("SKIPPED: {program} is missing: run scripts/setup");
    }
    found
}

/// A `redis-server` of Debian's, without anything on disk.
pub struct Redis {
    child: Child,
    pub port: u16,
    _directory: TempDir,
}

impl Redis {
    pub fn start(options: &[&str]) -> Self {
        let (port, directory) = (free_port(), TempDir::new().unwrap());
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--dir", directory.path().to_str().unwrap()])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Self { child, port, _directory: directory };
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < PATIENCE, "redis-server does not listen");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        redis
    }

    /// One in cluster mode, without slots.
    pub fn clustered() -> Self {
        // Where it would meet other members: left to itself, that may be a port of some client.
        let bus = free_port().to_string();
        Self::start(&["--cluster-enabled", "yes", "--cluster-port", &bus])
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// A whole cluster in this process, with SQLite.
pub struct Ours {
    runtime: Runtime,
    cluster: Option<LocalCluster>,
    _directory: TempDir,
}

impl Ours {
    /// Secondaries that hold `capacity` records each in memory.
    pub fn start(secondaries: usize, capacity: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let directory = TempDir::new().unwrap();
        let options = LocalOptions {
            data_dir: directory.path().to_owned(),
            secondaries,
            secret: None,
            journal: journal::Options::new(Fsync::Never, 1 << 30),
            shard: ShardOptions {
                capacity,
                memory_bytes_max: 256 << 20,
                policy: PolicyKind::Lru,
                write_mode: WriteMode::Spill,
                accept_loss: false,
                strict: false,
                drain_timeout: PATIENCE,
                sweep_interval: Duration::from_secs(1),
                seed: rand::random(),
            },
        };
        let cluster = runtime.block_on(async {
            let cluster = LocalCluster::start(options).await.unwrap();
            cluster.until_served(PATIENCE).await.unwrap();
            cluster
        });
        Self { runtime, cluster: Some(cluster), _directory: directory }
    }

    fn cluster(&self) -> &LocalCluster {
        self.cluster.as_ref().unwrap()
    }

    pub fn primary(&self) -> u16 {
        self.cluster().address().port()
    }

    pub fn secondary(&self, i: usize) -> u16 {
        self.cluster().secondaries().nth(i).unwrap().port()
    }

    /// Sum of a figure of INFO over all shards.
    pub fn figure(&self, name: &str) -> u64 {
        let info = String::from_utf8(Wire::connect(self.primary()).ask(&["INFO"])).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("INFO tells no {name}")).trim().parse().unwrap()
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let stopped = self.cluster.take().map(|cluster| self.runtime.block_on(cluster.stop()));
        if !std::thread::panicking() {
            stopped.unwrap().unwrap();
        }
    }
}

/// A seed of a run, printed so that it can be run again.
pub fn seed() -> u64 {
    let seed = std::env::var("REDIS_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("REDIS_SEED={seed}");
    seed
}
