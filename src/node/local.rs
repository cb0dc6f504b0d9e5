//! A whole cluster in one process: a primary and its secondaries on loopback ports, with real RPC between them, and SQLite
//! as their tier.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{JournalOptions, Primary, PrimaryOptions, Secondary, SecondaryOptions, TierChoice};
use crate::cluster::ShardName;
use crate::doors::{self, Access};
use crate::journal;
use crate::secret::Secret;
use crate::shard::ShardOptions;

const LOOPBACK: &str = "127.0.0.1";
const LOOK: Duration = Duration::from_millis(10);

/// What a local cluster is started with.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// Where the SQLite file and the journals lie; created if missing.
    pub data_dir: PathBuf,
    /// How many secondaries. A data directory keeps the number that it was made with, as a changed list would.
    pub secondaries: usize,
    /// The password that its nodes ask for.
    pub secret: Option<Secret>,
    /// Of each secondary.
    pub journal: journal::Options,
    /// Of each secondary; their seeds are made different.
    pub shard: ShardOptions,
}

/// A running local cluster.
#[derive(Debug)]
pub struct LocalCluster {
    primary: Primary,
    secondaries: Vec<Secondary>,
    file: PathBuf,
}

impl LocalCluster {
    /// # Errors
    /// If the data directory can't be made or no port can be had.
    pub async fn start(options: LocalOptions) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&options.data_dir)
            .with_context(|| format!("can't create the data directory `{}`", options.data_dir.display()))?;
        let file = options.data_dir.join("overspill.sqlite");
        let door = doors::Options { access: Access::new(options.secret), ..doors::Options::default() };
        let mut secondaries = Vec::new();
        let mut names = Vec::new();
        for i in 1..=options.secondaries {
            let secondary = Secondary::start(SecondaryOptions {
                bind: LOOPBACK.to_owned(),
                announce: None,
                port: 0,
                tier: TierChoice::Sqlite(file.clone()),
                journal: Some(JournalOptions {
                    data_dir: options.data_dir.join(format!("local-{i}")),
                    options: options.journal,
                }),
                shard: ShardOptions { seed: options.shard.seed.wrapping_add(i as u64), ..options.shard.clone() },
                door: door.clone(),
            })
            .await?;
            // The ports change from start to start; the names must not, since the fences bear them.
            names.push((ShardName::new(format!("local-{i}"))?, secondary.address().to_string()));
            secondaries.push(secondary);
        }
        let primary = Primary::start(PrimaryOptions {
            bind: LOOPBACK.to_owned(),
            port: 0,
            secondaries: names,
            accept_loss: options.shard.accept_loss,
            door,
        })
        .await?;
        Ok(Self { primary, secondaries, file })
    }

    /// Waits until every slot is served.
    ///
    /// # Errors
    /// Why some are not, if they are not within `patience`.
    pub async fn until_served(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            match self.primary.unserved() {
                None => return Ok(()),
                Some(reason) if Instant::now() >= deadline => anyhow::bail!("{reason}"),
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Of the primary.
    pub fn address(&self) -> SocketAddr {
        self.primary.address()
    }

    pub fn secondaries(&self) -> impl Iterator<Item = SocketAddr> {
        self.secondaries.iter().map(Secondary::address)
    }

    /// The SQLite file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Stops primary and secondaries, cleanly.
    ///
    /// # Errors
    /// If a secondary could not spill everything.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.primary.stop().await;
        for secondary in self.secondaries {
            secondary.stop().await?;
        }
        Ok(())
    }
}
