//! The clients, and the network between them and the shards: requests and replies are delayed, lost, doubled and overtaken, and
//! connections break while a handler runs. What a shard was asked and said is noted at its door.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use overspill::command::{Command, Condition, Existence, NewExpiry, Reply, Update};
use overspill::record::{Epoch, Ttl, Version};
use overspill::service::{Batch, Error, Replies, Service};
use overspill::slots::{Slot, SlotSet};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::history::{Answer, Ask, OpId, answer_of};
use crate::invariants;
use crate::plan::{Fate, Spec, Step, Verb};
use crate::world::{Process, World, value_id};

/// What a client knows of the cluster.
#[derive(Clone)]
struct Map {
    epoch: u64,
    slots: Vec<SlotSet>,
}

/// A command with what it means to the key's history.
#[derive(Clone)]
struct Asked {
    key: usize,
    command: Command,
    ask: Ask,
}

/// A batch on its way to a shard.
#[derive(Clone)]
struct Parcel {
    name: usize,
    asked: Vec<Asked>,
    epoch: Option<Epoch>,
    timeout: Duration,
}

pub async fn run(world: Arc<World>, client: usize) {
    let mut map = current_map(&world);
    let mut seen: BTreeMap<usize, Version> = BTreeMap::new();
    for (i, step) in world.plan.clients[client].iter().enumerate() {
        sleep(Duration::from_millis(u64::from(step.pause_ms))).await;
        if i % 20 == 0 {
            map = current_map(&world);
        }
        world.faults.add(step.fate.faults());
        if !try_step(&world, step, &map, &mut seen).await {
            map = current_map(&world);
        }
    }
}

fn current_map(world: &World) -> Map {
    let primary = world.primary.lock();
    Map { epoch: primary.epoch, slots: primary.slots.clone() }
}

/// Sends a step's commands and waits for the answers, but not for ever. Answers whether all went well.
async fn try_step(world: &Arc<World>, step: &Step, map: &Map, seen: &mut BTreeMap<usize, Version>) -> bool {
    let mut parcels: BTreeMap<usize, Vec<Asked>> = BTreeMap::new();
    for spec in &step.calls {
        let slot = Slot::of(&world.keys[spec.key]);
        let name = map.slots.iter().position(|slots| slots.contains(slot)).unwrap_or(0);
        parcels.entry(name).or_default().push(asked(world, spec, seen));
    }
    let mut answers = Vec::new();
    for (name, asked) in parcels {
        let epoch = step.tells_epoch.then_some(Epoch(map.epoch));
        let parcel = Parcel { name, asked, epoch, timeout: Duration::from_millis(u64::from(step.timeout_ms)) };
        answers.push((parcel.clone(), send(world, parcel, step.fate)));
    }
    let mut is_well = true;
    for (parcel, answer) in answers {
        let Ok(Ok(replies)) = timeout(parcel.timeout + Duration::from_millis(500), answer).await else {
            is_well = false;
            continue;
        };
        for (asked, reply) in parcel.asked.iter().zip(&replies) {
            match reply {
                Ok(Reply::Stored(version) | Reply::Conflict(Some(version))) => drop(seen.insert(asked.key, *version)),
                Ok(Reply::Found(Some(found))) => drop(seen.insert(asked.key, found.version)),
                Ok(_) => {}
                Err(_) => is_well = false,
            }
        }
    }
    is_well
}

fn asked(world: &World, spec: &Spec, seen: &BTreeMap<usize, Version>) -> Asked {
    let key = world.keys[spec.key].clone();
    let ttl = |ms: u32| Ttl::from_millis(u64::from(ms)).ok();
    let put = |condition, ttl_ms: Option<u32>| {
        let (id, value) = world.new_value();
        (id, Command::Put { key: key.clone(), value, ttl: ttl_ms.and_then(ttl), condition })
    };
    let (ask, command) = match spec.verb {
        Verb::Get => (Ask::Get, Command::Get { key }),
        Verb::Put { ttl_ms } => {
            let (value, command) = put(Condition::Always, ttl_ms);
            (Ask::Put { value, ttl_ms: ttl_ms.map(u64::from) }, command)
        }
        Verb::PutAbsent { ttl_ms } => {
            let (value, command) = put(Condition::Absent, ttl_ms);
            (Ask::PutAbsent { value, ttl_ms: ttl_ms.map(u64::from) }, command)
        }
        Verb::Cas => {
            let expected = seen.get(&spec.key).copied().unwrap_or(Version::new(1, 1));
            let (value, command) = put(Condition::Version(expected), None);
            (Ask::Cas { value, expected }, command)
        }
        Verb::Delete => (Ask::Delete, Command::Delete { key }),
        Verb::Exists => (Ask::Exists, Command::Exists { key }),
        Verb::Ttl => (Ask::Ttl, Command::Ttl { key }),
        Verb::Expire { ttl_ms } => {
            let ttl = Ttl::from_millis(u64::from(ttl_ms)).expect("a time to live within its bounds");
            (Ask::Expire { ttl_ms: u64::from(ttl_ms) }, Command::Expire { key, ttl })
        }
        Verb::Persist => (Ask::Persist, Command::Persist { key }),
        Verb::Swap { ttl_ms } => {
            let (id, value) = world.new_value();
            let expiry = ttl_ms.and_then(ttl).map_or(NewExpiry::Never, NewExpiry::In);
            let update = Update::Set { value, expiry, existence: Existence::Any, answer_old: true };
            (Ask::Swap { value: id, ttl_ms: ttl_ms.map(u64::from) }, Command::Update { key, update })
        }
        Verb::Take => (Ask::Take, Command::Update { key, update: Update::Take }),
        Verb::Add => match world.next_addition(spec.key) {
            Some(by) => (Ask::Add { by }, Command::Update { key, update: Update::Add { by: by as i64 } }),
            None => (Ask::Get, Command::Get { key }),
        },
    };
    Asked { key: spec.key, command, ask }
}

fn send(world: &Arc<World>, parcel: Parcel, fate: Fate) -> oneshot::Receiver<Replies> {
    if let Some(after_ms) = fate.again_after_ms {
        let again = Fate { again_after_ms: None, request_ms: fate.request_ms + after_ms, ..fate };
        drop(send(world, parcel.clone(), again));
    }
    let (tx, rx) = oneshot::channel();
    let world = Arc::clone(world);
    tokio::spawn(async move {
        let time = |ms: u32| Duration::from_millis(u64::from(ms));
        sleep(time(fate.request_ms)).await;
        let Some(process) = world.up(parcel.name).filter(|process| process.is_heard() && !fate.loses_request) else {
            return;
        };
        let work = execute(&world, &process, parcel);
        let replies = match fate.breaks_after_ms {
            None => work.await,
            Some(ms) => match timeout(time(ms), work).await {
                Ok(replies) => replies,
                Err(_) => {
                    world.trace.note(format_args!("a connection to {process} breaks"));
                    return;
                }
            },
        };
        sleep(time(fate.reply_ms)).await;
        if !fate.loses_reply
            && let Some(replies) = replies
        {
            let _ = tx.send(replies); // the client may have given up
        }
    });
    rx
}

/// At the door of a shard. `None` if nobody hears the answer.
async fn execute(world: &Arc<World>, process: &Arc<Process>, parcel: Parcel) -> Option<Replies> {
    let clock = world.clock_ms();
    let mut ids = Vec::with_capacity(parcel.asked.len());
    for asked in &parcel.asked {
        world.trace.note(format_args!("{process} ← k{} {:?}", asked.key, asked.ask));
        ids.push(world.history.lock().begin(asked.key, asked.ask, clock));
        world.witness.lock().begins(asked.key, asked.ask, process.life);
    }
    let commands = parcel.asked.iter().map(|asked| asked.command.clone()).collect();
    let batch = Batch { commands, epoch: parcel.epoch, timeout: parcel.timeout };
    let replies = process.shard().execute(batch).await;
    if !process.is_heard() {
        return None;
    }
    if replies.len() != parcel.asked.len() {
        world.fail(format!("{} commands, and {} replies", parcel.asked.len(), replies.len()));
        return None;
    }
    let clock = world.clock_ms();
    for ((asked, id), reply) in parcel.asked.iter().zip(ids).zip(&replies) {
        note_reply(world, process, asked, id, reply, clock);
    }
    Some(replies)
}

fn note_reply(world: &World, process: &Process, asked: &Asked, id: OpId, reply: &Result<Reply, Error>, clock: u64) {
    let answer = answer_of(reply, value_id);
    world.trace.note(format_args!("{process} → k{} {:?}: {answer:?}", asked.key, asked.ask));
    match answer {
        Ok(answer) => {
            world.history.lock().end(id, answer, clock);
            world.witness.lock().ends(asked.key, asked.ask, process.life);
            invariants::answered_is_committed(world, process, asked.key, asked.ask, answer);
        }
        Err(Some(error)) => {
            world.history.lock().not_done(id);
            world.witness.lock().ends(asked.key, asked.ask, process.life);
            invariants::refusal_fits(world, &error);
        }
        Err(None) if !asked.ask.is_write() => {
            world.fail(format!("a read of k{} answered `outcome unknown`", asked.key))
        }
        Err(None) => {}
    }
    invariants::check_key(world, asked.key);
}

/// Reads a key as the last client does, again until there is an answer.
pub async fn read(world: &Arc<World>, key: usize) -> Option<Answer> {
    let command = Command::Get { key: world.keys[key].clone() };
    for _ in 0..100 {
        let Some(process) = world.server(Slot::of(&world.keys[key])) else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let asked = vec![Asked { key, command: command.clone(), ask: Ask::Get }];
        let parcel = Parcel { name: process.name, asked, epoch: None, timeout: Duration::from_secs(5) };
        let replies = execute(world, &process, parcel).await?;
        if let Some(Ok(answer)) = replies.first().map(|reply| answer_of(reply, value_id)) {
            return Some(answer);
        }
        sleep(Duration::from_millis(100)).await;
    }
    None
}
