//! What the hot paths cost in instructions, under valgrind, where no other process makes noise: beside `table.tsv`, which says what
//! they cost when somebody last looked, in each profile.
//!
//! It fails if a path costs 5 % more than the table says; `UPDATE=yes` writes the column of its profile. A path runs N times and 2 N
//! times, each in a process of its own, and the difference is told, so that what it takes to start is not in it. Other compilers and
//! standard libraries make other instructions: a column is only for the compiler that it names. Processors make no difference:
//! valgrind shows the same one on every x86-64 that has AVX2.
//!
//! What valgrind runs is this executable too, without the harness of other tests, whose threads would be counted.

mod harness;
mod paths;
mod table;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use self::harness::Wanted;
use self::paths::HotPath;
use self::table::{Profile, Table};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// More than this part beside the table is a regression.
const TOLERANCE: f64 = 0.05;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["run", name, times] => run(name, times).map(|()| true),
        others => test(others),
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

/// What `cargo test` asks for; whether it went well.
fn test(arguments: &[&str]) -> Outcome<bool> {
    match harness::wanted(arguments) {
        Wanted::Run if is_set("UPDATE") => update().map(|()| true),
        Wanted::Run => compare(),
        Wanted::List => {
            println!("{}: test", harness::NAME);
            Ok(true)
        }
        Wanted::Nothing => Ok(true),
    }
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// What valgrind looks at.
fn run(name: &str, times: &str) -> Outcome<()> {
    let path = HotPath::ALL.into_iter().find(|path| path.name() == name).ok_or("no such path")?;
    path.run(times.parse()?)
}

/// Whether no path has become dearer.
fn compare() -> Outcome<bool> {
    let table = Table::read()?;
    let (ours, theirs) = (compiler()?, table.compiler());
    if ours != theirs {
        eprintln!("SKIPPED: the table is of `{theirs}`, and this is `{ours}`: see `{}`", Profile::OWN.update());
        return Ok(true);
    }
    if !has_valgrind() {
        if is_set("CI") {
            return Err("valgrind is missing: run scripts/setup".into());
        }
        eprintln!("SKIPPED: valgrind is missing: run scripts/setup");
        return Ok(true);
    }
    println!("{:<44} {:>12} {:>12} {:>8}", "instructions an operation", "now", "table", "");
    let mut is_good = true;
    for path in HotPath::ALL {
        let now = measure(path)?;
        let then = table.count(path)?;
        let change = now / then - 1.0;
        println!("{:<44} {now:>12.0} {then:>12.0} {:>+7.1} %", path.name(), 100.0 * change);
        if change > TOLERANCE {
            is_good = false;
            println!("  {} costs more than the table says", path.name());
        } else if change < -TOLERANCE {
            println!("  cheaper: `{}` keeps it so", Profile::OWN.update());
        }
    }
    Ok(is_good)
}

fn update() -> Outcome<()> {
    let mut table = Table::read()?;
    table.set_compiler(compiler()?);
    for path in HotPath::ALL {
        let now = measure(path)?;
        println!("{:<44} {now:>12.0}", path.name());
        table.set_count(path, now);
    }
    table.write()
}

/// As it names itself, with the processors that it makes code for.
fn compiler() -> Outcome<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(rustc).arg("--version").output().map_err(|error| format!("rustc: {error}"))?;
    Ok(format!("{} for {}", String::from_utf8(output.stdout)?.trim(), std::env::consts::ARCH))
}

fn has_valgrind() -> bool {
    Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
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
