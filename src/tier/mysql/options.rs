//! Where the database is and how to talk to it.

use std::fmt;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};

/// How to reach a MySQL or MariaDB server. `Debug` and `Display` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct MySqlOptions {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
    pub tls: TlsMode,
    /// Most connections at once; they are made when needed.
    pub connections_max: u32,
    /// For a connection to be made and set up.
    pub connect_timeout: Duration,
    /// For one statement; locks are waited for half as long. A call waits as long for a free connection.
    pub statement_timeout: Duration,
}

/// Whether the connection is encrypted. The server's certificate is not verified: that keeps out who listens, not who
/// stands in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    Required,
    /// Encrypted if the server can.
    #[default]
    Preferred,
    Off,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MySqlUrlError {
    #[error("not a MySQL address: expected `mysql://USER:PASSWORD@HOST:PORT/DATABASE`")]
    Shape,
    #[error("`{0}` is not a port")]
    Port(String),
    #[error("`{0}` is not an option of a MySQL address: known is `ssl-mode=required|preferred|disabled`")]
    Parameter(String),
    #[error("the MySQL address has a broken `%` escape")]
    Escape,
}

impl MySqlOptions {
    pub const PORT: u16 = 3306;
    pub const DATABASE: &str = "overspill";

    /// A server with the defaults: user `root` without a password, database [`MySqlOptions::DATABASE`].
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            user: "root".into(),
            password: None,
            database: Self::DATABASE.into(),
            tls: TlsMode::default(),
            connections_max: 8,
            connect_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(10),
        }
    }

    /// Reads `mysql://USER:PASSWORD@HOST:PORT/DATABASE?ssl-mode=…`; all but the host may be left out, `%XX` escapes are
    /// understood in user, password and database, an IPv6 address stands in brackets.
    ///
    /// # Errors
    /// [`MySqlUrlError`], which never quotes the password.
    pub fn from_url(url: &str) -> Result<Self, MySqlUrlError> {
        let rest = ["mysql://", "mariadb://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let (rest, parameters) = split(rest.ok_or(MySqlUrlError::Shape)?, '?');
        let (server, database) = split(rest, '/');
        let (credentials, address) = server.rsplit_once('@').map_or((None, server), |(c, a)| (Some(c), a));
        let (host, port) = host_and_port(address)?;
        let mut options = Self::new(host, port);
        if let Some(credentials) = credentials {
            let (user, password) = split(credentials, ':');
            options.user = unescape(user)?;
            options.password = password.map(unescape).transpose()?;
        }
        if let Some(database) = database.filter(|database| !database.is_empty()) {
            options.database = unescape(database)?;
        }
        for parameter in parameters.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
            options.tls = tls_mode(parameter)?;
        }
        Ok(options)
    }

    pub(super) fn to_sqlx(&self, database: Option<&str>) -> MySqlConnectOptions {
        let options = MySqlConnectOptions::new()
            .host(&self.host)
            .port(self.port)
            .username(&self.user)
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .ssl_mode(match self.tls {
                TlsMode::Required => MySqlSslMode::Required,
                TlsMode::Preferred => MySqlSslMode::Preferred,
                TlsMode::Off => MySqlSslMode::Disabled,
            });
        let options = match &self.password {
            Some(password) => options.password(password),
            None => options,
        };
        match database {
            Some(database) => options.database(database),
            None => options,
        }
    }
}

impl fmt::Display for MySqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, database, .. } = self;
        match host.contains(':') {
            true => write!(f, "mysql://[{host}]:{port}/{database}"),
            false => write!(f, "mysql://{host}:{port}/{database}"),
        }
    }
}

impl fmt::Debug for MySqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlOptions")
            .field("server", &self.to_string())
            .field("user", &self.user)
            .field("tls", &self.tls)
            .field("connections_max", &self.connections_max)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn host_and_port(address: &str) -> Result<(&str, u16), MySqlUrlError> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(MySqlUrlError::Shape)?;
            (host, after.strip_prefix(':'))
        }
        None => split(address, ':'),
    };
    if host.is_empty() {
        return Err(MySqlUrlError::Shape);
    }
    let port = port.map(|port| port.parse().map_err(|_| MySqlUrlError::Port(port.to_owned()))).transpose()?;
    Ok((host, port.unwrap_or(MySqlOptions::PORT)))
}

fn tls_mode(parameter: &str) -> Result<TlsMode, MySqlUrlError> {
    let (name, mode) = split(parameter, '=');
    match (name, mode.unwrap_or_default().to_ascii_lowercase().as_str()) {
        ("ssl-mode" | "sslmode", "required") => Ok(TlsMode::Required),
        ("ssl-mode" | "sslmode", "preferred") => Ok(TlsMode::Preferred),
        ("ssl-mode" | "sslmode", "disabled") => Ok(TlsMode::Off),
        (_, _) => Err(MySqlUrlError::Parameter(parameter.to_owned())),
    }
}

fn unescape(text: &str) -> Result<String, MySqlUrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let byte = match byte {
            b'%' => digit().zip(digit()).map(|(high, low)| (high * 16 + low) as u8).ok_or(MySqlUrlError::Escape)?,
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| MySqlUrlError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_everything_or_only_a_host() {
        let full = MySqlOptions::from_url("mysql://kv:p%40ss:w@db.example:3307/cache?ssl-mode=REQUIRED").unwrap();
        assert_eq!((full.host.as_str(), full.port, full.user.as_str()), ("db.example", 3307, "kv"));
        assert_eq!((full.password.as_deref(), full.database.as_str()), (Some("p@ss:w"), "cache"));
        assert_eq!(full.tls, TlsMode::Required);
        assert_eq!(MySqlOptions::from_url("mysql://db"), Ok(MySqlOptions::new("db", 3306)));
        assert_eq!(MySqlOptions::from_url("mysql://[::1]:9").unwrap().to_string(), "mysql://[::1]:9/overspill");
    }

    #[test]
    fn wrong_addresses_are_refused() {
        for bad in ["db", "mysql://", "mysql://h:x", "mysql://u:%4@h", "mysql://h?nope=1", "mysql://h?ssl-mode=x"] {
            assert!(MySqlOptions::from_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_password_is_never_shown() {
        let options = MySqlOptions::from_url("mysql://kv:hunter2@db/cache").unwrap();
        assert!(!format!("{options:?} {options}").contains("hunter2"));
    }
}
