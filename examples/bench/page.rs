//! What is told: tables in Markdown, to read as they are or in `docs/benchmarks.md`.

use std::fmt::{self, Write};
use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use crate::peers::Peers;
use crate::rounds::Row;
use crate::{Bench, Outcome};

/// What a section found out.
#[derive(Debug, Default)]
pub struct Chapter {
    pub title: &'static str,
    /// How it was measured, in a sentence or more.
    pub method: String,
    pub rows: Vec<Row>,
    /// Tables of other shapes, and remarks.
    pub more: Vec<String>,
    /// The names and texts of the plots.
    pub plots: Vec<(&'static str, String)>,
    /// Command lines.
    pub commands: Vec<String>,
}

impl Chapter {
    pub fn new(title: &'static str, method: impl Into<String>) -> Self {
        Self { title, method: method.into(), ..Self::default() }
    }

    /// A command line, unless it is there.
    pub fn command(&mut self, command: &str) {
        if !self.commands.iter().any(|other| other == command) {
            self.commands.push(command.to_owned());
        }
    }
}

impl fmt::Display for Chapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}\n", self.title, self.method)?;
        if !self.rows.is_empty() {
            writeln!(
                f,
                "| what | Overspill | others | ratio, median (spread) | goal | reached |\n|---|---|---|---|---|---|"
            )?;
            for row in &self.rows {
                let reached = row.is_reached.map(reached).unwrap_or_default();
                let Row { what, ours, peers, ratio, goal, .. } = row;
                writeln!(f, "| {what} | {ours} | {peers} | {ratio} | {goal} | {reached} |")?;
            }
            writeln!(f)?;
        }
        for text in &self.more {
            writeln!(f, "{}\n", text.trim_end())?;
        }
        for (name, _) in &self.plots {
            writeln!(f, "![{}](benchmarks/{name}.svg)\n", self.title)?;
        }
        if !self.commands.is_empty() {
            writeln!(
                f,
                "<details><summary>Command lines</summary>\n\n```\n{}\n```\n\n</details>\n",
                self.commands.join("\n")
            )?;
        }
        Ok(())
    }
}

fn reached(is_reached: bool) -> &'static str {
    if is_reached { "yes" } else { "**not reached**" }
}

/// All of it.
pub fn page(bench: &Bench, chapters: &[Chapter], database: Option<&str>) -> Outcome<String> {
    let mut page = String::new();
    write!(page, "# Benchmarks\n\n{}\n\n", method(bench, database)?)?;
    writeln!(page, "## Where it comes out\n\n| what | ratio, median (spread) | goal | reached |\n|---|---|---|---|")?;
    for chapter in chapters {
        for row in chapter.rows.iter().filter(|row| row.is_reached.is_some()) {
            let told = row.is_reached.map(reached).unwrap_or_default();
            let ratio = if row.ratio.is_empty() { &row.ours } else { &row.ratio };
            writeln!(page, "| {}: {} | {ratio} | {} | {told} |", chapter.title, row.what, row.goal)?;
        }
    }
    writeln!(page)?;
    for chapter in chapters {
        write!(page, "{chapter}")?;
    }
    Ok(page.trim_end().to_owned() + "\n")
}

/// The page, and the plots in a folder beside it.
pub fn write(directory: &Path, page: &str, chapters: &[Chapter]) -> Outcome<()> {
    let plots = directory.join("benchmarks");
    fs::create_dir_all(&plots)?;
    for (name, plot) in chapters.iter().flat_map(|chapter| &chapter.plots) {
        fs::write(plots.join(format!("{name}.svg")), plot)?;
    }
    Ok(fs::write(directory.join("benchmarks.md"), page)?)
}

fn method(bench: &Bench, database: Option<&str>) -> Outcome<String> {
    let peers: Vec<String> = bench.peers.all().iter().map(ToString::to_string).collect();
    let database = database.map_or_else(String::new, |version| format!(", {version}"));
    Ok(format!(
        "Made by `make {}`: {}; Overspill {}, {}{database}. Servers and client share the cores, and all files lie in one file system.

Machines differ, and are shared: no absolute figure means much. So every figure is a ratio within one run. We and the others are asked in turns, \
by one load generator (`kv bench`), in {} rounds, or {} shorter ones where the cost of a request is compared; a ratio is ours to theirs of the same round, and the table has its median and, in parentheses, the least and the greatest. \
Where there are several others, it is the ratio to the best of them. Clients share the cores with servers, so that throughput hides what a server costs: \
beside it stands the processor time, in user space and in the kernel, of all processes of a server (`/proc/PID/stat` before and after) for each operation. \
Keys have 16 bytes, values {}. Every server has one worker thread; a secondary with a tier has one more that writes to it.{}",
        if bench.options.quick { "bench-quick" } else { "bench" },
        machine()?,
        env!("CARGO_PKG_VERSION"),
        peers.join(", "),
        bench.rounds,
        bench.short_turns().0,
        crate::load::VALUE_BYTES,
        missing(&bench.peers),
    ))
}

fn missing(peers: &Peers) -> String {
    let missing: Vec<String> = peers.missing().map(|kind| kind.to_string()).collect();
    if missing.is_empty() { String::new() } else { format!(" Not here and left out: {}.", missing.join(", ")) }
}

/// Cores, model and memory.
fn machine() -> Outcome<String> {
    let field = |file: &str, name: &str| -> Outcome<String> {
        let text = fs::read_to_string(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.and_then(|rest| rest.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default())
    };
    let kibibytes = field("/proc/meminfo", "MemTotal")?;
    let gibibytes = kibibytes.trim_end_matches(" kB").parse::<f64>()? / f64::from(1 << 20);
    let (cores, model) = (available_parallelism()?, field("/proc/cpuinfo", "model name")?);
    Ok(format!("{cores} cores of {model}, {gibibytes:.0} GiB of memory"))
}
