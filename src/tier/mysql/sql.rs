//! The texts of the statements that come in batch sizes.

use std::fmt::Write;
use std::sync::LazyLock;

use super::super::batch::ROWS;

/// How an upsert names the row that it could not insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `VALUES(column)`: MariaDB, and everything that only resembles MySQL.
    Values,
    /// `new.column`: MySQL since 8.0.20, which warns at every use of the other.
    RowAlias,
}

impl Dialect {
    pub(super) fn of_version(version: &str) -> Self {
        if ["MariaDB", "TiDB", "Vitess"].iter().any(|other| version.contains(other)) {
            return Self::Values;
        }
        let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
        let mut number = || numbers.next().unwrap_or(0);
        if (number(), number(), number()) >= (8, 0, 20) { Self::RowAlias } else { Self::Values }
    }

    pub(super) fn upsert(self, rows: usize) -> &'static str {
        static VALUES: LazyLock<Vec<(usize, String)>> = LazyLock::new(|| sized(|rows| upsert(Dialect::Values, rows)));
        static ALIAS: LazyLock<Vec<(usize, String)>> = LazyLock::new(|| sized(|rows| upsert(Dialect::RowAlias, rows)));
        match self {
            Self::Values => find(&VALUES, rows),
            Self::RowAlias => find(&ALIAS, rows),
        }
    }
}

/// Deletes rows whose version is not newer; parameters a row: key, epoch, epoch, lsn. One alternative a row, each bound to
/// the primary key: EXPLAIN shows a range over as many single keys. (A row constructor `(epoch, lsn) <= (?, ?)` says the
/// same and is not taken apart by every optimizer.)
pub(super) fn delete(rows: usize) -> &'static str {
    static DELETE: LazyLock<Vec<(usize, String)>> = LazyLock::new(|| {
        let row = "(kv_key = ? AND (epoch < ? OR (epoch = ? AND lsn <= ?)))";
        sized(|rows| format!("DELETE FROM records WHERE {}", vec![row; rows].join(" OR ")))
    });
    find(&DELETE, rows)
}

/// Beyond this the optimizer spends more on the alternatives of [`delete`] than a statement saves (measured: 70 k rows/s
/// at 64 and 256, 47 k at 16 and 1000).
pub(super) const DELETE_ROWS_MAX: usize = 256;

/// Bytes as a literal, for statements that are sent as text.
pub(super) fn literal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len() + 3);
    text.push_str("x'");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}"); // a String takes all
    }
    text.push('\'');
    text
}

/// The rows of some keys.
pub(super) fn load(rows: usize) -> &'static str {
    static LOAD: LazyLock<Vec<(usize, String)>> = LazyLock::new(|| {
        sized(|rows| {
            let keys = vec!["?"; rows].join(",");
            format!("SELECT kv_key, kv_value, epoch, lsn, expires_at FROM records WHERE kv_key IN ({keys})")
        })
    });
    find(&LOAD, rows)
}

/// R19: the value first, judged by the version that the row has; then lsn by the epoch that the row has; epoch last.
/// Assignments are made from left to right: a version that is raised first would keep the old value under the new
/// version, for ever.
fn upsert(dialect: Dialect, rows: usize) -> String {
    let new = |column: &str| match dialect {
        Dialect::Values => format!("VALUES({column})"),
        Dialect::RowAlias => format!("new.{column}"),
    };
    let alias = match dialect {
        Dialect::Values => "",
        Dialect::RowAlias => " AS new",
    };
    let (value, expiry, epoch, lsn) = (new("kv_value"), new("expires_at"), new("epoch"), new("lsn"));
    let newer = format!("({epoch}, {lsn}) > (records.epoch, records.lsn)");
    format!(
        "INSERT INTO records (kv_key, kv_value, epoch, lsn, expires_at, slot) VALUES {rows}{alias} \
         ON DUPLICATE KEY UPDATE \
         kv_value = IF({newer}, {value}, records.kv_value), \
         expires_at = IF({newer}, {expiry}, records.expires_at), \
         lsn = IF({epoch} > records.epoch OR ({epoch} = records.epoch AND {lsn} > records.lsn), {lsn}, records.lsn), \
         epoch = GREATEST(records.epoch, {epoch})",
        rows = vec!["(?,?,?,?,?,?)"; rows].join(","),
    )
}

fn sized(text: impl Fn(usize) -> String) -> Vec<(usize, String)> {
    ROWS.iter().map(|&rows| (rows, text(rows))).collect()
}

fn find(texts: &'static [(usize, String)], rows: usize) -> &'static str {
    debug_assert!(ROWS.contains(&rows), "{rows} is not the size of a statement");
    texts.iter().find(|(size, _)| *size == rows).map_or("", |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialect_follows_the_version() {
        for version in ["8.0.20", "8.0.36-0ubuntu0.22.04.1", "8.4.3", "9.7.0"] {
            assert_eq!(Dialect::of_version(version), Dialect::RowAlias, "{version}");
        }
        let others =
            ["8.0.19", "5.7.44-log", "10.11.6-MariaDB", "5.5.5-10.11.6-MariaDB", "8.0.11-TiDB-v8.5.0", "", "x"];
        for version in others.into_iter().chain(["8.0.30-Vitess"]) {
            assert_eq!(Dialect::of_version(version), Dialect::Values, "{version}");
        }
    }

    #[test]
    fn bytes_are_a_literal_whatever_they_are() {
        assert_eq!(literal(b"10.0.0.1:9002"), "x'31302e302e302e313a39303032'");
        assert_eq!(literal(b"' OR 1 --"), "x'27204f522031202d2d'");
        assert_eq!(literal(b""), "x''");
    }
}
