//! Random work of clients that know what every key may be.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overspill::command::{Command, Condition, Reply};
use overspill::record::{Ttl, Value, Version};
use overspill::service::Error;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::client::{Client, get, key, text};

pub const KEYS: usize = 2000;
const WORKERS: usize = 4;
const BATCH_MAX: usize = 16;
/// How far the clock of a node may seem to be from ours: timestamps are whole milliseconds.
const SLACK_MS: u64 = 20;

/// A value that a key may have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Possible {
    value: String,
    /// Between these moments it expires, in milliseconds since 1970.
    dies: Option<(u64, u64)>,
}

/// What a key may be, as far as its only writer knows. `None`: it does not exist.
#[derive(Debug, Clone)]
struct State {
    possible: Vec<Option<Possible>>,
    /// Of the value, while it is certain.
    version: Option<Version>,
    /// The outcome of a write is unknown: it is not written again before all is quiet.
    in_doubt: bool,
}

impl State {
    fn certain(now: Option<Possible>, version: Option<Version>) -> Self {
        Self { possible: vec![now], version, in_doubt: false }
    }

    /// Whether a read that was asked and answered between two moments may have seen this.
    fn allows(&self, seen: Option<&str>, asked_ms: u64, answered_ms: u64) -> bool {
        self.possible.iter().any(|possible| match (possible, seen) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(Possible { value, dies }), Some(seen)) => {
                value == seen && dies.is_none_or(|(_, latest)| asked_ms <= latest + SLACK_MS)
            }
            (Some(Possible { dies, .. }), None) => dies.is_some_and(|(earliest, _)| answered_ms + SLACK_MS >= earliest),
        })
    }
}

/// What all keys may be, and what was done.
#[derive(Default)]
pub struct Ledger {
    states: HashMap<usize, State>,
    pub acknowledged: u64,
    pub unknown: u64,
}

/// Workers at work, until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<tokio::task::JoinHandle<Ledger>>,
}

static VALUES: AtomicU64 = AtomicU64::new(0);

impl Load {
    pub fn start(client: &Client, ledger: Ledger, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut shares: Vec<Ledger> = (0..WORKERS).map(|_| Ledger::default()).collect();
        for (i, state) in ledger.states {
            shares[i % WORKERS].states.insert(i, state);
        }
        shares[0].acknowledged = ledger.acknowledged;
        shares[0].unknown = ledger.unknown;
        let workers = shares.into_iter().enumerate().map(|(worker, share)| {
            let random = StdRng::seed_from_u64(seed ^ worker as u64);
            tokio::spawn(work(client.clone(), worker, share, random, Arc::clone(&stop)))
        });
        let workers = workers.collect();
        Self { stop, workers }
    }

    pub async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Ledger::default();
        for worker in self.workers {
            let share = worker.await.unwrap();
            all.states.extend(share.states);
            all.acknowledged += share.acknowledged;
            all.unknown += share.unknown;
        }
        all
    }
}

fn name(i: usize) -> String {
    format!("key:{i}")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A command on a key, and what the key is once it is done.
struct Intent {
    i: usize,
    command: Command,
    /// The value to come, and its time to live; `None` for a read.
    writes: Option<Option<(String, Option<Duration>)>>,
}

fn choose(random: &mut StdRng, i: usize, state: &State) -> Intent {
    let key = key(&name(i));
    // Relaxed: only uniqueness counts.
    let value = format!("v{}-{}", VALUES.fetch_add(1, Ordering::Relaxed), "x".repeat(random.random_range(0..200)));
    let put = |ttl: Option<Duration>, condition| {
        let (stored, ms) = (Value::new(value.clone()).unwrap(), ttl.map(|ttl| ttl.as_millis() as u64));
        let ttl_of = ms.map(|ms| Ttl::from_millis(ms).unwrap());
        let command = Command::Put { key: key.clone(), value: stored, ttl: ttl_of, condition };
        Intent { i, command, writes: Some(Some((value.clone(), ttl))) }
    };
    match (random.random_range(0..20), state.version) {
        _ if state.in_doubt => Intent { i, command: get(&name(i)), writes: None },
        (0..7, _) => put(None, Condition::Always),
        (7..9, _) => put(Some(Duration::from_millis(random.random_range(200..4000))), Condition::Always),
        (9..11, Some(version)) => put(None, Condition::Version(version)),
        (11..14, _) => Intent { i, command: Command::Delete { key: key.clone() }, writes: Some(None) },
        _ => Intent { i, command: get(&name(i)), writes: None },
    }
}

async fn work(client: Client, worker: usize, mut ledger: Ledger, mut random: StdRng, stop: Arc<AtomicBool>) -> Ledger {
    while !stop.load(Ordering::Relaxed) {
        let mut intents: Vec<Intent> = Vec::new();
        for _ in 0..random.random_range(1..=BATCH_MAX) {
            let i = random.random_range(0..KEYS / WORKERS) * WORKERS + worker;
            if intents.iter().all(|intent| intent.i != i) {
                let state = ledger.states.entry(i).or_insert_with(|| State::certain(None, None));
                intents.push(choose(&mut random, i, state));
            }
        }
        let asked_ms = now_ms();
        let replies = client.execute(intents.iter().map(|intent| intent.command.clone()).collect()).await;
        let answered_ms = now_ms();
        let mut is_refused = false;
        for (intent, reply) in intents.into_iter().zip(replies) {
            is_refused |= reply.is_err();
            ledger.note(intent, reply, asked_ms, answered_ms);
        }
        if is_refused {
            tokio::time::sleep(Duration::from_millis(5)).await; // not to spin while a node is away
        }
    }
    ledger
}

impl Ledger {
    fn note(&mut self, intent: Intent, reply: Result<Reply, Error>, asked_ms: u64, answered_ms: u64) {
        let Intent { i, command, writes } = intent;
        let state = self.states.get_mut(&i).unwrap();
        let becomes = |latest_ms: u64| {
            writes.clone().map(|write| {
                write.map(|(value, ttl)| {
                    let dies = ttl.map(|ttl| (asked_ms + ttl.as_millis() as u64, latest_ms + ttl.as_millis() as u64));
                    Possible { value, dies }
                })
            })
        };
        match (becomes(answered_ms), reply) {
            (None, Ok(Reply::Found(found))) => {
                let seen = found.as_ref().map(text);
                let ok = state.allows(seen.as_deref(), asked_ms, answered_ms);
                assert!(ok, "{} is {seen:?}, but may only be {state:?}", name(i));
            }
            (Some(now), Ok(Reply::Stored(version))) => {
                self.acknowledged += 1;
                *state = State::certain(now, Some(version));
            }
            (Some(None), Ok(Reply::Done(existed))) => {
                let seen_nothing = state.allows(None, asked_ms, answered_ms);
                assert!(existed || seen_nothing, "DEL found no {}, which is one of {state:?}", name(i));
                self.acknowledged += u64::from(existed);
                *state = State::certain(None, None);
            }
            (Some(_), Ok(Reply::Conflict(None))) if state.allows(None, asked_ms, answered_ms) => {}
            (Some(_), Ok(Reply::Conflict(version))) => {
                panic!(
                    "{} has version {version:?}; {command:?} was refused, although it may only be {state:?}",
                    name(i)
                )
            }
            (Some(_), Err(Error::Unknown(_))) => {
                self.unknown += 1;
                // It may take effect until its own time-out has passed.
                state.possible.extend(becomes(answered_ms + 30_000));
                (state.version, state.in_doubt) = (None, true);
            }
            (_, Err(Error::Busy(_) | Error::Unavailable(_) | Error::WrongShard { .. })) => {}
            (_, reply) => panic!("{}: {command:?} was answered {reply:?}", name(i)),
        }
    }

    /// Reads every key, once all is quiet.
    pub async fn check(&mut self, client: &Client) {
        let mut keys: Vec<usize> = self.states.keys().copied().collect();
        keys.sort_unstable();
        for keys in keys.chunks(200) {
            let mut left: Vec<usize> = keys.to_vec();
            crate::support::eventually("every key is served", async || {
                let asked_ms = now_ms();
                let replies = client.execute(left.iter().map(|&i| get(&name(i))).collect()).await;
                let answered_ms = now_ms();
                let mut again = Vec::new();
                for (&i, reply) in left.iter().zip(replies) {
                    let state = self.states.get_mut(&i).unwrap();
                    state.in_doubt = false;
                    match reply {
                        Ok(Reply::Found(found)) => {
                            let seen = found.as_ref().map(text);
                            let ok = state.allows(seen.as_deref(), asked_ms, answered_ms);
                            assert!(ok, "{} is {seen:?}, but may only be {state:?}", name(i));
                        }
                        Err(Error::Unavailable(_) | Error::Busy(_) | Error::WrongShard { .. }) => again.push(i),
                        other => panic!("{}: {other:?}", name(i)),
                    }
                }
                left = again;
                left.is_empty().then_some(())
            })
            .await;
        }
    }
}
