//! A key that is only written and read, with unique values, in O(n log n): Gibbons and Korach ("Testing shared memories", 1997).
//! All operations on a value form a cluster; clusters whose span is forced must not overlap, and none may lie inside of
//! such a span.

use std::collections::HashMap;

use overspill::record::Version;

use crate::history::{Answer, Ask, Moment, Op, ValueId};

/// A value with everything that wrote or read it. `None`: what was there before the first write.
#[derive(Debug, Clone, Copy)]
struct Cluster {
    value: Option<ValueId>,
    /// The write began; its end, or the end of the first read.
    write_begin: Moment,
    first_end: Moment,
    last_begin: Moment,
    is_read: bool,
    is_written: bool,
    /// The write came back: it has taken effect, whether somebody saw it or not.
    is_sure: bool,
}

impl Cluster {
    fn new(value: Option<ValueId>) -> Self {
        let initial = value.is_none();
        Self {
            value,
            write_begin: 0,
            first_end: if initial { 0 } else { Moment::MAX },
            last_begin: 0,
            is_read: false,
            is_written: initial,
            is_sure: initial,
        }
    }

    /// Its value was there from `first_end` to `last_begin`, without a break.
    fn is_forward(&self) -> bool {
        self.first_end < self.last_begin
    }
}

pub fn check(ops: &[Op]) -> Result<(), String> {
    let mut clusters: HashMap<Option<ValueId>, Cluster> = HashMap::new();
    clusters.insert(None, Cluster::new(None));
    for op in ops {
        let value = match (op.ask, op.answer) {
            (Ask::Get, Some(Answer::Missing)) => None,
            (Ask::Get, Some(Answer::Found { value, .. })) => Some(value),
            (Ask::Put { value, .. }, _) => Some(value),
            _ => return Err(format!("{op:?} is not an operation of a register")),
        };
        let cluster = clusters.entry(value).or_insert_with(|| Cluster::new(value));
        cluster.first_end = cluster.first_end.min(op.end);
        cluster.last_begin = cluster.last_begin.max(op.begin);
        if op.ask.is_write() {
            cluster.is_written = true;
            cluster.write_begin = op.begin;
            cluster.is_sure |= !op.is_open();
        } else {
            cluster.is_read = true;
        }
    }
    for op in ops.iter().filter(|op| !op.ask.is_write()) {
        let Some(Answer::Found { value, .. }) = op.answer else { continue };
        let cluster = clusters[&Some(value)];
        if !cluster.is_written || op.end < cluster.write_begin {
            return Err(format!("value {value} was read before it was written"));
        }
    }
    // What nobody knows of and nobody read may never have been.
    let mut counted: Vec<Cluster> = clusters.into_values().filter(|c| c.is_sure || c.is_read).collect();
    counted.sort_by_key(|cluster| (cluster.first_end.min(cluster.last_begin), cluster.value));
    let (forward, backward): (Vec<Cluster>, Vec<Cluster>) = counted.into_iter().partition(Cluster::is_forward);
    for pair in forward.windows(2) {
        if let [a, b] = pair
            && b.first_end < a.last_begin
        {
            return Err(format!(
                "values {:?} and {:?} were both there at a time, each before and after the other",
                a.value, b.value
            ));
        }
    }
    for inner in backward {
        // Its span is from `last_begin` to `first_end`: somewhere in there, all at once.
        let at = forward.partition_point(|outer| outer.first_end <= inner.last_begin);
        if let Some(outer) = at.checked_sub(1).map(|at| forward[at])
            && inner.first_end < outer.last_begin
        {
            return Err(format!("value {:?} came and went while {:?} was there", inner.value, outer.value));
        }
    }
    Ok(())
}

/// Versions: one for each value, and in the order of the writes, as far as they did not overlap.
pub fn check_versions(ops: &[Op]) -> Result<(), String> {
    let mut of_value: HashMap<ValueId, Version> = HashMap::new();
    let mut seen: Vec<(Moment, Moment, Version)> = Vec::new();
    for op in ops {
        let (value, version) = match (op.ask, op.answer) {
            (Ask::Get, Some(Answer::Found { value, version, .. })) => (value, version),
            (Ask::Put { value, .. }, Some(Answer::Stored(version))) => (value, version),
            _ => continue,
        };
        let first = *of_value.entry(value).or_insert(version);
        if first != version {
            return Err(format!("value {value} was seen with version {first} and with {version}"));
        }
        seen.push((op.begin, op.end, version));
    }
    // The highest version of all that had ended before each begin.
    let mut by_end = seen.clone();
    by_end.sort_unstable_by_key(|(_, end, _)| *end);
    seen.sort_unstable_by_key(|(begin, ..)| *begin);
    let (mut ended, mut highest) = (by_end.iter().peekable(), Version::default());
    for (begin, _, version) in seen {
        while let Some((_, _, ended)) = ended.next_if(|(_, end, _)| *end < begin) {
            highest = highest.max(*ended);
        }
        if version < highest {
            return Err(format!("version {version} was seen at {begin}, after {highest}"));
        }
    }
    Ok(())
}
