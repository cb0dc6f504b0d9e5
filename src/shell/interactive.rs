//! The conversation at a terminal: prompt, request, reply, and news of the connection in between.

use std::io::ErrorKind;

use rustyline::error::ReadlineError;
use tokio::sync::watch;

use crate::protocol::line::{SplitError, parse_line, split};
use crate::service::Service;

use super::editor::{Editor, Event};
use super::render::line;
use super::session::{Session, Step};

/// Talks until the user leaves.
///
/// # Errors
/// If the terminal fails.
pub(super) async fn talk<S: Service>(
    session: &mut Session<S>,
    editor: &mut Editor,
    link: Option<watch::Receiver<bool>>,
) -> anyhow::Result<()> {
    let mut link = Link { up: link, told: None };
    loop {
        if let Some(news) = link.news() {
            say(session, news).await?;
        }
        session.output.flush().await?;
        editor.ask();
        match next_event(editor, &mut link).await {
            Some(Event::Line(text)) => {
                if run_lines(session, &text).await? == Step::Exit {
                    return Ok(());
                }
            }
            Some(Event::Interrupted) => {}
            Some(Event::Eof) => return Ok(()),
            // Bytes that are no text were typed or pasted.
            Some(Event::Failed(ReadlineError::Io(error))) if error.kind() == ErrorKind::InvalidData => {
                session.fail("the line is not UTF-8: write other bytes as \\xNN").await?;
            }
            Some(Event::Failed(error)) => return Err(error.into()),
            None => anyhow::bail!("the line editor has stopped"),
        }
    }
}

async fn next_event(editor: &mut Editor, link: &mut Link) -> Option<Event> {
    loop {
        tokio::select! {
            event = editor.event() => return event,
            // Without a way to tell it now, the news waits for the next prompt.
            () = link.changed(), if editor.can_notify() => {
                if let Some(news) = link.news() {
                    editor.notify(news);
                }
            }
        }
    }
}

/// Runs what was entered: one line, or several that were pasted together.
async fn run_lines<S: Service>(session: &mut Session<S>, text: &str) -> anyhow::Result<Step> {
    for line in statements(text) {
        let request = match parse_line(line.as_bytes()) {
            Ok(Some(request)) => request,
            Ok(None) => continue,
            Err(error) => {
                session.fail(&error.to_string()).await?;
                continue;
            }
        };
        let step = tokio::select! {
            step = session.run(request) => step?,
            // Without a handler Ctrl-C would end the shell, so where there is none this arm never comes.
            Ok(()) = tokio::signal::ctrl_c() => {
                say(session, "(interrupted; what was being written may have been done or not)").await?;
                break;
            }
        };
        if step == Step::Exit {
            return Ok(step);
        }
    }
    Ok(Step::Done(super::Status::Ok))
}

async fn say<S: Service>(session: &mut Session<S>, text: &str) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    line(text, &mut bytes);
    session.output.out(bytes).await
}

/// Cuts pasted text at its line ends, but not at those inside quotes.
fn statements(text: &str) -> Vec<String> {
    let mut statements: Vec<String> = Vec::new();
    let mut open = false;
    for piece in text.split('\n') {
        match statements.last_mut() {
            Some(last) if open => {
                last.push('\n');
                last.push_str(piece);
            }
            _ => statements.push(piece.to_owned()),
        }
        let last = statements.last().map(String::as_bytes).unwrap_or_default();
        let comment = last.trim_ascii_start().starts_with(b"#");
        open = !comment && matches!(split(last), Err(SplitError::Unbalanced { .. }));
    }
    statements
}

/// What the user has been told of the connection.
struct Link {
    up: Option<watch::Receiver<bool>>,
    told: Option<bool>,
}

impl Link {
    /// What is to be told, if anything has changed since this was last asked.
    fn news(&mut self) -> Option<&'static str> {
        let up = *self.up.as_mut()?.borrow_and_update();
        match (self.told.replace(up), up) {
            (None, false) => Some("not connected yet; trying"),
            (Some(true), false) => Some("connection lost; reconnecting"),
            (Some(false), true) => Some("connected again"),
            (None, true) | (Some(true), true) | (Some(false), false) => None,
        }
    }

    /// Waits for a change; for ever, if nobody watches the connection.
    async fn changed(&mut self) {
        if let Some(up) = &mut self.up {
            if up.changed().await.is_ok() {
                return;
            }
            self.up = None;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_lines_are_run_one_by_one() {
        assert_eq!(statements("GET a"), ["GET a"]);
        assert_eq!(statements("GET a\nGET b\n"), ["GET a", "GET b", ""]);
        assert_eq!(statements("PUT a \"1\n2\"\nGET a"), ["PUT a \"1\n2\"", "GET a"]);
        assert_eq!(statements("# don't\nGET a"), ["# don't", "GET a"]);
        assert_eq!(statements("PUT a \"1\nGET a"), ["PUT a \"1\nGET a"]);
    }

    #[tokio::test]
    async fn connection_is_talked_of_only_when_it_changes() {
        let (up, watched) = watch::channel(true);
        let mut link = Link { up: Some(watched), told: None };
        assert_eq!(link.news(), None);
        up.send(false).unwrap();
        link.changed().await;
        assert_eq!(link.news(), Some("connection lost; reconnecting"));
        assert_eq!(link.news(), None);
        up.send(true).unwrap();
        assert_eq!(link.news(), Some("connected again"));
        up.send(false).unwrap();
        up.send(true).unwrap();
        assert_eq!(link.news(), None, "it was back before anybody noticed");

        let (_down, watched) = watch::channel(false);
        let mut link = Link { up: Some(watched), told: None };
        assert_eq!(link.news(), Some("not connected yet; trying"));
        let mut link = Link { up: None, told: None };
        assert_eq!(link.news(), None);
    }
}
