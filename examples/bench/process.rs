//! Servers as processes: how they are started, what they cost, and that they end.

use std::fs;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use overspill::bench::{Connection, Reply, Wire};
use tempfile::TempDir;

use crate::Outcome;

/// What /proc tells processor time in (USER_HZ): 100 on all that this runs on, whatever the kernel's own clock.
const TICKS_PER_SECOND: u32 = 100;
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Enough to come by every shard of a cluster of eight.
const PROBES: usize = 128;

/// A server that ends with it.
pub struct Server {
    child: Child,
    pub address: String,
    pub wire: Wire,
    /// How it was started, without ports and directories.
    pub command: String,
}

/// How to start one.
pub struct Start<'a> {
    pub program: &'a Path,
    pub arguments: &'a [String],
    pub environment: &'a [(&'a str, String)],
    pub port: u16,
    pub wire: Wire,
}

impl Server {
    /// Starts it and does not wait until it answers.
    pub fn spawn(start: &Start<'_>) -> Outcome<Self> {
        let mut process = Command::new(start.program);
        process.args(start.arguments).envs(start.environment.iter().map(|(name, value)| (name, value)));
        process.stdin(Stdio::null()).stdout(Stdio::null());
        let child = process.spawn().map_err(|error| format!("{}: {error}", start.program.display()))?;
        let address = format!("127.0.0.1:{}", start.port);
        Ok(Self { child, address, wire: start.wire, command: shown(start) })
    }

    /// Until it answers questions for any key.
    pub async fn wait(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let Err(reason) = self.probe().await else { return Ok(()) };
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("`{}` has ended: {status}", self.command).into());
            }
            if Instant::now() > deadline {
                return Err(format!("`{}` does not serve: {reason}", self.command).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn probe(&self) -> Outcome<()> {
        let mut connection = Connection::open(&self.address, self.wire, None).await?;
        (0..PROBES).for_each(|number| connection.get(format!("probe:{number}").as_bytes()));
        connection.send().await?;
        for _ in 0..PROBES {
            if let (Reply::Error(error), _) = tokio::time::timeout(START_TIMEOUT, connection.receive()).await?? {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Bytes that it has in memory.
    pub fn resident(&self) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/PID/status")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(1024 * kibibytes)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Outcome<()> {
        let killed = self.child.kill();
        self.child.wait()?;
        Ok(killed?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill(); // it may have ended
    }
}

/// Ports that the kernel hands out on Linux: no other number on a command line here is one of these.
const PORTS: RangeInclusive<u32> = 32_768..=60_999;

/// The command line for people: the page is the same on every machine.
fn shown(start: &Start<'_>) -> String {
    let word = |argument: &String| match argument {
        _ if argument.parse().is_ok_and(|number| PORTS.contains(&number)) => "PORT".to_owned(),
        _ if argument.is_empty() => "''".to_owned(),
        _ if argument.starts_with('/') || argument.starts_with("sqlite:") => "PATH".to_owned(),
        _ if argument.starts_with("mysql:") => "mysql://…".to_owned(),
        _ => argument.strip_prefix("127.0.0.1:").map_or_else(|| argument.clone(), |_| "HOST:PORT".to_owned()),
    };
    let program = start.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    std::iter::once(program).chain(start.arguments.iter().map(word)).collect::<Vec<_>>().join(" ")
}

/// Processor time that a process has taken so far, in user space and in the kernel.
pub fn cpu_of(id: u32) -> Outcome<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The second field is the name in parentheses, which may have spaces; the 14th and 15th are the times.
    let (_, fields) = stat.rsplit_once(") ").ok_or("no fields in /proc/PID/stat")?;
    let ticks: Vec<u32> = fields.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(Duration::from_secs(1) * ticks.iter().sum() / TICKS_PER_SECOND)
}

/// Processor time of all of them.
pub fn cpu<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Outcome<Duration> {
    servers.into_iter().map(|server| cpu_of(server.id())).sum()
}

/// A directory beside the binaries: a temporary directory of the system may lie in memory.
pub fn directory() -> Outcome<TempDir> {
    Ok(TempDir::new_in(target()?)?)
}

/// The binary beside this example's folder.
pub fn binary(name: &str) -> Outcome<PathBuf> {
    let path = target()?.join(name);
    if path.exists() { Ok(path) } else { Err(format!("build {name} first: {}", path.display()).into()) }
}

/// Where the binaries are.
pub fn target() -> Outcome<PathBuf> {
    let here = std::env::current_exe()?;
    Ok(here.parent().and_then(Path::parent).ok_or("no target directory")?.to_owned())
}

pub fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
