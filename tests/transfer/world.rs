//! A shard behind a service that can be troubled, a folder, and short ways to run a transfer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use overspill::command::{Command, Condition, Reply};
use overspill::progress::Progress;
use overspill::record::{Key, Timestamp, Value};
use overspill::service::{Batch, Error, Replies, Service};
use overspill::transfer::{Context, ExportOptions, Exported, Failure, ImportOptions, Imported, Place, export, import};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::rig::{Rig, Setup, ttl};

/// Everything that tells one data set from another: value and expiry of each key.
pub type DataSet = BTreeMap<Vec<u8>, (Vec<u8>, Option<Timestamp>)>;

/// What happens to a command instead of what should.
type Trouble = Box<dyn Fn(usize, &Command) -> Option<Result<Reply, Error>> + Send + Sync>;

/// A shard's service, with calls counted from 1, and what shall happen to them.
#[derive(Clone)]
pub struct Troubled {
    pub rig: Rig,
    calls: Arc<AtomicUsize>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    /// Is told of the end when this call comes, which is then not answered.
    stop_at: Arc<Mutex<Option<(usize, CancellationToken)>>>,
}

impl Troubled {
    pub fn new(rig: Rig) -> Self {
        let (calls, trouble, stop_at) = Default::default();
        Self { rig, calls, trouble, stop_at }
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn trouble(&self, trouble: impl Fn(usize, &Command) -> Option<Result<Reply, Error>> + Send + Sync + 'static) {
        *self.trouble.lock() = Some(Box::new(trouble));
    }

    pub fn calm(&self) {
        *self.trouble.lock() = None;
    }
}

impl Service for Troubled {
    async fn execute(&self, batch: Batch) -> Replies {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let stop = self.stop_at.lock().take_if(|(at, _)| *at == call);
        if let Some((_, stop)) = stop {
            stop.cancel();
            std::future::pending::<()>().await;
        }
        let mut replies = Vec::new();
        let mut left = Vec::new();
        {
            let trouble = self.trouble.lock();
            for (i, command) in batch.commands.into_iter().enumerate() {
                let reply = trouble.as_ref().and_then(|trouble| trouble(call, &command));
                if reply.is_none() {
                    left.push((i, command));
                }
                replies.push(reply);
            }
        }
        let (places, commands): (Vec<usize>, Vec<Command>) = left.into_iter().unzip();
        let done = self.rig.shard.execute(Batch { commands, ..batch }).await;
        for (i, reply) in places.into_iter().zip(done) {
            replies[i] = Some(reply);
        }
        replies.into_iter().map(Option::unwrap).collect()
    }
}

/// A troubled shard and a file.
pub struct World {
    pub service: Troubled,
    pub folder: Arc<TempDir>,
    pub said: Arc<Mutex<Vec<u8>>>,
    pub patience: Duration,
    pub restart: bool,
    pub force: bool,
    pub if_absent: bool,
    pub allow_partial: bool,
    pub name: &'static str,
}

impl World {
    pub async fn start(capacity: usize) -> Self {
        Self::of(Setup::new(capacity)).await
    }

    pub async fn of(setup: Setup) -> Self {
        Self {
            service: Troubled::new(setup.start().await),
            folder: Arc::new(tempfile::tempdir().unwrap()),
            said: Arc::default(),
            patience: Duration::from_secs(60),
            restart: false,
            force: false,
            if_absent: false,
            allow_partial: false,
            name: "a:1",
        }
    }

    /// Another shard, which takes what this one exported.
    pub async fn other(&self, capacity: usize) -> Self {
        Self { folder: Arc::clone(&self.folder), name: "b:2", ..Self::start(capacity).await }
    }

    pub fn rig(&self) -> &Rig {
        &self.service.rig
    }

    pub fn file(&self, suffix: &str) -> PathBuf {
        self.folder.path().join(format!("file{suffix}"))
    }

    pub fn read(&self, suffix: &str) -> Vec<u8> {
        std::fs::read(self.file(suffix)).unwrap()
    }

    pub fn said(&self) -> String {
        String::from_utf8(self.said.lock().clone()).unwrap()
    }

    fn context(&self, stop_at: Option<usize>) -> Context {
        struct Said(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Said {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let stop = CancellationToken::new();
        let calls = self.service.calls();
        *self.service.stop_at.lock() = stop_at.map(|at| (calls + at, stop.clone()));
        Context {
            clock: Arc::<overspill::clock::ManualClock>::clone(&self.rig().clock),
            stop,
            progress: Progress::lines("records", Box::new(Said(Arc::clone(&self.said)))),
            timeout: Duration::from_secs(10),
            patience: self.patience,
        }
    }

    pub async fn export(&self) -> Result<Exported, Failure> {
        self.export_until(None).await
    }

    /// Interrupted when the call with this number comes.
    pub async fn export_until(&self, stop_at: Option<usize>) -> Result<Exported, Failure> {
        let options = ExportOptions {
            from: self.name.to_owned(),
            to: Place::File(self.file("")),
            restart: self.restart,
            force: self.force,
        };
        export(self.service.clone(), options, self.context(stop_at)).await
    }

    pub async fn import(&self) -> Result<Imported, Failure> {
        self.import_until(None).await
    }

    pub async fn import_until(&self, stop_at: Option<usize>) -> Result<Imported, Failure> {
        let options = ImportOptions {
            from: Place::File(self.file("")),
            to: self.name.to_owned(),
            if_absent: self.if_absent,
            verify: true,
            allow_partial: self.allow_partial,
            restart: self.restart,
        };
        import(self.service.clone(), options, self.context(stop_at)).await
    }

    /// All that is there, by SCAN and GET.
    pub async fn data(&self) -> DataSet {
        let mut data = DataSet::new();
        for key in self.rig().scan(100).await {
            let Reply::Found(found) = self.rig().one(Command::Get { key: key.clone() }).await.unwrap() else {
                panic!()
            };
            let found = found.unwrap();
            let earlier = data.insert(key.as_bytes().to_vec(), (found.value.as_bytes().to_vec(), found.expires_at));
            assert!(earlier.is_none(), "{key} comes twice");
        }
        data
    }

    pub async fn put(&self, key: &[u8], value: &[u8], ttl_ms: Option<u64>) {
        let (key, value) = (Key::new(key.to_vec()).unwrap(), Value::new(value.to_vec()).unwrap());
        let command = Command::Put { key, value, ttl: ttl_ms.map(ttl), condition: Condition::Always };
        assert!(matches!(self.rig().one(command).await, Ok(Reply::Stored(_))));
    }

    pub async fn fill(&self, records: usize) {
        for i in 0..records {
            self.put(format!("k{i}").as_bytes(), format!("value {i}").as_bytes(), None).await;
        }
    }

    /// The keys in the file, in its order.
    pub fn keys_in_file(&self) -> Vec<String> {
        let text = String::from_utf8(self.read("")).unwrap();
        let keys = text.lines().filter_map(|line| line.strip_prefix(r#"{"key":""#));
        keys.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    }
}
