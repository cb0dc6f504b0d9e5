//! Many requests at once, however they are cut into pieces.

use std::io::Write;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::generate::Generator;
use crate::wire::{Wire, request};
use crate::world::{Ours, seed};

const COMMANDS: usize = 10_000;

/// Sends bytes in pieces of at most so many while the replies are read; they come in order.
fn replies(port: u16, bytes: &[u8], count: usize, piece_max: usize, random: &mut SmallRng) -> Vec<Vec<u8>> {
    let mut wire = Wire::connect(port);
    let mut sending = wire.stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut rest = bytes;
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.random_range(1..=piece_max).min(rest.len()));
                sending.write_all(piece).unwrap();
                rest = after;
            }
        });
        (0..count).map(|_| wire.reply()).collect()
    })
}

#[test]
fn a_pipeline_split_anywhere_is_answered_as_one_request_after_the_other() {
    let (ours, seed) = (Ours::start(2, 25), seed());
    let mut random = SmallRng::seed_from_u64(seed);
    let mut generator = Generator::new(seed, false);
    // What tells a time differs from run to run.
    let is_timeless = |words: &Vec<Vec<u8>>| {
        let name = words[0].to_ascii_uppercase();
        !name.ends_with(b"TTL") && !name.ends_with(b"TIME") && name != b"HELLO" && name != b"AUTH" && name != b"DBSIZE"
    };
    let commands: Vec<_> = std::iter::repeat_with(|| generator.next()).filter(is_timeless).take(COMMANDS).collect();
    let bytes: Vec<u8> = commands.iter().flat_map(|words| request(words)).collect();
    let mut wire = Wire::connect(ours.primary());
    let one_by_one: Vec<Vec<u8>> = commands.iter().take(2000).map(|words| wire.ask(words)).collect();
    let mut first: Option<Vec<Vec<u8>>> = None;
    for piece_max in [usize::MAX, 100_000, 3000] {
        assert_eq!(wire.line("FLUSHALL"), "+OK");
        let answers = replies(ours.primary(), &bytes, COMMANDS, piece_max, &mut random);
        for (i, (answer, expected)) in answers.iter().zip(first.as_ref().unwrap_or(&one_by_one)).enumerate() {
            let (answer, expected) = (answer.escape_ascii(), expected.escape_ascii());
            let words: Vec<String> = commands[i].iter().map(|word| word.escape_ascii().to_string()).collect();
            assert_eq!(answer.to_string(), expected.to_string(), "{words:?}, pieces of {piece_max}");
        }
        first = Some(answers);
    }
    // Byte by byte.
    assert_eq!(wire.line("FLUSHALL"), "+OK");
    let few: Vec<u8> = commands.iter().take(500).flat_map(|words| request(words)).collect();
    let answers = replies(ours.primary(), &few, 500, 1, &mut random);
    assert_eq!(answers, one_by_one[..500]);
}

/// Requests on all keys see what was asked before them in the same pipeline, and nothing that was asked after.
#[test]
fn requests_on_all_keys_keep_their_place_in_a_pipeline() {
    let ours = Ours::start(2, 25);
    let mut wire = Wire::connect(ours.primary());
    for round in 0..20 {
        let lines = [
            "FLUSHALL",
            "DBSIZE",
            "SET a 1",
            "SET b 2",
            "DBSIZE",
            "MSETNX {c}1 x {c}2 y",
            "DBSIZE",
            "DEL a b",
            "DBSIZE",
            "MGET a {c}1 {c}2",
        ];
        let pipeline: Vec<u8> = lines.iter().flat_map(|line| request(&line.split(' ').collect::<Vec<_>>())).collect();
        wire.send(&pipeline);
        let answers: Vec<String> = lines.iter().map(|_| wire.reply().escape_ascii().to_string()).collect();
        let answers = answers.concat();
        let expected = r"+OK\r\n:0\r\n+OK\r\n+OK\r\n:2\r\n:1\r\n:4\r\n:2\r\n:2\r\n*3\r\n$-1\r\n$1\r\nx\r\n$1\r\ny\r\n";
        assert_eq!(answers, expected, "round {round}");
    }
}

/// Of a request that is refused for one of its keys, nothing is done.
#[test]
fn what_is_refused_half_way_is_not_done_at_all() {
    let ours = Ours::start(2, 25);
    let mut wire = Wire::connect(ours.primary());
    let long = "k".repeat(2000);
    let requests: [&[&str]; 6] = [
        &["SET", "a", "1"],
        &["DEL", "a", &long],
        &["MSET", "a", "2", "", "3"],
        &["MGET", "a", ""],
        &["GET", "a"],
        &["PING"],
    ];
    let answer = |reply: Vec<u8>| String::from_utf8(reply).unwrap().split(' ').next().unwrap().to_owned();
    let one_by_one: Vec<String> = requests.iter().map(|words| answer(wire.ask(words))).collect();
    assert_eq!(one_by_one, ["+OK\r\n", "-ERR", "-ERR", "-ERR", "$1\r\n1\r\n", "+PONG\r\n"]);
    wire.send(&requests.iter().flat_map(|words| request(words)).collect::<Vec<_>>());
    let pipelined: Vec<String> = requests.iter().map(|_| answer(wire.reply())).collect();
    assert_eq!(pipelined, one_by_one);
}

#[test]
fn several_keys_are_many_more_than_a_batch_takes() {
    let ours = Ours::start(2, 25);
    let mut wire = Wire::connect(ours.primary());
    let keys: Vec<String> = (0..10_000).map(|i| format!("k{i}")).collect();
    let pairs = keys.iter().flat_map(|key| [key.as_str(), key.as_str()]);
    let words: Vec<&str> = std::iter::once("MSET").chain(pairs).collect();
    assert_eq!(wire.told(&words), "+OK\\r\\n");
    let with = |command: &'static str| -> Vec<&str> {
        std::iter::once(command).chain(keys.iter().map(String::as_str)).collect()
    };
    assert_eq!(wire.told(&with("EXISTS")), ":10000\\r\\n");
    let expected: Vec<u8> = keys.iter().flat_map(|key| format!("${}\r\n{key}\r\n", key.len()).into_bytes()).collect();
    assert_eq!(wire.ask(&with("MGET")), [b"*10000\r\n", expected.as_slice()].concat());
    assert_eq!(wire.told(&with("DEL")), ":10000\\r\\n");
    assert_eq!(wire.told(&with("UNLINK")), ":0\\r\\n");
}
