//! How many rows go into one statement: a few fixed numbers, so that each is prepared once a connection.

use crate::command::Effect;
use crate::record::{Key, Record, Version};

/// Rows of a statement, largest first.
pub(super) const ROWS: [usize; 6] = [super::ROWS_MAX, 256, 64, 16, 4, 1];

/// Most keys and values of a statement, in bytes, unless one row alone has more.
pub(super) const STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024 - 256 * 1024;

/// Splits rows into runs of [`ROWS`] sizes, as long as `rows_max` and `bytes_max` allow. A row above `bytes_max` is a run of its own.
pub(super) fn runs<T>(rows: &[T], rows_max: usize, bytes_max: usize, bytes_of: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut runs = Vec::new();
    let mut rest = rows;
    while !rest.is_empty() {
        let fits = |size: usize| {
            let run = rest.get(..size)?;
            (size == 1 || size <= rows_max && run.iter().map(&bytes_of).sum::<usize>() <= bytes_max).then_some(run)
        };
        let Some(run) = ROWS.iter().find_map(|&size| fits(size)) else { break };
        runs.push(run);
        rest = rest.get(run.len()..).unwrap_or_default();
    }
    runs
}

/// Splits rows that may be repeated within a statement: pairs of a run and the [`ROWS`] size to fill up to by
/// repeating its last row, which at most doubles it.
pub(super) fn padded_runs<T>(rows: &[T], rows_max: usize) -> Vec<(&[T], usize)> {
    let mut runs = Vec::new();
    let mut rest = rows;
    while !rest.is_empty() {
        let sizes = || ROWS.iter().copied().filter(|&size| size <= rows_max);
        let above = sizes().rev().find(|&size| size >= rest.len() && size <= 2 * rest.len());
        let size = above.or_else(|| sizes().find(|&size| size <= rest.len())).unwrap_or(1);
        let (run, after) = rest.split_at(size.min(rest.len()));
        runs.push((run, size));
        rest = after;
    }
    runs
}

/// The sets and the deletes of a flush, each in the order of their keys: two transactions that touch the same rows then lock
/// them in the same order.
pub(super) fn in_key_order(effects: &[Effect]) -> (Vec<&Record>, Vec<(&Key, Version)>) {
    let (mut sets, mut deletes) = (Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::Set(record) => sets.push(record),
            Effect::Delete { key, version } => deletes.push((key, *version)),
        }
    }
    sets.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    deletes.sort_unstable();
    (sets, deletes)
}

/// Bytes that a record adds to a statement.
pub(super) fn record_bytes(record: &&Record) -> usize {
    const FIXED: usize = 48;
    FIXED + record.key.as_bytes().len() + record.value.as_bytes().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(n: usize, bytes_max: usize) -> Vec<usize> {
        runs(&vec![10usize; n], 1000, bytes_max, |&bytes| bytes).iter().map(|run| run.len()).collect()
    }

    #[test]
    fn runs_have_few_sizes_and_stay_below_their_bytes() {
        assert_eq!(lens(1000, usize::MAX), [1000]);
        assert_eq!(lens(1277, usize::MAX), [1000, 256, 16, 4, 1]);
        assert_eq!(lens(20, 50), [4, 4, 4, 4, 4]);
        assert_eq!(lens(2, 1), [1, 1]);
        assert_eq!(lens(0, 1), [0usize; 0]);
    }

    #[test]
    fn padding_covers_every_row_and_at_most_doubles_a_run() {
        for n in 0..=1000 {
            let rows: Vec<usize> = (0..n).collect();
            for rows_max in [256, 1000] {
                let padded = padded_runs(&rows, rows_max);
                assert_eq!(padded.iter().flat_map(|(run, _)| run.iter().copied()).collect::<Vec<_>>(), rows);
                for (run, size) in padded {
                    assert!(ROWS.contains(&size) && (run.len()..=2 * run.len()).contains(&size) && size <= rows_max);
                }
            }
        }
    }
}
