//! Random operations on few keys, with faults that come and go, against what each key may be.

use std::time::Duration;

use overspill::command::{Command, Condition, Reply};
use overspill::service::Error;
use overspill::shard::WriteMode;
use overspill::tier::memory::{CommitFault, MemoryTier};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::rig::{Rig, Setup, key, ttl, value};

const TASKS: usize = 8;
const OPERATIONS: usize = 2500;
/// Each task has keys of its own, so that it knows what each of them must be; they meet in the store, its policy, batches
/// and faults. One key more is written by all.
const KEYS: usize = 6;
const CAPACITY: usize = 12;

/// What a key may be: its last acknowledged value, or one of a write whose outcome is unknown.
#[derive(Clone, Debug)]
struct Register {
    may_be: Vec<Option<String>>,
}

impl Register {
    fn settled(value: Option<String>) -> Self {
        Self { may_be: vec![value] }
    }

    /// A read tells what it is, and it stays that: a write of unknown outcome that has not happened by now may still,
    /// in write-through only.
    fn read(&mut self, seen: Option<String>, name: &str) {
        assert!(self.may_be.contains(&seen), "{name}: read {seen:?}, may be {:?}", self.may_be);
    }
}

struct Worker {
    rig: Rig,
    rng: SmallRng,
    task: usize,
    registers: Vec<Register>,
    unknowns: usize,
    refusals: usize,
}

fn text(found: Option<overspill::command::Found>) -> Option<String> {
    found.map(|found| String::from_utf8(found.value.as_bytes().to_vec()).unwrap())
}

impl Worker {
    async fn run(mut self) -> Self {
        for i in 0..OPERATIONS {
            let n = self.rng.random_range(0..KEYS);
            let name = format!("t{}k{n}", self.task);
            let unique = format!("{}-{i}", self.task);
            let timeout_ms = if self.rng.random_bool(0.5) { 20 } else { 3000 };
            match self.rng.random_range(0..12) {
                0..4 => self.write(n, &name, put(&name, &unique, Condition::Always), Some(unique), timeout_ms).await,
                4 => self.write(n, &name, put(&name, &unique, Condition::Absent), Some(unique), timeout_ms).await,
                5..7 => self.write(n, &name, Command::Delete { key: key(&name) }, None, timeout_ms).await,
                7 => {
                    let expire = Command::Expire { key: key(&name), ttl: ttl(1_000_000_000) };
                    self.touch(expire, timeout_ms).await;
                }
                8 => self.shared(&unique, timeout_ms).await,
                _ => self.get(n, &name, timeout_ms).await,
            }
        }
        self
    }

    async fn write(&mut self, n: usize, name: &str, command: Command, after: Option<String>, timeout_ms: u64) {
        let register = &mut self.registers[n];
        match self.rig.one_within(command, timeout_ms).await {
            Ok(Reply::Stored(_)) => *register = Register::settled(after),
            Ok(Reply::Done(existed)) => {
                assert!(register.may_be.iter().any(|value| value.is_some() == existed), "{name}: {register:?}");
                *register = Register::settled(None);
            }
            Ok(Reply::Conflict(version)) => {
                assert!(register.may_be.iter().any(|value| value.is_some() == version.is_some()), "{name}");
            }
            Ok(other) => panic!("{other:?}"),
            Err(Error::Unknown(_)) => {
                self.unknowns += 1;
                register.may_be.push(after);
            }
            Err(Error::Busy(_) | Error::Unavailable(_)) => self.refusals += 1, // provably not done
            Err(other) => panic!("{other:?}"),
        }
    }

    async fn get(&mut self, n: usize, name: &str, timeout_ms: u64) {
        match self.rig.one_within(Command::Get { key: key(name) }, timeout_ms).await {
            Ok(Reply::Found(found)) => self.registers[n].read(text(found), name),
            Err(Error::Unavailable(_)) => self.refusals += 1,
            other => panic!("{other:?}"),
        }
    }

    async fn touch(&mut self, command: Command, timeout_ms: u64) {
        match self.rig.one_within(command, timeout_ms).await {
            Ok(Reply::Done(_)) | Err(Error::Busy(_) | Error::Unavailable(_) | Error::Unknown(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    /// A counter that all raise by compare-and-swap: no raise may be lost, none done twice.
    async fn shared(&mut self, unique: &str, timeout_ms: u64) {
        let Ok(Reply::Found(found)) = self.rig.one_within(Command::Get { key: key("shared") }, timeout_ms).await else {
            return;
        };
        let condition = found.as_ref().map_or(Condition::Absent, |found| Condition::Version(found.version));
        let next = format!("{};{unique}", text(found).unwrap_or_default());
        if let Ok(Reply::Stored(_)) = self.rig.one_within(put("shared", &next, condition), timeout_ms).await {
            self.registers[KEYS].may_be.push(Some(unique.to_owned()));
        }
    }
}

fn put(name: &str, text: &str, condition: Condition) -> Command {
    Command::Put { key: key(name), value: value(text), ttl: None, condition }
}

/// Breaks the tier and heals it again, for a bounded time: the spiller's pauses grow to seconds, and a fault in each of them
/// would keep it from ever getting on.
async fn torment(tier: MemoryTier, mut rng: SmallRng) {
    for _ in 0..40 {
        match rng.random_range(0..6) {
            0 => tier.set_down(true),
            1 => tier.fail_next(rng.random_range(1..5)),
            2 => tier.fail_next_commit(CommitFault::UnknownApplied),
            3 => tier.fail_next_commit(CommitFault::UnknownLost),
            4 => tier.hold_loads(),
            _ => tier.hold_flushes(),
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..40))).await;
        heal(&tier);
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..40))).await;
    }
}

fn heal(tier: &MemoryTier) {
    tier.set_down(false);
    tier.fail_next(0);
    tier.release_loads();
    tier.release_flushes();
}

async fn run(mode: WriteMode, seed: u64) {
    let mut setup = Setup::new(CAPACITY).mode(mode);
    setup.options.sweep_interval = Duration::from_millis(500);
    let rig = setup.start().await;
    let tormentor = tokio::spawn(torment(rig.tier.clone(), SmallRng::seed_from_u64(seed)));
    let workers: Vec<_> = (0..TASKS)
        .map(|task| {
            let rng = SmallRng::seed_from_u64(seed * 1000 + task as u64);
            let mut registers = vec![Register::settled(None); KEYS];
            registers.push(Register { may_be: Vec::new() });
            let worker = Worker { rig: rig.clone(), rng, task, registers, unknowns: 0, refusals: 0 };
            tokio::spawn(worker.run())
        })
        .collect();
    let mut ended = Vec::new();
    for worker in workers {
        ended.push(worker.await.expect("the model holds"));
        let stats = rig.stats().await;
        let records_bound = rig.shard.store().stats().records_bound;
        assert!(stats.records <= records_bound && stats.memory_bytes <= stats.memory_bytes_max);
    }
    tormentor.abort();
    let _ = tormentor.await; // else it may hold the tier after it was healed
    heal(&rig.tier);
    rig.until_spilled().await;
    check(&rig, &mut ended, seed).await;
    rig.shutdown().await.unwrap();
    let rig = setup.start().await;
    check(&rig, &mut ended, seed).await;
    let exist = rig.scan(5).await.len() as u64;
    assert_eq!(rig.count().await, exist, "seed {seed}");
    rig.shutdown().await.unwrap();
}

async fn check(rig: &Rig, workers: &mut [Worker], seed: u64) {
    let shared = rig.get("shared").await.unwrap_or_default();
    for worker in workers {
        for n in 0..KEYS {
            let name = format!("t{}k{n}", worker.task);
            let seen = rig.get(&name).await;
            worker.registers[n].read(seen.clone(), &format!("seed {seed}, {name}"));
            worker.registers[n] = Register::settled(seen);
        }
        for raise in worker.registers[KEYS].may_be.iter().flatten() {
            let times = shared.split(';').filter(|seen| seen == raise).count();
            assert_eq!(times, 1, "seed {seed}: raise {raise}");
        }
    }
    rig.until_spilled().await; // what the reads have pushed out
    let stats = rig.stats().await;
    assert!(stats.records <= CAPACITY as u64, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_reads_back_in_spill_mode() {
    for seed in 1..=4 {
        run(WriteMode::Spill, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_reads_back_in_behind_mode() {
    for seed in 1..=2 {
        run(WriteMode::Behind, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_reads_back_in_through_mode() {
    for seed in 1..=2 {
        run(WriteMode::Through, seed).await;
    }
}
