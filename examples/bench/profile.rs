//! Where the processor time goes: what `perf` sees while a load runs, told by what it is spent on. For goals that are not reached.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use overspill::bench::Plan;
use tempfile::TempDir;

use crate::Outcome;
use crate::load;
use crate::process::{Server, cpu_of, directory};
use crate::rounds::{MICROS, Unit};

/// Samples a second of each processor.
const FREQUENCY: &str = "1999";
/// What takes less of every side is told together.
const SHARE_MIN: f64 = 0.02;
const BEGIN_TIMEOUT: Duration = Duration::from_secs(5);
const REST: &str = "all else";

/// Whose time it is.
#[derive(Debug, Clone)]
pub struct Process {
    pub role: &'static str,
    pub id: u32,
}

impl Process {
    pub fn of(role: &'static str, server: &Server) -> Self {
        Self { role, id: server.id() }
    }

    /// The one that makes the load.
    pub fn this() -> Self {
        Self { role: "load generator", id: std::process::id() }
    }
}

/// Looks at processes until its end.
pub struct Look {
    perf: Child,
    place: TempDir,
    processes: Vec<Process>,
    before: Duration,
}

/// Processor time by process and purpose, in seconds.
#[derive(Debug, Default)]
pub struct Profile(BTreeMap<(&'static str, &'static str), f64>);

impl Look {
    /// `None` without `perf`, or if it may not look.
    ///
    /// # Errors
    /// If there is no place for what it sees, or a process has ended.
    pub fn start(processes: &[Process]) -> Outcome<Option<Self>> {
        let place = directory()?;
        let ids: Vec<String> = processes.iter().map(|process| process.id.to_string()).collect();
        let mut perf = Command::new("perf");
        perf.args(["record", "-q", "-F", FREQUENCY, "-e", "cpu-clock", "--call-graph", "fp"]);
        perf.args(["-p", &ids.join(","), "-o"]).arg(data(&place));
        let Ok(mut perf) = perf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            return Ok(None);
        };
        let begun = Instant::now();
        while !looks(perf.id()) {
            if begun.elapsed() > BEGIN_TIMEOUT || perf.try_wait()?.is_some() {
                let _ = perf.kill(); // it may not look at other processes, or has ended for that
                perf.wait()?;
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Some(Self { perf, place, processes: processes.to_vec(), before: all_cpu(processes)? }))
    }

    /// # Errors
    /// If `perf` has seen nothing.
    pub fn end(mut self) -> Outcome<Profile> {
        let spent = all_cpu(&self.processes)?.saturating_sub(self.before).as_secs_f64();
        Command::new("kill").args(["-INT", &self.perf.id().to_string()]).status()?;
        self.perf.wait()?;
        let script = Command::new("perf")
            .args(["script", "--no-inline", "-F", "pid,ip,sym,dso", "-i"])
            .arg(data(&self.place))
            .stderr(Stdio::null())
            .output()?;
        let mut samples: BTreeMap<(&str, &str), f64> = BTreeMap::new();
        for sample in String::from_utf8_lossy(&script.stdout).split("\n\n") {
            let mut lines = sample.trim_matches('\n').lines();
            let id = lines.next().and_then(|id| id.trim().parse::<u32>().ok());
            let process = self.processes.iter().find(|process| Some(process.id) == id);
            let frames: Vec<Frame<'_>> = lines.filter_map(Frame::parse).collect();
            if let Some(process) = process {
                *samples.entry((process.role, purpose(&frames))).or_default() += 1.0;
            }
        }
        let all: f64 = samples.values().sum();
        if all == 0.0 {
            return Err("perf has seen nothing".into());
        }
        samples.values_mut().for_each(|count| *count *= spent / all);
        Ok(Profile(samples))
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let _ = self.perf.kill(); // it has ended, unless what it looked at has failed
        let _ = self.perf.wait();
    }
}

/// Whether `perf` has begun: it has events open.
fn looks(perf: u32) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{perf}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|link| link.ends_with("anon_inode:[perf_event]")))
}

fn data(place: &TempDir) -> PathBuf {
    place.path().join("perf.data")
}

fn all_cpu(processes: &[Process]) -> Outcome<Duration> {
    processes.iter().map(|process| cpu_of(process.id)).sum()
}

/// A function on the stack, the innermost first.
struct Frame<'a> {
    name: &'a str,
    file: &'a str,
}

impl<'a> Frame<'a> {
    /// `ADDRESS NAME (FILE)`
    fn parse(line: &'a str) -> Option<Self> {
        let (_, rest) = line.trim().split_once(' ')?;
        let (name, file) = rest.rsplit_once(" (")?;
        Some(Self { name, file: file.trim_end_matches(')') })
    }
}

/// System calls, and what they are for.
const CALLS: [(&str, &[&str]); 5] = [
    ("kernel: sending", &["sys_sendto", "sys_sendmsg", "do_writev", "sys_writev", "ksys_write", "sys_write"]),
    ("kernel: receiving", &["sys_recvfrom", "sys_recvmsg", "do_readv", "ksys_read", "sys_read"]),
    ("kernel: waiting for events", &["sys_epoll_wait", "sys_epoll_pwait", "sys_poll", "sys_ppoll"]),
    ("kernel: threads that wake each other", &["sys_futex"]),
    ("kernel: files", &["sys_fdatasync", "sys_fsync", "sys_pwrite64", "sys_pread64"]),
];

/// Our code by its modules, and libraries in it.
const MODULES: [(&str, &[&str]); 9] = [
    ("RESP", &["overspill::protocol", "overspill::doors::resp"]),
    ("doors", &["overspill::doors"]),
    ("store", &["overspill::store", "overspill::policy"]),
    ("shard", &["overspill::shard", "overspill::journal"]),
    ("router", &["overspill::router"]),
    ("RPC", &["overspill::rpc", "tarpc", "postcard"]),
    ("SQL", &["overspill::tier", "sqlx"]),
    ("tokio", &["tokio", "mio::"]),
    ("load", &["overspill::bench", "bench::", "hdrhistogram"]),
];

/// What a moment was spent on.
fn purpose(stack: &[Frame<'_>]) -> &'static str {
    let Some(at) = stack.first() else { return REST };
    if at.file.contains("kernel") {
        // A name ends where the call does: `sys_write` is not `sys_writev`.
        let is_in = |call: &str| stack.iter().any(|frame| frame.name.ends_with(call));
        return CALLS
            .iter()
            .find(|(_, calls)| calls.iter().any(|call| is_in(call)))
            .map_or("kernel: all else", |(purpose, _)| purpose);
    }
    let program = Path::new(at.file).file_name().unwrap_or_default().to_string_lossy();
    match at.name {
        name if name.starts_with("mi_") || name.starts_with("_mi_") || name.contains("malloc") => "allocator",
        name if name.contains("mem") && program.starts_with("libc") => "copying and comparing bytes",
        _ if program.contains("vdso") || at.name.contains("clock_gettime") => "clock",
        name => MODULES
            .iter()
            .find(|(_, prefixes)| prefixes.iter().any(|prefix| name.contains(prefix)))
            .map_or("code", |(purpose, _)| purpose),
    }
}

/// Has each side do its load once more and looks at its processes. Each: name, load, processes.
pub fn of_loads(what: &str, sides: &[(&str, Plan, Vec<Process>)]) -> Outcome<String> {
    let mut columns = Vec::new();
    for (name, plan, processes) in sides {
        let Some(look) = Look::start(processes)? else { return Ok(missing()) };
        let operations = load::run(plan)?.count();
        columns.push((*name, look.end()?, 1e6 / operations.max(1) as f64));
    }
    Ok(table(what, &columns, MICROS))
}

/// Instead of a table, without `perf`.
pub fn missing() -> String {
    "No profile of where the time goes: there is no `perf` here that may look (`linux-perf` of Debian).".to_owned()
}

/// Sides beside each other: name, profile, and how many of `unit` a second is.
pub fn table(what: &str, columns: &[(&str, Profile, f64)], unit: Unit) -> String {
    if columns.is_empty() {
        return missing();
    }
    let names: Vec<&str> = columns.iter().map(|(name, ..)| *name).collect();
    let mut table = format!(
        "What stands in the way, {what}: where the processor time goes, as `perf` sees it.\n\n| | {} |\n|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    let mut row = |name: &str, figures: &[f64]| {
        let cells: Vec<String> =
            figures.iter().map(|figure| if *figure > 0.0 { unit.tell(*figure) } else { String::new() }).collect();
        let _ = writeln!(table, "| {name} | {} |", cells.join(" | ")); // a string takes it
    };
    let totals: Vec<f64> = columns.iter().map(|(_, profile, scale)| profile.0.values().sum::<f64>() * scale).collect();
    row("all", &totals);
    let mut parts: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for (i, (_, profile, scale)) in columns.iter().enumerate() {
        for (part, seconds) in &profile.0 {
            let figures = parts.entry(*part).or_insert_with(|| vec![0.0; columns.len()]);
            figures.iter_mut().skip(i).take(1).for_each(|figure| *figure = seconds * scale);
        }
    }
    let mut parts: Vec<_> = parts.into_iter().collect();
    parts.sort_by(|(_, a), (_, b)| {
        let sum = |figures: &[f64]| figures.iter().sum::<f64>();
        sum(b).total_cmp(&sum(a))
    });
    let is_told = |figures: &[f64]| figures.iter().zip(&totals).any(|(figure, all)| *figure >= SHARE_MIN * all);
    let mut rest = vec![0.0; columns.len()];
    for ((role, purpose), figures) in parts {
        if is_told(&figures) && purpose != REST {
            row(&format!("{role}: {purpose}"), &figures);
        } else {
            rest.iter_mut().zip(&figures).for_each(|(rest, figure)| *rest += figure);
        }
    }
    row(REST, &rest);
    table
}
