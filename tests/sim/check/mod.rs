//! Whether there is an order of all operations of a key, each between its begin and its end, in which every answer is right
//! (linearizability). Plain keys are checked in O(n log n), the others by search; the two, and a third that tries
//! everything, are checked against each other.

mod agree;
mod model;
mod register;
mod search;

use std::collections::HashMap;

use crate::history::{Answer, Ask, Moment, Op, ValueId, additions_in};

pub use search::Verdict;

/// What is known of a history in which nothing wrong was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    Holds,
    /// The search for an order was given up: there are too many operations that nobody answered.
    TooHard,
}

/// Checks the operations of a key, those of each segment for themselves. Answers what is wrong.
pub fn check_key(ops: &[Op]) -> Result<Judged, String> {
    let mut judged = Judged::Holds;
    let last = ops.iter().map(|op| op.segment).max().unwrap_or(0);
    for segment in 0..=last {
        let of_segment: Vec<Op> =
            ops.iter().filter(|op| op.segment == segment && says_something(op)).copied().collect();
        let checked = check_segment(&of_segment, segment > 0);
        if checked.map_err(|reason| format!("{reason} (segment {segment} of {last})"))? == Judged::TooHard {
            judged = Judged::TooHard;
        }
    }
    Ok(judged)
}

/// A read without an answer does not.
fn says_something(op: &Op) -> bool {
    !op.is_open() || op.ask.is_write()
}

fn check_segment(ops: &[Op], starts_anyhow: bool) -> Result<Judged, String> {
    let is_plain = |op: &Op| match op.ask {
        Ask::Get => true,
        Ask::Put { ttl_ms, .. } => ttl_ms.is_none(),
        _ => false,
    };
    let mut written: Vec<_> = ops.iter().filter_map(|op| op.ask.value()).collect();
    written.sort_unstable();
    let is_unique = written.windows(2).all(|pair| pair[0] != pair[1]); // a doubled request writes its value twice
    if !starts_anyhow && is_unique && ops.iter().all(is_plain) {
        register::check(ops)?;
        register::check_versions(ops)?;
        return Ok(Judged::Holds);
    }
    let ops = &with_an_end(ops);
    if search::is_soon_found(&as_seen(ops), starts_anyhow) {
        return Ok(Judged::Holds);
    }
    match search::search(ops, starts_anyhow) {
        Verdict::Linearizable => Ok(Judged::Holds),
        Verdict::TooHard => Ok(Judged::TooHard),
        Verdict::Impossible { best } => Err(explain(ops, best)),
    }
}

/// A write that nobody answered has taken effect if its value was read, and before that read ended.
fn with_an_end(ops: &[Op]) -> Vec<Op> {
    let mut ops = ops.to_vec();
    let mut ends: HashMap<ValueId, (Moment, u64)> = HashMap::new();
    for op in &ops {
        if let Some(Answer::Found { value, .. }) = op.answer {
            let end = ends.entry(value).or_insert((op.end, op.clock.1));
            *end = (op.end.min(end.0), op.clock.1.min(end.1));
        }
    }
    let mut writers: HashMap<ValueId, usize> = HashMap::new();
    ops.iter().filter_map(|op| op.ask.value()).for_each(|value| *writers.entry(value).or_default() += 1);
    for op in ops.iter_mut().filter(|op| op.is_open()) {
        let Some(value) = op.ask.value().filter(|value| writers[value] == 1) else { continue };
        if let Some((end, clock)) = ends.get(&value).filter(|(end, _)| *end > op.begin) {
            op.end = *end;
            op.clock.1 = *clock;
        }
    }
    end_additions(&mut ops);
    ops
}

/// So has an addition that is part of a sum.
fn end_additions(ops: &mut [Op]) {
    let sums: Vec<(u64, Moment, u64)> =
        ops.iter().filter_map(|op| Some((op.answer?.value()?, op.end, op.clock.1))).collect();
    let mut asked: HashMap<u64, usize> = HashMap::new();
    for op in ops.iter() {
        if let Ask::Add { by } = op.ask {
            *asked.entry(by).or_default() += 1;
        }
    }
    for op in ops.iter_mut().filter(|op| op.is_open()) {
        let Ask::Add { by } = op.ask else { continue };
        let seen = sums.iter().filter(|(sum, end, _)| additions_in(*sum, by) > 0 && *end > op.begin);
        if let Some((_, end, clock)) = seen.min_by_key(|(_, end, _)| *end).filter(|_| asked[&by] == 1) {
            op.end = *end;
            op.clock.1 = *clock;
        }
    }
}

/// Without the writes that nobody answered and of which nothing was seen: each of them would double the states of a search. An
/// order without them is one, since they may not have been done; there may be others.
fn as_seen(ops: &[Op]) -> Vec<Op> {
    let by_begin = {
        let mut ops = ops.to_vec();
        ops.sort_by_key(|op| op.begin);
        ops
    };
    let mut done: HashMap<u64, u64> = HashMap::new();
    for op in by_begin.iter().filter(|op| !op.is_open()) {
        if let Ask::Add { by } = op.ask {
            *done.entry(by).or_default() += 1;
        }
    }
    let additions_seen =
        |by: u64| by_begin.iter().filter_map(|op| op.answer?.value()).map(|sum| additions_in(sum, by)).max();
    let mut kept = by_begin.clone();
    kept.retain(|op| match op.ask {
        _ if !op.is_open() => true,
        Ask::Add { by } => {
            let done = done.entry(by).or_default();
            let was_seen = *done < additions_seen(by).unwrap_or(0);
            *done += u64::from(was_seen);
            was_seen
        }
        ask => {
            ask.value().is_none_or(|value| by_begin.iter().any(|op| op.answer.and_then(Answer::value) == Some(value)))
        }
    });
    kept
}

/// The longest order that was found, and who could not come next.
fn explain(ops: &[Op], best: Vec<usize>) -> String {
    let mut lines = vec!["no order of these operations is possible; the longest found ends with".to_owned()];
    lines.extend(best.iter().rev().take(6).rev().map(|&i| format!("    {}", line(&ops[i]))));
    lines.push("  and then none of these can come next".to_owned());
    let mut left: Vec<&Op> = (0..ops.len()).filter(|i| !best.contains(i)).map(|i| &ops[i]).collect();
    left.sort_by_key(|op| op.begin);
    let first_end = left.iter().map(|op| op.end).min().unwrap_or(0);
    lines.extend(left.iter().filter(|op| op.begin < first_end).take(40).map(|op| format!("    {}", line(op))));
    lines.join("\n")
}

fn line(op: &Op) -> String {
    let answer = match op.answer {
        None => "nobody knows".to_owned(),
        Some(Answer::Found { value, version, expires_at }) => {
            format!("value {value} at {version}{}", expires_at.map_or(String::new(), |at| format!(", dies at {at}")))
        }
        Some(Answer::Stored(version)) => format!("stored at {version}"),
        Some(other) => format!("{other:?}"),
    };
    let end = if op.is_open() { "…".to_owned() } else { op.end.to_string() };
    format!("[{}, {end}] clock {:?}: {:?} → {answer}", op.begin, op.clock, op.ask)
}
