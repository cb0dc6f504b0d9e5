//! Overspill beside what people would pick instead, on this machine: real processes, one load generator for all of them, and ratios
//! within each run. `docs/benchmarks.md` is what it writes.
//!
//! `make bench` and `make bench-quick` run all sections with a MariaDB around them; `target/release/examples/bench hits proxied`
//! runs some of them and prints what they find.

mod bare;
mod caches;
mod callers;
mod cluster;
mod database;
mod load;
mod page;
mod peers;
mod plot;
mod process;
mod profile;
mod redis_benchmark;
mod rounds;
mod sections;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use crate::page::Chapter;
use crate::peers::Peers;
use crate::sections::Section;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The first of the sides that are compared.
const OURS: &str = "Overspill";

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Compares Overspill with others, on this machine.
#[derive(Debug, Parser)]
struct Options {
    /// What to compare; all of it if nothing is named
    sections: Vec<Section>,

    /// Less of everything: about a minute for all
    #[arg(long)]
    quick: bool,

    /// 10,000,000 records in the tier where otherwise a million is the most
    #[arg(long, conflicts_with = "quick")]
    full: bool,

    /// How often each side is asked; default: 5, quick: 3
    #[arg(long)]
    rounds: Option<usize>,

    /// Where to write `benchmarks.md` and its plots; otherwise it is printed
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

/// What all sections share.
struct Bench {
    options: Options,
    peers: Peers,
    rounds: usize,
    /// Of one load.
    time: Duration,
}

impl Bench {
    fn new(options: Options) -> Self {
        let rounds = options.rounds.unwrap_or(if options.quick { 3 } else { 5 }).max(1);
        let time = Duration::from_millis(if options.quick { 300 } else { 1200 });
        Self { options, peers: Peers::find(), rounds, time }
    }

    fn choose<T>(&self, usual: T, quick: T) -> T {
        if self.options.quick { quick } else { usual }
    }

    /// Rounds and time of a load where what a request costs is compared. Short turns: a disturbance of some seconds spoils a
    /// smaller part of them.
    fn short_turns(&self) -> (usize, Duration) {
        (3 * self.rounds, self.time / 3)
    }
}

fn main() -> ExitCode {
    bare::serve_if_asked().unwrap_or_else(compare)
}

#[tokio::main]
async fn compare() -> ExitCode {
    match run(Bench::new(Options::parse())).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all sections have figures.
async fn run(bench: Bench) -> Outcome<bool> {
    let is_all = bench.options.sections.is_empty();
    let sections = if is_all { Section::value_variants() } else { bench.options.sections.as_slice() };
    let (mut chapters, mut failures) = (Vec::new(), 0);
    for section in sections {
        let started = Instant::now();
        let chapter = section.run(&bench).await.unwrap_or_else(|error| {
            failures += 1;
            eprintln!("{}: {error}", section.title());
            Chapter::new(section.title(), format!("Not measured: {error}."))
        });
        eprintln!("{}: {:.0} s", chapter.title, started.elapsed().as_secs_f64());
        chapters.push(chapter);
    }
    if bench.options.write.is_none() {
        chapters.iter_mut().for_each(|chapter| chapter.plots.clear());
    }
    if let Some(directory) = &bench.options.write {
        let version = database::version().await;
        page::write(directory, &page::page(&bench, &chapters, version.as_deref())?, &chapters)?;
    } else if is_all {
        println!("{}", page::page(&bench, &chapters, database::version().await.as_deref())?);
    } else {
        chapters.iter().for_each(|chapter| print!("{chapter}"));
    }
    Ok(failures == 0)
}
