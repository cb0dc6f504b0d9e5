//! Where a node's log goes: standard error, as text or JSON lines.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug or trace; or by module, as in `info,overspill::shard=debug`. `info,overspill::request=debug` follows
    /// each request from its door over the hop to its statement, by an id
    #[arg(long, env = "KV_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// How to write log lines; `json` for machines
    #[arg(long, env = "KV_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogArgs {
    /// Starts logging, for the whole process.
    ///
    /// # Errors
    /// If the filter can't be understood, or logging has been started before.
    pub fn init(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log).map_err(|error| anyhow::anyhow!("--log `{}`: {error}", self.log))?;
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
        let started = match self.log_format {
            LogFormat::Text => lines.try_init(),
            LogFormat::Json => lines.json().flatten_event(true).try_init(),
        };
        started.map_err(|error| anyhow::anyhow!("{error}"))
    }
}
