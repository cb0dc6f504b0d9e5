//! Whole nodes, put together from shard or router, tier and doors. Used by the binaries and by tests alike.

#[cfg(feature = "otel")]
mod collector;
mod local;
mod primary;
mod secondary;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use tokio::net::{TcpListener, lookup_host};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

use crate::doors;
use crate::tier::SharedTier;
use crate::tier::mysql::{MySqlOptions, MySqlTier};
use crate::tier::sqlite::SqliteTier;

#[cfg(feature = "otel")]
pub use collector::traced;
pub use local::{LocalCluster, LocalOptions};
pub use primary::{Primary, PrimaryOptions};
pub use secondary::{JournalOptions, Secondary, SecondaryOptions};

/// Where evicted records go.
#[derive(Debug, Clone)]
pub enum TierChoice {
    /// Nowhere: a pure cache.
    None,
    MySql(MySqlOptions),
    Sqlite(PathBuf),
}

impl TierChoice {
    fn open(self) -> Option<SharedTier> {
        match self {
            Self::None => None,
            Self::MySql(options) => Some(SharedTier::new(MySqlTier::new(options))),
            Self::Sqlite(path) => Some(SharedTier::new(SqliteTier::new(path))),
        }
    }
}

/// Listens on `host` and `port`; port 0 takes a free one. Who can be reached from elsewhere must ask for a password, or be told
/// that it need not.
async fn listen(host: &str, port: u16, door: &doors::Options) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let reason = || format!("can't listen on {host}:{port}");
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await.with_context(reason)?.collect();
    let is_local = addresses.iter().all(|address| address.ip().to_canonical().is_loopback());
    ensure!(
        is_local || !door.access.is_open() || door.is_insecure,
        "`{host}` can be reached from other machines, and there is no password: set KV_PASSWORD or KV_PASSWORD_FILE, or \
         pass --insecure-no-auth to let everybody in who reaches it"
    );
    let listener = TcpListener::bind(addresses.as_slice()).await.with_context(reason)?;
    let address = listener.local_addr().context("the listening socket has no address")?;
    Ok((listener, address))
}

/// The signals that stop a node. Made before the node starts, so that none is missed.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// # Errors
    /// If signals can't be listened for.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("can't listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("can't listen for SIGINT")?,
        })
    }

    /// Returns on the next SIGTERM or SIGINT (Ctrl-C).
    pub async fn next(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        info!(signal = name, "stopping");
    }
}

/// SIGHUP, which has a node read its certificates again. Made before the node starts, so that none ends it.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// # Errors
    /// If signals can't be listened for.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self(signal(SignalKind::hangup()).context("can't listen for SIGHUP")?))
    }

    /// Starts to read them again on each, as long as the process lives.
    pub fn reload(mut self, tls: Option<doors::Tls>) {
        tokio::spawn(async move {
            while self.0.recv().await.is_some() {
                match tls.as_ref().map(|tls| tls.certificates.reload()) {
                    None => info!("SIGHUP: there are no certificates to read again"),
                    Some(Ok(())) => info!("SIGHUP: new connections take the certificates that were read again"),
                    Some(Err(reason)) => error!(%reason, "SIGHUP: the certificates stay as they were"),
                }
            }
        });
    }
}

/// Runs a node. Exports no spans: that is the feature `otel`.
#[cfg(not(feature = "otel"))]
pub async fn traced<T>(_service: &'static str, run: impl Future<Output = T>) -> T {
    run.await
}

/// Runs a node on a runtime with so many worker threads.
///
/// # Errors
/// What `run` returns, or if the runtime can't be started.
pub fn block_on<T>(threads: u16, run: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::from(threads))
        .enable_all()
        .build()
        .context("can't start the worker threads")?;
    runtime.block_on(run)
}
