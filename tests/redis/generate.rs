//! Random commands: every one of the table, with every option, and with what nobody should write.
//!
//! What Overspill means to do differently is not made here; `docs/commands-differences.md` lists it.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

pub type Words = Vec<Vec<u8>>;

/// Keys of a group share a tag, and so a slot.
const TAGS: [&str; 2] = ["{a}", "{b}"];
const KEYS: usize = 90;
const KEYS_OF_TAG: usize = 40;
/// Hold decimals only: elsewhere the long doubles of Redis would show their last digits.
const DECIMAL_KEYS: usize = 12;

const STORE: &[&str] = &["NX", "XX", "GET", "KEEPTTL", "EX", "PX", "EXAT", "PXAT"];
const WHEN: &[&str] = &["NX", "XX", "GT", "LT"];

/// Everything that may come where anything may come.
const SOUP: &[&str] = &[
    "",
    "0",
    "1",
    "-1",
    "10",
    "100000",
    "x",
    "NX",
    "xx",
    "GET",
    "KEEPTTL",
    "EX",
    "px",
    "EXAT",
    "PXAT",
    "PERSIST",
    "GT",
    "LT",
    "MATCH",
    "COUNT",
    "TYPE",
    "string",
    "REPLACE",
    "DB",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "1.5",
    " 1",
    "+1",
    "01",
    "abc",
    "*",
    "nosuch",
    "LEN",
    "ENCODING",
    "REFCOUNT",
    "USAGE",
    "SAMPLES",
    "ASYNC",
    "SYNC",
    "line\r\nend",
];

/// Whose number of words and options are tried with anything.
const SOUPED: &[&str] = &[
    "append",
    "decr",
    "decrby",
    "get",
    "getdel",
    "getex",
    "getrange",
    "getset",
    "incr",
    "incrby",
    "incrbyfloat",
    "mget",
    "mset",
    "msetnx",
    "psetex",
    "set",
    "setex",
    "setnx",
    "setrange",
    "strlen",
    "substr",
    "copy",
    "del",
    "exists",
    "expire",
    "expireat",
    "expiretime",
    "persist",
    "pexpire",
    "pexpireat",
    "pexpiretime",
    "pttl",
    "rename",
    "renamenx",
    "touch",
    "ttl",
    "type",
    "unlink",
    "echo",
    "ping",
    "select",
    "dbsize",
    "keys",
    "randomkey",
    "scan",
    "nosuchcommand",
    "time",
    "role",
    "slowlog",
    "object",
    "config",
    "memory",
    "latency",
    "module",
    "acl",
    "client",
    "cluster",
    "command",
    "auth",
    "flushall",
];

pub struct Generator {
    random: SmallRng,
    /// Commands on several keys stay within a tag.
    is_cluster: bool,
    /// So many commands were made.
    made: usize,
}

impl Generator {
    pub fn new(seed: u64, is_cluster: bool) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), is_cluster, made: 0 }
    }

    pub fn next(&mut self) -> Words {
        self.made += 1;
        match self.random.random_range(0..100) {
            0..8 => self.soup(),
            8..12 => self.about_the_connection(),
            12..18 => self.decimal(),
            18..26 => self.several(),
            26..45 => self.expiry(),
            45..60 => self.set(),
            _ => self.simple(),
        }
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of.choose(&mut self.random).unwrap()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    pub fn key(&mut self) -> Vec<u8> {
        match self.random.random_range(0..KEYS + TAGS.len() * KEYS_OF_TAG) {
            0 => b"\x00\xff binary\r\n".to_vec(),
            i if i < KEYS => format!("k{i}").into_bytes(),
            _ => {
                let tag = self.pick(&TAGS);
                self.key_of(tag)
            }
        }
    }

    fn key_of(&mut self, tag: &str) -> Vec<u8> {
        format!("{tag}{}", self.random.random_range(0..KEYS_OF_TAG)).into_bytes()
    }

    /// Keys that one command may name.
    fn keys(&mut self, count: usize) -> Vec<Vec<u8>> {
        let tag = self.pick(&TAGS);
        let is_spread = !self.is_cluster && self.chance(60);
        (0..count).map(|_| if is_spread { self.key() } else { self.key_of(tag) }).collect()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.random.random_range(0..10) {
            0 => Vec::new(),
            1..4 => self.random.random_range(-1000..1000i64).to_string().into_bytes(),
            4 => {
                self.pick(&["9223372036854775807", "-9223372036854775808", "00", "-0", "+5", "1.0", " 7", "9 "]).into()
            }
            5 => {
                let mut bytes = vec![0; self.random.random_range(1..64)];
                self.random.fill_bytes(&mut bytes);
                bytes
            }
            6 => vec![b'v'; self.random.random_range(40..50)],
            7 if self.chance(20) => vec![b'V'; self.random.random_range(10_000..40_000)],
            _ => format!("value {}", self.made).into_bytes(),
        }
    }

    fn integer(&mut self) -> Vec<u8> {
        match self.random.random_range(0..12) {
            0 => self.pick(&["9223372036854775807", "-9223372036854775808", "-9223372036854775807"]).into(),
            1 => self
                .pick(&["9223372036854775808", "-9223372036854775809", "", "-", "1e3", "1.0", " 1", "1 ", "x"])
                .into(),
            _ => self.random.random_range(-300..300i64).to_string().into_bytes(),
        }
    }

    /// A time that is neither near now nor beyond a hundred years, or is no time at all.
    fn time(&mut self, option: &str) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let ahead = self.random.random_range(100_000_000..900_000_000_000i64);
        let millis = match option {
            "EXAT" | "PXAT" if self.chance(20) => self.random.random_range(1000..now / 2),
            "EXAT" | "PXAT" => now + ahead,
            _ => ahead,
        };
        if self.chance(12) {
            // Nothing beyond a hundred years that is not beyond everything.
            let odd = self.pick(&["0", "-1", "-100000", "-9223372036854775808", "9223372036854775808", "x", "1.5", ""]);
            let seconds = ["9223372036854775807", "-9223372036854775807"];
            let odd = if !option.starts_with('P') && self.chance(30) { self.pick(&seconds) } else { odd };
            return odd.into();
        }
        let amount = if option.starts_with('P') { millis } else { millis / 1000 };
        amount.to_string().into_bytes()
    }

    fn cased(&mut self, word: &str) -> Vec<u8> {
        if self.chance(30) { word.to_ascii_lowercase().into() } else { word.into() }
    }

    fn set(&mut self) -> Words {
        let mut words = vec![b"SET".to_vec(), self.key(), self.value()];
        while self.chance(45) {
            let option = self.pick(STORE);
            words.push(self.cased(option));
            if option.len() > 1 && (option.ends_with('X') || option.ends_with("AT")) && !["NX", "XX"].contains(&option)
            {
                words.push(self.time(option));
            }
        }
        words
    }

    fn expiry(&mut self) -> Words {
        let key = self.key();
        match self.random.random_range(0..10) {
            0..4 => {
                let (command, option) =
                    *[("EXPIRE", "EX"), ("PEXPIRE", "PX"), ("EXPIREAT", "EXAT"), ("PEXPIREAT", "PXAT")]
                        .choose(&mut self.random)
                        .unwrap();
                let mut words = vec![self.cased(command), key, self.time(option)];
                while self.chance(35) {
                    let when = self.pick(WHEN);
                    words.push(self.cased(when));
                }
                words
            }
            4 => vec![b"PERSIST".to_vec(), key],
            5 => {
                let (command, option) = *[("SETEX", "EX"), ("PSETEX", "PX")].choose(&mut self.random).unwrap();
                vec![self.cased(command), key, self.time(option), self.value()]
            }
            6 => {
                let mut words = vec![b"GETEX".to_vec(), key];
                while self.chance(60) {
                    match self.pick(&["EX", "PX", "EXAT", "PXAT", "PERSIST"]) {
                        "PERSIST" => words.push(self.cased("PERSIST")),
                        option => words.extend([self.cased(option), self.time(option)]),
                    }
                }
                words
            }
            _ => vec![self.pick(&["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"]).into(), key],
        }
    }

    fn simple(&mut self) -> Words {
        let key = self.key();
        let command = self.pick(&[
            "GET",
            "GET",
            "GET",
            "GET",
            "INCR",
            "DECR",
            "INCRBY",
            "DECRBY",
            "APPEND",
            "STRLEN",
            "GETRANGE",
            "SUBSTR",
            "SETRANGE",
            "SETNX",
            "GETSET",
            "GETDEL",
            "TYPE",
            "EXISTS",
            "DEL",
            "INCRBYFLOAT",
            "OBJECT",
            "MEMORY",
        ]);
        let name = self.cased(command);
        match command {
            "INCRBY" | "DECRBY" => vec![name, key, self.integer()],
            "APPEND" | "SETNX" | "GETSET" => vec![name, key, self.value()],
            "GETRANGE" | "SUBSTR" => vec![name, key, self.integer(), self.integer()],
            "SETRANGE" => {
                let offset = match self.random.random_range(0..10) {
                    0 => self.pick(&["-1", "536870912", "9223372036854775807", "x"]).into(),
                    _ => self.random.random_range(0..200u32).to_string().into_bytes(),
                };
                vec![name, key, offset, self.value()]
            }
            // Only what is refused: see DECIMAL_KEYS.
            "INCRBYFLOAT" => vec![name, key, self.pick(&["abc", "", " 1", "1 ", "nan", "1e", "--1", "1,5"]).into()],
            "OBJECT" => {
                vec![name, self.pick(&["ENCODING", "refcount", "IDLETIME", "FREQ"]).into(), b"missing".to_vec()]
            }
            "MEMORY" => vec![name, b"USAGE".to_vec(), b"missing".to_vec()],
            _ => vec![name, key],
        }
    }

    fn decimal(&mut self) -> Words {
        let key = format!("f{}", self.random.random_range(0..DECIMAL_KEYS)).into_bytes();
        match self.random.random_range(0..8) {
            0 => vec![b"SET".to_vec(), key, self.pick(&["0", "0.5", "-0.25", "1e0", "3.", ".5", "-0", "0.10"]).into()],
            1 => vec![b"GET".to_vec(), key],
            2 => vec![b"DEL".to_vec(), key],
            3 => vec![
                b"INCRBYFLOAT".to_vec(),
                key,
                self.pick(&["inf", "-inf", "+inf", "1e-400", "+0.5", "5e-1", "infinity"]).into(),
            ],
            _ => {
                let tenths = self.random.random_range(-10..10i32);
                vec![b"INCRBYFLOAT".to_vec(), key, format!("{}", f64::from(tenths) / 10.0).into_bytes()]
            }
        }
    }

    fn several(&mut self) -> Words {
        let count = self.random.random_range(1..6);
        match self.random.random_range(0..12) {
            0 | 1 => [vec![b"MGET".to_vec()], self.keys(count)].concat(),
            2 => [vec![self.pick(&["DEL", "UNLINK"]).into()], self.keys(count.min(2))].concat(),
            3 => [vec![self.pick(&["EXISTS", "TOUCH"]).into()], self.keys(count)].concat(),
            4 | 5 => {
                let pairs = self.keys(count).into_iter().flat_map(|key| [key, self.value()]).collect();
                [vec![b"MSET".to_vec()], pairs].concat()
            }
            6 | 7 => {
                let tag = self.pick(&TAGS);
                let pairs = (0..count).flat_map(|_| [self.key_of(tag), self.value()]).collect();
                [vec![b"MSETNX".to_vec()], pairs].concat()
            }
            _ => {
                let (tag, command) = (self.pick(&TAGS), self.pick(&["RENAME", "RENAMENX", "COPY", "COPY"]));
                let mut words = vec![self.cased(command), self.key_of(tag), self.key_of(tag)];
                if self.chance(5) {
                    words[2] = words[1].clone();
                }
                while command == "COPY" && self.chance(40) {
                    words.push(self.cased("REPLACE"));
                    if self.chance(30) {
                        words.extend([b"DB".to_vec(), b"0".to_vec()]);
                    }
                }
                words
            }
        }
    }

    fn about_the_connection(&mut self) -> Words {
        let line = self.pick(&[
            "PING",
            "PING hello",
            "PING a b",
            "ECHO hi",
            "ECHO",
            "SELECT 0",
            "SELECT 100",
            "SELECT x",
            "SELECT 99999999999",
            "CLIENT GETNAME",
            "CLIENT SETNAME bob",
            "CLIENT SETNAME",
            "CLIENT NOSUCH",
            "CLIENT",
            "CONFIG RESETSTAT",
            "CONFIG NOSUCH",
            "SLOWLOG RESET",
            "SLOWLOG LEN",
            "LATENCY RESET",
            "LATENCY LATEST",
            "MODULE LIST",
            "ACL WHOAMI",
            "WAIT 0 0",
            "WAIT x 0",
            "WAIT 0 x",
            "WAIT 0 -1",
            "OBJECT",
            "OBJECT NOSUCH k",
            "OBJECT ENCODING",
            "MEMORY USAGE",
            "MEMORY NOSUCH",
            "NOSUCH",
            "NOSUCH a b c",
            "COMMAND GETKEYS GET k",
            "COMMAND GETKEYS MSET a 1 b 2",
            "COMMAND GETKEYS PING",
            "COMMAND GETKEYS NOSUCH",
            "COMMAND NOSUCH",
            "SCAN x",
            "SCAN 0 COUNT 0",
            "SCAN 0 COUNT x",
            "SCAN 0 MATCH",
            "SCAN 0 NOSUCH 1",
            "SCAN 0 COUNT -1",
            "SCAN",
            "AUTH secret",
            "AUTH default secret",
            "AUTH nobody secret",
            "AUTH a b c",
            "FLUSHALL NOSUCH",
            "FLUSHDB ASYNC SYNC",
            "CONFIG GET nosuch",
            "KEYS",
            "RANDOMKEY x",
            "DBSIZE x",
            "HELLO 4",
            "HELLO x",
            "HELLO 2 NOSUCH",
            "HELLO 3 AUTH",
            "HELLO 3 SETNAME",
            "TIME x",
            "CLIENT SETNAME a\nb",
            "COMMAND INFO nosuch",
            "CLUSTER",
            "CLUSTER NOSUCH",
            "CLIENT ID x",
            "CLIENT REPLY",
            "CLIENT REPLY NOSUCH",
            "INFO nosuch",
            "RESET x",
            "CLIENT NO-EVICT",
            "CLIENT NO-EVICT x",
            "CLIENT NO-EVICT off",
        ]);
        line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    /// Anything. What Redis would do and Overspill not, or not the same, is not made; nor what only says who answers.
    fn soup(&mut self) -> Words {
        loop {
            let command = self.pick(SOUPED);
            let count = self.random.random_range(0..6);
            let mut words = vec![self.cased(command)];
            for i in 0..count {
                let word = if i == 0 || self.chance(20) { self.key() } else { self.pick(SOUP).into() };
                words.push(if self.chance(5) { self.pick(SOUP).into() } else { word });
            }
            if crate::differential::is_comparable(&words, self.is_cluster) {
                return words;
            }
        }
    }
}
