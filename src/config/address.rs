//! Addresses on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;

use crate::cluster::ShardName;
use crate::node::TierChoice;
use crate::tier::mysql::{MySqlOptions, TlsMode};

/// `host:port`, kept as it was written: a shard's name is the address that its primary knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT, as in `localhost:8081`")]
pub struct HostPortError;

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(s: &str) -> Result<Self, HostPortError> {
        let (host, port) = s.rsplit_once(':').ok_or(HostPortError)?;
        let port = port.parse().ok().filter(|&port| port > 0).ok_or(HostPortError)?;
        let is_bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || host.contains('/') || is_bare_v6 || s.len() > ShardName::BYTES_MAX {
            return Err(HostPortError);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl HostPort {
    /// Looks the name up, to tell a misspelt one at once.
    ///
    /// # Errors
    /// If there is no such name.
    pub async fn check_resolves(&self, what: &str) -> anyhow::Result<()> {
        let mut found = tokio::net::lookup_host(self.to_string())
            .await
            .with_context(|| format!("{what} `{self}`: the name `{}` can't be resolved", self.host))?;
        found.next().with_context(|| format!("{what} `{self}`: the name `{}` has no address", self.host))?;
        Ok(())
    }
}

/// PERSISTENT: where evicted records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TierAddress {
    None,
    Server(HostPort),
    MySqlUrl(MySqlOptions),
    Sqlite(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TierAddressError {
    #[error("expected HOST:PORT of a MySQL server, mysql://USER:PASSWORD@HOST:PORT/DATABASE, sqlite://PATH, or none")]
    Shape,
    #[error("{0}")]
    MySqlUrl(String),
}

impl FromStr for TierAddress {
    type Err = TierAddressError;

    fn from_str(s: &str) -> Result<Self, TierAddressError> {
        if s.eq_ignore_ascii_case("none") {
            return Ok(Self::None);
        }
        if s.starts_with("mysql://") || s.starts_with("mariadb://") {
            let options = MySqlOptions::from_url(s).map_err(|error| TierAddressError::MySqlUrl(error.to_string()))?;
            return Ok(Self::MySqlUrl(options));
        }
        if let Some(path) = s.strip_prefix("sqlite://").filter(|path| !path.is_empty()) {
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        s.parse().map(Self::Server).map_err(|_| TierAddressError::Shape)
    }
}

/// Who to be at the MySQL server, from environment or file.
#[derive(Debug, Clone, Default)]
pub(super) struct Credentials {
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: Option<String>,
}

impl TierAddress {
    /// # Errors
    /// If the server's name can't be resolved.
    pub(super) async fn choose(self, credentials: Credentials, tls: Option<TlsMode>) -> anyhow::Result<TierChoice> {
        let mut options = match self {
            Self::None => return Ok(TierChoice::None),
            Self::Sqlite(path) => return Ok(TierChoice::Sqlite(path)),
            Self::MySqlUrl(options) => options,
            Self::Server(HostPort { host, port }) => {
                let mut options = MySqlOptions::new(host, port);
                options.user = credentials.user.unwrap_or(options.user);
                options.password = credentials.password;
                options.database = credentials.database.unwrap_or(options.database);
                options
            }
        };
        options.tls = tls.unwrap_or(options.tls);
        let server = HostPort { host: options.host.clone(), port: options.port };
        server.check_resolves("PERSISTENT").await?;
        Ok(TierChoice::MySql(options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["localhost:1", "a.b:65535", "[::1]:80"] {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
        for bad in ["localhost", ":80", "h:0", "h:65536", "h:x", "::1:80", "http://h:80", ""] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tier_is_a_server_a_url_a_file_or_none() {
        assert_eq!("NONE".parse(), Ok(TierAddress::None));
        assert!(matches!("db:3306".parse(), Ok(TierAddress::Server(_))));
        assert!(matches!("mysql://u:p@db:3306/x".parse(), Ok(TierAddress::MySqlUrl(_))));
        assert_eq!("sqlite:///tmp/x".parse(), Ok(TierAddress::Sqlite("/tmp/x".into())));
        assert!("sqlite://".parse::<TierAddress>().is_err());
        assert!("postgres://x".parse::<TierAddress>().is_err());
    }
}
