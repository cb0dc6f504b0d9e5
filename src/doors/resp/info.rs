//! Figures and settings by the names that they have in Redis, which dashboards know.

use std::fmt::{Display, Write};
use std::time::Duration;

use bytes::Bytes;

use crate::command::ShardStats;

/// Whose commands are served.
pub(super) const REDIS_VERSION: &str = "7.0.15";

/// What INFO is made of.
pub(super) struct Figures<'a> {
    pub stats: &'a [ShardStats],
    pub clients: usize,
    pub clients_max: usize,
    /// Since the start.
    pub connections: u64,
    pub uptime: Duration,
    pub run_id: u128,
    pub port: u16,
    pub is_member: bool,
}

/// Sections that INFO shows if none is named.
const SECTIONS: &[&str] =
    &["server", "clients", "memory", "persistence", "stats", "replication", "cpu", "cluster", "keyspace"];

impl Figures<'_> {
    pub fn text(&self, sections: &[Bytes]) -> String {
        let is_asked = |section: &str| {
            sections.is_empty()
                || sections.iter().any(|asked| {
                    ["all", "default", "everything", section]
                        .iter()
                        .any(|name| asked.eq_ignore_ascii_case(name.as_bytes()))
                })
        };
        let mut text = String::new();
        for section in SECTIONS.iter().filter(|section| is_asked(section)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let (first, rest) = section.split_at(1);
            let _ = write!(text, "# {}{rest}\r\n", first.to_ascii_uppercase());
            for (name, value) in self.section(section) {
                let _ = write!(text, "{name}:{value}\r\n");
            }
        }
        text
    }

    fn sum(&self, figure: impl Fn(&ShardStats) -> u64) -> u64 {
        self.stats.iter().map(figure).sum()
    }

    fn section(&self, section: &str) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        let mut line = |name: &'static str, value: &dyn Display| lines.push((name, value.to_string()));
        match section {
            "server" => {
                line("redis_version", &REDIS_VERSION);
                line("redis_mode", &if self.is_member { "cluster" } else { "standalone" });
                line("overspill_version", &env!("CARGO_PKG_VERSION"));
                line("os", &std::env::consts::OS);
                line("arch_bits", &usize::BITS);
                line("process_id", &std::process::id());
                line("run_id", &format_args!("{:032x}00000000", self.run_id));
                line("tcp_port", &self.port);
                line("uptime_in_seconds", &self.uptime.as_secs());
                line("uptime_in_days", &(self.uptime.as_secs() / 86_400));
            }
            "clients" => {
                line("connected_clients", &self.clients);
                line("maxclients", &self.clients_max);
                line("blocked_clients", &0);
            }
            "memory" => {
                let used = self.sum(|stats| stats.memory_bytes);
                let max = self.sum(|stats| stats.memory_bytes_max);
                line("used_memory", &used);
                line("used_memory_human", &bytesize::ByteSize(used));
                line("used_memory_dataset", &used);
                line("used_memory_rss", &Process::now().resident_bytes.unwrap_or(used));
                line("maxmemory", &max);
                line("maxmemory_human", &bytesize::ByteSize(max));
                line("maxmemory_policy", &eviction(self.stats));
                line("mem_fragmentation_ratio", &1.0);
            }
            "persistence" => {
                line("loading", &0);
                line("async_loading", &0);
                line("rdb_changes_since_last_save", &self.sum(|stats| stats.unspilled));
                line("rdb_last_bgsave_status", &"ok");
                line("aof_enabled", &u8::from(self.sum(|stats| stats.journal_bytes_max) > 0));
                line("aof_last_write_status", &"ok");
                line("aof_current_size", &self.sum(|stats| stats.journal_bytes));
            }
            "stats" => {
                let commands = self.sum(|stats| stats.hits + stats.misses + stats.puts + stats.deletes);
                line("total_connections_received", &self.connections);
                line("total_commands_processed", &commands);
                line("keyspace_hits", &self.sum(|stats| stats.hits));
                line("keyspace_misses", &self.sum(|stats| stats.misses));
                line("evicted_keys", &self.sum(|stats| stats.evicted));
                line("expired_keys", &self.sum(|stats| stats.expired));
                line("spilled_rows", &self.sum(|stats| stats.spilled_rows));
                line("loaded_rows", &self.sum(|stats| stats.loaded_rows));
            }
            "replication" => {
                line("role", &"master");
                line("connected_slaves", &0);
                line("master_replid", &format_args!("{:032x}00000000", self.run_id));
                line("master_repl_offset", &0);
            }
            "cpu" => {
                let process = Process::now();
                line("used_cpu_sys", &format_args!("{:.2}", process.system_seconds));
                line("used_cpu_user", &format_args!("{:.2}", process.user_seconds));
            }
            "cluster" => line("cluster_enabled", &u8::from(self.is_member)),
            "keyspace" => {
                let keys = self.sum(|stats| (stats.records + stats.tombstones).max(stats.tier_records));
                if keys > 0 {
                    line("db0", &format_args!("keys={keys},expires=0,avg_ttl=0"));
                }
            }
            _ => {}
        }
        lines
    }
}

/// What the operating system says of this process, where it is Linux.
#[derive(Debug, Default)]
struct Process {
    resident_bytes: Option<u64>,
    system_seconds: f64,
    user_seconds: f64,
}

impl Process {
    fn now() -> Self {
        // See proc(5): after the name in brackets, utime is the 12th field and stime the 13th, in ticks, of which Linux tells a
        // hundred a second.
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let seconds = |at| {
            let ticks: Option<u32> = fields.split_whitespace().nth(at).and_then(|field| field.parse().ok());
            f64::from(ticks.unwrap_or(0)) / 100.0
        };
        let resident = std::fs::read_to_string("/proc/self/status").ok();
        let resident = resident.as_deref().and_then(|text| text.split_once("VmRSS:")).map(|(_, rest)| rest);
        let kib: Option<u64> = resident.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        Self { resident_bytes: kib.map(|kib| kib * 1024), system_seconds: seconds(12), user_seconds: seconds(11) }
    }
}

fn eviction(stats: &[ShardStats]) -> String {
    stats.first().map_or_else(|| "noeviction".to_owned(), |stats| format!("allkeys-{}", stats.policy))
}

/// What CONFIG GET tells.
pub(super) fn settings(stats: &[ShardStats], port: u16) -> Vec<(&'static str, String)> {
    let sum = |figure: fn(&ShardStats) -> u64| stats.iter().map(figure).sum::<u64>();
    let has_journal = sum(|stats| stats.journal_bytes_max) > 0;
    vec![
        ("appendfsync", "always".to_owned()),
        ("appendonly", if has_journal { "yes" } else { "no" }.to_owned()),
        ("databases", "1".to_owned()),
        ("maxmemory", sum(|stats| stats.memory_bytes_max).to_string()),
        ("maxmemory-policy", eviction(stats)),
        ("port", port.to_string()),
        ("proto-max-bulk-len", crate::record::VALUE_BYTES_MAX.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ]
}
