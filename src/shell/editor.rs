//! The line editor: rustyline on a thread of its own, since it blocks, with history, completion and hints.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc as blocking;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter};
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Context, ExternalPrinter, Helper, Validator};
use tokio::sync::mpsc;

use crate::protocol::line::{Spec, split};

pub(super) const PROMPT: &str = "> ";
/// Longer lines are run but not remembered.
const HISTORY_LINE_BYTES_MAX: usize = 16 * 1024;
const HISTORY_LINES_MAX: usize = 10_000;
/// Longer lines get no hints: they are pasted, and a hint is made at every key.
const HINTED_BYTES_MAX: usize = 1024;

/// What the user did at the prompt.
#[derive(Debug)]
pub(super) enum Event {
    Line(String),
    /// Ctrl-C: the line is to be forgotten.
    Interrupted,
    /// Ctrl-D.
    Eof,
    Failed(ReadlineError),
}

/// The async side of the editor's thread. A line is read only after [`Editor::ask`], so that no prompt gets between
/// the replies.
pub(super) struct Editor {
    ask: blocking::Sender<()>,
    events: mpsc::Receiver<Event>,
    notices: Option<blocking::Sender<String>>,
}

impl Editor {
    /// Starts the editor's thread, which ends when the editor is dropped and no line is being read.
    ///
    /// # Errors
    /// If the terminal can't be used or a thread can't be started.
    pub fn spawn(history: Option<PathBuf>) -> anyhow::Result<Self> {
        let mut terminal = Terminal::with_config(config()?)?;
        terminal.set_helper(Some(Words));
        let notices = terminal.create_external_printer().ok().map(spawn_notices).transpose()?;
        let (ask, asked) = blocking::channel();
        let (sent, events) = mpsc::channel(1);
        let read = move || read_lines(terminal, history.as_deref(), &asked, &sent);
        std::thread::Builder::new().name("kv-editor".to_owned()).spawn(read)?;
        Ok(Self { ask, events, notices })
    }

    /// Shows the prompt; one [`Self::event`] follows.
    pub fn ask(&self) {
        let _ = self.ask.send(()); // A dead thread shows in `event`.
    }

    /// `None` if the thread has died.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Whether [`Self::notify`] can show anything.
    pub fn can_notify(&self) -> bool {
        self.notices.is_some()
    }

    /// Shows a line above the prompt, without disturbing what is being typed.
    pub fn notify(&self, text: &str) {
        if let Some(notices) = &self.notices {
            let _ = notices.send(format!("{text}\n")); // A printer that failed is no loss.
        }
    }
}

type Terminal = rustyline::Editor<Words, DefaultHistory>;

fn config() -> rustyline::Result<Config> {
    let config = Config::builder().max_history_size(HISTORY_LINES_MAX)?.history_ignore_dups(true)?;
    // A line that begins with a space is not remembered, as in bash: the way to keep a secret out of the file.
    Ok(config.history_ignore_space(true).completion_type(CompletionType::List).build())
}

/// The printer may block, so it has a thread.
fn spawn_notices(mut printer: impl ExternalPrinter + Send + 'static) -> std::io::Result<blocking::Sender<String>> {
    let (notices, received) = blocking::channel::<String>();
    let print = move || {
        for notice in received {
            if printer.print(notice).is_err() {
                break;
            }
        }
    };
    std::thread::Builder::new().name("kv-notices".to_owned()).spawn(print)?;
    Ok(notices)
}

fn read_lines(
    mut terminal: Terminal,
    history: Option<&Path>,
    asked: &blocking::Receiver<()>,
    events: &mpsc::Sender<Event>,
) {
    let mut history = history.filter(|path| is_usable(load_history(&mut terminal, path), path));
    while asked.recv().is_ok() {
        let event = match terminal.readline(PROMPT) {
            Ok(line) => {
                let remembered = line.len() <= HISTORY_LINE_BYTES_MAX && !line.trim().is_empty();
                if remembered && terminal.add_history_entry(line.as_str()).unwrap_or(false) {
                    // At once, so that a shell that is killed leaves its history.
                    history = history.filter(|path| is_usable(terminal.append_history(path), path));
                }
                Event::Line(line)
            }
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Event::Interrupted,
            Err(ReadlineError::Eof) => Event::Eof,
            Err(error) => Event::Failed(error),
        };
        if events.blocking_send(event).is_err() {
            break;
        }
    }
}

fn load_history(terminal: &mut Terminal, path: &Path) -> rustyline::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match terminal.load_history(path) {
        Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        loaded => loaded,
    }
}

/// Says once why a history can't be kept; the shell goes on without.
fn is_usable(result: rustyline::Result<()>, path: &Path) -> bool {
    if let Err(error) = &result {
        eprintln!("history is not kept in {}: {error}", path.display());
    }
    result.is_ok()
}

/// Completes and hints by the table of commands.
#[derive(Helper, Validator)]
struct Words;

impl Completer for Words {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, names) = completions(line.get(..pos).unwrap_or(line));
        let pair = |name: String| Pair { display: name.trim_end().to_owned(), replacement: name };
        Ok((start, names.into_iter().map(pair).collect()))
    }
}

/// What the word that `typed` ends with may become, and where that word begins.
fn completions(typed: &str) -> (usize, Vec<String>) {
    let start = typed.rfind(char::is_whitespace).map_or(0, |space| space + 1); // Commands are ASCII words.
    let before: Vec<&str> = typed.get(..start).unwrap_or_default().split_whitespace().collect();
    let word = typed.get(start..).unwrap_or_default();
    let of_help = matches!(before.as_slice(), [name] if name.eq_ignore_ascii_case("HELP"));
    if !before.is_empty() && !of_help {
        return (typed.len(), Vec::new());
    }
    let begun = word.to_ascii_uppercase();
    let lower = word.contains(|c: char| c.is_ascii_lowercase());
    let names = Spec::all().iter().flat_map(|spec| spec.names().map(move |name| (spec, name)));
    let fitting = names.filter(|(_, name)| name.starts_with(&begun)).map(|(spec, name)| {
        let name = if lower { name.to_ascii_lowercase() } else { name.to_owned() };
        if of_help || spec.arguments.is_empty() { name } else { name + " " }
    });
    (start, fitting.collect())
}

impl Hinter for Words {
    type Hint = ArgumentsHint;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<ArgumentsHint> {
        if pos < line.len() { None } else { hint(line).map(ArgumentsHint) }
    }
}

/// The arguments that are still to come.
fn hint(line: &str) -> Option<String> {
    if line.len() > HINTED_BYTES_MAX {
        return None;
    }
    let words = split(line.as_bytes()).ok()?;
    let spec = Spec::find(words.first()?)?;
    let rest = spec.arguments_after(words.len() - 1).join(" ");
    let space = if line.ends_with(char::is_whitespace) { "" } else { " " };
    if rest.is_empty() { None } else { Some(format!("{space}{rest}")) }
}

/// Shown, but not put into the line by the right arrow: it is no text that anybody wants there.
struct ArgumentsHint(String);

impl Hint for ArgumentsHint {
    fn display(&self) -> &str {
        &self.0
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Highlighter for Words {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[2m{hint}\x1b[0m"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_in_the_case_that_was_typed() {
        let table: [(&str, usize, &[&str]); 9] = [
            ("G", 0, &["GET "]),
            ("pu", 0, &["put "]),
            ("  exp", 2, &["expire ", "explain "]),
            ("STA", 0, &["STATS"]),
            ("help ve", 5, &["version"]),
            ("HELP CA", 5, &["CAS"]),
            ("xyz", 0, &[]),
            ("GET G", 5, &[]),
            ("help get p", 10, &[]),
        ];
        for (typed, start, names) in table {
            assert_eq!(completions(typed), (start, names.iter().map(|&name| name.to_owned()).collect()), "{typed}");
        }
        assert_eq!(completions("").1.len(), Spec::all().iter().flat_map(Spec::names).count());
    }

    #[test]
    fn hints_tell_the_arguments_that_are_missing() {
        let table = [
            ("", None),
            ("ge", None),
            ("get", Some(" key [default]")),
            ("GET ", Some("key [default]")),
            ("GET bob", Some(" [default]")),
            ("GET bob ", Some("[default]")),
            ("GET bob x", None),
            ("PUT a \"two words\" ", Some("[EX seconds | PX millis] [NX]")),
            ("PUT a \"two wo", None),
            ("DEL a b c ", Some("key...")),
            ("COUNT", None),
            ("nonsense ", None),
        ];
        for (line, hint) in table {
            assert_eq!(super::hint(line).as_deref(), hint, "{line}");
        }
        assert_eq!(super::hint(&format!("PUT a {}", "x".repeat(HINTED_BYTES_MAX))), None);
    }
}
