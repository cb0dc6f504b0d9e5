//! The same random commands against a real Redis and against nodes that spill nearly everything: every reply is the same,
//! byte for byte.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use overspill::protocol::redis::{Group, table};

use crate::generate::{Generator, Words};
use crate::wire::Wire;
use crate::world::{Ours, Redis, has, seed};

const PATIENCE: Duration = Duration::from_secs(30);
/// Held in memory by all secondaries together, of about 200.
const CAPACITY: usize = 50;

/// A Redis and one of ours, side by side.
struct Pair {
    redis: Wire,
    ours: Wire,
    history: Vec<Words>,
    /// Told all together: one may explain another.
    differences: Vec<String>,
}

/// Beyond this they are most likely the same.
const DIFFERENCES_MAX: usize = 20;

/// As a person would type it.
fn shown(words: &[Vec<u8>]) -> String {
    let words: Vec<String> = words
        .iter()
        .map(|word| match word.escape_ascii().to_string() {
            word if word.len() > 200 => format!("\"{}…\" ({} bytes)", &word[..40], word.len()),
            word => format!("\"{word}\""),
        })
        .collect();
    words.join(" ")
}

/// A number of a reply.
fn number(reply: &[u8]) -> Option<i64> {
    std::str::from_utf8(reply.strip_prefix(b":")?).ok()?.trim_end().parse().ok()
}

/// Bulk strings of an array, in order.
pub fn strings(reply: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut strings = BTreeSet::new();
    let mut rest = reply;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let (line, after) = (&rest[..end], &rest[end + 2..]);
        rest = after;
        if let Some(len) = line.strip_prefix(b"$") {
            let Ok(len) = std::str::from_utf8(len).unwrap().parse::<usize>() else { continue };
            strings.insert(after[..len].to_vec());
            rest = &after[len + 2..];
        }
    }
    strings
}

fn is(word: &[u8], names: &[&str]) -> bool {
    names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
}

/// Whether both are the same, or differ only by the moments that passed between the two.
fn agree(words: &[Vec<u8>], redis: &[u8], ours: &[u8]) -> bool {
    let close = |tolerance: i64| match (number(redis), number(ours)) {
        (Some(a), Some(b)) => a.signum() == b.signum() && a.abs_diff(b) <= tolerance.unsigned_abs(),
        _ => false,
    };
    redis == ours
        || (is(&words[0], &["TTL", "EXPIRETIME"]) && close(5))
        || (is(&words[0], &["PTTL", "PEXPIRETIME"]) && close(5000))
        // Here the words are looked at before the key is.
        || (is(&words[0], &["GETEX"]) && [&b"$-1\r\n"[..], b"_\r\n"].contains(&redis) && ours.starts_with(b"-ERR "))
        // Redis quotes a word up to its first zero byte.
        || (redis.starts_with(b"-") && ours.split(|&byte| byte == 0).next() == redis.strip_suffix(b"\r\n"))
}

/// Whether both mean to answer the same, and the connection stays as it is.
pub fn is_comparable(words: &[Vec<u8>], is_cluster: bool) -> bool {
    let (name, rest) = (&words[0], &words[1..]);
    let count = rest.len();
    let first = rest.first().map_or(&b""[..], Vec::as_slice);
    let has = |names: &[&str]| rest.iter().any(|word| is(word, names));
    // Empty keys are not allowed: so no empty word where a key may be.
    if rest.iter().any(Vec::is_empty) && !is(name, &["ECHO", "PING"]) {
        return false;
    }
    let spans = ["9223372036854775807", "9223372036854775", "9223372036854775808"];
    match name.to_ascii_lowercase().as_slice() {
        // Longer spans than a hundred years, and longer values than 8 MiB.
        b"set" | b"getex" | b"setex" | b"psetex" | b"expire" | b"pexpire" => !has(&spans),
        b"setrange" => !rest.get(1).is_some_and(|word| spans.iter().any(|span| word == span.as_bytes())),
        // Redis shows what is no text in its own way.
        b"nosuchcommand" => rest.iter().all(|word| word.is_ascii() && !word.contains(&0)),
        // Several slots.
        b"rename" | b"renamenx" | b"copy" => {
            count != 2 && !(count > 2 && is(name, &["COPY"])) && !(is_cluster && count >= 2)
        }
        b"msetnx" => count % 2 == 1 && !(is_cluster && count > 1),
        b"mget" | b"mset" | b"del" | b"unlink" | b"exists" | b"touch" => !is_cluster || count < 2,
        // Who answers, and when.
        b"time" | b"randomkey" | b"dbsize" => count > 0,
        b"role" | b"cluster" | b"command" | b"module" | b"memory" | b"object" | b"latency" | b"slowlog" | b"acl"
        | b"config" | b"client" | b"auth" => count == 0 && !is(name, &["COMMAND"]),
        b"scan" | b"keys" | b"flushall" => false,
        b"select" => first != b"1" && first != b"10",
        // Decimals that long doubles round.
        b"incrbyfloat" => count != 2,
        _ => true,
    }
}

impl Pair {
    fn new(redis: u16, ours: u16, proto: u8) -> Self {
        let connect = if proto == 3 { Wire::connect_3 } else { Wire::connect };
        Self { redis: connect(redis), ours: connect(ours), history: Vec::new(), differences: Vec::new() }
    }

    fn both(&mut self, words: &Words) -> (Vec<u8>, Vec<u8>) {
        self.history.push(words.clone());
        (self.redis.ask(words), self.ours.ask(words))
    }

    fn compare(&mut self, words: &Words) {
        let (redis, ours) = self.both(words);
        if agree(words, &redis, &ours) {
            return;
        }
        // What happened to its keys.
        let is_about = |earlier: &&Words| words[1..].iter().any(|word| earlier[1..].contains(word));
        let story: Vec<String> = self.history.iter().filter(is_about).map(|words| shown(words)).collect();
        let story = story[story.len().saturating_sub(6)..].join("\n  ");
        let (redis, ours) = (shown(&[redis]), shown(&[ours]));
        let step = self.history.len();
        self.differences.push(format!("step {step}: {}\n redis: {redis}\n ours:  {ours}\n  {story}", shown(words)));
        if self.differences.len() == DIFFERENCES_MAX {
            self.tell_differences();
        }
    }

    fn tell_differences(&self) {
        assert!(self.differences.is_empty(), "{}", self.differences.join("\n"));
    }

    fn line(&mut self, line: &str) {
        self.compare(&line.split(' ').map(|word| word.as_bytes().to_vec()).collect());
    }

    /// Lets a key expire.
    fn expire(&mut self, key: Vec<u8>) {
        self.compare(&vec![b"PEXPIRE".to_vec(), key.clone(), b"1".to_vec()]);
        let (exists, started) = (vec![b"EXISTS".to_vec(), key], Instant::now());
        while self.redis.ask(&exists) != b":0\r\n" || self.ours.ask(&exists) != b":0\r\n" {
            assert!(started.elapsed() < PATIENCE, "a key does not expire");
        }
    }

    /// What comes in no order is compared as a set.
    fn compare_all(&mut self) {
        for pattern in ["*", "k1*", "k[2-4]?", "*[^a-z0-9]3", "{a}?", "\\k5", "nosuch", "*a*1*"] {
            let (redis, ours) = self.both(&vec![b"KEYS".to_vec(), pattern.into()]);
            assert_eq!(strings(&redis), strings(&ours), "KEYS {pattern}");
        }
        let all = strings(&self.ours.ask(&["KEYS", "*"]));
        for (count, more) in
            [("3", &["MATCH", "k*"][..]), ("1000", &["TYPE", "string"]), ("7", &["TYPE", "hash"]), ("10", &[])]
        {
            let [redis, ours] = [&mut self.redis, &mut self.ours].map(|wire| scan(wire, count, more));
            let seen: BTreeSet<_> = ours.iter().cloned().collect();
            assert_eq!(ours.len(), seen.len(), "each comes once");
            assert_eq!(redis.into_iter().collect::<BTreeSet<_>>(), seen, "SCAN {count} {more:?}");
        }
        let random = strings(&self.ours.ask(&["RANDOMKEY"]));
        assert!(random.is_subset(&all) && random.is_empty() == all.is_empty(), "{random:?}");
        let started = Instant::now();
        // What has expired is counted until it is noticed.
        while self.redis.ask(&["DBSIZE"]) != self.ours.ask(&["DBSIZE"]) {
            let (redis, ours) = (self.redis.line("DBSIZE"), self.ours.line("DBSIZE"));
            assert!(started.elapsed() < PATIENCE, "DBSIZE: {redis} and {ours}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// All that a SCAN tells from its beginning to its end.
pub fn scan(wire: &mut Wire, count: &str, more: &[&str]) -> Vec<Vec<u8>> {
    let (mut cursor, mut all) = ("0".to_owned(), Vec::new());
    loop {
        let reply = wire.ask(&[&["SCAN", &cursor, "COUNT", count], more].concat());
        let text = reply.strip_prefix(b"*2\r\n").unwrap_or_else(|| panic!("{}", reply.escape_ascii()));
        let mut lines = text.splitn(3, |&byte| byte == b'\n');
        let (_, next) = (lines.next(), lines.next().unwrap());
        cursor = String::from_utf8(next.to_vec()).unwrap().trim_end().to_owned();
        all.extend(strings(lines.next().unwrap()));
        if cursor == "0" {
            return all;
        }
    }
}

/// What has no reply that could be compared, or is compared elsewhere.
const NOT_RANDOM: &[&str] = &["info", "quit", "reset", "readonly", "readwrite", "asking"];

#[test]
fn every_command_is_among_the_random_ones() {
    let mut generator = Generator::new(1, false);
    let made: BTreeSet<String> =
        (0..20_000).map(|_| String::from_utf8(generator.next()[0].to_ascii_lowercase()).unwrap()).collect();
    for spec in table::all().iter().filter(|spec| spec.group != Group::Refused) {
        assert!(made.contains(spec.name) || NOT_RANDOM.contains(&spec.name), "{}", spec.name);
    }
}

fn run(pair: &mut Pair, generator: &mut Generator, commands: usize) {
    for i in 1..=commands {
        let words = generator.next();
        pair.compare(&words);
        if i % 50 == 0 {
            let key = generator.key();
            pair.expire(key);
        }
        if i % (commands / 2) == 0 {
            pair.tell_differences();
            pair.compare_all();
        }
    }
    pair.tell_differences();
}

#[test]
fn random_commands_are_answered_as_redis_does_although_nearly_everything_is_spilled() {
    if !has("redis-server") {
        return;
    }
    let (redis, ours, seed) = (Redis::start(&[]), Ours::start(2, CAPACITY / 2), seed());
    for proto in [2, 3] {
        let mut pair = Pair::new(redis.port, ours.primary(), proto);
        let mut generator = Generator::new(seed.wrapping_add(u64::from(proto)), false);
        run(&mut pair, &mut generator, 2000);
        pair.line("FLUSHALL");
        pair.compare_all();
    }
    let (evicted, loaded) = (ours.figure("evicted_keys"), ours.figure("loaded_rows"));
    println!("{evicted} records evicted, {loaded} loaded");
    assert!(evicted > 500 && loaded > 200, "little was spilled: {evicted}, {loaded}");
}

#[test]
fn a_secondary_in_cluster_mode_answers_for_its_slots_as_redis_does() {
    if !has("redis-server") {
        return;
    }
    let (redis, ours, seed) = (Redis::clustered(), Ours::start(1, CAPACITY), seed());
    assert_eq!(Wire::connect(redis.port).line("CLUSTER ADDSLOTSRANGE 0 16383"), "+OK");
    let started = Instant::now();
    while !Wire::connect(redis.port).line("CLUSTER INFO").contains("cluster_state:ok") {
        assert!(started.elapsed() < PATIENCE, "Redis does not become a cluster");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    for proto in [2, 3] {
        let mut pair = Pair::new(redis.port, ours.secondary(0), proto);
        for line in [
            "MGET a b",
            "MSET a 1 b 2",
            "RENAME a b",
            "MSETNX a 1 b 2",
            "DEL a b",
            "SELECT 1",
            "CLUSTER KEYSLOT a",
            "CLUSTER KEYSLOT {user}:1",
            "CLUSTER KEYSLOT",
            "CLUSTER COUNTKEYSINSLOT 100",
            "CLUSTER COUNTKEYSINSLOT -1",
            "CLUSTER COUNTKEYSINSLOT x",
            "CLUSTER COUNTKEYSINSLOT 16384",
            "CLUSTER GETKEYSINSLOT 5 10",
            "CLUSTER GETKEYSINSLOT 5 -1",
            "CLUSTER GETKEYSINSLOT 99999 1",
            "CLUSTER NOSUCH",
            "READONLY",
            "READWRITE",
            "ASKING",
        ] {
            pair.line(line);
        }
        let mut generator = Generator::new(seed.wrapping_add(u64::from(proto)), true);
        run(&mut pair, &mut generator, 400);
        let tagged = "CLUSTER COUNTKEYSINSLOT 15495"; // of {a}
        pair.line(tagged);
        let (a, b) = pair.both(&"CLUSTER GETKEYSINSLOT 15495 1000".split(' ').map(Into::into).collect());
        assert_eq!(strings(&a), strings(&b));
        pair.line("FLUSHDB SYNC");
    }
}
