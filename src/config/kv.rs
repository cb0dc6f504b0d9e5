//! The command line of `kv`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;

use super::{ClientTlsArgs, HostPort, LogArgs, LogFormat, Tool, access};
use crate::journal::{self, Fsync};
use crate::node::LocalOptions;
use crate::policy::PolicyKind;
use crate::rpc;
use crate::shard::{ShardOptions, WriteMode};

/// Of each journal of the cluster inside.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// A shell for Overspill.
///
/// Without arguments it starts a whole cluster inside itself (a primary, two secondaries, SQLite as tier) and opens the shell
/// on it. With HOST PORT it opens the shell on a running primary; with a COMMAND it runs that one and exits (0: found, 1:
/// not found, 2: error). If standard input is not a terminal, it runs the lines it reads.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "kv",
    version,
    after_help = access::PASSWORD_HELP,
    override_usage = "kv [OPTIONS] [HOST PORT [COMMAND [ARG]...]]\n       kv [OPTIONS] HOST:PORT [COMMAND [ARG]...]\n       \
                      kv [OPTIONS] bench HOST:PORT [OPTIONS]\n       kv [OPTIONS] check DIR\n       kv [OPTIONS] export HOST:PORT FILE\n       kv [OPTIONS] import HOST:PORT FILE"
)]
pub struct KvArgs {
    #[command(subcommand)]
    pub tool: Option<Tool>,

    /// Address of the primary, then the command to run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORD")]
    words: Vec<OsString>,

    /// How long to wait for the answer to a command, as in 5s
    #[arg(long, global = true, env = "KV_TIMEOUT", default_value = "5s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub timeout: Duration,

    /// Where the lines that were typed are kept; default: .kv_history in the home directory
    #[arg(long, env = "KV_HISTORY_FILE", value_name = "FILE")]
    pub history_file: Option<PathBuf>,

    /// Of the cluster that it starts inside itself: where its records lie
    #[arg(long, env = "KV_DATA_DIR", default_value = "./overspill-data/local", value_name = "DIR")]
    data_dir: PathBuf,

    /// Of the cluster that it starts inside itself: most records in the memory of each secondary
    #[arg(long, env = "KV_CAPACITY", default_value = "1000000", value_parser = super::size::capacity, value_name = "N")]
    capacity: usize,

    /// Of the cluster that it starts inside itself: most bytes in the memory of each secondary
    #[arg(long, env = "KV_MAX_MEMORY", default_value = "256MiB", value_parser = super::size::memory, value_name = "SIZE")]
    max_memory: usize,

    #[command(flatten)]
    tls: ClientTlsArgs,

    /// What to log: error, warn, info, debug or trace
    #[arg(long, global = true, env = "KV_LOG", default_value = "error", value_name = "FILTER")]
    log: String,
}

/// What to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A cluster inside this process.
    Local,
    Node(HostPort),
}

impl KvArgs {
    /// How to log.
    pub fn logging(&self) -> LogArgs {
        LogArgs { log: self.log.clone(), log_format: LogFormat::Text }
    }

    /// What to talk to, and the command to run, if one was given.
    ///
    /// # Errors
    /// If the address is not one.
    pub fn target(&self) -> anyhow::Result<(Target, Vec<OsString>)> {
        let Some((host, rest)) = self.words.split_first() else { return Ok((Target::Local, Vec::new())) };
        let host = host.to_str().with_context(|| format!("HOST {host:?} is not text"))?;
        if let Ok(node) = host.parse() {
            return Ok((Target::Node(node), rest.to_vec()));
        }
        let Some((port, command)) = rest.split_first() else {
            bail!("`{host}` is not an address: expected HOST PORT or HOST:PORT, as in `localhost 8080`");
        };
        let port = port.to_string_lossy();
        let node = format!("{host}:{port}").parse().with_context(|| {
            format!("`{host} {port}` is not an address: expected HOST PORT with a port from 1 to 65535")
        })?;
        Ok((Target::Node(node), command.to_vec()))
    }

    /// The cluster that it starts inside itself: its journals lose nothing however it ends, and its table follows soon.
    ///
    /// # Errors
    /// If there is something wrong with the password.
    pub fn local(&self) -> anyhow::Result<LocalOptions> {
        Ok(LocalOptions {
            data_dir: self.data_dir.clone(),
            secondaries: 2,
            secret: access::secret()?,
            journal: journal::Options::new(Fsync::Always, JOURNAL_BYTES_MAX),
            shard: ShardOptions {
                capacity: self.capacity,
                memory_bytes_max: self.max_memory,
                policy: PolicyKind::Lru,
                write_mode: WriteMode::Behind,
                accept_loss: false,
                strict: false,
                drain_timeout: Duration::from_secs(60),
                sweep_interval: Duration::from_secs(3600),
                seed: rand::random(),
            },
        })
    }

    /// How to talk to a node.
    ///
    /// # Errors
    /// If there is something wrong with the password or the certificates.
    pub fn client(&self) -> anyhow::Result<rpc::Options> {
        Ok(rpc::Options { secret: access::secret()?, tls: self.tls.load()?, ..rpc::Options::default() })
    }

    pub fn history_file(&self) -> Option<PathBuf> {
        self.history_file.clone().or_else(|| Some(std::env::home_dir()?.join(".kv_history")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(words: &str) -> anyhow::Result<(Target, Vec<OsString>)> {
        KvArgs::try_parse_from(["kv"].into_iter().chain(words.split_whitespace())).unwrap().target()
    }

    #[test]
    fn the_address_is_two_words_or_one_and_the_rest_is_the_command() {
        let node = Target::Node("localhost:8080".parse().unwrap());
        assert_eq!(target("").unwrap().0, Target::Local);
        assert_eq!(target("localhost 8080").unwrap(), (node.clone(), vec![]));
        assert_eq!(target("localhost:8080 GET bob").unwrap(), (node.clone(), vec!["GET".into(), "bob".into()]));
        assert_eq!(target("localhost 8080 PUT n -5").unwrap().1.len(), 3);
        assert!(target("localhost").is_err());
        assert!(target("localhost 70000").is_err());
    }

    #[test]
    fn a_subcommand_is_the_first_word_only() {
        let parse = |words: &str| KvArgs::try_parse_from(["kv"].into_iter().chain(words.split_whitespace()));
        let tool = |words: &str| parse(words).unwrap().tool;
        assert!(matches!(tool("check dir"), Some(Tool::Check(_))));
        assert!(matches!(tool("--timeout 1s export a:1 f"), Some(Tool::Export(_))));
        assert_eq!(parse("import a:1 f --timeout 7s").unwrap().timeout, Duration::from_secs(7));
        for words in
            ["", "localhost 8080 check", "localhost 8080 GET export", "localhost:8080 import a:1 f", "check:8080 GET a"]
        {
            assert!(tool(words).is_none(), "{words}");
        }
        assert_eq!(target("check:8080").unwrap().0, Target::Node("check:8080".parse().unwrap()));
        assert!(parse("check").is_err() && parse("export localhost f").is_err() && parse("import a:1").is_err());
    }
}
