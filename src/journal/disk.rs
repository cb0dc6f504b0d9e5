//! What the journal needs of a disk: one flat directory of files. [`Directory`] is the real one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// The file that is locked; it also holds the process id of who did.
const LOCK: &str = "LOCK";

/// Reserved space is made ready in pieces of this length, for writes of up to a sixteenth.
const READY_BYTES: usize = 256 * 1024;
static ZEROS: [u8; READY_BYTES] = [0; READY_BYTES];

/// One flat directory. What is not synced may be lost, in any part, when power is.
pub trait Disk: Send + Sync + 'static {
    /// Makes a file that must not exist, with space for `reserve_bytes` (zeros), so that writes into them can't run out
    /// of it. If it fails, there is no file. The name is durable after [`Disk::sync_dir`].
    fn create(&self, name: &str, reserve_bytes: u64) -> io::Result<Box<dyn DiskFile>>;
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// The names of the files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Replaces `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Keeps other processes out as long as it is held.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process has it; the text says which.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;
}

/// A file of a [`Disk`].
pub trait DiskFile: Send {
    /// Writes all of `bytes`, or fails; then any part of them may be there.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reads what there is; 0 bytes at the end of the file only.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Makes what was written durable, and the length too.
    fn sync_data(&mut self) -> io::Result<()>;
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// A directory of the file system.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes the directory, and those above it, if it is not there.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let missing: Vec<&Path> = path.ancestors().take_while(|part| !is_directory(part)).collect();
        std::fs::create_dir_all(&path)?;
        for made in missing {
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)?.sync_all()?;
        }
        Self::open(path)
    }

    /// A directory that is there.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        if std::fs::metadata(&path)?.is_dir() {
            Ok(Self { path })
        } else {
            Err(io::Error::new(io::ErrorKind::NotADirectory, format!("`{}` is not a directory", path.display())))
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which process has it locked, without keeping others out.
    pub fn holder(&self) -> io::Result<Option<String>> {
        let file = match File::open(self.at(LOCK)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None), // and no more, since the file is closed here
            Err(std::fs::TryLockError::WouldBlock) => Ok(Some(name_holder(file))),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Who has written his number into the lock file.
fn name_holder(file: File) -> String {
    let mut number = String::new();
    // It may not have been written yet.
    let _ = file.take(20).read_to_string(&mut number);
    if number.is_empty() { "another process".to_owned() } else { format!("process {number}") }
}

fn is_directory(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.is_dir()
}

impl Disk for Directory {
    fn create(&self, name: &str, reserve_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let path = self.at(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = reserve(&file, reserve_bytes) {
            std::fs::remove_file(&path)?;
            return Err(error);
        }
        Ok(Box::new(Reserved { file, reserved: reserve_bytes, ready: 0 }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.at(name);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        // `kv check` may have the right to read only.
        let read_only = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => File::open(&path),
            _ => Err(error),
        };
        Ok(Box::new(file.or_else(read_only)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // Ours are ASCII.
            names.extend(entry?.file_name().into_string().ok().filter(|name| name != LOCK));
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.at(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let path = self.at(LOCK);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                write!(file, "{}", std::process::id())?;
                Ok(Box::new(file))
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                let text = format!("`{}` is in use by {}", self.path.display(), name_holder(file));
                Err(io::Error::new(io::ErrorKind::WouldBlock, text))
            }
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Measured with 200-byte writes, each followed by fdatasync: see `docs/formats.md`.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // The file system can't reserve: a write may then find the disk full, which is refused cleanly too.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes),
        reserved => Ok(reserved?),
    }
}

impl DiskFile for File {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// A file with reserved space, which is written with zeros shortly before it is used: a sync of what was written before is one
/// write of the disk, without the file system's own account of the space.
struct Reserved {
    file: File,
    reserved: u64,
    /// Up to where something was written.
    ready: u64,
}

impl Reserved {
    /// Only makes syncs cheaper: what goes wrong here goes wrong again where it matters.
    fn prepare(&mut self, end: u64) {
        let until = (end + READY_BYTES as u64).min(self.reserved);
        let from = end.max(self.ready);
        let bytes = usize::try_from(until.saturating_sub(from)).unwrap_or_default();
        if let Some(zeros) = ZEROS.get(..bytes)
            && FileExt::write_all_at(&self.file, zeros, from).is_ok()
        {
            self.ready = until;
        }
    }
}

impl DiskFile for Reserved {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        if end > self.ready {
            // Large writes pay for the account themselves.
            if bytes.len() < READY_BYTES / 16 {
                self.prepare(end);
            }
            self.ready = self.ready.max(end);
        }
        DiskFile::write_at(&mut self.file, bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        DiskFile::read_at(&self.file, buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        DiskFile::len(&self.file)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        DiskFile::sync_data(&mut self.file)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.reserved = self.reserved.min(len);
        DiskFile::truncate(&mut self.file, len)
    }
}
