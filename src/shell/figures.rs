//! STATS and EXPLAIN: names and figures, aligned for people and plain for programs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;

use crate::command::{Explanation, Place, ShardStats};
use crate::protocol::line::{printable, quote};
use crate::record::Timestamp;

use super::render::{Style, line};

enum Figure {
    Count(u64),
    Bytes(u64),
    Millis(u64),
    Flag(bool),
    Text(String),
}

impl Figure {
    fn raw(&self) -> String {
        match self {
            Self::Count(n) | Self::Bytes(n) | Self::Millis(n) => n.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => printable(text.as_bytes(), TEXT_BYTES_MAX),
        }
    }

    fn typed(&self) -> String {
        match self {
            Self::Count(n) => grouped(*n),
            Self::Bytes(n) => ByteSize::b(*n).to_string(),
            // Whole seconds: nobody reads the rest.
            Self::Millis(ms) => humantime::format_duration(Duration::from_secs(ms / 1000)).to_string(),
            Self::Flag(true) => "yes".to_owned(),
            Self::Flag(false) => "no".to_owned(),
            Self::Text(text) => printable(text.as_bytes(), TEXT_BYTES_MAX),
        }
    }
}

/// A server's name and address fit; what is longer is none.
const TEXT_BYTES_MAX: usize = 512;

/// A table with a column for each shard; raw, a line `shard name value` for each figure.
pub(super) fn stats(style: Style, shards: &[ShardStats], out: &mut Vec<u8>) {
    match style {
        Style::Raw => {
            for stats in shards {
                let shard = quote(stats.shard.as_bytes());
                for (name, figure) in figures(stats) {
                    line(&format!("{shard} {name} {}", figure.raw()), out);
                }
            }
        }
        Style::Typed if shards.is_empty() => line("(no shards)", out),
        Style::Typed => table(shards, out),
    }
}

fn table(shards: &[ShardStats], out: &mut Vec<u8>) {
    let column = |stats: &ShardStats| -> Vec<(&str, String)> {
        let head = ("shard", printable(stats.shard.as_bytes(), TEXT_BYTES_MAX));
        let rate = ("hit_rate", hit_rate(stats));
        let rows = figures(stats).into_iter().map(|(name, figure)| (name.trim_end_matches("_ms"), figure.typed()));
        let rows = std::iter::once(head).chain(rows);
        rows.flat_map(|row| if row.0 == "misses" { vec![row, rate.clone()] } else { vec![row] }).collect()
    };
    let mut columns: Vec<_> = shards.iter().map(|stats| column(stats).into_iter()).collect();
    let names: Vec<&str> =
        shards.first().map(|stats| column(stats).into_iter().map(|row| row.0).collect()).unwrap_or_default();
    let name_width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let cell_width = |column: &std::vec::IntoIter<(&str, String)>| {
        column.as_slice().iter().map(|(_, cell)| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = columns.iter().map(cell_width).collect();
    for name in names {
        let mut text = format!("{name:<name_width$}");
        for (column, width) in columns.iter_mut().zip(&widths) {
            let (_, cell) = column.next().unwrap_or_default();
            text.push_str(&format!("  {cell:>width$}"));
        }
        line(&text, out);
    }
}

/// Every figure of a shard but its name, in the order of the table.
fn figures(stats: &ShardStats) -> Vec<(&'static str, Figure)> {
    use Figure::{Bytes, Count, Flag, Millis, Text};
    // Taken apart, so that a new figure is not forgotten here.
    let ShardStats {
        shard: _,
        epoch,
        slots,
        policy,
        write_mode,
        tier,
        tier_up,
        uptime_ms,
        records,
        records_max,
        records_spilling,
        unspilled,
        tombstones,
        tier_records,
        filter_ready,
        memory_bytes,
        memory_bytes_max,
        hits,
        misses,
        puts,
        deletes,
        expired,
        evicted,
        dropped,
        spilled_rows,
        spilled_batches,
        spill_errors,
        loaded_rows,
        load_batches,
        load_errors,
        loads_avoided,
        loads_joined,
        busy,
        dead_letters,
        losses_accepted,
        journal_bytes,
        journal_bytes_max,
        journal_groups,
        journal_syncs,
        journal_sync_us,
        unspilled_bytes,
        spill_queue,
        spill_queue_age_ms,
        tier_pool_used,
        tier_pool_max,
    } = stats;
    vec![
        ("epoch", Count(*epoch)),
        ("slots", Count(*slots)),
        ("policy", Text(policy.clone())),
        ("write_mode", Text(write_mode.clone())),
        ("tier", Text(tier.clone())),
        ("tier_up", Flag(*tier_up)),
        ("uptime_ms", Millis(*uptime_ms)),
        ("records", Count(*records)),
        ("records_max", Count(*records_max)),
        ("records_spilling", Count(*records_spilling)),
        ("unspilled", Count(*unspilled)),
        ("tombstones", Count(*tombstones)),
        ("tier_records", Count(*tier_records)),
        ("filter_ready", Flag(*filter_ready)),
        ("memory_bytes", Bytes(*memory_bytes)),
        ("memory_bytes_max", Bytes(*memory_bytes_max)),
        ("hits", Count(*hits)),
        ("misses", Count(*misses)),
        ("puts", Count(*puts)),
        ("deletes", Count(*deletes)),
        ("expired", Count(*expired)),
        ("evicted", Count(*evicted)),
        ("dropped", Count(*dropped)),
        ("spilled_rows", Count(*spilled_rows)),
        ("spilled_batches", Count(*spilled_batches)),
        ("spill_errors", Count(*spill_errors)),
        ("loaded_rows", Count(*loaded_rows)),
        ("load_batches", Count(*load_batches)),
        ("load_errors", Count(*load_errors)),
        ("loads_avoided", Count(*loads_avoided)),
        ("loads_joined", Count(*loads_joined)),
        ("busy", Count(*busy)),
        ("dead_letters", Count(*dead_letters)),
        ("losses_accepted", Count(*losses_accepted)),
        ("journal_bytes", Bytes(*journal_bytes)),
        ("journal_bytes_max", Bytes(*journal_bytes_max)),
        ("journal_groups", Count(*journal_groups)),
        ("journal_syncs", Count(*journal_syncs)),
        ("journal_sync_us", Count(*journal_sync_us)),
        ("unspilled_bytes", Bytes(*unspilled_bytes)),
        ("spill_queue", Count(*spill_queue)),
        ("spill_queue_age_ms", Millis(*spill_queue_age_ms)),
        ("tier_pool_used", Count(*tier_pool_used)),
        ("tier_pool_max", Count(*tier_pool_max)),
    ]
}

fn hit_rate(stats: &ShardStats) -> String {
    let reads = stats.hits.saturating_add(stats.misses);
    if reads == 0 { "-".to_owned() } else { format!("{:.1} %", stats.hits as f64 * 100.0 / reads as f64) }
}

/// Lines `name  value` and a sentence; raw, lines `name value`. Whether the key lives anywhere.
pub(super) fn explanation(style: Style, explanation: &Explanation, out: &mut Vec<u8>) -> bool {
    use Figure::{Bytes, Count, Text};
    let Explanation { slot, shard, place, version, expires_at, value_bytes, rank, policy } = explanation;
    let (place_name, sentence, lives) = describe(*place);
    let expires = match (style, expires_at) {
        (Style::Raw, Some(at)) => Some(Count(at.0)),
        (Style::Raw, None) => None,
        (Style::Typed, Some(at)) => Some(Text(date(*at))),
        (Style::Typed, None) => lives.then(|| Text("never".to_owned())),
    };
    let lines = [
        ("place", Some(Text(place_name.to_owned()))),
        ("shard", Some(Text(shard.clone()))),
        ("slot", Some(Figure::Count(u64::from(*slot)))),
        ("version", version.map(|version| Text(version.to_string()))),
        ("value_bytes", value_bytes.map(Bytes)),
        ("expires_at", expires),
        ("policy", Some(Text(policy.clone()))),
        ("rank", rank.map(Count)),
    ];
    for (name, figure) in lines.into_iter().filter_map(|(name, figure)| Some((name, figure?))) {
        match style {
            Style::Raw => line(&format!("{name} {}", figure.raw()), out),
            Style::Typed => line(&format!("{name:<11}  {}", figure.typed()), out),
        }
    }
    if style == Style::Typed {
        let queue = match rank {
            Some(0) => " It is the next of its partition to leave memory.".to_owned(),
            Some(n) => format!(" {} of its partition leave memory before it.", grouped(*n)),
            None => String::new(),
        };
        line(&format!("{sentence}{queue}"), out);
    }
    lives
}

/// A short name, a sentence, and whether the key exists.
fn describe(place: Place) -> (&'static str, &'static str, bool) {
    match place {
        Place::Memory { clean: true } => {
            ("memory, clean", "It is in memory, and the database has this version too.", true)
        }
        Place::Memory { clean: false } => {
            ("memory, unspilled", "It is in memory, and the database does not have this version yet.", true)
        }
        Place::Spilling => {
            ("spilling", "It is on its way to the database, and served from memory until it is there.", true)
        }
        Place::Deleting => ("deleting", "It was deleted, and the database is still to be told.", false),
        Place::Tier => ("tier", "It is in the database only; the next read brings it back into memory.", true),
        Place::Nowhere => ("nowhere", "It does not exist.", false),
    }
}

/// RFC 3339, in UTC; for what no calendar holds, the milliseconds.
fn date(at: Timestamp) -> String {
    // The year 9999 is the last that humantime writes.
    const LAST_MS: u64 = 253_402_300_799_999;
    let time: Option<SystemTime> = UNIX_EPOCH.checked_add(Duration::from_millis(at.0)).filter(|_| at.0 <= LAST_MS);
    time.map_or_else(|| format!("{} ms", at.0), |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
