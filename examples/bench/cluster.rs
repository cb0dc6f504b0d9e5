//! The processes that are measured.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};

use tempfile::TempDir;

use crate::Outcome;

/// A secondary and a primary, as processes that end with it.
pub struct Cluster {
    /// Of the journal.
    data: TempDir,
    processes: Vec<Child>,
    primary: String,
    secondary: String,
    /// Of the secondary.
    arguments: Vec<String>,
}

impl Cluster {
    pub fn start(tier: &str, capacity: usize) -> Outcome<Self> {
        let (secondary, primary) = (free_port()?, free_port()?);
        let data = directory()?;
        let [primary_address, secondary_address] = [primary, secondary].map(|port| format!("127.0.0.1:{port}"));
        let processes = Vec::new();
        let mut cluster = Self {
            data,
            processes,
            primary: primary_address,
            secondary: secondary_address.clone(),
            arguments: Vec::new(),
        };
        let capacity = capacity.to_string();
        cluster.arguments =
            [&cluster.primary, &secondary.to_string(), tier, &capacity].map(ToString::to_string).to_vec();
        cluster.spawn_secondary()?;
        cluster.spawn("primary", &[&primary.to_string(), &secondary_address])?;
        Ok(cluster)
    }

    fn spawn(&mut self, name: &str, args: &[&str]) -> Outcome<()> {
        let child = Process::new(binary(name)?)
            .args(args)
            .env("KV_LOG", "error")
            .env("KV_DATA_DIR", self.data.path())
            .stdin(Stdio::null())
            .spawn()?;
        self.processes.push(child);
        Ok(())
    }

    fn spawn_secondary(&mut self) -> Outcome<()> {
        let arguments = self.arguments.clone();
        self.spawn("secondary", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// `kill -9` of the secondary, and another start.
    pub fn crash(&mut self) -> Outcome<()> {
        let mut secondary = self.processes.remove(0);
        let killed = secondary.kill();
        secondary.wait()?;
        killed?;
        self.spawn_secondary()?;
        self.processes.rotate_right(1);
        Ok(())
    }

    /// The secondary's own address.
    pub fn secondary(&self) -> &str {
        &self.secondary
    }

    /// The primary's.
    pub fn primary(&self) -> &str {
        &self.primary
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill(); // it may have ended
            let _ = process.wait();
        }
    }
}

/// A directory beside the binaries: a temporary directory of the system may lie in memory.
pub fn directory() -> Outcome<TempDir> {
    Ok(TempDir::new_in(binary("secondary")?.parent().ok_or("no target directory")?)?)
}

/// The binary beside this example's folder.
fn binary(name: &str) -> Outcome<PathBuf> {
    let here = std::env::current_exe()?;
    let directory = here.parent().and_then(|examples| examples.parent()).ok_or("no target directory")?;
    let path = directory.join(name);
    if path.exists() { Ok(path) } else { Err(format!("build {name} first: {}", path.display()).into()) }
}

pub fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
