//! A secondary: one shard behind a door.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{TierChoice, listen};
use crate::clock::SystemClock;
use crate::doors::{self, Door};
use crate::journal::{self, Directory, Progress};
use crate::record::JournalId;
use crate::rpc::Role;
use crate::shard::{Durability, Shard, ShardOptions, Stopped, UncleanStop};
use crate::task::{SideThread, Threads};

/// How often a long recovery tells how far it is.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// What a secondary is started with.
#[derive(Debug, Clone)]
pub struct SecondaryOptions {
    /// Host to listen on.
    pub bind: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Where clients are to reach it, as `host:port`, if not where its primary does.
    pub announce: Option<String>,
    pub tier: TierChoice,
    /// Where and how it keeps its journal; only with a tier.
    pub journal: Option<JournalOptions>,
    pub shard: ShardOptions,
    pub door: doors::Options,
}

/// Where a journal lies, and how it is kept.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// Made if it is missing.
    pub data_dir: PathBuf,
    pub options: journal::Options,
}

/// A running secondary.
#[derive(Debug)]
pub struct Secondary {
    address: SocketAddr,
    shard: Shard,
    door: JoinHandle<()>,
    stop: CancellationToken,
    /// Of the spiller, which ends with the secondary, stopped or not.
    _side_thread: Option<SideThread>,
}

impl Secondary {
    /// Recovers what its journal holds, and starts listening. The shard serves once a primary has told it its slots.
    ///
    /// # Errors
    /// If the port can't be had, or the journal can't be opened.
    pub async fn start(options: SecondaryOptions) -> anyhow::Result<Self> {
        let (listener, address) = listen(&options.bind, options.port, &options.door).await?;
        let tier = options.tier.open();
        let side_thread = tier.as_ref().map(|_| SideThread::start("spiller")).transpose();
        let side_thread = side_thread.context("can't start the spiller's thread")?;
        let tier = tier.zip(side_thread.as_ref()).map(|(tier, thread)| tier.at_home_on(thread.runtime()));
        let described = tier.as_ref().map_or_else(|| "none".to_owned(), |tier| tier.describe());
        let ShardOptions { capacity, policy, write_mode, .. } = options.shard;
        let shard = match (tier, options.journal) {
            (Some(tier), Some(journal)) => {
                let durability = open_journal(journal).await?;
                Shard::recover(options.shard, tier, SystemClock::shared(), durability)?
            }
            (tier, _) => Shard::spawn(options.shard, tier, SystemClock::shared()),
        };
        info!(%address, tier = described, capacity, %policy, write = ?write_mode, "secondary listens");
        let stop = CancellationToken::new();
        shard.listens_at(address.to_string());
        options.announce.into_iter().for_each(|address| shard.announce(address));
        let door_options = doors::Options { role: Role::Secondary, port: address.port(), ..options.door };
        let door = Door::new(shard.clone(), shard.clone(), shard.clone(), door_options);
        let door = tokio::spawn(doors::serve(listener, Arc::new(door), stop.clone()));
        Ok(Self { address, shard, door, stop, _side_thread: side_thread })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Returns once it can't go on, with the reason: its process is to end, and to be started again.
    pub async fn failed(&self) -> String {
        self.shard.failed().await
    }

    /// Stops accepting, finishes what is in flight, spills everything unspilled and marks the fence clean.
    ///
    /// # Errors
    /// [`UncleanStop`] if the tier did not take everything in time, and there is no journal that has it.
    pub async fn stop(self) -> Result<Stopped, UncleanStop> {
        let started = Instant::now();
        self.stop.cancel();
        if let Err(error) = self.door.await {
            tracing::error!(%error, "the door ended badly");
        }
        let stopped = self.shard.shutdown().await?;
        let (Stopped { spilled, journaled }, millis) = (stopped, started.elapsed().as_millis() as u64);
        if journaled == 0 {
            info!(spilled, millis, "stopped cleanly: nothing is left to spill");
        } else {
            warn!(
                spilled,
                journaled,
                millis,
                "stopped before the tier had everything: the rest is in the journal, and will be \
                spilled when this secondary is started again with the same data directory"
            );
        }
        Ok(stopped)
    }
}

async fn open_journal(options: JournalOptions) -> anyhow::Result<Durability> {
    let JournalOptions { data_dir, options } = options;
    let shown = data_dir.display().to_string();
    let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let directory = Directory::create(&data_dir)?;
        let started = Instant::now();
        let mut told = started;
        let mut progress = |progress: Progress| {
            if told.elapsed() >= TELL_INTERVAL {
                told = Instant::now();
                info!(read = progress.bytes_read, of = progress.bytes, "reading the journal");
            }
        };
        let (journal, recovered) =
            journal::open(Arc::new(directory), options, JournalId(rand::random()), &mut progress)?;
        let (records, bytes, millis) = (recovered.effects.len(), recovered.bytes, started.elapsed().as_millis() as u64);
        info!(journal = %journal.id(), fsync = %options.fsync, records, bytes, millis, "the journal is read");
        if recovered.torn_bytes > 0 {
            info!(
                bytes = recovered.torn_bytes,
                "cut off what was not acknowledged: a write that the last stop interrupted"
            );
        }
        Ok((journal, recovered))
    });
    let (journal, recovered) = opened.await?.with_context(|| format!("can't open the journal in `{shown}`"))?;
    Ok(Durability { journal, recovered, blocking: Arc::new(Threads) })
}
