//! Every command line of ours in manifests, compose.yaml and units is started as it stands there, with names, ports and paths sent
//! elsewhere: it must be understood, become ready by its own probes, serve, and stop cleanly.

mod compose;
mod pods;
mod units;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use sqlx::mysql::MySqlConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};
use tempfile::TempDir;

use crate::certificates::{Authority, Pair};
use crate::process::{Process, binary, run_in};
use crate::{PATIENCE, free_port, text};

/// For those secrets that a set only names.
const PASSWORD: &str = "not told anywhere";

/// How somebody looks whether it lives.
#[derive(Debug, Clone)]
pub enum Probe {
    Http { path: String, is_tls: bool },
    Tcp,
    Shell(String),
}

/// One process as it is deployed.
#[derive(Debug, Default)]
pub struct Launch {
    pub at: String,
    pub program: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Where a path is really.
    pub mounts: Vec<(String, PathBuf)>,
    /// What it is told to listen on, and where it does.
    pub port: u16,
    pub real_port: u16,
    /// Of its start; then those that must hold until it stops.
    pub startup: Vec<Probe>,
    pub probes: Vec<Probe>,
}

/// Who is where, for all processes of one deployment.
pub struct Place {
    pub folder: TempDir,
    pub authority: Authority,
    pair: Pair,
    /// `host:port` as it is written, and where that is really.
    pub names: BTreeMap<String, String>,
    tier: Option<MySqlConnectOptions>,
    account: String,
}

impl Place {
    pub fn new() -> Self {
        let tier = std::env::var("KV_TEST_MYSQL_URL").ok().map(|url| url.parse().unwrap());
        let account = format!("overspill_deploy_{}", fastrand::u32(..));
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let pair = authority.node("node");
        Self { folder, authority, pair, names: BTreeMap::new(), tier, account }
    }

    /// Where PERSISTENT is: the tests' database server, if there is one.
    pub fn tier(&self) -> String {
        match &self.tier {
            Some(server) => format!("{}:{}", server.get_host(), server.get_port()),
            None => format!("sqlite://{}", self.folder.path().join("tier.sqlite").display()),
        }
    }

    /// A folder with these files in it.
    pub fn folder(&self, name: &str, files: &[(String, Vec<u8>)]) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        files.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
        folder
    }

    /// What a secret holds of which there is only the name.
    pub fn given(&self, key: &str) -> Vec<u8> {
        match key {
            "ca.crt" => std::fs::read(self.authority.ca()).unwrap(),
            "tls.crt" => std::fs::read(&self.pair.cert).unwrap(),
            "tls.key" => std::fs::read(&self.pair.key).unwrap(),
            _ => PASSWORD.into(),
        }
    }

    /// As a server makes it that is told MYSQL_USER, MYSQL_PASSWORD and MYSQL_DATABASE.
    fn make_account(&self, password: &str) {
        let account = &self.account;
        self.sql(&[
            &format!("CREATE USER '{account}'@'%' IDENTIFIED BY '{password}'"),
            &format!("GRANT ALL ON `{account}`.* TO '{account}'@'%'"),
        ]);
    }

    fn sql(&self, statements: &[&str]) {
        let Some(server) = &self.tier else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut connection = server.clone().disable_statement_logging().connect().await.unwrap();
            for statement in statements {
                connection.execute(*statement).await.unwrap();
            }
            connection.close().await.unwrap();
        });
    }

    /// An argument or the value of a variable, as it must be here.
    fn redirect(&self, launch: &Launch, value: &str) -> String {
        let flag = value.find('=').filter(|_| value.starts_with("--")).map_or(0, |at| at + 1);
        let (flag, value) = value.split_at(flag);
        let here = format!("127.0.0.1:{}", launch.port);
        let is_address =
            value.rsplit_once(':').is_some_and(|(host, port)| !host.contains(':') && port.parse::<u16>().is_ok());
        let redirected = if value == "0.0.0.0" {
            "127.0.0.1".to_owned()
        } else if value == launch.port.to_string() {
            launch.real_port.to_string()
        } else if value == here {
            format!("127.0.0.1:{}", launch.real_port)
        } else if value.starts_with('/') {
            let found = launch.mounts.iter().find_map(|(mount, real)| Some(real.join(below(value, mount)?)));
            let found = found.unwrap_or_else(|| panic!("{}: `{value}` is in no volume", launch.at));
            found.display().to_string()
        } else if is_address {
            self.names.get(value).unwrap_or_else(|| panic!("{}: nobody is `{value}`", launch.at)).clone()
        } else {
            value.to_owned()
        };
        format!("{flag}{redirected}")
    }
}

fn below<'a>(path: &'a str, mount: &str) -> Option<&'a Path> {
    Path::new(path).strip_prefix(mount).ok()
}

/// The variables that the image sets.
pub fn image_env() -> BTreeMap<String, String> {
    let dockerfile = text("Dockerfile");
    let line = dockerfile.lines().find_map(|line| line.strip_prefix("ENV ")).unwrap();
    let pairs = line.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// HEALTHCHECK.
pub fn image_probe() -> Probe {
    let dockerfile = text("Dockerfile");
    let line = dockerfile.lines().find(|line| line.starts_with("HEALTHCHECK")).unwrap();
    Probe::Shell(line.split_once(" CMD ").unwrap().1.to_owned())
}

/// The variables which a program takes.
fn known_variables(program: &str) -> String {
    String::from_utf8(run_in(program, &["--help"], "", &[]).stdout).unwrap()
}

/// A launch that runs.
struct Running {
    launch: Launch,
    env: Vec<(String, String)>,
    process: Process,
}

impl Running {
    fn start(place: &Place, launch: Launch) -> Self {
        let mut help = known_variables(&launch.program);
        if launch.program == "primary" {
            help.push_str("KV_DATA_DIR"); // of the image, for the secondaries
        }
        let mut env: Vec<(String, String)> = Vec::new();
        for (key, value) in &launch.env {
            assert!(!key.starts_with("KV_") || help.contains(key.as_str()), "{}: nobody reads {key}", launch.at);
            let value = match key.as_str() {
                "KV_MYSQL_USER" | "KV_MYSQL_DATABASE" => place.account.clone(),
                "KV_TLS_MYSQL" => "preferred".to_owned(),
                "KV_FSYNC" => value.clone(), // `interval:20` looks like an address
                "KV_DATA_DIR" if launch.program == "primary" => continue,
                _ => place.redirect(&launch, value),
            };
            env.push((key.clone(), value));
        }
        let args: Vec<String> = launch.args.iter().map(|arg| place.redirect(&launch, arg)).collect();
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let pairs: Vec<(&str, &str)> = env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let process = Process::start(&launch.program, &words, &pairs);
        Self { process, env, launch }
    }

    fn until(&mut self, place: &Place, probes: &[Probe]) {
        let started = Instant::now();
        for probe in probes {
            while let Err(reason) = self.probe(place, probe) {
                assert!(
                    started.elapsed() < PATIENCE && self.process.is_running(),
                    "{}: {probe:?}: {reason}; its log:\n{}",
                    self.launch.at,
                    self.process.log()
                );
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
        }
    }

    fn probe(&self, place: &Place, probe: &Probe) -> Result<(), String> {
        match probe {
            Probe::Http { path, is_tls } => {
                let status = http(self.launch.real_port, is_tls.then_some(&place.authority), path, None)?;
                if (200..400).contains(&status) { Ok(()) } else { Err(status.to_string()) }
            }
            Probe::Tcp => {
                let connected = std::net::TcpStream::connect(("127.0.0.1", self.launch.real_port));
                connected.map(drop).map_err(|error| error.to_string())
            }
            Probe::Shell(line) => {
                let bin = Path::new(binary("kv")).parent().unwrap();
                let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
                let mut command = std::process::Command::new("sh");
                let env = self.env.iter().map(|(key, value)| (key, value));
                let output = command.args(["-c", line]).envs(env).env("PATH", path).output().unwrap();
                if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
            }
        }
    }

    /// `kv` beside it, with its variables, as by `kubectl exec`.
    fn kv(&self, line: &str) -> String {
        let env: Vec<(&str, &str)> = self.env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let output = run_in("kv", &["localhost", &self.launch.real_port.to_string()], line, &env);
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {stdout}{stderr}", self.launch.at);
        stdout
    }
}

/// The status of a GET.
fn http(port: u16, tls: Option<&Authority>, path: &str, password: Option<&str>) -> Result<u16, String> {
    let authorization = password.map(|password| format!("Authorization: Bearer {password}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{authorization}\r\n");
    let ask = |stream: &mut dyn ReadWrite| -> std::io::Result<Vec<u8>> {
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if answer.is_empty() => Err(error),
            _ => Ok(answer),
        }
    };
    let answer = std::net::TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| match tls {
        None => ask(&mut stream),
        Some(authority) => ask(&mut authority.connect(port, None)?),
    });
    let answer = answer.map_err(|error| error.to_string())?;
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| "no status".to_owned())
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// Starts them all, secondaries first, and sees that they serve.
fn all_serve(place: &Place, launches: Vec<Launch>) {
    let (secondaries, primaries): (Vec<Launch>, Vec<Launch>) =
        launches.into_iter().partition(|launch| launch.program == "secondary");
    assert!(!secondaries.is_empty() && !primaries.is_empty());
    if secondaries[0].args.iter().any(|arg| place.names.get(arg) == Some(&place.tier())) {
        place.make_account(&password(place, &secondaries[0], "KV_MYSQL_PASSWORD").unwrap());
    }
    let start = |launch| {
        let mut node = Running::start(place, launch);
        node.until(place, &node.launch.startup.clone());
        node
    };
    let mut secondaries: Vec<Running> = secondaries.into_iter().map(start).collect();
    let mut primaries: Vec<Running> = primaries.into_iter().map(start).collect();
    for node in secondaries.iter_mut().chain(&mut primaries) {
        node.until(place, &node.launch.probes.clone());
    }
    for primary in &primaries {
        primary.until_all_served(place);
        assert_eq!(primary.kv("PUT a 1\nPUT b 2\nPUT c 3\nMGET a b c\n").lines().last(), Some("3"));
        let tls = primary.launch.env.contains_key("KV_TLS_CERT").then_some(&place.authority);
        let password = password(place, &primary.launch, "KV_PASSWORD");
        let scrape = |password| http(primary.launch.real_port, tls, "/metrics", password).unwrap();
        assert_eq!(scrape(password.as_deref()), 200);
        assert_eq!(scrape(None), if password.is_some() { 401 } else { 200 });
    }
    for node in primaries.iter_mut().chain(&mut secondaries) {
        assert!(node.process.stop().success(), "{}", node.process.log());
    }
    if place.tier.is_some() {
        let account = &place.account;
        place.sql(&[&format!("DROP DATABASE IF EXISTS `{account}`"), &format!("DROP USER IF EXISTS '{account}'@'%'")]);
    }
}

impl Running {
    /// /livez is all that the probes of a primary want.
    fn until_all_served(&self, place: &Place) {
        let is_tls = self.launch.env.contains_key("KV_TLS_CERT");
        let ready = Probe::Http { path: "/readyz".to_owned(), is_tls };
        let started = Instant::now();
        while let Err(reason) = self.probe(place, &ready) {
            assert!(started.elapsed() < PATIENCE, "{}: {reason}: {}", self.launch.at, self.process.log());
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
    }
}

/// By variable or file.
fn password(place: &Place, launch: &Launch, variable: &str) -> Option<String> {
    let file = launch.env.get(&format!("{variable}_FILE")).map(|file| place.redirect(launch, file));
    let told = file.map(|file| std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}")));
    told.or_else(|| launch.env.get(variable).cloned()).map(|password| password.trim_end().to_owned())
}

/// Gives each a port of its own.
fn with_ports(launches: &mut [Launch]) {
    launches.iter_mut().for_each(|launch| launch.real_port = free_port());
}
