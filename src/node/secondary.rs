//! A secondary: one shard behind a door.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{TierChoice, listen};
use crate::clock::SystemClock;
use crate::doors::{self, Door};
use crate::rpc::Role;
use crate::shard::{Shard, ShardOptions, UncleanStop};

/// What a secondary is started with.
#[derive(Debug, Clone)]
pub struct SecondaryOptions {
    /// Host to listen on.
    pub bind: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    pub tier: TierChoice,
    pub shard: ShardOptions,
    pub door: doors::Options,
}

/// A running secondary.
#[derive(Debug)]
pub struct Secondary {
    address: SocketAddr,
    shard: Shard,
    door: JoinHandle<()>,
    stop: CancellationToken,
}

impl Secondary {
    /// Starts listening. The shard serves once a primary has told it its slots.
    ///
    /// # Errors
    /// If the port can't be had.
    pub async fn start(options: SecondaryOptions) -> anyhow::Result<Self> {
        let (listener, address) = listen(&options.bind, options.port).await?;
        let tier = options.tier.open();
        let described = tier.as_ref().map_or_else(|| "none".to_owned(), |tier| tier.describe());
        info!(%address, tier = described, capacity = options.shard.capacity, policy = %options.shard.policy,
            write = ?options.shard.write_mode, "secondary listens");
        let shard = Shard::spawn(options.shard, tier, SystemClock::shared());
        let stop = CancellationToken::new();
        let door = Door {
            service: shard.clone(),
            member: shard.clone(),
            options: doors::Options { role: Role::Secondary, ..options.door },
        };
        let door = tokio::spawn(doors::serve(listener, Arc::new(door), stop.clone()));
        Ok(Self { address, shard, door, stop })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Stops accepting, finishes what is in flight, spills everything unspilled and marks the fence clean. Returns how many
    /// records it spilled.
    ///
    /// # Errors
    /// [`UncleanStop`] if the tier did not take everything in time.
    pub async fn stop(self) -> Result<u64, UncleanStop> {
        let started = Instant::now();
        self.stop.cancel();
        if let Err(error) = self.door.await {
            tracing::error!(%error, "the door ended badly");
        }
        let spilled = self.shard.shutdown().await?;
        info!(spilled, millis = started.elapsed().as_millis() as u64, "stopped cleanly: nothing is left to spill");
        Ok(spilled)
    }
}
