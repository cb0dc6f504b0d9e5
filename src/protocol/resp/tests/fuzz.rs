//! Bytes without sense: seeded mutations of pipelines, noise, and the corpus of the fuzz target.

use std::path::Path;

use super::invariants::check;
use super::*;

const SEEDS: u64 = 12_000;

/// Says how to repeat what failed.
struct Failure(u64);

impl Drop for Failure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}: RESP_SEED={} repeats it", self.0, self.0);
        }
    }
}

/// One to four changes of the kind that a bad client or a bad line makes.
pub(super) fn mutate(rng: &mut fastrand::Rng, input: &mut Vec<u8>) {
    const TELLING: &[u8] = b"*$\r\n0123456789-+ \"'\\x\0:";
    for _ in 0..rng.usize(1..5) {
        if input.is_empty() {
            return;
        }
        let at = rng.usize(..input.len());
        match rng.u8(..7) {
            0 => input[at] = rng.u8(..),
            1 => input[at] = TELLING[rng.usize(..TELLING.len())],
            2 => input.insert(at, TELLING[rng.usize(..TELLING.len())]),
            3 => drop(input.remove(at)),
            4 => input.truncate(at),
            5 => {
                let end = rng.usize(at..input.len()).min(at + 30);
                let copy = input[at..end].to_vec();
                let to = rng.usize(..input.len());
                input.splice(to..to, copy);
            }
            _ => {
                let other = rng.usize(..input.len());
                input.swap(at, other);
            }
        }
    }
}

fn random_request(rng: &mut fastrand::Rng) -> Vec<u8> {
    let args = rng.usize(1..10);
    let words: Vec<Vec<u8>> = (0..args).map(|_| (0..rng.usize(0..20)).map(|_| rng.u8(..)).collect()).collect();
    match rng.u8(..4) {
        0 => {
            let word = |rng: &mut fastrand::Rng| match rng.u8(..3) {
                0 => rng.alphanumeric().to_string(),
                1 => format!("\"{}\\x{:02x}\\n \"", rng.alphanumeric(), rng.u8(..)),
                _ => format!("'{} \\' '", rng.alphanumeric()),
            };
            let line: Vec<String> = (0..args).map(|_| word(rng)).collect();
            format!("{}{}", line.join(" "), if rng.bool() { "\r\n" } else { "\n" }).into_bytes()
        }
        1 => [&b"\r\n"[..], b"*0\r\n", b"*-1\r\n", b"*1000000\r\n$8388608\r\n"][rng.usize(..4)].to_vec(),
        _ => multibulk(&words),
    }
}

fn random_input(rng: &mut fastrand::Rng) -> Vec<u8> {
    if rng.u8(..5) == 0 {
        const NOISE: &[u8] = b"**$$\r\n\r\n\r\n0123\"'\\ ax\0\xff";
        return (0..rng.usize(..200)).map(|_| NOISE[rng.usize(..NOISE.len())]).collect();
    }
    let requests = rng.usize(1..5);
    let mut input: Vec<u8> = (0..requests).flat_map(|_| random_request(rng)).collect();
    if rng.u8(..10) > 0 {
        mutate(rng, &mut input);
    }
    input
}

fn fuzz(seed: u64) {
    let _failure = Failure(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let small = Limits { args_max: 6, arg_bytes_max: 15, request_bytes_max: 80, line_bytes_max: 24 };
    let limits = if rng.bool() { small } else { Limits::default() };
    let input = random_input(&mut rng);
    let most = rng.usize(1..40);
    check(limits, &input, || rng.usize(1..=most));
}

#[test]
fn senseless_bytes_neither_panic_nor_take_memory() {
    match std::env::var("RESP_SEED") {
        Ok(seed) => fuzz(seed.parse().unwrap()),
        Err(_) => (0..SEEDS).for_each(fuzz),
    }
}

#[test]
fn the_corpus_of_the_fuzz_target_holds() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/resp_parse");
    let mut files = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        for piece_bytes in [1, 2, 3, 7, 64] {
            check(Limits::default(), &input, || piece_bytes);
        }
        files += 1;
    }
    assert!(files >= 24, "only {files} files in {}", directory.display());
}
