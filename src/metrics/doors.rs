//! Connections and bytes by door.

use std::array;
use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::DescriptorEncoder;

use super::{Counter, encode_counters, encode_gauges};

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorName {
    Rpc,
    Resp,
    Http,
}

impl DoorName {
    const ALL: [Self; 3] = [Self::Rpc, Self::Resp, Self::Http];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Resp => "resp",
            Self::Http => "http",
        }
    }
}

/// Why a connection was not served. Which door it wanted is not known then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There were too many connections.
    TooMany,
    /// It did not say in time what it speaks.
    Silent,
    /// What it speaks is not served here.
    Protocol,
}

impl Refusal {
    const ALL: [Self; 3] = [Self::TooMany, Self::Silent, Self::Protocol];

    fn name(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::Silent => "silent",
            Self::Protocol => "protocol",
        }
    }
}

/// The counts of one door.
#[derive(Debug, Default)]
pub struct DoorMetrics {
    connections: Counter,
    accepted: Counter,
    received_bytes: Counter,
    sent_bytes: Counter,
}

impl DoorMetrics {
    /// Bytes came in.
    pub fn received(&self, bytes: u64) {
        self.received_bytes.add(bytes);
    }

    /// Bytes went out.
    pub fn sent(&self, bytes: u64) {
        self.sent_bytes.add(bytes);
    }

    /// How many connections are served now.
    pub fn connections(&self) -> u64 {
        self.connections.get()
    }
}

/// Statuses of HTTP: 100 to 599.
const STATUSES: usize = 500;
const STATUS_MIN: u16 = 100;

#[derive(Debug)]
pub(super) struct Doors {
    rpc: DoorMetrics,
    resp: DoorMetrics,
    http: DoorMetrics,
    refused: [Counter; Refusal::ALL.len()],
    statuses: [Counter; STATUSES],
}

impl Default for Doors {
    fn default() -> Self {
        Self {
            rpc: DoorMetrics::default(),
            resp: DoorMetrics::default(),
            http: DoorMetrics::default(),
            refused: array::from_fn(|_| Counter::default()),
            statuses: array::from_fn(|_| Counter::default()),
        }
    }
}

impl Doors {
    pub fn of(&self, door: DoorName) -> &DoorMetrics {
        match door {
            DoorName::Rpc => &self.rpc,
            DoorName::Resp => &self.resp,
            DoorName::Http => &self.http,
        }
    }

    pub fn refused(&self, why: Refusal) {
        if let Some(counter) = self.refused.get(why as usize) {
            counter.add(1);
        }
    }

    pub fn responded(&self, status: u16) {
        let index = status.checked_sub(STATUS_MIN).map(usize::from);
        if let Some(counter) = index.and_then(|index| self.statuses.get(index)) {
            counter.add(1);
        }
    }

    pub fn encode_into(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let by_door = |count: fn(&DoorMetrics) -> &Counter| {
            DoorName::ALL.map(|door| (Some([("door", door.name())]), count(self.of(door)).get()))
        };
        encode_gauges(&mut encoder, "kv_connections", "Connections that are served now", by_door(|d| &d.connections))?;
        let help = "Connections that were served";
        encode_counters(&mut encoder, "kv_connections_accepted", help, by_door(|d| &d.accepted))?;
        let refused = Refusal::ALL
            .into_iter()
            .zip(&self.refused)
            .map(|(why, count)| (Some([("reason", why.name())]), count.get()));
        encode_counters(&mut encoder, "kv_connections_refused", "Connections that were not served", refused)?;
        encode_counters(&mut encoder, "kv_received_bytes", "Bytes that came in", by_door(|d| &d.received_bytes))?;
        encode_counters(&mut encoder, "kv_sent_bytes", "Bytes that went out", by_door(|d| &d.sent_bytes))?;
        let statuses = (STATUS_MIN..).zip(&self.statuses).filter(|(_, count)| count.get() > 0);
        let statuses = statuses.map(|(status, count)| (Some([("status", status)]), count.get()));
        encode_counters(&mut encoder, "kv_http_responses", "Answers of the HTTP door by status", statuses)
    }
}

/// A connection that is served.
#[derive(Debug)]
pub struct Connected {
    doors: Arc<Doors>,
    door: DoorName,
}

impl Connected {
    pub(super) fn new(doors: Arc<Doors>, door: DoorName) -> Self {
        doors.of(door).accepted.add(1);
        doors.of(door).connections.add(1);
        Self { doors, door }
    }

    /// The counts of its door.
    pub fn door(&self) -> &DoorMetrics {
        self.doors.of(self.door)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.door().connections.subtract(1);
    }
}
