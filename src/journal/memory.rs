//! A disk in memory, for tests and simulation: loses what was not synced, tears, fails and rots as it is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use rand::Rng;

use super::disk::{Disk, DiskFile};
use crate::sync::Mutex;

/// A handle on a disk. Clones share it, and belong to the same life: after [`MemoryDisk::crash`] only handles from
/// [`MemoryDisk::attach`] work.
#[derive(Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    life: u64,
}

/// How often the disk was asked, failures included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskCalls {
    pub writes: u64,
    pub syncs: u64,
    pub dir_syncs: u64,
    pub created: u64,
}

#[derive(Default)]
struct State {
    life: u64,
    is_locked: bool,
    inodes: Vec<Inode>,
    /// As a process sees them, and as they would be after a loss of power.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    faults: Faults,
    calls: DiskCalls,
}

#[derive(Default)]
struct Inode {
    visible: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
struct Change {
    kind: ChangeKind,
    /// A sync of it failed: another sync won't bring it to the disk, and says nothing.
    is_lost: bool,
}

#[derive(Clone)]
enum ChangeKind {
    Write { offset: usize, bytes: Vec<u8> },
    Len(usize),
}

enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Default)]
struct Faults {
    syncs: VecDeque<io::ErrorKind>,
    dir_syncs: VecDeque<io::ErrorKind>,
    /// The kind, and how many bytes are written before.
    writes: VecDeque<(io::ErrorKind, usize)>,
    is_full: bool,
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

/// What a test does to it.
impl MemoryDisk {
    pub fn new() -> Self {
        Self { state: Arc::default(), life: 0 }
    }

    /// A handle for the process that lives now.
    pub fn attach(&self) -> Self {
        Self { state: self.state.clone(), life: self.state.lock().life }
    }

    /// Power is lost, and comes back. What was synced stays; of what was not, any part survives, as `rng` likes: any subset of
    /// the writes, each torn at any byte, and any subset of the changes of names. Files and handles from before fail from
    /// now on.
    pub fn crash(&self, rng: &mut impl Rng) {
        let state = &mut *self.state.lock();
        state.new_life();
        // Often all or nothing survives, which random picks would hardly ever show.
        let odds = [0.0, 1.0, 0.5, 0.9].get(rng.random_range(0..4_usize)).copied().unwrap_or(0.5);
        for inode in &mut state.inodes {
            for change in std::mem::take(&mut inode.unsynced) {
                if rng.random_bool(odds) {
                    change.survive(&mut inode.durable, rng);
                }
            }
            inode.visible.clone_from(&inode.durable);
        }
        for change in std::mem::take(&mut state.unsynced_names) {
            if rng.random_bool(odds) {
                change.apply(&mut state.durable_names);
            }
        }
        state.names.clone_from(&state.durable_names);
    }

    /// Power is lost, and nothing survives that was not synced.
    pub fn lose_unsynced(&self) {
        let state = &mut *self.state.lock();
        state.new_life();
        for inode in &mut state.inodes {
            inode.unsynced.clear();
            inode.visible.clone_from(&inode.durable);
        }
        state.unsynced_names.clear();
        state.names.clone_from(&state.durable_names);
    }

    /// The process is killed; the machine goes on. Nothing is lost, and nothing more is durable than before.
    pub fn kill(&self) {
        self.state.lock().new_life();
    }

    /// The next sync of a file fails. What it should have made durable may be lost with the next loss of power, though reads
    /// show it and later syncs succeed.
    pub fn fail_next_sync(&self) {
        self.state.lock().faults.syncs.push_back(io::ErrorKind::Other);
    }

    pub fn fail_next_sync_dir(&self) {
        self.state.lock().faults.dir_syncs.push_back(io::ErrorKind::Other);
    }

    /// The next write fails with `kind` after its first `written` bytes.
    pub fn fail_next_write(&self, kind: io::ErrorKind, written: usize) {
        self.state.lock().faults.writes.push_back((kind, written));
    }

    /// Full: no file can be made, and none grows. Space that is reserved can be written to.
    pub fn set_full(&self, is_full: bool) {
        self.state.lock().faults.is_full = is_full;
    }

    /// Takes back the faults that have not come yet.
    pub fn heal(&self) {
        self.state.lock().faults = Faults::default();
    }

    /// Flips a bit of a byte, durably. Answers whether there is such a byte.
    pub fn rot(&self, file: &str, offset: u64) -> bool {
        let state = &mut *self.state.lock();
        let inode = state.names.get(file).and_then(|inode| state.inodes.get_mut(*inode));
        let Some(inode) = inode else { return false };
        let Ok(offset) = usize::try_from(offset) else { return false };
        let mut flipped = false;
        for bytes in [&mut inode.visible, &mut inode.durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 0x10;
                flipped = true;
            }
        }
        flipped
    }

    /// The names of its files, in order.
    pub fn files(&self) -> Vec<String> {
        self.state.lock().names.keys().cloned().collect()
    }

    /// What a file holds.
    pub fn bytes(&self, file: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        state.names.get(file).and_then(|inode| state.inodes.get(*inode)).map(|inode| inode.visible.clone())
    }

    /// Puts a file there, durably.
    pub fn plant(&self, file: &str, bytes: &[u8]) {
        let state = &mut *self.state.lock();
        let inode = Inode { visible: bytes.to_vec(), durable: bytes.to_vec(), unsynced: Vec::new() };
        state.inodes.push(inode);
        state.names.insert(file.to_owned(), state.inodes.len() - 1);
        state.durable_names.insert(file.to_owned(), state.inodes.len() - 1);
    }

    pub fn calls(&self) -> DiskCalls {
        self.state.lock().calls
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let state = &mut *self.state.lock();
        state.check_life(self.life)?;
        work(state)
    }
}

impl State {
    fn new_life(&mut self) {
        self.life += 1;
        self.is_locked = false;
    }

    fn check_life(&self, life: u64) -> io::Result<()> {
        if life == self.life { Ok(()) } else { Err(io::Error::other("this process is dead")) }
    }

    fn inode(&mut self, inode: usize) -> io::Result<&mut Inode> {
        self.inodes.get_mut(inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Frees what no name leads to any more.
    fn forget_removed(&mut self) {
        let named: BTreeSet<usize> = self.names.values().copied().collect();
        for (i, inode) in self.inodes.iter_mut().enumerate() {
            if !named.contains(&i) {
                *inode = Inode::default();
            }
        }
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            // A change before it that did not survive may have left nothing to rename.
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Change {
    fn survive(&self, durable: &mut Vec<u8>, rng: &mut impl Rng) {
        match &self.kind {
            ChangeKind::Len(len) => durable.resize(*len, 0),
            ChangeKind::Write { offset, bytes } => {
                // Whole, or only a part from the front, the back or the middle.
                let (from, to) = match rng.random_range(0..4) {
                    0 => (0, rng.random_range(0..=bytes.len())),
                    1 => (rng.random_range(0..=bytes.len()), bytes.len()),
                    2 => {
                        let from = rng.random_range(0..=bytes.len());
                        (from, rng.random_range(from..=bytes.len()))
                    }
                    _ => (0, bytes.len()),
                };
                write(durable, offset + from, bytes.get(from..to).unwrap_or_default());
            }
        }
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        match &self.kind {
            ChangeKind::Len(len) => bytes.resize(*len, 0),
            ChangeKind::Write { offset, bytes: written } => write(bytes, *offset, written),
        }
    }
}

fn write(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(place) = bytes.get_mut(offset..end) {
        place.copy_from_slice(written);
    }
}

fn planted(kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, "a planted failure")
}

fn full() -> io::Error {
    planted(io::ErrorKind::StorageFull)
}

impl Disk for MemoryDisk {
    fn create(&self, name: &str, reserve_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.with(|state| {
            state.calls.created += 1;
            if state.faults.is_full {
                return Err(full());
            }
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let len = reserve_bytes as usize;
            let unsynced = vec![Change { kind: ChangeKind::Len(len), is_lost: false }];
            state.inodes.push(Inode { visible: vec![0; len], durable: Vec::new(), unsynced });
            let inode = state.inodes.len() - 1;
            state.change_names(NameChange::Create(name.to_owned(), inode));
            Ok(inode)
        })?;
        Ok(Box::new(MemoryFile { disk: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.with(|state| state.names.get(name).copied().ok_or(io::ErrorKind::NotFound.into()))?;
        Ok(Box::new(MemoryFile { disk: self.clone(), inode }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.with(|state| Ok(state.names.keys().cloned().collect()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|state| {
            if !state.names.contains_key(from) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|state| {
            if !state.names.contains_key(name) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.change_names(NameChange::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.with(|state| {
            state.calls.dir_syncs += 1;
            if let Some(kind) = state.faults.dir_syncs.pop_front() {
                return Err(planted(kind));
            }
            state.unsynced_names.clear();
            state.durable_names.clone_from(&state.names);
            state.forget_removed();
            Ok(())
        })
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.with(|state| {
            if std::mem::replace(&mut state.is_locked, true) {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "the disk in memory is in use"));
            }
            Ok(())
        })?;
        Ok(Box::new(Lock(self.clone())))
    }
}

struct Lock(MemoryDisk);

impl Drop for Lock {
    fn drop(&mut self) {
        // A dead process holds none.
        let _ = self.0.with(|state| {
            state.is_locked = false;
            Ok(())
        });
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    inode: usize,
}

impl DiskFile for MemoryFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = offset as usize;
        self.disk.with(|state| {
            state.calls.writes += 1;
            let fault = state.faults.writes.pop_front();
            let grows = state.inode(self.inode)?.visible.len() < offset + bytes.len();
            let (result, written) = match fault {
                Some((kind, written)) => (Err(planted(kind)), written.min(bytes.len())),
                None if grows && state.faults.is_full => (Err(full()), 0),
                None => (Ok(()), bytes.len()),
            };
            let bytes = bytes.get(..written).unwrap_or_default();
            let inode = state.inode(self.inode)?;
            write(&mut inode.visible, offset, bytes);
            let kind = ChangeKind::Write { offset, bytes: bytes.to_vec() };
            inode.unsynced.push(Change { kind, is_lost: false });
            result
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.with(|state| {
            let bytes = state.inode(self.inode)?.visible.get(offset as usize..).unwrap_or_default();
            let count = bytes.len().min(buffer.len());
            if let (Some(place), Some(bytes)) = (buffer.get_mut(..count), bytes.get(..count)) {
                place.copy_from_slice(bytes);
            }
            Ok(count)
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.with(|state| Ok(state.inode(self.inode)?.visible.len() as u64))
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.disk.with(|state| {
            state.calls.syncs += 1;
            let fault = state.faults.syncs.pop_front();
            let inode = state.inode(self.inode)?;
            if let Some(kind) = fault {
                inode.unsynced.iter_mut().for_each(|change| change.is_lost = true);
                return Err(planted(kind));
            }
            let changes = std::mem::take(&mut inode.unsynced);
            changes.iter().filter(|change| !change.is_lost).for_each(|change| change.apply(&mut inode.durable));
            Ok(())
        })
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.disk.with(|state| {
            let inode = state.inode(self.inode)?;
            let change = Change { kind: ChangeKind::Len(len as usize), is_lost: false };
            change.apply(&mut inode.visible);
            inode.unsynced.push(change);
            Ok(())
        })
    }
}
