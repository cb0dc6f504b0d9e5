//! All commands, in one table: what `COMMAND` tells, what `docs/commands.md` is made of, and how their words are read.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;

use foldhash::fast::RandomState;

use super::words::{Words, is, shown};
use super::{Action, Flag, Group, Keys, Refusal, Spec, System, Translated, keys, strings, system};
use crate::command::Command;
use crate::protocol::resp::Args;

/// Longest name of a command.
const NAME_BYTES_MAX: usize = 32;
/// Commands whose first word names a subcommand.
const CONTAINERS: &[&str] =
    &["acl", "client", "cluster", "command", "config", "latency", "memory", "module", "object", "slowlog"];
/// How much of an unknown command is shown.
const SHOWN_BYTES_MAX: usize = 128;

const READ: &[Flag] = &[Flag::Readonly];
const READ_FAST: &[Flag] = &[Flag::Readonly, Flag::Fast];
const WRITE: &[Flag] = &[Flag::Write];
const WRITE_FAST: &[Flag] = &[Flag::Write, Flag::Fast];
const FAST: &[Flag] = &[Flag::Fast];
const ADMIN: &[Flag] = &[Flag::Admin];
const OPEN: &[Flag] = &[Flag::Fast, Flag::NoAuth];

type Translate = fn(&mut Words<'_>, &mut Vec<Command>) -> Translated;

#[expect(clippy::too_many_arguments, reason = "one row of the table")]
const fn spec(
    group: Group,
    name: &'static str,
    syntax: &'static str,
    arity: i32,
    flags: &'static [Flag],
    keys: Keys,
    translate: Translate,
    summary: &'static str,
) -> Spec {
    Spec { name, syntax, summary, group, arity, flags, keys, translate }
}

const fn refused(name: &'static str, summary: &'static str) -> Spec {
    spec(Group::Refused, name, "", -1, FAST, Keys::NONE, system::refused, summary)
}

use Group::{Cluster, Connection, Generic, Server, String};

#[rustfmt::skip]
static TABLE: &[Spec] = &[
    spec(String, "append", "key value", 3, WRITE_FAST, Keys::ONE, strings::append, "Appends to a value; creates the key if it is missing."),
    spec(String, "decr", "key", 2, WRITE_FAST, Keys::ONE, strings::decr, "Subtracts one from an integer; 0 if the key is missing."),
    spec(String, "decrby", "key decrement", 3, WRITE_FAST, Keys::ONE, strings::decrby, "Subtracts from an integer; 0 if the key is missing."),
    spec(String, "get", "key", 2, READ_FAST, Keys::ONE, strings::get, "The value of a key."),
    spec(String, "getdel", "key", 2, WRITE_FAST, Keys::ONE, strings::getdel, "The value of a key, which is deleted."),
    spec(String, "getex", "key [EX seconds | PX milliseconds | EXAT unix-seconds | PXAT unix-milliseconds | PERSIST]", -2, WRITE_FAST, Keys::ONE, strings::getex, "The value of a key, whose expiry is set or taken away."),
    spec(String, "getrange", "key start end", 4, READ, Keys::ONE, strings::getrange, "A part of a value; negative positions count from its end."),
    spec(String, "getset", "key value", 3, WRITE_FAST, Keys::ONE, strings::getset, "Stores a value and answers the old one."),
    spec(String, "incr", "key", 2, WRITE_FAST, Keys::ONE, strings::incr, "Adds one to an integer; 0 if the key is missing."),
    spec(String, "incrby", "key increment", 3, WRITE_FAST, Keys::ONE, strings::incrby, "Adds to an integer; 0 if the key is missing."),
    spec(String, "incrbyfloat", "key increment", 3, WRITE_FAST, Keys::ONE, strings::incrbyfloat, "Adds to a decimal; 0 if the key is missing."),
    spec(String, "mget", "key [key ...]", -2, READ_FAST, Keys::ALL, strings::mget, "The values of several keys."),
    spec(String, "mset", "key value [key value ...]", -3, WRITE, Keys::PAIRS, strings::mset, "Stores several values, each for itself."),
    spec(String, "msetnx", "key value [key value ...]", -3, WRITE, Keys::PAIRS, strings::msetnx, "Stores values for keys of one slot if none of them exists, all or none."),
    spec(String, "psetex", "key milliseconds value", 4, WRITE, Keys::ONE, strings::psetex, "Stores a value with a time to live."),
    spec(String, "set", "key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-seconds | PXAT unix-milliseconds | KEEPTTL]", -3, WRITE, Keys::ONE, strings::set, "Stores a value."),
    spec(String, "setex", "key seconds value", 4, WRITE, Keys::ONE, strings::setex, "Stores a value with a time to live."),
    spec(String, "setnx", "key value", 3, WRITE_FAST, Keys::ONE, strings::setnx, "Stores a value if the key does not exist."),
    spec(String, "setrange", "key offset value", 4, WRITE, Keys::ONE, strings::setrange, "Overwrites a part of a value, which grows with zeros."),
    spec(String, "strlen", "key", 2, READ_FAST, Keys::ONE, strings::strlen, "The length of a value."),
    spec(String, "substr", "key start end", 4, READ, Keys::ONE, strings::getrange, "As GETRANGE."),

    spec(Generic, "copy", "source destination [DB 0] [REPLACE]", -3, WRITE, Keys::TWO, keys::copy, "Copies a value with its expiry to another key of its slot."),
    spec(Generic, "del", "key [key ...]", -2, WRITE, Keys::ALL, keys::del, "Deletes keys; answers how many existed."),
    spec(Generic, "exists", "key [key ...]", -2, READ_FAST, Keys::ALL, keys::exists, "How many of the keys exist."),
    spec(Generic, "expire", "key seconds [NX | XX | GT | LT]", -3, WRITE_FAST, Keys::ONE, keys::expire, "Sets the time to live."),
    spec(Generic, "expireat", "key unix-seconds [NX | XX | GT | LT]", -3, WRITE_FAST, Keys::ONE, keys::expireat, "Sets the moment of expiry."),
    spec(Generic, "expiretime", "key", 2, READ_FAST, Keys::ONE, keys::expiretime, "The moment of expiry in seconds; -1 without one, -2 without the key."),
    spec(Generic, "keys", "pattern", 2, READ, Keys::NONE, keys::keys, "All keys that match, from memory and tier. SCAN is kinder."),
    spec(Generic, "object", "ENCODING | FREQ | IDLETIME | REFCOUNT key", -2, READ, Keys::SECOND, keys::object, "What tools like to know of a value."),
    spec(Generic, "persist", "key", 2, WRITE_FAST, Keys::ONE, keys::persist, "Takes the expiry away."),
    spec(Generic, "pexpire", "key milliseconds [NX | XX | GT | LT]", -3, WRITE_FAST, Keys::ONE, keys::pexpire, "Sets the time to live."),
    spec(Generic, "pexpireat", "key unix-milliseconds [NX | XX | GT | LT]", -3, WRITE_FAST, Keys::ONE, keys::pexpireat, "Sets the moment of expiry."),
    spec(Generic, "pexpiretime", "key", 2, READ_FAST, Keys::ONE, keys::pexpiretime, "The moment of expiry in milliseconds; -1 without one, -2 without the key."),
    spec(Generic, "pttl", "key", 2, READ_FAST, Keys::ONE, keys::pttl, "What is left of the time to live in milliseconds; -1 without one, -2 without the key."),
    spec(Generic, "randomkey", "", 1, READ, Keys::NONE, keys::randomkey, "Some key."),
    spec(Generic, "rename", "key newkey", 3, WRITE, Keys::TWO, keys::rename, "Gives a value another key of its slot."),
    spec(Generic, "renamenx", "key newkey", 3, WRITE_FAST, Keys::TWO, keys::renamenx, "As RENAME, if the other key does not exist."),
    spec(Generic, "scan", "cursor [MATCH pattern] [COUNT count] [TYPE type]", -2, READ, Keys::NONE, keys::scan, "A page of keys, from memory and tier."),
    spec(Generic, "touch", "key [key ...]", -2, READ_FAST, Keys::ALL, keys::exists, "How many of the keys exist."),
    spec(Generic, "ttl", "key", 2, READ_FAST, Keys::ONE, keys::ttl, "What is left of the time to live in seconds; -1 without one, -2 without the key."),
    spec(Generic, "type", "key", 2, READ_FAST, Keys::ONE, keys::key_type, "`string`, or `none` if the key does not exist."),
    spec(Generic, "unlink", "key [key ...]", -2, WRITE_FAST, Keys::ALL, keys::del, "As DEL."),
    spec(Generic, "wait", "replicas timeout", 3, &[], Keys::NONE, system::wait, "How many replicas have the writes: 0, there are none yet."),

    spec(Connection, "auth", "[username] password", -2, OPEN, Keys::NONE, system::auth, "Tells the password."),
    spec(Connection, "client", "ID | INFO | LIST | GETNAME | SETNAME name | SETINFO LIB-NAME|LIB-VER value | REPLY ON|OFF|SKIP | NO-EVICT ON|OFF | NO-TOUCH ON|OFF", -2, ADMIN, Keys::NONE, system::client, "About this connection and the others."),
    spec(Connection, "echo", "message", 2, FAST, Keys::NONE, system::echo, "Answers the message."),
    spec(Connection, "hello", "[2|3 [AUTH username password] [SETNAME name]]", -1, OPEN, Keys::NONE, system::hello, "Chooses the protocol."),
    spec(Connection, "ping", "[message]", -1, FAST, Keys::NONE, system::ping, "Answers PONG, or the message."),
    spec(Connection, "quit", "", -1, OPEN, Keys::NONE, system::quit, "Ends the connection."),
    spec(Connection, "reset", "", 1, OPEN, Keys::NONE, system::reset, "Makes the connection as it was at its beginning."),
    spec(Connection, "select", "0", 2, FAST, Keys::NONE, system::select, "There is one database: 0."),

    spec(Server, "acl", "WHOAMI", -2, ADMIN, Keys::NONE, system::acl, "Who the client is: `default`."),
    spec(Server, "command", "[COUNT | LIST | DOCS [name ...] | INFO [name ...] | GETKEYS command [arg ...]]", -1, &[], Keys::NONE, system::command, "About the commands."),
    spec(Server, "config", "GET pattern [pattern ...] | RESETSTAT", -2, ADMIN, Keys::NONE, system::config, "Settings, by the names that they have in Redis."),
    spec(Server, "dbsize", "", 1, READ_FAST, Keys::NONE, keys::dbsize, "How many keys there are, in memory and tier."),
    spec(Server, "flushall", "[ASYNC | SYNC]", -1, WRITE, Keys::NONE, keys::flush, "Deletes all keys, one after the other."),
    spec(Server, "flushdb", "[ASYNC | SYNC]", -1, WRITE, Keys::NONE, keys::flush, "As FLUSHALL."),
    spec(Server, "info", "[section ...]", -1, &[], Keys::NONE, system::info, "Figures."),
    spec(Server, "latency", "LATEST | HISTORY event | RESET [event ...]", -2, ADMIN, Keys::NONE, system::latency, "Empty: see the histograms at /metrics."),
    spec(Server, "memory", "USAGE key [SAMPLES count] | DOCTOR | PURGE", -2, READ, Keys::SECOND, system::memory, "What a record takes."),
    spec(Server, "module", "LIST", -2, ADMIN, Keys::NONE, system::module, "There are none."),
    spec(Server, "role", "", 1, FAST, Keys::NONE, system::role, "Always a master without replicas."),
    spec(Server, "slowlog", "GET [count] | LEN | RESET", -2, ADMIN, Keys::NONE, system::slowlog, "Empty: see the histograms at /metrics."),
    spec(Server, "time", "", 1, FAST, Keys::NONE, system::time, "The node's clock: seconds and microseconds."),

    spec(Cluster, "asking", "", 1, FAST, Keys::NONE, system::ok, "Does nothing: slots move whole."),
    spec(Cluster, "cluster", "INFO | MYID | NODES | SHARDS | SLOTS | KEYSLOT key | COUNTKEYSINSLOT slot | GETKEYSINSLOT slot count", -2, &[], Keys::NONE, system::cluster, "Who serves which slots."),
    spec(Cluster, "readonly", "", 1, FAST, Keys::NONE, system::ok, "Does nothing: there are no replicas yet."),
    spec(Cluster, "readwrite", "", 1, FAST, Keys::NONE, system::ok, "Does nothing: there are no replicas yet."),

    refused("bgrewriteaof", "Every acknowledged write is in the journal."),
    refused("bgsave", "Every acknowledged write is in the journal."),
    refused("discard", "No transactions yet."),
    refused("eval", "No scripting."),
    refused("evalsha", "No scripting."),
    refused("exec", "No transactions yet."),
    refused("fcall", "No scripting."),
    refused("function", "No scripting."),
    refused("monitor", "No channels."),
    refused("multi", "No transactions yet."),
    refused("psubscribe", "No channels."),
    refused("publish", "No channels."),
    refused("pubsub", "No channels."),
    refused("punsubscribe", "No channels."),
    refused("save", "Every acknowledged write is in the journal."),
    refused("script", "No scripting."),
    refused("shutdown", "Stop the process with SIGTERM."),
    refused("spublish", "No channels."),
    refused("ssubscribe", "No channels."),
    refused("subscribe", "No channels."),
    refused("sunsubscribe", "No channels."),
    refused("unsubscribe", "No channels."),
    refused("unwatch", "No transactions yet."),
    refused("watch", "No transactions yet."),
];

static BY_NAME: LazyLock<HashMap<&'static [u8], &'static Spec, RandomState>> =
    LazyLock::new(|| TABLE.iter().map(|spec| (spec.name.as_bytes(), spec)).collect());

/// Every command.
pub fn all() -> &'static [Spec] {
    TABLE
}

/// The command of a name in any case.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut buffer = [0; NAME_BYTES_MAX];
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    BY_NAME.get(&*lower).copied()
}

/// The command of a request. `last`: that of the one before, which is the likeliest.
///
/// # Errors
/// What to answer if there is none, or if it takes another number of words.
#[inline]
pub fn spec_of(request: &Args<'_>, last: Option<&'static Spec>) -> Result<&'static Spec, Refusal> {
    let name = request.get(0).unwrap_or_default();
    let last = last.filter(|last| name.eq_ignore_ascii_case(last.name.as_bytes()));
    let Some(spec) = last.or_else(|| find(name)) else { return Err(unknown(request)) };
    let count = i32::try_from(request.len()).unwrap_or(i32::MAX);
    if (spec.arity > 0 && count != spec.arity) || count < -spec.arity {
        return Err(Refusal::arity(spec.name));
    }
    Ok(spec)
}

impl Spec {
    /// What a request of this command asks for; its commands on keys, if it has any, are put at the end of the batch.
    ///
    /// # Errors
    /// What to answer instead. Some commands may have been put to the batch before it was found out.
    pub fn translate(&self, request: &Args<'_>, batch: &mut Vec<Command>) -> Result<Action, Refusal> {
        let is_help = request.len() == 2 && request.get(1).is_some_and(|word| is(word, "HELP"));
        if is_help && CONTAINERS.contains(&self.name) {
            return Ok(Action::System(Box::new(System::Help(self.syntax))));
        }
        (self.translate)(&mut Words::new(self.name, request), batch)
    }
}

fn unknown(request: &Args<'_>) -> Refusal {
    let cut = |word: &[u8], max: usize| shown(word.get(..max).unwrap_or(word));
    let mut args = std::string::String::new();
    for word in request.iter().skip(1) {
        if args.len() >= SHOWN_BYTES_MAX {
            break;
        }
        let _ = write!(args, "'{}' ", cut(word, SHOWN_BYTES_MAX - args.len()));
    }
    let name = cut(request.get(0).unwrap_or_default(), SHOWN_BYTES_MAX);
    Refusal::err(format_args!("unknown command '{name}', with args beginning with: {args}"))
}
