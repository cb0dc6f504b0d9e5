//! The checkers against each other and against trying every order, on small random histories.

use overspill::command::Expiry;
use overspill::record::Version;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::model::State;
use super::{Verdict, register, search};
use crate::history::{Answer, Ask, Moment, Op};

const HISTORIES: u64 = 100_000;

#[test]
fn the_register_check_agrees_with_trying_every_order() {
    let mut counts = [0, 0];
    for seed in 0..HISTORIES {
        let ops = plain_history(&mut SmallRng::seed_from_u64(seed));
        let expected = some_order_is_a_register(&ops, &mut Vec::new());
        assert_eq!(register::check(&ops).is_ok(), expected, "seed {seed}: {ops:#?}");
        counts[usize::from(expected)] += 1;
    }
    assert!(counts.iter().all(|&n| n > HISTORIES / 20), "one-sided: {counts:?}");
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut counts = [0, 0];
    for seed in 0..HISTORIES {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let starts_anyhow = rng.random_bool(0.2);
        let ops = mixed_history(rng, 0.08, 0.4);
        let expected = some_order_is_right(&ops, State::new(starts_anyhow), &mut Vec::new());
        let found = search::search(&ops, starts_anyhow);
        assert_eq!(found == Verdict::Linearizable, expected, "seed {seed}: {ops:#?}");
        counts[usize::from(expected)] += 1;
    }
    assert!(counts.iter().all(|&n| n > HISTORIES / 20), "one-sided: {counts:?}");
}

/// Without expiry, which of two moments of an operation counts makes no difference.
#[test]
fn the_search_accepts_what_happened() {
    for seed in 0..HISTORIES {
        let ops = mixed_history(&mut SmallRng::seed_from_u64(seed), 0.0, 0.0);
        assert_eq!(search::search(&ops, false), Verdict::Linearizable, "seed {seed}: {ops:#?}");
    }
}

#[test]
fn what_the_search_accepts_of_plain_keys_the_register_check_accepts_too() {
    let mut counts = [0, 0];
    for seed in 0..HISTORIES {
        let ops = plain_history(&mut SmallRng::seed_from_u64(seed));
        let found = search::search(&ops, false) == Verdict::Linearizable;
        let checked = register::check(&ops).and_then(|()| register::check_versions(&ops)).is_ok();
        assert!(checked || !found, "seed {seed}: {ops:#?}");
        counts[usize::from(found)] += 1;
    }
    assert!(counts.iter().all(|&n| n > HISTORIES / 100), "one-sided: {counts:?}");
}

/// Begins and ends of `n` operations in a random order, some without an end.
fn spans(rng: &mut SmallRng, n: usize) -> Vec<(Moment, Moment)> {
    let mut moments: Vec<usize> = (0..n).chain(0..n).collect();
    // Shuffled a little: histories with everything at once are seldom wrong.
    let reach = rng.random_range(1..=2 * n);
    for chunk in moments.chunks_mut(reach) {
        chunk.shuffle(rng);
    }
    moments.shuffle(rng);
    let mut spans = vec![(0, 0); n];
    for (at, i) in moments.into_iter().enumerate() {
        let at = at as Moment + 1;
        if spans[i].0 == 0 { spans[i].0 = at } else { spans[i].1 = at }
    }
    spans
}

fn plain_history(rng: &mut SmallRng) -> Vec<Op> {
    let n = rng.random_range(1..=6);
    let spans = spans(rng, n);
    let writes = rng.random_range(0..=n) as u64;
    let version = |value: u64| Version::new(1, value + 1);
    let op = |i: usize, (begin, end): (Moment, Moment), rng: &mut SmallRng| {
        let is_open = rng.random_bool(0.1);
        let (ask, answer) = if (i as u64) < writes {
            (Ask::Put { value: i as u64, ttl_ms: None }, Answer::Stored(version(i as u64)))
        } else if writes == 0 || rng.random_bool(0.2) {
            (Ask::Get, Answer::Missing)
        } else {
            let value = rng.random_range(0..writes);
            (Ask::Get, Answer::Found { value, version: version(value), expires_at: None })
        };
        let (answer, end) = if is_open && ask.is_write() { (None, Moment::MAX) } else { (Some(answer), end) };
        Op { ask, answer, begin, end, clock: (0, 0), segment: 0 }
    };
    spans.into_iter().enumerate().map(|(i, span)| op(i, span, rng)).collect()
}

/// A walk of the model with the answers that it gave, and then perhaps a lie.
fn mixed_history(rng: &mut SmallRng, lies: f64, dying: f64) -> Vec<Op> {
    let n = rng.random_range(1..=6);
    let mut spans = spans(rng, n);
    spans.sort_unstable_by_key(|(begin, end)| begin + end);
    let mut key: Option<(u64, Version, Option<u64>)> = None;
    let mut ops = Vec::new();
    let mut versions: Vec<Version> = Vec::new();
    for (i, (begin, end)) in spans.into_iter().enumerate() {
        let clock = (begin * 10, end * 10);
        let now = rng.random_range(clock.0..=clock.1);
        key = key.filter(|(.., dies)| dies.is_none_or(|dies| dies > now));
        let (value, version) = (i as u64, Version::new(1, i as u64 + 1));
        let ttl_ms = rng.random_bool(dying).then(|| rng.random_range(1..60));
        let expected = versions.last().copied().filter(|_| rng.random_bool(0.8)).unwrap_or(Version::new(1, 3));
        let ask = match rng.random_range(0..11) {
            0..3 => Ask::Get,
            3 => Ask::Put { value, ttl_ms },
            4 => Ask::PutAbsent { value, ttl_ms },
            5 => Ask::Cas { value, expected },
            6 => Ask::Delete,
            7 => [Ask::Exists, Ask::Ttl][rng.random_range(0..2)],
            9 => [Ask::Take, Ask::Swap { value, ttl_ms }][rng.random_range(0..2)],
            10 => Ask::Add { by: [100, 1000][rng.random_range(0..2)] },
            _ if dying == 0.0 => Ask::Persist,
            _ => [Ask::Expire { ttl_ms: 5 }, Ask::Persist][rng.random_range(0..2)],
        };
        let (answer, after) = honest(ask, key, version, now);
        key = after;
        versions.extend(key.map(|(_, version, _)| version));
        let answer = if rng.random_bool(lies) { lie(answer) } else { answer };
        let is_open = rng.random_bool(0.1) && ask.is_write();
        let (answer, end, clock) =
            if is_open { (None, Moment::MAX, (clock.0, u64::MAX)) } else { (Some(answer), end, clock) };
        ops.push(Op { ask, answer, begin, end, clock, segment: 0 });
    }
    ops
}

type Key = Option<(u64, Version, Option<u64>)>;

fn found(key: Key) -> Answer {
    key.map_or(Answer::Missing, |(value, version, expires_at)| Answer::Found { value, version, expires_at })
}

fn honest(ask: Ask, key: Key, version: Version, now: u64) -> (Answer, Key) {
    let dies = |ttl: Option<u64>| ttl.map(|ttl| now + ttl);
    match ask {
        Ask::Get => (found(key), key),
        Ask::Put { value, ttl_ms } => (Answer::Stored(version), Some((value, version, dies(ttl_ms)))),
        Ask::PutAbsent { value, ttl_ms } => match key {
            None => (Answer::Stored(version), Some((value, version, dies(ttl_ms)))),
            Some((_, is, _)) => (Answer::Conflict(Some(is)), key),
        },
        Ask::Cas { value, expected } => match key {
            Some((_, is, _)) if is == expected => (Answer::Stored(version), Some((value, version, None))),
            other => (Answer::Conflict(other.map(|(_, is, _)| is)), other),
        },
        Ask::Delete => (Answer::Done(key.is_some()), None),
        Ask::Exists => (Answer::Done(key.is_some()), key),
        Ask::Ttl => match key {
            None => (Answer::Expiry(Expiry::Missing), key),
            Some((.., None)) => (Answer::Expiry(Expiry::Never), key),
            Some((.., Some(at))) => (Answer::Expiry(Expiry::InMillis(at - now)), key),
        },
        Ask::Expire { ttl_ms } => {
            (Answer::Done(key.is_some()), key.map(|(value, ..)| (value, version, dies(Some(ttl_ms)))))
        }
        Ask::Take => (found(key), None),
        Ask::Swap { value, ttl_ms } => (found(key), Some((value, version, dies(ttl_ms)))),
        Ask::Add { by } => {
            let (old, dies) = key.map_or((0, None), |(value, _, dies)| (value, dies));
            (Answer::Number(old + by), Some((old + by, version, dies)))
        }
        Ask::Persist => match key {
            Some((value, _, Some(_))) => (Answer::Done(true), Some((value, version, None))),
            other => (Answer::Done(false), other),
        },
    }
}

fn lie(answer: Answer) -> Answer {
    match answer {
        Answer::Missing => Answer::Found { value: 0, version: Version::new(1, 1), expires_at: None },
        Answer::Found { .. } => Answer::Missing,
        Answer::Stored(_) => Answer::Stored(Version::new(1, 1)),
        Answer::Conflict(_) => Answer::Conflict(None),
        Answer::Done(done) => Answer::Done(!done),
        Answer::Expiry(_) => Answer::Expiry(Expiry::Never),
        Answer::Number(number) => Answer::Number(number + 1),
    }
}

/// Whether an operation may come next: none that is left has ended before it began.
fn may_come(ops: &[Op], placed: &[usize], i: usize) -> bool {
    let left = (0..ops.len()).filter(|j| !placed.contains(j));
    !placed.contains(&i) && left.into_iter().all(|j| ops[j].end > ops[i].begin)
}

fn is_done(ops: &[Op], placed: &[usize]) -> bool {
    (0..ops.len()).all(|i| ops[i].is_open() || placed.contains(&i))
}

fn some_order_is_right(ops: &[Op], state: State, placed: &mut Vec<usize>) -> bool {
    if is_done(ops, placed) {
        return true;
    }
    (0..ops.len()).any(|i| {
        let Some(after) = may_come(ops, placed, i).then(|| state.after(&ops[i])).flatten() else { return false };
        placed.push(i);
        let is_right = some_order_is_right(ops, after, placed);
        placed.pop();
        is_right
    })
}

fn some_order_is_a_register(ops: &[Op], placed: &mut Vec<usize>) -> bool {
    if is_done(ops, placed) {
        return true;
    }
    let mut register: Option<u64> = None;
    placed.iter().for_each(|&i| register = ops[i].ask.value().or(register));
    (0..ops.len()).any(|i| {
        let fits = match (ops[i].ask, ops[i].answer) {
            (Ask::Put { .. }, _) => true,
            (_, Some(Answer::Found { value, .. })) => register == Some(value),
            (_, _) => register.is_none(),
        };
        if !may_come(ops, placed, i) || !fits {
            return false;
        }
        placed.push(i);
        let is_right = some_order_is_a_register(ops, placed);
        placed.pop();
        is_right
    })
}
