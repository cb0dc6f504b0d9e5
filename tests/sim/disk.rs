//! The disk of a process: the one in memory that forgets, tears and rots, with a process that may die at any call.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use overspill::journal::memory::MemoryDisk;
use overspill::journal::{Disk, DiskFile};
use overspill::task::Blocking;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use crate::world::{Process, World};

/// The header of a file, and of a frame in it, as `docs/formats.md` draws them.
const FILE_HEADER: usize = 48;
const FRAME_HEADER: usize = 40;

/// What a process sees of its disk.
pub struct SimDisk {
    pub world: Arc<World>,
    pub process: Arc<Process>,
    pub disk: MemoryDisk,
}

struct SimFile {
    world: Arc<World>,
    process: Arc<Process>,
    file: Box<dyn DiskFile>,
}

/// A call: the process may die of it.
fn step(world: &World, process: &Process) -> io::Result<()> {
    if !process.is_dead() {
        match world.weather.crashes_at_disk(process) {
            Some(true) => world.lose_power(process),
            Some(false) => world.kill(process, "in the middle of what it does with its disk"),
            None => {}
        }
    }
    if process.is_dead() { Err(io::Error::other("the process is dead")) } else { Ok(()) }
}

impl SimDisk {
    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(SimFile { world: Arc::clone(&self.world), process: Arc::clone(&self.process), file })
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str, reserve_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        step(&self.world, &self.process)?;
        let file = self.disk.create(name, reserve_bytes)?;
        Ok(self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        step(&self.world, &self.process)?;
        let file = self.disk.open(name)?;
        Ok(self.file(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        step(&self.world, &self.process)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        step(&self.world, &self.process)?;
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        step(&self.world, &self.process)?;
        self.disk.sync_dir()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }
}

impl DiskFile for SimFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        step(&self.world, &self.process)?;
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn sync_data(&mut self) -> io::Result<()> {
        step(&self.world, &self.process)?;
        self.file.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        step(&self.world, &self.process)?;
        self.file.truncate(len)
    }
}

/// Work that blocks takes virtual time, before and after: in between, everything else goes on.
pub struct SimBlocking {
    pub world: Arc<World>,
    pub process: Arc<Process>,
}

impl Blocking for SimBlocking {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let (world, process) = (Arc::clone(&self.world), Arc::clone(&self.process));
        Box::pin(async move {
            let (there_ms, back_ms) = world.weather.disk_ms();
            sleep(Duration::from_millis(there_ms)).await;
            process.unless_dead().await;
            work();
            sleep(Duration::from_millis(back_ms)).await;
            process.unless_dead().await;
        })
    }
}

/// Flips a bit that must be missed: of a checkpoint, or of a group that a later one says is durable. Answers which, if there was
/// one.
pub fn rot(disk: &MemoryDisk, rng: &mut SmallRng) -> Option<String> {
    let mut files = disk.files();
    files.sort();
    let newest = |prefix: &str| files.iter().rev().find(|file| file.starts_with(prefix) && !file.ends_with(".tmp"));
    let is_checkpoint = rng.random_bool(0.3);
    let file = newest(if is_checkpoint { "checkpoint" } else { "segment" })?;
    let frames = frames(&disk.bytes(file).unwrap_or_default());
    let durable = frames.iter().map(|frame| frame.durable).max().unwrap_or(0);
    let covered: Vec<&Found> = frames.iter().filter(|frame| is_checkpoint || frame.seq <= durable).collect();
    let frame = covered.choose(rng)?;
    let at = rng.random_range(frame.start..frame.end) as u64;
    disk.rot(file, at).then(|| format!("{file} at {at}, in group {} of {} to {}", frame.seq, frame.start, frame.end))
}

/// Where a frame lies, its number, and the highest number that was synced when it was written.
struct Found {
    start: usize,
    end: usize,
    seq: u64,
    durable: u64,
}

fn frames(bytes: &[u8]) -> Vec<Found> {
    let mut frames = Vec::new();
    let mut at = FILE_HEADER;
    while let Some(header) = bytes.get(at..at + FRAME_HEADER).filter(|header| header[..4] != [0; 4]) {
        let len = u32::from_le_bytes(header[8..12].try_into().expect("four bytes")) as usize;
        let end = at + FRAME_HEADER + len.next_multiple_of(8);
        let number = |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().expect("eight bytes"));
        if end > bytes.len() || number(16) == 0 {
            break; // torn
        }
        frames.push(Found { start: at, end, seq: number(16), durable: number(24) });
        at = end;
    }
    frames
}
