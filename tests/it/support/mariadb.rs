//! A private MariaDB that a test may kill.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{eventually, free_port};

pub struct MariaDb {
    directory: TempDir,
    port: u16,
    server: Option<Child>,
}

impl MariaDb {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        install.arg(format!("--datadir={}", data.display())).arg(own_tmpdir(directory.path()));
        if is_root() {
            own_by_mysql(directory.path());
            install.arg("--user=mysql");
        }
        let installed = install.output().expect("mariadb-install-db is needed: run scripts/setup");
        assert!(installed.status.success(), "{installed:?}");
        let mut server = Self { directory, port: free_port(), server: None };
        server.restart().await;
        server
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Starts it again, on the same port and data.
    pub async fn restart(&mut self) {
        self.kill();
        let path = self.directory.path();
        let mut command = Command::new("mariadbd");
        command.args(["--no-defaults", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=128M"]);
        command.arg(format!("--datadir={}", path.join("data").display())).arg(own_tmpdir(path));
        command.arg(format!("--socket={}", path.join("socket").display()));
        command.arg(format!("--port={}", self.port));
        if is_root() {
            command.arg("--user=mysql");
        }
        let log = File::options().create(true).append(true).open(path.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().unwrap());
        eventually("MariaDB answers", async || super::database::connect(&self.url("")).await.ok()).await;
    }

    pub fn url(&self, database: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let from = log.len().saturating_sub(4000);
            eprintln!("--- log of MariaDB:\n{}", log.get(from..).unwrap_or(&log));
        }
    }
}

/// A MariaDB that starts removes the temporary tables of every other one in the same folder.
fn own_tmpdir(path: &Path) -> String {
    format!("--tmpdir={}", path.display())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

fn own_by_mysql(path: &Path) {
    assert!(Command::new("chown").args(["mysql"]).arg(path).status().unwrap().success());
}
