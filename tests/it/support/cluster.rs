//! A primary and its secondaries as processes.

use std::path::Path;

use tempfile::TempDir;

use super::client::Client;
use super::free_port;
use super::process::Process;

pub struct Cluster {
    /// Where the secondaries keep their journals.
    pub data: TempDir,
    pub primary: Process,
    pub secondaries: Vec<Process>,
    pub port: u16,
    ports: Vec<u16>,
    arguments: Vec<String>,
}

impl Cluster {
    /// Secondaries with `arguments` after PRIMARY and PORT, and a primary; serving.
    pub async fn start(secondaries: usize, arguments: &[&str]) -> Self {
        let port = free_port();
        let ports: Vec<u16> = (0..secondaries).map(|_| free_port()).collect();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let data = TempDir::new().unwrap();
        let secondaries = ports.iter().map(|&own| secondary(port, own, data.path(), &arguments)).collect();
        let primary = primary(port, &ports, &[]);
        let cluster = Self { data, primary, secondaries, port, ports, arguments };
        cluster.client().until_served().await;
        cluster
    }

    pub fn client(&self) -> Client {
        Client::of(self.port)
    }

    /// Starts a secondary that has ended again, with more arguments.
    pub fn restart_secondary(&mut self, i: usize, more: &[&str]) {
        let mut arguments = self.arguments.clone();
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        self.secondaries[i] = secondary(self.port, self.ports[i], self.data.path(), &arguments);
    }

    /// Starts the primary that has ended again.
    #[allow(dead_code, reason = "for those who kill it")]
    pub fn restart_primary(&mut self) {
        self.primary = primary(self.port, &self.ports, &[]);
    }

    pub fn secondary_ports(&self) -> &[u16] {
        &self.ports
    }

    /// Stops all, cleanly.
    pub fn stop(mut self) {
        assert!(self.primary.stop().success());
        for secondary in &mut self.secondaries {
            assert!(secondary.stop().success(), "{}", secondary.log());
        }
    }
}

/// Its journal lies in a directory of its own in `data`, unless `arguments` say otherwise.
pub fn secondary(primary: u16, own: u16, data: &Path, arguments: &[String]) -> Process {
    let (primary, own) = (format!("127.0.0.1:{primary}"), own.to_string());
    let data = data.join(&own);
    let mut all = vec![primary.as_str(), own.as_str()];
    all.extend(arguments.iter().map(String::as_str));
    Process::start("secondary", &all, &[("KV_DATA_DIR", data.to_str().unwrap())])
}

pub fn primary(own: u16, secondaries: &[u16], options: &[&str]) -> Process {
    let own = own.to_string();
    let list: Vec<String> = secondaries.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut all = vec![own.as_str()];
    all.extend(list.iter().map(String::as_str));
    all.extend(options);
    Process::start("primary", &all, &[])
}
