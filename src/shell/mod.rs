//! The `kv` shell: reads lines, runs them against a [`Service`] and shows what it answers.
//!
//! It comes in three modes: a conversation at a terminal ([`Shell::run_interactive`]), the lines of a pipe or a file
//! ([`Shell::run_lines`]), and one command from the program's arguments ([`Shell::run_one`]). The shell can't tell
//! whether its service is a whole cluster in this process or a primary far away: it knows commands and replies, and
//! nothing of what stands behind them. What blocks (the terminal, standard input and output) has threads of its own.

mod editor;
mod failures;
mod figures;
mod help;
mod interactive;
mod lines;
mod output;
mod render;
mod session;

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::protocol::line::parse_words;
use crate::service::Service;

use self::editor::Editor;
use self::lines::Input;
use self::output::Output;
use self::session::{Errors, Session, Step};

pub use self::lines::LINE_BYTES_MAX;
pub use self::render::Style;

#[derive(Debug, Clone)]
pub struct ShellOptions {
    /// How long to wait for the answer to one batch of commands.
    pub timeout: Duration,
    /// Where a conversation's history is kept; its folder is made if need be. `None` keeps none.
    pub history: Option<PathBuf>,
    /// Whether the connection is up. A conversation tells when that changes; the other modes don't look.
    pub link: Option<watch::Receiver<bool>>,
}

impl Default for ShellOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), history: None, link: None }
    }
}

/// How it went: the program's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Ok = 0,
    /// Nothing failed, but what was asked for is not there: no such key, or a condition that does not hold.
    NotFound = 1,
    /// At least one command was refused, or failed, or could not be understood.
    Failed = 2,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

impl Style {
    /// Typed if standard output is a terminal.
    pub fn of_stdout() -> Self {
        if io::stdout().is_terminal() { Self::Typed } else { Self::Raw }
    }
}

/// Where replies and errors go, and for whom they are written.
pub struct Streams {
    pub out: Box<dyn Write + Send>,
    pub err: Box<dyn Write + Send>,
    pub style: Style,
}

impl Streams {
    /// The program's own.
    pub fn stdio(style: Style) -> Self {
        Self { out: Box::new(io::stdout()), err: Box::new(io::stderr()), style }
    }
}

/// A shell on a service, to be run once. Needs a tokio runtime with its drivers enabled.
pub struct Shell<S> {
    service: S,
    options: ShellOptions,
}

impl<S: Service> Shell<S> {
    pub fn new(service: S, options: ShellOptions) -> Self {
        Self { service, options }
    }

    /// A conversation if both standard input and output are terminals; else the lines of standard input, with raw
    /// replies.
    ///
    /// # Errors
    /// If the terminal, standard input or standard output fails. What commands answer is never an error here.
    pub async fn run_stdio(self) -> anyhow::Result<Status> {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            self.run_interactive().await
        } else {
            self.run_lines(io::stdin(), Streams::stdio(Style::Raw)).await
        }
    }

    /// A conversation at the terminal, until `exit` or Ctrl-D. Ctrl-C clears the line, or stops waiting for the command
    /// that is running: from then on the process does not die by SIGINT.
    ///
    /// # Errors
    /// If the terminal fails.
    ///
    /// # Cancel safety
    /// None: dropping the future leaves the terminal in raw mode until a line is entered.
    pub async fn run_interactive(self) -> anyhow::Result<Status> {
        let mut editor = Editor::spawn(self.options.history.clone())?;
        let link = self.options.link.clone();
        let mut session = self.session(Streams::stdio(Style::Typed), Errors::Inline)?;
        interactive::talk(&mut session, &mut editor, link).await?;
        session.output.flush().await?;
        Ok(Status::Ok)
    }

    /// Runs the lines that `reader` gives, one by one, until its end or `exit`. Blank lines and those that begin with `#`
    /// are skipped; one that fails does not stop the others. [`Status::Failed`] if any did, else [`Status::Ok`].
    ///
    /// # Errors
    /// If reading or writing fails. Whoever reads our output may stop at any time: that ends the run, but is no error.
    pub async fn run_lines(self, reader: impl Read + Send + 'static, streams: Streams) -> anyhow::Result<Status> {
        let mut session = self.session(streams, Errors::Apart)?;
        let mut inputs = lines::spawn(reader)?;
        let mut status = Status::Ok;
        while let Some(input) = inputs.recv().await {
            let step = match input {
                Input::Request(request) => session.run(request).await,
                Input::Wrong(error) => session.fail(&error).await,
                Input::Failed(error) => return Err(error.into()),
            };
            match unless_closed(step)? {
                Some(Step::Done(Status::Failed)) => status = Status::Failed,
                Some(Step::Done(Status::Ok | Status::NotFound)) => {}
                Some(Step::Exit) | None => break,
            }
        }
        unless_closed(session.output.flush().await)?;
        Ok(status)
    }

    /// Runs one command whose words are split already, as a program's arguments are: nothing in them is unquoted.
    /// No words at all are an error.
    ///
    /// # Errors
    /// If writing fails. That the reader of our output has gone is no error.
    pub async fn run_one(self, words: impl IntoIterator<Item = OsString>, streams: Streams) -> anyhow::Result<Status> {
        let words: Vec<Bytes> = words.into_iter().map(|word| word.into_encoded_bytes().into()).collect();
        let mut session = self.session(streams, Errors::Apart)?;
        let step = match parse_words(&words) {
            Ok(Some(request)) => session.run(request).await,
            Ok(None) => session.fail("no command: HELP lists them").await,
            Err(error) => session.fail(&error.to_string()).await,
        };
        let status = match unless_closed(step)? {
            Some(Step::Done(status)) => status,
            Some(Step::Exit) | None => Status::Ok,
        };
        unless_closed(session.output.flush().await)?;
        Ok(status)
    }

    fn session(self, streams: Streams, errors: Errors) -> io::Result<Session<S>> {
        let output = Output::spawn(streams.out, streams.err)?;
        Ok(Session { service: self.service, timeout: self.options.timeout, output, style: streams.style, errors })
    }
}

/// `None` if the reader of our output has gone, as `head` does once it has seen enough.
fn unless_closed<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
