//! A primary and its secondaries.

use std::path::Path;

use overspill::bench::Wire;
use tempfile::TempDir;

use crate::Outcome;
use crate::process::{Server, Start, binary, directory, free_port};

/// What a cluster is made of.
pub struct Setup<'a> {
    /// PERSISTENT of the secondaries.
    pub tier: &'a str,
    /// Records in the memory of each.
    pub capacity: usize,
    pub secondaries: usize,
}

/// Processes that end with it.
pub struct Cluster {
    pub primary: Server,
    pub secondaries: Vec<Server>,
    /// Of the journals, one for each secondary.
    data: TempDir,
    /// Of the first secondary.
    arguments: Vec<String>,
    port: u16,
}

impl Cluster {
    /// A secondary and its primary, which serve.
    pub async fn start(tier: &str, capacity: usize) -> Outcome<Self> {
        Self::start_with(&Setup { tier, capacity, secondaries: 1 }).await
    }

    /// All of them, once they serve.
    pub async fn start_with(setup: &Setup<'_>) -> Outcome<Self> {
        let data = directory()?;
        let primary_port = free_port()?;
        let ports: Vec<u16> = (0..setup.secondaries).map(|_| free_port()).collect::<Outcome<_>>()?;
        let arguments = |port: &u16| -> Vec<String> {
            let primary = format!("127.0.0.1:{primary_port}");
            vec![primary, port.to_string(), setup.tier.to_owned(), setup.capacity.to_string()]
        };
        let secondaries = ports.iter().map(|port| spawn(&data, "secondary", &arguments(port), *port));
        let secondaries = secondaries.collect::<Outcome<Vec<_>>>()?;
        let mut words = vec![primary_port.to_string()];
        words.extend(secondaries.iter().map(|secondary| secondary.address.clone()));
        let primary = spawn(&data, "primary", &words, primary_port)?;
        let port = ports.first().copied().unwrap_or_default();
        let mut cluster = Self { primary, secondaries, data, arguments: arguments(&port), port };
        // It answers for all of them.
        cluster.primary.wait().await?;
        Ok(cluster)
    }

    /// The first secondary.
    pub fn secondary(&self) -> Outcome<&Server> {
        Ok(self.secondaries.first().ok_or("no secondary")?)
    }

    /// All its processes.
    pub fn servers(&self) -> Vec<&Server> {
        std::iter::once(&self.primary).chain(&self.secondaries).collect()
    }

    /// `kill -9` of the first secondary, and another start.
    pub fn crash(&mut self) -> Outcome<()> {
        let secondary = self.secondaries.first_mut().ok_or("no secondary")?;
        secondary.kill()?;
        *secondary = spawn(&self.data, "secondary", &self.arguments, self.port)?;
        Ok(())
    }
}

fn spawn(data: &TempDir, name: &str, arguments: &[String], port: u16) -> Outcome<Server> {
    let directory = |root: &Path| root.join(port.to_string()).display().to_string();
    let environment = [("KV_LOG", "error".to_owned()), ("KV_DATA_DIR", directory(data.path()))];
    Server::spawn(&Start { program: &binary(name)?, arguments, environment: &environment, port, wire: Wire::Resp })
}
