//! The journal on a disk in memory that fails as it is told.

mod commits;
mod crashes;
mod files;
mod golden;
#[cfg(feature = "shuttle")]
mod interleavings;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::memory::MemoryDisk;
use super::{Disk, Fsync, Journal, OpenError, Options, Pending, Recovered, open};
use crate::command::Effect;
use crate::record::{JournalId, Key, Record, Timestamp, Value, Version};
use crate::task::Blocking;

const ID: JournalId = JournalId(0x1234_5678_9abc_def0);

/// Does the work in place, as a simulation does.
struct InPlace;

impl Blocking for InPlace {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        work();
        Box::pin(tokio::task::yield_now())
    }
}

fn options(fsync: Fsync) -> Options {
    Options { fsync, bytes_max: 1024 * 1024, segment_bytes: 16 * 1024 }
}

fn open_with(disk: &MemoryDisk, options: Options) -> Result<(Journal, Recovered), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.attach());
    open(disk, options, ID, &mut |_| {})
}

/// A journal with its task.
struct Rig {
    disk: MemoryDisk,
    journal: Journal,
    recovered: Recovered,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Rig {
    fn new(disk: &MemoryDisk, options: Options) -> Self {
        Self::try_new(disk, options).unwrap()
    }

    fn try_new(disk: &MemoryDisk, options: Options) -> Result<Self, OpenError> {
        let (journal, recovered) = open_with(disk, options)?;
        let (stop, worker) = (CancellationToken::new(), journal.clone());
        let token = stop.clone();
        let task = tokio::spawn(async move { worker.run(&InPlace, &token).await });
        Ok(Self { disk: disk.clone(), journal, recovered, stop, task })
    }

    fn append(&self, effects: &[Effect]) -> Pending {
        self.journal.append(effects).unwrap()
    }

    /// Appends and waits.
    async fn write(&self, effects: &[Effect]) {
        self.append(effects).durable().await.unwrap();
    }

    async fn checkpoint(&self, unspilled: &[Effect]) {
        let mut checkpoint = self.journal.begin_checkpoint(&InPlace).await.unwrap();
        checkpoint.write(unspilled).unwrap();
        checkpoint.finish().unwrap();
    }

    async fn stop(self) -> MemoryDisk {
        self.stop.cancel();
        self.task.await.unwrap();
        self.disk
    }

    /// The end of the process, without a last word.
    async fn kill(self) -> MemoryDisk {
        self.disk.kill();
        self.task.abort();
        let _ = self.task.await;
        self.disk
    }
}

fn key(name: &str) -> Key {
    Key::new(name.to_owned()).unwrap()
}

fn set(name: &str, lsn: u64, value: &str) -> Effect {
    let value = Value::new(value.to_owned()).unwrap();
    Effect::Set(Record { key: key(name), value, version: Version::new(1, lsn), expires_at: None })
}

fn expiring(name: &str, lsn: u64, value: &str, at: u64) -> Effect {
    let value = Value::new(value.to_owned()).unwrap();
    Effect::Set(Record { key: key(name), value, version: Version::new(1, lsn), expires_at: Some(Timestamp(at)) })
}

fn delete(name: &str, lsn: u64) -> Effect {
    Effect::Delete { key: key(name), version: Version::new(1, lsn) }
}

fn by_key(effects: &[Effect]) -> BTreeMap<Key, Effect> {
    effects.iter().map(|effect| (effect.key().clone(), effect.clone())).collect()
}

async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
