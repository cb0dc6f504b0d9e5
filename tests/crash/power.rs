//! Loss of power: the journal's file system forgets, in the middle of the load, everything that was not synced.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::database::Database;
use crate::support::eventually;
use crate::work::{Ledger, Load};

const ROUNDS: u64 = 3;

/// An ext4 file system in a file, on a loop device.
struct Volume {
    directory: tempfile::TempDir,
    is_mounted: bool,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let command = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).status();
    command.is_ok_and(|status| status.success())
}

impl Volume {
    /// `None` where the machine does not let us.
    fn make() -> Option<Self> {
        // Not in memory: a loop device wants a file system below.
        let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut volume = Self { directory, is_mounted: false };
        let image = volume.image();
        let is_made = run("truncate", &["-s", "512M", &image]) && run("mkfs.ext4", &["-q", &image]);
        std::fs::create_dir(volume.path()).unwrap();
        (is_made && volume.mount() && run("python3", &["-c", "import fcntl"])).then_some(volume)
    }

    fn image(&self) -> String {
        self.directory.path().join("image").display().to_string()
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("mount")
    }

    fn mount(&mut self) -> bool {
        self.is_mounted = run("mount", &["-o", "loop", &self.image(), self.path().to_str().unwrap()]);
        self.is_mounted
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.is_mounted) {
            assert!(run("umount", &[self.path().to_str().unwrap()]), "something still uses {}", self.path().display());
        }
    }

    /// `FS_IOC_SHUTDOWN` without a flush of the file system's own log: what was not synced is gone.
    fn lose_power(&self) {
        let script = "import fcntl, os, struct, sys\n\
                      fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        assert!(run("python3", &["-c", script, self.path().to_str().unwrap()]), "the file system can't be shut down");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.is_mounted {
            run("umount", &["-l", self.path().to_str().unwrap()]);
        }
    }
}

fn has_journal(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut files| files.next().is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_with_the_power() {
    let Some(mut volume) = Volume::make() else {
        println!("SKIPPED: no ext4 on a loop device can be made here (it takes root, mkfs.ext4, mount and python3)");
        return;
    };
    let database = Database::create().await;
    let data = volume.path().join("data");
    let mut cluster = Cluster::start(1, &[&database.url(), "150", "--data-dir", data.to_str().unwrap()]).await;
    let client = cluster.client();
    let mut ledger = Ledger::default();
    for round in 1..=ROUNDS {
        let before = ledger.acknowledged;
        let load = Load::start(&client, ledger, round);
        tokio::time::sleep(Duration::from_millis(700 + 200 * round)).await;
        volume.lose_power();
        // R23: it can't sync any more, so it ends, and says why.
        assert!(!cluster.secondaries[0].wait().success());
        let log = cluster.secondaries[0].log();
        assert!(log.contains("the journal can't be written any more"), "{log}");
        volume.unmount();
        assert!(volume.mount());
        assert!(has_journal(&data));
        cluster.restart_secondary(0, &[]);
        eventually("it is served again", async || client.get("probe").await.ok()).await;
        ledger = load.stop().await;
        ledger.check(&client).await;
        println!("round {round}: power lost; {} writes acknowledged, none lost", ledger.acknowledged - before);
    }
    cluster.stop();
    volume.unmount();
    database.drop_it().await;
}
