//! Who serves which slots, as Redis tells it.

use std::fmt::Write;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::cluster::{MapView, ShardView};
use crate::protocol::resp::Encoder;
use crate::slots::SLOTS;

/// What the cluster bus would listen on, above the port.
const BUS_OFFSET: u32 = 10_000;

/// A shard's name in 40 hexadecimal digits, the same at every node.
fn id(shard: &ShardView) -> String {
    let name = shard.name.as_str().as_bytes();
    format!("{:032x}{:08x}", xxh3_128(name), xxh3_64(name) >> 32)
}

/// Host and port of an address. An IPv6 address loses its brackets.
fn place(shard: &ShardView) -> (&str, u16) {
    let (host, port) = shard.address.rsplit_once(':').unwrap_or((&shard.address, ""));
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (host, port.parse().unwrap_or(0))
}

pub(super) fn info(map: &MapView, encoder: &mut Encoder<'_>) {
    let served = map.served().len();
    let state = if served == usize::from(SLOTS) { "ok" } else { "fail" };
    let size = map.shards.iter().filter(|shard| !shard.served.is_empty()).count();
    encoder.verbatim(&format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{served}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:{}\r\ncluster_known_nodes:{}\r\ncluster_size:{size}\r\n\
         cluster_current_epoch:{epoch}\r\ncluster_my_epoch:{epoch}\r\n",
        usize::from(SLOTS) - served,
        map.shards.len(),
        epoch = map.epoch,
    ));
}

pub(super) fn my_id(map: &MapView, encoder: &mut Encoder<'_>) {
    let own = map.me().map_or_else(|| "0".repeat(40), id);
    encoder.bulk(own.as_bytes());
}

pub(super) fn nodes(map: &MapView, encoder: &mut Encoder<'_>) {
    let mut text = String::new();
    for shard in &map.shards {
        let (host, port) = place(shard);
        let flags = match (shard.is_me, shard.served.is_empty()) {
            (true, _) => "myself,master",
            (false, true) if !shard.unserved.is_empty() => "master,fail",
            (false, _) => "master",
        };
        let (bus, epoch) = (u32::from(port) + BUS_OFFSET, shard.epoch);
        let link = if flags.ends_with("fail") { "disconnected" } else { "connected" };
        let _ = write!(text, "{} {host}:{port}@{bus},{host} {flags} - 0 0 {epoch} {link}", id(shard));
        for (from, to) in shard.served.ranges() {
            let _ = if from == to { write!(text, " {from}") } else { write!(text, " {from}-{to}") };
        }
        text.push('\n');
    }
    encoder.verbatim(&text);
}

pub(super) fn slots(map: &MapView, encoder: &mut Encoder<'_>) {
    let mut ranges: Vec<_> =
        map.shards.iter().flat_map(|shard| shard.served.ranges().iter().map(move |range| (*range, shard))).collect();
    ranges.sort_by_key(|(range, _)| *range);
    encoder.array(ranges.len());
    for ((from, to), shard) in ranges {
        let (host, port) = place(shard);
        encoder.array(3);
        encoder.integer(from.get().into());
        encoder.integer(to.get().into());
        encoder.array(4);
        encoder.bulk(host.as_bytes());
        encoder.integer(port.into());
        encoder.bulk(id(shard).as_bytes());
        encoder.map(0); // nothing more about its place
    }
}

pub(super) fn shards(map: &MapView, encoder: &mut Encoder<'_>) {
    encoder.array(map.shards.len());
    for shard in &map.shards {
        let (host, port) = place(shard);
        encoder.map(2);
        encoder.bulk(b"slots");
        encoder.array(shard.served.ranges().len() * 2);
        for (from, to) in shard.served.ranges() {
            encoder.integer(from.get().into());
            encoder.integer(to.get().into());
        }
        encoder.bulk(b"nodes");
        encoder.array(1);
        encoder.map(7);
        let health = if shard.unserved.is_empty() { "online" } else { "fail" };
        let id = id(shard);
        let texts = [("id", id.as_str()), ("endpoint", host), ("ip", host), ("role", "master"), ("health", health)];
        for (name, value) in texts {
            encoder.bulk(name.as_bytes());
            encoder.bulk(value.as_bytes());
        }
        for (name, value) in [("port", i64::from(port)), ("replication-offset", 0)] {
            encoder.bulk(name.as_bytes());
            encoder.integer(value);
        }
    }
}
