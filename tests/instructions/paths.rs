//! The paths: each does one thing many times, in one thread.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use overspill::bench::{Connection, Reply as Answer, Wire};
use overspill::cluster::{Assignment, Member, MemberState, ShardName};
use overspill::command::{Command, Condition, Reply};
use overspill::doors;
use overspill::node::{Secondary, SecondaryOptions, TierChoice};
use overspill::policy::PolicyKind;
use overspill::protocol::resp::{Encoder, Limits, Output, Parser, Proto};
use overspill::record::{Epoch, Key, Value};
use overspill::service::{Batch, Service};
use overspill::shard::{ShardOptions, WriteMode};
use overspill::slots::SlotSet;

use crate::Outcome;

/// They are all in memory.
const KEYS: u32 = 256;
const VALUE: [u8; 100] = [b'v'; 100];
const TIMEOUT: Duration = Duration::from_secs(60);
const START_TRIES_MAX: u32 = 10_000;

#[derive(Debug, Clone, Copy)]
pub enum HotPath {
    /// A GET is parsed, and a value encoded.
    Resp,
    /// Batches of 16 commands to a shard.
    ShardGets,
    ShardPuts,
    /// By a client, through a secondary's door and back; the client is in it.
    DoorGet,
    DoorGets,
    DoorSets,
}

impl HotPath {
    pub const ALL: [Self; 6] =
        [Self::Resp, Self::ShardGets, Self::ShardPuts, Self::DoorGet, Self::DoorGets, Self::DoorSets];

    pub fn name(self) -> &'static str {
        match self {
            Self::Resp => "RESP: a GET parsed, a value encoded",
            Self::ShardGets => "shard: GET, 16 a batch",
            Self::ShardPuts => "shard: PUT, 16 a batch",
            Self::DoorGet => "client, door, shard: GET, one at a time",
            Self::DoorGets => "client, door, shard: GET, pipelines of 16",
            Self::DoorSets => "client, door, shard: SET, pipelines of 16",
        }
    }

    /// Enough that a single operation more or less does not show.
    pub fn times(self) -> u32 {
        match self {
            Self::Resp => 4_000,
            Self::ShardGets | Self::ShardPuts | Self::DoorGets | Self::DoorSets => 2_000,
            Self::DoorGet => 500,
        }
    }

    /// Does it so often.
    pub fn run(self, times: u32) -> Outcome<()> {
        match self {
            Self::Resp => resp(times),
            Self::ShardGets => served(async |secondary| shard(secondary, times, get).await),
            Self::ShardPuts => served(async |secondary| shard(secondary, times, put).await),
            Self::DoorGet => served(async |secondary| door(secondary, times, 1, true).await),
            Self::DoorGets => served(async |secondary| door(secondary, times, 16, true).await),
            Self::DoorSets => served(async |secondary| door(secondary, times, 16, false).await),
        }
    }
}

fn resp(times: u32) -> Outcome<()> {
    let (mut parser, value) = (Parser::new(Limits::default()), Bytes::from_static(&VALUE));
    let (mut input, mut output) = (BytesMut::new(), Output::new());
    for _ in 0..times {
        input.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000000\r\n");
        parser.next(&mut input)?.ok_or("no request")?;
        Encoder::new(&mut output, Proto::Resp2).bulk_value(&value);
        if output.len() > 64 * 1024 {
            output = Output::new();
        }
    }
    Ok(())
}

/// A secondary that is a pure cache and serves all slots, with its records.
fn served(work: impl AsyncFnOnce(&Secondary) -> Outcome<()>) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = SecondaryOptions {
            bind: "127.0.0.1".to_owned(),
            port: 0,
            announce: None,
            tier: TierChoice::None,
            journal: None,
            shard: ShardOptions {
                capacity: 100_000,
                memory_bytes_max: 64 << 20,
                policy: PolicyKind::Lru,
                write_mode: WriteMode::Spill,
                accept_loss: false,
                strict: false,
                drain_timeout: TIMEOUT,
                sweep_interval: 60 * TIMEOUT,
                seed: 1, // the same hashes in each run
            },
            door: doors::Options::default(),
        };
        let secondary = Secondary::start(options).await?;
        assign(&secondary).await?;
        shard(&secondary, KEYS, put).await?;
        work(&secondary).await?;
        Ok(())
    })
}

async fn assign(secondary: &Secondary) -> Outcome<()> {
    let name = ShardName::new(secondary.address().to_string())?;
    let assignment = Assignment {
        shard: name.clone(),
        epoch: Epoch(1),
        slots: SlotSet::all(),
        list: vec![name],
        accept_loss: false,
    };
    for _ in 0..START_TRIES_MAX {
        let status = Member::assign(secondary.shard(), assignment.clone()).await?;
        if status.state == MemberState::Serving {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
    Err("the secondary does not get to serve".into())
}

fn key(number: u32) -> Outcome<Key> {
    Ok(Key::new(name(number))?)
}

fn name(number: u32) -> String {
    format!("key:{:012}", number % KEYS)
}

fn get(number: u32) -> Outcome<Command> {
    Ok(Command::Get { key: key(number)? })
}

fn put(number: u32) -> Outcome<Command> {
    let value = Value::new(Bytes::from_static(&VALUE))?;
    Ok(Command::Put { key: key(number)?, value, ttl: None, condition: Condition::Always })
}

async fn shard(secondary: &Secondary, times: u32, command: fn(u32) -> Outcome<Command>) -> Outcome<()> {
    for first in (0..times).step_by(16) {
        let commands = (first..first + 16).map(command).collect::<Outcome<Vec<_>>>()?;
        for reply in secondary.shard().execute(Batch { commands, epoch: None, timeout: TIMEOUT }).await {
            if !matches!(reply?, Reply::Found(Some(_)) | Reply::Stored(_)) {
                return Err("a record is lost".into());
            }
        }
    }
    Ok(())
}

async fn door(secondary: &Secondary, times: u32, pipeline: u32, is_get: bool) -> Outcome<()> {
    let mut connection = Connection::open(&secondary.address().to_string(), Wire::Resp, None).await?;
    for first in (0..times).step_by(pipeline as usize) {
        for number in first..first + pipeline {
            let key = name(number);
            if is_get { connection.get(key.as_bytes()) } else { connection.set(key.as_bytes(), &VALUE) }
        }
        connection.send().await?;
        for _ in 0..pipeline {
            if let (Answer::Error(error), _) = connection.receive().await? {
                return Err(error.into());
            }
        }
    }
    Ok(())
}
