//! The command line and the environment, checked once and turned into what nodes are started with.
//!
//! A flag beats the environment, which beats the default. Secrets come by environment or file only.

mod access;
mod address;
mod bench;
mod kv;
mod log;
mod primary;
mod secondary;
mod size;
mod tls;
mod tools;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

pub use access::AccessArgs;
pub use address::{HostPort, TierAddress};
pub use bench::BenchArgs;
pub use kv::{KvArgs, Target};
pub use log::{LogArgs, LogFormat};
pub use primary::PrimaryArgs;
pub use secondary::SecondaryArgs;
pub use tls::{ClientTlsArgs, TlsArgs};
pub use tools::{CheckArgs, ExportArgs, ImportArgs, Tool};

/// The exit code of a wrong command line.
const USAGE: u8 = 2;

/// Parses a command line; on a wrong one, says in one line what is wrong, and on `--help` and the like prints that.
///
/// # Errors
/// The exit code to end with.
pub fn parse<A: CommandFactory + FromArgMatches>(args: impl IntoIterator<Item = OsString>) -> Result<A, ExitCode> {
    let parsed = A::command().try_get_matches_from(args).and_then(|matches| A::from_arg_matches(&matches));
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print(); // whoever asked has closed the pipe
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        _ => {
            eprintln!("{}", one_line(&error.to_string()));
            ExitCode::from(USAGE)
        }
    })
}

/// Reports what went wrong, in one line, and gives the exit code for it.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

/// The message up to clap's usage and hints.
fn one_line(message: &str) -> String {
    let lines = message.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words<A: CommandFactory + FromArgMatches>(words: &str) -> Result<A, String> {
        let args = words.split_whitespace().map(OsString::from);
        let parsed = A::command().try_get_matches_from(args).and_then(|matches| A::from_arg_matches(&matches));
        parsed.map_err(|error| one_line(&error.to_string()))
    }

    #[test]
    fn the_original_command_lines_are_understood() {
        let args: SecondaryArgs = parse_words("secondary localhost:8080 8081 localhost:3306 5 3 2").unwrap();
        assert_eq!((args.port, args.capacity, args.threads), (8081, 5, 2));
        assert_eq!(args.policy.name(), "fifo");
        let args: SecondaryArgs = parse_words("secondary localhost:8080 8081").unwrap();
        assert_eq!((args.capacity, args.policy.name(), args.threads), (1_000_000, "lru", 1));
        let args: PrimaryArgs = parse_words("primary 8080 localhost:8081 localhost:8082").unwrap();
        assert_eq!(args.secondaries.len(), 2);
    }

    #[test]
    fn a_wrong_argument_is_one_line_that_says_what_is_expected() {
        let secondary = |words: &str| parse_words::<SecondaryArgs>(&format!("secondary {words}")).unwrap_err();
        let primary = |words: &str| parse_words::<PrimaryArgs>(&format!("primary {words}")).unwrap_err();
        for (message, expected) in [
            (secondary("localhost:8080 8081 none 5 mru"), "expected 1 or lru, 2 or lfu, 3 or fifo"),
            (secondary("localhost:8080 70000"), "1..=65535"),
            (secondary("localhost:8080 8081 none 0"), "at least 1"),
            (secondary("localhost 8081"), "expected HOST:PORT"),
            (secondary("localhost:8080 8081 http://x"), "expected HOST:PORT"),
            (secondary("localhost:8080 8081 none 5 lru 0"), "1..="),
            (secondary("localhost:8080 8081 --max-memory 1MiB"), "at least"),
            (secondary("localhost:8080 8081 --write sometimes"), "spill, behind, through"),
            (primary("8080"), "SECONDARY"),
        ] {
            assert!(message.contains(expected), "`{message}` does not say `{expected}`");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }

    #[test]
    fn every_option_has_an_environment_variable_and_a_help_text() {
        let tools = KvArgs::command().get_subcommands().cloned().collect::<Vec<_>>();
        assert_eq!(tools.len(), 4);
        for command in [SecondaryArgs::command(), PrimaryArgs::command(), KvArgs::command()].into_iter().chain(tools) {
            assert!(command.get_about().is_some());
            for arg in command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
                let id = arg.get_id();
                assert!(arg.get_help().is_some(), "{id} has no help");
                let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned());
                let is_named = arg.is_positional() || variable.is_some_and(|name| name.starts_with("KV_"));
                assert!(is_named, "--{id} has no variable KV_…");
            }
        }
    }
}
