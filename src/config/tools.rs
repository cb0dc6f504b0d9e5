//! The subcommands of `kv`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{BenchArgs, HostPort};
use crate::transfer::{ExportOptions, ImportOptions, Place};

/// What `kv` does beside being a shell. One of these words as the first is the subcommand; a host of that name is to be written
/// HOST:PORT.
#[derive(Debug, Clone, Subcommand)]
pub enum Tool {
    Bench(BenchArgs),
    Check(CheckArgs),
    Export(ExportArgs),
    Import(ImportArgs),
}

/// Tells what is in the directory of a journal, and whether it is sound.
///
/// It changes nothing, needs no database, and may run beside the secondary whose directory it is. It exits with 0 (sound; a tail
/// that a crash left torn is sound), 1 (damaged) or 2 (no journal, or it can't be read).
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Data directory of a secondary, as in ./overspill-data/8081
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Writes every record, hot or cold, to a file of JSON lines.
///
/// The file is FILE.part until it is complete. When that is there from an earlier run, be it interrupted or killed, the export goes
/// on with it. Records that change while it runs are in it as they were at some moment: it is no snapshot. It exits with 0 (done), 1
/// (not finished: the same command goes on) or 2 (refused, or an error).
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// Address of a primary; or of a secondary that has all slots
    #[arg(value_name = "HOST:PORT")]
    pub node: HostPort,

    /// Where to; - is standard output, which can't be gone on with
    #[arg(value_name = "FILE")]
    to: Place,

    /// Begin anew, even if there is an unfinished FILE.part
    #[arg(long, env = "KV_RESTART")]
    restart: bool,

    /// Overwrite FILE
    #[arg(long, env = "KV_FORCE")]
    force: bool,

    #[command(flatten)]
    pub patience: PatienceArg,
}

/// Stores the records of a file that `kv export` wrote, and reads them back.
///
/// The file is read through first: one that is damaged or not complete is refused before anything is stored. Keys that exist are
/// overwritten; others stay. How far it is stands in FILE.import, so that after an interruption the same command goes on. It exits
/// with 0 (done), 1 (not finished: the same command goes on; or other values were read back) or 2 (refused, or an error).
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// Address of a primary; or of a secondary that has all slots
    #[arg(value_name = "HOST:PORT")]
    pub node: HostPort,

    /// Where from; - is standard input, which can't be gone on with, and is stored as far as it is good
    #[arg(value_name = "FILE")]
    from: Place,

    /// Leave keys that exist as they are
    #[arg(long, env = "KV_IF_ABSENT")]
    if_absent: bool,

    /// Don't read the records back
    #[arg(long, env = "KV_NO_VERIFY")]
    no_verify: bool,

    /// Take an export that was not finished, up to its last progress line
    #[arg(long, env = "KV_ALLOW_PARTIAL")]
    allow_partial: bool,

    /// Begin anew, even if there is a FILE.import
    #[arg(long, env = "KV_RESTART")]
    restart: bool,

    #[command(flatten)]
    pub patience: PatienceArg,
}

#[derive(Debug, Clone, Args)]
pub struct PatienceArg {
    /// How long to try again while the nodes are busy or away, as in 5m
    #[arg(long, env = "KV_PATIENCE", default_value = "5m", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub patience: Duration,
}

impl ExportArgs {
    pub fn options(&self) -> ExportOptions {
        ExportOptions { from: self.node.to_string(), to: self.to.clone(), restart: self.restart, force: self.force }
    }
}

impl ImportArgs {
    pub fn options(&self) -> ImportOptions {
        ImportOptions {
            from: self.from.clone(),
            to: self.node.to_string(),
            if_absent: self.if_absent,
            verify: !self.no_verify,
            allow_partial: self.allow_partial,
            restart: self.restart,
        }
    }
}
