//! The shell's lines: `PUT alice "two words" EX 60`, split into words and made into a [`Request`].
//!
//! [`Spec::all`] is the one table of what a line can say: parsing, help, hints and completion are driven by it. What
//! a reply looks like is the shell's business; a [`Show`] only names it.

mod cursor;
mod request;
mod spec;
mod words;

pub use cursor::{CursorParseError, format_cursor, parse_cursor};
pub use request::{ParseError, Problem, Request, SCAN_LIMIT_DEFAULT, SCAN_LIMIT_MAX, Show, parse_line, parse_words};
pub use spec::Spec;
pub use words::{SplitError, WORDS_MAX, printable, quote, quoted, split};
