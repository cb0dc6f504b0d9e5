//! Requests to the connection, the node and the cluster.

use bytes::Bytes;

use super::words::{Words, is, shown};
use super::{Action, Refusal, Shape, Translated};
use crate::command::Command;
use crate::number::parse_integer;
use crate::record::Key;
use crate::slots::Slot;

/// Longest name that a client may have, and its library.
const NAME_BYTES_MAX: usize = 1024;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub enum System {
    Ping(Option<Bytes>),
    Echo(Bytes),
    Quit,
    Reset,
    Auth {
        user: Option<Bytes>,
        password: Bytes,
    },
    Hello(Hello),
    /// A database that is not there.
    SelectOther,
    /// The subcommands of a command.
    Help(&'static str),
    /// There is nothing to do.
    Ok,
    /// Always the same number.
    Integer(i64),
    EmptyList,
    Text(&'static str),
    Time,
    Role,
    Info(Vec<Bytes>),
    ConfigGet(Vec<Bytes>),
    ClientId,
    ClientInfo,
    ClientList,
    ClientGetName,
    ClientSetName(Bytes),
    ClientSetInfo {
        is_version: bool,
        value: Bytes,
    },
    ClientReply(ClientReply),
    CommandCount,
    CommandList,
    /// All of them if none is named.
    CommandDocs(Vec<Bytes>),
    CommandInfo(Vec<Bytes>),
    CommandGetKeys(Vec<Bytes>),
    ClusterInfo,
    ClusterMyId,
    ClusterNodes,
    ClusterShards,
    ClusterSlots,
    ClusterKeySlot(Key),
    ClusterCountKeysInSlot(Slot),
    ClusterGetKeysInSlot(Slot, usize),
}

/// What a client says of itself when it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// 2 or 3; `None` asks only.
    pub version: Option<u8>,
    pub auth: Option<(Bytes, Bytes)>,
    pub name: Option<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientReply {
    On,
    Off,
    /// Not to the next request.
    Skip,
}

fn system(system: System) -> Translated {
    Ok(Action::System(Box::new(system)))
}

pub(super) fn ok(_: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    system(System::Ok)
}

pub(super) fn ping(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    let message = if words.is_empty() { None } else { Some(words.bytes()?) };
    if words.is_empty() { system(System::Ping(message)) } else { Err(Refusal::arity(words.name())) }
}

pub(super) fn echo(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    system(System::Echo(words.bytes()?))
}

pub(super) fn quit(_: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    system(System::Quit)
}

pub(super) fn reset(_: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    system(System::Reset)
}

pub(super) fn select(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    let number = words.integer()?;
    match i32::try_from(number) {
        Ok(0) => system(System::Ok),
        Ok(_) => system(System::SelectOther),
        Err(_) => Err(Refusal::err("value is out of range, value must between -2147483648 and 2147483647")),
    }
}

pub(super) fn auth(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    let first = words.bytes()?;
    let auth = match words.len() {
        0 => System::Auth { user: None, password: first },
        _ => System::Auth { user: Some(first), password: words.bytes()? },
    };
    if words.is_empty() { system(auth) } else { Err(Refusal::syntax()) }
}

pub(super) fn hello(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    let mut hello = Hello { version: None, auth: None, name: None };
    if let Some(version) = words.option() {
        hello.version = match parse_integer(version) {
            Some(version @ 2..=3) => Some(version as u8),
            Some(_) => return Err(Refusal("NOPROTO unsupported protocol version".to_owned())),
            None => return Err(Refusal::err("Protocol version is not an integer or out of range")),
        };
    }
    while let Some(word) = words.option() {
        let unknown = || Refusal::err(format_args!("Syntax error in HELLO option '{}'", shown(word)));
        if is(word, "AUTH") && words.len() >= 2 {
            hello.auth = Some((words.bytes()?, words.bytes()?));
        } else if is(word, "SETNAME") && !words.is_empty() {
            hello.name = Some(client_name(words.next()?)?);
        } else {
            return Err(unknown());
        }
    }
    system(System::Hello(hello))
}

fn client_name(name: &[u8]) -> Result<Bytes, Refusal> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Refusal::err(format_args!("Client names cannot have more than {NAME_BYTES_MAX} bytes.")));
    }
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(Bytes::copy_from_slice(name));
    }
    Err(Refusal::err("Client names cannot contain spaces, newlines or special characters."))
}

pub(super) fn time(_: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    system(System::Time)
}

pub(super) fn role(_: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    system(System::Role)
}

/// There are no replicas yet, and what was acknowledged is durable here.
pub(super) fn wait(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    words.integer()?;
    match parse_integer(words.next()?) {
        Some(0..) => system(System::Integer(0)),
        Some(_) => Err(Refusal::err("timeout is negative")),
        None => Err(Refusal::err("timeout is not an integer or out of range")),
    }
}

pub(super) fn info(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    system(System::Info(rest(words)))
}

fn rest(words: &mut Words<'_>) -> Vec<Bytes> {
    std::iter::from_fn(|| words.option()).map(Bytes::copy_from_slice).collect()
}

/// A subcommand with its full name, as in `client|id`, and how many words follow it: so many, or at least so many.
type Sub = (&'static str, usize, bool);

/// Finds the subcommand, in lower case after the bar, that the next word names.
fn subcommand(words: &mut Words<'_>, subs: &[Sub]) -> Result<&'static str, Refusal> {
    let word = words.next()?;
    for &(full, count, may_be_more) in subs {
        let Some((_, name)) = full.split_once('|') else { continue };
        if word.eq_ignore_ascii_case(name.as_bytes()) {
            let has_right_count = words.len() == count || (may_be_more && words.len() > count);
            return if has_right_count { Ok(name) } else { Err(Refusal::arity(full)) };
        }
    }
    let command = words.name().to_ascii_uppercase();
    Err(Refusal::err(format_args!("unknown subcommand '{}'. Try {command} HELP.", shown(word))))
}

pub(super) fn client(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    let subs = &[
        ("client|id", 0, false),
        ("client|info", 0, false),
        ("client|list", 0, true),
        ("client|getname", 0, false),
        ("client|setname", 1, false),
        ("client|setinfo", 2, false),
        ("client|reply", 1, false),
        ("client|no-evict", 1, false),
        ("client|no-touch", 1, false),
    ];
    match subcommand(words, subs)? {
        "id" => system(System::ClientId),
        "info" => system(System::ClientInfo),
        "list" => system(System::ClientList),
        "getname" => system(System::ClientGetName),
        "setname" => system(System::ClientSetName(client_name(words.next()?)?)),
        "setinfo" => {
            let (what, value) = (words.next()?, client_name(words.next()?)?);
            match what {
                what if is(what, "LIB-NAME") => system(System::ClientSetInfo { is_version: false, value }),
                what if is(what, "LIB-VER") => system(System::ClientSetInfo { is_version: true, value }),
                what => Err(Refusal::err(format_args!("Unrecognized option '{}'", shown(what)))),
            }
        }
        "reply" => match words.next()? {
            mode if is(mode, "ON") => system(System::ClientReply(ClientReply::On)),
            mode if is(mode, "OFF") => system(System::ClientReply(ClientReply::Off)),
            mode if is(mode, "SKIP") => system(System::ClientReply(ClientReply::Skip)),
            _ => Err(Refusal::syntax()),
        },
        _ => match words.next()? {
            mode if is(mode, "ON") || is(mode, "OFF") => system(System::Ok),
            _ => Err(Refusal::syntax()),
        },
    }
}

pub(super) fn command(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    if words.is_empty() {
        return system(System::CommandInfo(Vec::new()));
    }
    let subs = &[
        ("command|count", 0, false),
        ("command|list", 0, false),
        ("command|docs", 0, true),
        ("command|info", 0, true),
        ("command|getkeys", 2, true),
    ];
    match subcommand(words, subs)? {
        "count" => system(System::CommandCount),
        "list" => system(System::CommandList),
        "docs" => system(System::CommandDocs(rest(words))),
        "info" => system(System::CommandInfo(rest(words))),
        _ => system(System::CommandGetKeys(rest(words))),
    }
}

pub(super) fn config(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    match subcommand(words, &[("config|get", 1, true), ("config|set", 2, true), ("config|resetstat", 0, false)])? {
        "get" => system(System::ConfigGet(rest(words))),
        "set" => Err(Refusal::err("CONFIG SET is not supported: a node is configured by its command line")),
        _ => system(System::Ok),
    }
}

pub(super) fn slowlog(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    match subcommand(words, &[("slowlog|get", 0, true), ("slowlog|len", 0, false), ("slowlog|reset", 0, false)])? {
        "get" => system(System::EmptyList),
        "len" => system(System::Integer(0)),
        _ => system(System::Ok),
    }
}

pub(super) fn latency(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    let subs = &[("latency|latest", 0, false), ("latency|history", 1, false), ("latency|reset", 0, true)];
    match subcommand(words, subs)? {
        "reset" => system(System::Integer(0)),
        _ => system(System::EmptyList),
    }
}

pub(super) fn memory(words: &mut Words<'_>, batch: &mut Vec<Command>) -> Translated {
    let subs = &[("memory|usage", 1, true), ("memory|doctor", 0, false), ("memory|purge", 0, false)];
    match subcommand(words, subs)? {
        "usage" => {
            batch.push(Command::Explain { key: words.key()? });
            Ok(Action::Data(Shape::MemoryUsage))
        }
        "doctor" => {
            system(System::Text("Ask /metrics: memory used and its bound are kv_memory_bytes and kv_memory_bytes_max."))
        }
        _ => system(System::Ok),
    }
}

pub(super) fn module(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    subcommand(words, &[("module|list", 0, false)])?;
    system(System::EmptyList)
}

pub(super) fn acl(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    subcommand(words, &[("acl|whoami", 0, false)])?;
    system(System::Text("default"))
}

pub(super) fn cluster(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    let subs = &[
        ("cluster|info", 0, false),
        ("cluster|myid", 0, false),
        ("cluster|nodes", 0, false),
        ("cluster|shards", 0, false),
        ("cluster|slots", 0, false),
        ("cluster|keyslot", 1, false),
        ("cluster|countkeysinslot", 1, false),
        ("cluster|getkeysinslot", 2, false),
    ];
    match subcommand(words, subs)? {
        "info" => system(System::ClusterInfo),
        "myid" => system(System::ClusterMyId),
        "nodes" => system(System::ClusterNodes),
        "shards" => system(System::ClusterShards),
        "slots" => system(System::ClusterSlots),
        "keyslot" => system(System::ClusterKeySlot(words.key()?)),
        "countkeysinslot" => match slot(words.integer()?) {
            Some(slot) => system(System::ClusterCountKeysInSlot(slot)),
            None => Err(Refusal::err("Invalid slot")),
        },
        _ => match (slot(words.integer()?), usize::try_from(words.integer()?)) {
            (Some(slot), Ok(count)) => system(System::ClusterGetKeysInSlot(slot, count)),
            _ => Err(Refusal::err("Invalid slot or number of keys")),
        },
    }
}

fn slot(number: i64) -> Option<Slot> {
    Slot::try_from(u16::try_from(number).ok()?).ok()
}

pub(super) fn refused(words: &mut Words<'_>, _: &mut Vec<Command>) -> Translated {
    let name = words.name().to_ascii_uppercase();
    let why = match words.name() {
        "multi" | "exec" | "discard" | "watch" | "unwatch" => {
            "each command is atomic for its keys; there are no transactions yet"
        }
        "eval" | "evalsha" | "fcall" | "script" | "function" => "there is no scripting",
        "subscribe" | "unsubscribe" | "psubscribe" | "punsubscribe" | "ssubscribe" | "sunsubscribe" | "publish"
        | "spublish" | "pubsub" | "monitor" => "there are no channels",
        "shutdown" => "stop the process with SIGTERM, so that it spills what it has",
        _ => "every acknowledged write is durable already",
    };
    Err(Refusal::err(format_args!("{name} is not supported: {why}")))
}
