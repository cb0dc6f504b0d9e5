//! What the hot paths cost in instructions, under valgrind, where no other process makes noise: beside `table.tsv`, which says what
//! they cost when somebody last looked.
//!
//! `make instructions` fails if a path costs 5 % more than the table says; `make instructions UPDATE=yes` writes the table. A path
//! runs N times and 2 N times, each in a process of its own, and the difference is told, so that what it takes to start is not in it. Other
//! compilers and standard libraries make other instructions: the table is for the machine and the toolchain that CI has.

mod paths;

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use self::paths::HotPath;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const TABLE: &str = "examples/instructions/table.tsv";
/// More than this part beside the table is a regression.
const TOLERANCE: f64 = 0.05;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["run", name, times] => run(name, times).map(|()| true),
        ["update"] => update().map(|()| true),
        [] => compare(),
        _ => Err("usage: instructions [update]".into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What valgrind looks at.
fn run(name: &str, times: &str) -> Outcome<()> {
    let path = HotPath::ALL.into_iter().find(|path| path.name() == name).ok_or("no such path")?;
    path.run(times.parse()?)
}

/// Whether no path has become dearer.
fn compare() -> Outcome<bool> {
    let table = fs::read_to_string(TABLE)?;
    let known = |name: &str| {
        let line = table.lines().filter_map(|line| line.split_once('\t')).find(|(path, _)| *path == name);
        line.and_then(|(_, count)| count.parse::<f64>().ok())
    };
    println!("{:<44} {:>12} {:>12} {:>8}", "instructions an operation", "now", "table", "");
    let mut is_good = true;
    for path in HotPath::ALL {
        let now = measure(path)?;
        let then = known(path.name()).ok_or_else(|| format!("{TABLE} has no line for {}", path.name()))?;
        let change = now / then - 1.0;
        println!("{:<44} {now:>12.0} {then:>12.0} {:>+7.1} %", path.name(), 100.0 * change);
        if change > TOLERANCE {
            is_good = false;
            println!("  {} costs more than the table says", path.name());
        } else if change < -TOLERANCE {
            println!("  cheaper: `make instructions UPDATE=yes` keeps it so");
        }
    }
    Ok(is_good)
}

fn update() -> Outcome<()> {
    let mut table = String::new();
    for path in HotPath::ALL {
        let now = measure(path)?;
        println!("{:<44} {now:>12.0}", path.name());
        writeln!(table, "{}\t{now:.0}", path.name())?;
    }
    Ok(fs::write(TABLE, table)?)
}

/// Instructions of one operation.
fn measure(path: HotPath) -> Outcome<f64> {
    let times = path.times();
    let (once, twice) = (count(path, times)?, count(path, 2 * times)?);
    Ok((twice - once) / f64::from(times))
}

/// Instructions of a whole process.
fn count(path: HotPath, times: u32) -> Outcome<f64> {
    let place = tempfile::tempdir()?;
    let file: PathBuf = place.path().join("counts");
    let mut process = Command::new("valgrind");
    process.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", file.display()));
    process.arg(std::env::current_exe()?).args(["run", path.name(), &times.to_string()]);
    let output = process.output().map_err(|error| format!("valgrind is needed: {error}"))?;
    if !output.status.success() {
        return Err(format!("{}: {}", path.name(), String::from_utf8_lossy(&output.stderr)).into());
    }
    total(&file)
}

fn total(file: &Path) -> Outcome<f64> {
    let counts = fs::read_to_string(file)?;
    // One line for all threads.
    let totals = counts.lines().find_map(|line| line.strip_prefix("totals:").or(line.strip_prefix("summary:")));
    Ok(totals.ok_or("callgrind has counted nothing")?.trim().parse()?)
}
