//! Our binaries as processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::PATIENCE;

/// The path of one of our binaries.
pub fn binary(name: &str) -> &'static str {
    match name {
        "primary" => env!("CARGO_BIN_EXE_primary"),
        "secondary" => env!("CARGO_BIN_EXE_secondary"),
        "kv" => env!("CARGO_BIN_EXE_kv"),
        _ => panic!("no binary `{name}`"),
    }
}

/// A running process, with what it has logged. Killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<String>>,
    /// Ends when the process has, and all that it has logged is read.
    reader: Option<JoinHandle<()>>,
}

impl Process {
    pub fn start(name: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary(name))
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, collected) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = collected.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { name: format!("{name} {}", args.join(" ")), child, log, reader: Some(reader) }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success(), "could not signal {}", self.name);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.reap().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        while self.is_running() {
            assert!(started.elapsed() < PATIENCE, "{} does not end; its log:\n{}", self.name, self.log());
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        self.reap().unwrap()
    }

    /// Waits for the end, and until all that it has logged is read.
    fn reap(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join(); // it can't have panicked
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.reap();
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, self.log());
        }
    }
}

/// Runs a binary to its end with `input` on its standard input.
pub fn run(name: &str, args: &[&str], input: &str) -> Output {
    run_in(name, args, input, &[])
}

pub fn run_in(name: &str, args: &[&str], input: &str, env: &[(&str, &str)]) -> Output {
    let mut child = Command::new(binary(name))
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes()); // it may not read all
    });
    let mut stderr = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut errors = Vec::new();
        stderr.read_to_end(&mut errors).unwrap();
        errors
    });
    let mut output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stderr = errors.join().unwrap();
    output
}

/// Runs `kv` on a node with these lines, and gives what it printed.
pub fn kv(port: u16, lines: &str) -> String {
    let output = run("kv", &["127.0.0.1", &port.to_string()], lines);
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "kv failed: {stdout}{stderr}");
    stdout
}
