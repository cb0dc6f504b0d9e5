//! The figures of a node and of the shards behind it, for a scrape.

use std::time::Duration;

use crate::cluster::{MapView, ShardView};
use crate::command::ShardStats;
use crate::metrics::{Figure, Kind, Value};
use crate::rpc::Role;

/// What is known when somebody asks.
pub(super) struct Seen<'a> {
    pub role: Role,
    pub uptime: Duration,
    pub map: &'a MapView,
    pub is_ready: bool,
    /// Of those shards that answered; the others are in it as well, with an error in place of a name.
    pub stats: &'a [ShardStats],
}

impl Seen<'_> {
    /// Those that this node can speak for: a primary for all, a secondary for itself.
    fn shards(&self) -> impl Iterator<Item = &ShardView> {
        self.map.shards.iter().filter(|shard| shard.is_me || self.role != Role::Secondary)
    }
}

pub(super) fn figures(seen: &Seen<'_>) -> Vec<Figure> {
    let answered: Vec<&ShardStats> = seen.stats.iter().filter(|stats| !stats.shard.starts_with("? (")).collect();
    let mut all = of_node(seen);
    let mut up = Figure::new("kv_shard_up", "Whether the shard told its figures", Kind::Gauge);
    for shard in seen.shards() {
        let is_up = answered.iter().any(|stats| stats.shard == shard.name.as_str());
        up = up.with([("shard", shard.name.to_string())], is_up);
    }
    all.push(up);
    let mut info = Figure::new("kv_shard_info", "How the shard was set up", Kind::Gauge);
    for stats in &answered {
        let ShardStats { shard, policy, write_mode, tier, .. } = stats;
        let labels = [("shard", shard), ("policy", policy), ("write_mode", write_mode), ("tier", tier)];
        info = info.with(labels.map(|(name, value)| (name, value.clone())), true);
    }
    all.push(info);
    // The same figures of every shard, in the same order: each becomes one metric.
    let mut of_shards: Vec<Figure> =
        of_shard(&ShardStats::default()).into_iter().map(|row| Figure::new(row.name, row.help, row.kind)).collect();
    for stats in &answered {
        let rows = of_shard(stats);
        let labeled = of_shards.into_iter().zip(rows);
        of_shards = labeled.map(|(figure, row)| figure.with([("shard", stats.shard.clone())], row.value)).collect();
    }
    all.extend(of_shards);
    all
}

fn of_node(seen: &Seen<'_>) -> Vec<Figure> {
    let role = match seen.role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
        Role::Client => "client",
    };
    let unserved = seen.shards().flat_map(|shard| &shard.unserved);
    let unserved: usize = unserved.map(|unserved| unserved.slots.len()).sum();
    let one = |name, help, value: Value| Figure::new(name, help, Kind::Gauge).with([], value);
    let version = [("version", env!("CARGO_PKG_VERSION").to_owned()), ("role", role.to_owned())];
    vec![
        Figure::new("kv_build_info", "What this node is", Kind::Gauge).with(version, true),
        one("kv_uptime_seconds", "How long this node has been up", Value::Fraction(seen.uptime.as_secs_f64())),
        one("kv_ready", "Whether this node is fit to be asked", seen.is_ready.into()),
        one("kv_map_epoch", "The slot map that this node knows", seen.map.epoch.0.into()),
        one(
            "kv_slots_unserved",
            "Slots that shall be served and are not: of all shards at a primary, of its own at a secondary",
            (unserved as u64).into(),
        ),
    ]
}

struct Row {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    value: Value,
}

fn gauge(name: &'static str, help: &'static str, value: impl Into<Value>) -> Row {
    Row { name, help, kind: Kind::Gauge, value: value.into() }
}

/// Of what was counted since the shard's start.
fn count(name: &'static str, help: &'static str, value: &u64) -> Row {
    Row { name, help, kind: Kind::Counter, value: (*value).into() }
}

fn of_shard(stats: &ShardStats) -> Vec<Row> {
    // Taken apart, so that a new figure is not forgotten here.
    let ShardStats {
        shard: _,
        epoch,
        slots,
        policy: _,
        write_mode: _,
        tier: _,
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
    let millis = |ms: &u64| Value::Fraction(*ms as f64 / 1e3);
    vec![
        gauge("kv_shard_epoch", "The map under which the shard serves", *epoch),
        gauge("kv_slots_served", "Slots that the shard serves", *slots),
        gauge("kv_tier_up", "Whether the tier answered when it was last asked", *tier_up),
        gauge("kv_shard_uptime_seconds", "How long the shard has been up", millis(uptime_ms)),
        gauge("kv_records", "Live records in memory", *records),
        gauge("kv_records_max", "How many records memory may hold", *records_max),
        gauge("kv_records_spilling", "Records in memory that were evicted and wait for the tier", *records_spilling),
        gauge("kv_unspilled_records", "Records and deletions that the tier does not have yet", *unspilled),
        gauge("kv_unspilled_bytes", "Bytes of what the tier does not have yet", *unspilled_bytes),
        gauge("kv_spill_queue_records", "Of the unspilled records, those on their way to the tier", *spill_queue),
        gauge(
            "kv_spill_queue_oldest_seconds",
            "How long the oldest of the spill queue has waited at least",
            millis(spill_queue_age_ms),
        ),
        gauge("kv_tombstones", "Deletions that the tier does not know of yet", *tombstones),
        gauge("kv_tier_records", "Keys that have a row in the tier", *tier_records),
        gauge("kv_filter_ready", "Whether it is known which keys have a row", *filter_ready),
        gauge("kv_memory_bytes", "Accounted bytes in memory", *memory_bytes),
        gauge("kv_memory_max_bytes", "How many bytes memory may hold", *memory_bytes_max),
        count("kv_hits", "Reads answered with a value from memory at once", hits),
        count("kv_misses", "All other reads", misses),
        count("kv_puts", "Values stored", puts),
        count("kv_deletes", "Keys deleted", deletes),
        count("kv_expired", "Keys deleted because they had expired", expired),
        count("kv_evicted", "Records evicted from memory", evicted),
        count("kv_dropped", "Records evicted and gone, for want of a tier", dropped),
        count("kv_spilled_rows", "Rows written into the tier", spilled_rows),
        count("kv_spilled_batches", "Transactions that wrote them", spilled_batches),
        count("kv_spill_errors", "Transactions that failed", spill_errors),
        count("kv_loaded_rows", "Rows read back", loaded_rows),
        count("kv_load_batches", "Statements that read them", load_batches),
        count("kv_load_errors", "Statements that failed", load_errors),
        count("kv_loads_avoided", "Misses that the filter answered without the tier", loads_avoided),
        count("kv_loads_joined", "Misses that joined a load in flight", loads_joined),
        count("kv_busy", "Writes refused for want of room", busy),
        count("kv_dead_letters", "Records that the tier rejected", dead_letters),
        count("kv_losses_accepted", "Starts that accepted the loss of unspilled records", losses_accepted),
        gauge("kv_journal_bytes", "Bytes of the journal", *journal_bytes),
        gauge("kv_journal_max_bytes", "How many bytes the journal may have; 0 without one", *journal_bytes_max),
        count("kv_journal_groups", "Groups of writes committed together", journal_groups),
        count("kv_journal_syncs", "Syncs of the journal", journal_syncs),
        gauge(
            "kv_journal_last_sync_seconds",
            "How long the last sync of the journal took",
            Value::Fraction(*journal_sync_us as f64 / 1e6),
        ),
        gauge("kv_tier_connections", "Connections to the tier in use", *tier_pool_used),
        gauge("kv_tier_connections_max", "How many connections to the tier there may be", *tier_pool_max),
    ]
}
