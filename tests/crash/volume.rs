//! A file system of our own, for what should not be done to another one's.

use std::process::{Command, Stdio};

/// An ext4 file system in a file, on a loop device.
pub struct Volume {
    directory: tempfile::TempDir,
    is_mounted: bool,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let command = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).status();
    command.is_ok_and(|status| status.success())
}

impl Volume {
    /// `None`, and says so, where the machine does not let us.
    pub fn make() -> Option<Self> {
        // Not in memory: a loop device wants a file system below.
        let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut volume = Self { directory, is_mounted: false };
        let image = volume.image();
        let is_made = run("truncate", &["-s", "512M", &image]) && run("mkfs.ext4", &["-q", &image]);
        std::fs::create_dir(volume.path()).unwrap();
        if is_made && volume.mount() && run("python3", &["-c", "import fcntl"]) {
            return Some(volume);
        }
        println!("SKIPPED: no ext4 on a loop device can be made here (it takes root, mkfs.ext4, mount and python3)");
        None
    }

    fn image(&self) -> String {
        self.directory.path().join("image").display().to_string()
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("mount")
    }

    pub fn mount(&mut self) -> bool {
        self.is_mounted = run("mount", &["-o", "loop", &self.image(), self.path().to_str().unwrap()]);
        self.is_mounted
    }

    pub fn unmount(&mut self) {
        if std::mem::take(&mut self.is_mounted) {
            assert!(run("umount", &[self.path().to_str().unwrap()]), "something still uses {}", self.path().display());
        }
    }

    /// `FS_IOC_SHUTDOWN` without a flush of the file system's own log: what was not synced is gone.
    pub fn lose_power(&self) {
        let script = "import fcntl, os, struct, sys\n\
                      fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        assert!(run("python3", &["-c", script, self.path().to_str().unwrap()]), "the file system can't be shut down");
    }
}

impl Volume {
    /// Leaves no space, until the returned file is removed.
    pub fn fill(&self) -> std::path::PathBuf {
        let ballast = self.path().join("ballast");
        for size in ["400M", "100M", "30M", "8M", "2M", "500K", "100K", "20K", "4K"] {
            while run(
                "dd",
                &[
                    "if=/dev/zero",
                    &format!("of={}", ballast.display()),
                    "oflag=append",
                    "conv=notrunc",
                    &format!("bs={size}"),
                    "count=1",
                ],
            ) {}
        }
        ballast
    }

    pub fn set_read_only(&self, read_only: bool) {
        let how = if read_only { "remount,ro" } else { "remount,rw" };
        assert!(run("mount", &["-o", how, self.path().to_str().unwrap()]));
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.is_mounted {
            run("umount", &["-l", self.path().to_str().unwrap()]);
        }
    }
}
