//! The command line of `primary`.

use anyhow::{Context, ensure};
use clap::Parser;

use super::{AccessArgs, HostPort, LogArgs, TlsArgs, access};
use crate::cluster::ShardName;
use crate::doors::{self, Access};
use crate::node::PrimaryOptions;

/// Maps keys to secondaries and passes commands on to them.
///
/// The slots of the keyspace are divided evenly among the secondaries, in the order given. They may start before or after
/// the primary and may come back; meanwhile their keys answer "unavailable". Several primaries may serve the same list.
#[derive(Debug, Clone, Parser)]
#[command(name = "primary", version, arg_required_else_help = true, after_help = access::PASSWORD_HELP)]
pub struct PrimaryArgs {
    /// Port to listen on
    #[arg(value_parser = clap::value_parser!(u16).range(1..), value_name = "PORT")]
    pub port: u16,

    /// Address of each secondary, host:port; this is also its name, so keep writing it in the same way
    #[arg(required = true, value_name = "SECONDARY")]
    pub secondaries: Vec<HostPort>,

    /// Address to listen on; anything but loopback opens the node to the network
    #[arg(long, env = "KV_BIND", default_value = "127.0.0.1", value_name = "HOST")]
    pub bind: String,

    /// Serve slots although their former secondary did not stop cleanly: writes that it had acknowledged and not yet spilled
    /// are given up. For one start only
    #[arg(long, env = "KV_ACCEPT_LOSS")]
    pub accept_loss: bool,

    /// Most connections at a time; each costs about 10 KiB
    #[arg(long, env = "KV_MAX_CONNECTIONS", default_value_t = 10_000, value_name = "N")]
    pub max_connections: usize,

    /// Worker threads; about one for each core that the primary may use
    #[arg(long, env = "KV_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N")]
    pub threads: u16,

    #[command(flatten)]
    pub access: AccessArgs,

    #[command(flatten)]
    pub tls: TlsArgs,

    #[command(flatten)]
    pub log: LogArgs,
}

impl PrimaryArgs {
    /// Checks the list and gives what the node is started with. Whether a name has an address is seen when it is connected to: it may
    /// get one later, and the others are not to wait for it.
    ///
    /// # Errors
    /// If a secondary stands there twice, or there is something wrong with the password or the certificates.
    pub async fn into_options(self) -> anyhow::Result<PrimaryOptions> {
        let tls = self.tls.load()?;
        ensure!(
            tls.as_ref().is_none_or(|tls| tls.certificates.client().is_some()),
            "--tls-cert needs --tls-ca: the primary speaks TLS with its secondaries and knows them by it"
        );
        let mut secondaries = Vec::new();
        for (i, secondary) in self.secondaries.iter().enumerate() {
            ensure!(
                !self.secondaries.iter().take(i).any(|other| other == secondary),
                "SECONDARY `{secondary}` stands there twice"
            );
            let name = ShardName::new(secondary.to_string()).context("SECONDARY")?;
            secondaries.push((name, secondary.to_string()));
        }
        Ok(PrimaryOptions {
            bind: self.bind,
            port: self.port,
            secondaries,
            accept_loss: self.accept_loss,
            door: doors::Options {
                access: Access::new(access::secret()?),
                is_insecure: self.access.insecure_no_auth,
                tls,
                connections_max: self.max_connections,
                ..doors::Options::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn options(list: &str) -> anyhow::Result<PrimaryOptions> {
        let words = ["primary", "8080"].into_iter().chain(list.split_whitespace());
        PrimaryArgs::try_parse_from(words).unwrap().into_options().await
    }

    #[tokio::test]
    async fn a_secondary_that_is_named_twice_is_refused() {
        let error = options("127.0.0.1:8081 127.0.0.1:8081").await.unwrap_err();
        assert!(format!("{error:#}").contains("twice"), "{error:#}");
    }

    #[tokio::test]
    async fn a_secondary_without_an_address_does_not_keep_the_others_waiting() {
        let options = options("no-such-host.invalid:8081 127.0.0.1:8081").await.unwrap();
        assert_eq!(options.secondaries.len(), 2);
    }
}
