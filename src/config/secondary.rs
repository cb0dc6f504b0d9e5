//! The command line of `secondary`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use tracing::info;

use super::address::Credentials;
use super::{AccessArgs, HostPort, LogArgs, TierAddress, TlsArgs, access, size};
use crate::doors::{self, Access};
use crate::journal::{self, Fsync};
use crate::node::{JournalOptions, SecondaryOptions, TierChoice};
use crate::policy::PolicyKind;
use crate::shard::{ShardOptions, WriteMode};
use crate::tier::mysql::TlsMode;

/// Serves a shard from memory and spills what it evicts to a MySQL server.
///
/// A secondary serves nothing until a primary has told it its slots. SIGTERM (or Ctrl-C) stops it cleanly: it finishes what
/// is in flight and spills every record that the server does not have yet.
#[derive(Debug, Clone, Parser)]
#[command(name = "secondary", version, arg_required_else_help = true, after_help = access::PASSWORD_HELP)]
pub struct SecondaryArgs {
    /// Address of the primary, host:port
    #[arg(value_name = "PRIMARY")]
    pub primary: HostPort,

    /// Port to listen on
    #[arg(value_parser = clap::value_parser!(u16).range(1..), value_name = "PORT")]
    pub port: u16,

    /// Where evicted records go: host:port of a MySQL or MariaDB server (user, password and database from KV_MYSQL_USER,
    /// KV_MYSQL_PASSWORD or KV_MYSQL_PASSWORD_FILE, KV_MYSQL_DATABASE), mysql://USER:PASSWORD@HOST:PORT/DATABASE,
    /// sqlite://PATH, or none: a pure cache, which drops what it evicts
    #[arg(default_value = "none", value_name = "PERSISTENT")]
    pub persistent: TierAddress,

    /// Most records in memory, at least 1; rule of thumb: as many as are asked for again within minutes
    #[arg(default_value = "1000000", value_parser = size::capacity, value_name = "CAPACITY")]
    pub capacity: usize,

    /// Which record leaves memory first: 1 or lru (least recently used), 2 or lfu (least frequently used, aged), 3 or fifo
    /// (oldest). lru suits most; lfu when a small set stays popular and scans pass through
    #[arg(default_value = "lru", value_name = "POLICY")]
    pub policy: PolicyKind,

    /// Worker threads; about one for each core that the secondary may use. With a tier, one more
    /// writes to it
    #[arg(default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "THREADS")]
    pub threads: u16,

    /// Most bytes in memory, as in 512MiB or 2GiB, at least 33MiB: records, their bookkeeping, and what waits to be spilled.
    /// Rule of thumb: 70 % of what the machine or container can give to this process
    #[arg(long, env = "KV_MAX_MEMORY", default_value = "1GiB", value_parser = size::memory, value_name = "SIZE")]
    pub max_memory: usize,

    /// When a write reaches the tier: `spill`, when its record leaves memory (fastest); `behind`, soon after it was
    /// acknowledged; `through`, before it is acknowledged. Nothing is lost in a crash in any of them: see --fsync
    #[arg(long, env = "KV_WRITE", default_value = "spill", value_name = "MODE")]
    pub write: WriteArg,

    /// Where the journal lies, which has every write until the tier has it; default ./overspill-data/PORT. Keep it on a disk of
    /// its own machine: whoever starts this secondary again needs it
    #[arg(long, env = "KV_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// When the journal is synced: `always`, before a write is acknowledged (nothing is lost when power is); `interval:MS`, so
    /// many milliseconds later at most (a crash of the process loses nothing); `never`, when the operating system likes
    #[arg(long, env = "KV_FSYNC", default_value = "always", value_name = "WHEN")]
    pub fsync: Fsync,

    /// Most bytes of the journal, as in 4GiB, at least 128MiB; beyond it, writes wait and are then refused as busy. Rule of thumb:
    /// four times --max-memory
    #[arg(long, env = "KV_JOURNAL_MAX", default_value = "4GiB", value_parser = size::journal, value_name = "SIZE")]
    pub journal_max: u64,

    /// Address to listen on; anything but loopback opens the node to the network
    #[arg(long, env = "KV_BIND", default_value = "127.0.0.1", value_name = "HOST")]
    pub bind: String,

    /// Where clients are to reach this secondary, host:port; default: where its primary does. For cluster clients of Redis, when
    /// they are on another network
    #[arg(long, env = "KV_ANNOUNCE", value_name = "ADDRESS")]
    pub announce: Option<HostPort>,

    /// Encrypt connections to MySQL: `required`, `preferred` (if the server can), or `off`
    #[arg(long, env = "KV_TLS_MYSQL", value_name = "MODE")]
    pub tls_mysql: Option<TlsArg>,

    /// Serve although the last run of this secondary did not stop cleanly and its journal is gone: writes that it had
    /// acknowledged and not yet spilled are given up. For one start only
    #[arg(long, env = "KV_ACCEPT_LOSS")]
    pub accept_loss: bool,

    /// Refuse a database whose settings let it lose what it acknowledged, instead of warning
    #[arg(long, env = "KV_STRICT")]
    pub strict: bool,

    /// How long a stop waits for the tier to take what is unspilled, as in 60s or 5min
    #[arg(long, env = "KV_DRAIN_TIMEOUT", default_value = "60s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub drain_timeout: Duration,

    /// How long a walk over all rows takes that removes the expired ones, as in 1h; shorter walks cost more reads
    #[arg(long, env = "KV_SWEEP_INTERVAL", default_value = "1h", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub sweep_interval: Duration,

    /// Most connections at a time; each costs about 10 KiB
    #[arg(long, env = "KV_MAX_CONNECTIONS", default_value_t = 10_000, value_name = "N")]
    pub max_connections: usize,

    #[command(flatten)]
    pub access: AccessArgs,

    #[command(flatten)]
    pub tls: TlsArgs,

    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WriteArg {
    Spill,
    Behind,
    Through,
}

impl From<WriteArg> for WriteMode {
    fn from(arg: WriteArg) -> Self {
        match arg {
            WriteArg::Spill => Self::Spill,
            WriteArg::Behind => Self::Behind,
            WriteArg::Through => Self::Through,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsArg {
    Required,
    Preferred,
    Off,
}

impl From<TlsArg> for TlsMode {
    fn from(arg: TlsArg) -> Self {
        match arg {
            TlsArg::Required => Self::Required,
            TlsArg::Preferred => Self::Preferred,
            TlsArg::Off => Self::Off,
        }
    }
}

impl SecondaryArgs {
    /// Checks names and secrets and gives what the node is started with.
    ///
    /// # Errors
    /// If a name can't be resolved or the password file can't be read.
    pub async fn into_options(self) -> anyhow::Result<SecondaryOptions> {
        self.primary.check_resolves("PRIMARY").await?;
        let tier = self.persistent.choose(credentials()?, self.tls_mysql.map(TlsMode::from)).await?;
        let data_dir = self.data_dir.unwrap_or_else(|| Path::new("overspill-data").join(self.port.to_string()));
        let options = journal::Options::new(self.fsync, self.journal_max);
        let journal = (!matches!(tier, TierChoice::None)).then_some(JournalOptions { data_dir, options });
        info!(primary = %self.primary, "waiting for the primary to tell which slots to serve");
        Ok(SecondaryOptions {
            bind: self.bind,
            announce: self.announce.map(|address| address.to_string()),
            port: self.port,
            tier,
            journal,
            shard: ShardOptions {
                capacity: self.capacity,
                memory_bytes_max: self.max_memory,
                policy: self.policy,
                write_mode: self.write.into(),
                accept_loss: self.accept_loss,
                strict: self.strict,
                drain_timeout: self.drain_timeout,
                sweep_interval: self.sweep_interval,
                seed: rand::random(),
            },
            door: doors::Options {
                access: Access::new(access::secret()?),
                is_insecure: self.access.insecure_no_auth,
                tls: self.tls.load()?,
                connections_max: self.max_connections,
                ..doors::Options::default()
            },
        })
    }
}

fn credentials() -> anyhow::Result<Credentials> {
    let password = match (std::env::var("KV_MYSQL_PASSWORD"), std::env::var_os("KV_MYSQL_PASSWORD_FILE")) {
        (Ok(password), _) => Some(password),
        (Err(_), Some(file)) => Some(read_secret(&PathBuf::from(file))?),
        (Err(_), None) => None,
    };
    let var = |name: &str| std::env::var(name).ok();
    Ok(Credentials { user: var("KV_MYSQL_USER"), password, database: var("KV_MYSQL_DATABASE") })
}

fn read_secret(file: &Path) -> anyhow::Result<String> {
    let secret = std::fs::read_to_string(file)
        .with_context(|| format!("KV_MYSQL_PASSWORD_FILE `{}` can't be read", file.display()))?;
    Ok(secret.trim_end_matches(['\r', '\n']).to_owned())
}
