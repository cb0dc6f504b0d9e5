//! What went wrong with a request's commands, told in a few lines however many there were.

use crate::protocol::line::printable;
use crate::record::Key;
use crate::service::Error;

/// Different errors that are told; of more, only the number is.
const KINDS_MAX: usize = 5;

#[derive(Default)]
pub(super) struct Failures {
    kinds: Vec<Kind>,
    count: usize,
}

/// Failures with the same text.
struct Kind {
    text: String,
    /// Of the first of them.
    key: Option<Key>,
    count: usize,
}

impl Failures {
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn add(&mut self, key: Option<&Key>, error: &Error) {
        self.count += 1;
        let text = describe(error);
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.text == text) {
            kind.count += 1;
        } else if self.kinds.len() < KINDS_MAX {
            self.kinds.push(Kind { text, key: key.cloned(), count: 1 });
        }
    }

    /// Of a request of `total` commands; with more than one, the lines name a key.
    pub fn lines(&self, total: usize) -> Vec<String> {
        let tell = |kind: &Kind| match (&kind.key, kind.count) {
            (Some(key), 1) if total > 1 => format!("`{}`: {}", printable(key.as_bytes(), 64), kind.text),
            (Some(key), n) if total > 1 => {
                format!("`{}` and {} more: {}", printable(key.as_bytes(), 64), n - 1, kind.text)
            }
            _ => kind.text.clone(),
        };
        let told: usize = self.kinds.iter().map(|kind| kind.count).sum();
        let rest = Some(self.count - told).filter(|&n| n > 0).map(|n| format!("{n} more of other kinds"));
        self.kinds.iter().map(tell).chain(rest).collect()
    }
}

/// The error in one line, safe to show on a terminal, with what to do about it.
pub(super) fn describe(error: &Error) -> String {
    let text = printable(error.to_string().as_bytes(), 1024);
    match error {
        Error::Unknown(_) => format!("{text} (it may have been done or not: look before you try again)"),
        Error::Invalid(_) => text,
        Error::Busy(_) | Error::Unavailable(_) | Error::WrongShard { .. } | Error::ReplyTooLarge => {
            debug_assert!(error.is_retryable());
            format!("{text} (nothing was done: trying again may help)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_failures_are_told_in_few_lines() {
        let mut failures = Failures::default();
        for i in 0..1000 {
            let key = Key::new(format!("k{i}")).unwrap();
            failures.add(Some(&key), &Error::Busy("memory is full".to_owned()));
        }
        for i in 0..10 {
            let key = Key::new(format!("x{i}")).unwrap();
            failures.add(Some(&key), &Error::Invalid(format!("reason {i}")));
        }
        let lines = failures.lines(2000);
        assert_eq!(
            lines.first().unwrap(),
            "`k0` and 999 more: busy: memory is full (nothing was done: trying again may help)"
        );
        assert_eq!(lines.get(1).unwrap(), "`x0`: reason 0");
        assert_eq!(lines.last().unwrap(), "6 more of other kinds");
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn what_a_server_says_can_not_command_the_terminal() {
        assert_eq!(describe(&Error::Invalid("a\x1b[2J\nb".to_owned())), r"a\x1b[2J\nb");
    }
}
