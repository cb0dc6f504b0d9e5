//! How far long work is, for a person: a bar on a terminal, else a line now and then.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

const LINE_INTERVAL: Duration = Duration::from_secs(10);
const BAR_INTERVAL: Duration = Duration::from_millis(200);
const BAR: &str = "{prefix} {wide_bar} {human_pos}/{human_len} {msg}, {per_sec}, {eta} left";
/// Where the total is not known.
const SPINNER: &str = "{prefix} {spinner} {human_pos} {msg}, {per_sec}, {elapsed}";

/// Tells about one piece of work after the other. Where nobody reads what it writes, it goes on silently.
pub struct Progress {
    view: View,
    what: &'static str,
    /// What work is counted in, as in "records".
    unit: &'static str,
    done: u64,
    total: Option<u64>,
    bytes: u64,
    begun: Instant,
}

enum View {
    Bar(ProgressBar),
    Lines { out: Box<dyn Write + Send>, next: Instant },
}

impl Progress {
    /// On standard error.
    pub fn stderr(unit: &'static str) -> Self {
        if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(BAR_INTERVAL);
            Self::new(View::Bar(bar), unit)
        } else {
            Self::lines(unit, Box::new(io::stderr()))
        }
    }

    /// Lines only.
    pub fn lines(unit: &'static str, out: Box<dyn Write + Send>) -> Self {
        Self::new(View::Lines { out, next: Instant::now() + LINE_INTERVAL }, unit)
    }

    fn new(view: View, unit: &'static str) -> Self {
        Self { view, what: "", unit, done: 0, total: None, bytes: 0, begun: Instant::now() }
    }

    /// Begins another piece of work, of which so much is done already.
    pub fn begin(&mut self, what: &'static str, total: Option<u64>, done: u64) {
        (self.what, self.total, self.done, self.bytes, self.begun) = (what, total, done, 0, Instant::now());
        match &mut self.view {
            View::Bar(bar) => {
                let template = if total.is_some() { BAR } else { SPINNER };
                // The templates are ours, and right.
                bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.set_prefix(what);
                bar.set_message(self.unit);
                match total {
                    Some(total) => bar.set_length(total),
                    None => bar.unset_length(),
                }
                bar.set_position(done);
                bar.reset_eta();
            }
            View::Lines { next, .. } => *next = Instant::now() + LINE_INTERVAL,
        }
    }

    /// So much more is done, and so many bytes of data with it, if that says anything.
    pub fn advance(&mut self, done: u64, bytes: u64) {
        self.done += done;
        self.bytes += bytes;
        match &mut self.view {
            View::Bar(bar) => {
                // COUNT is a moment's figure.
                if self.total.is_some_and(|total| total < self.done) {
                    bar.set_length(self.done);
                }
                bar.set_position(self.done);
            }
            View::Lines { next, .. } if Instant::now() < *next => {}
            View::Lines { next, .. } => {
                *next = Instant::now() + LINE_INTERVAL;
                let of = self.total.map(|total| format!(" of about {total}")).unwrap_or_default();
                let data = if self.bytes > 0 { format!(", {}", ByteSize(self.bytes)) } else { String::new() };
                self.say(&format!("{}: {}{of} {}{data}", self.what, self.done, self.unit));
            }
        }
    }

    /// A line that stays.
    pub fn say(&mut self, text: &str) {
        match &mut self.view {
            View::Bar(bar) => bar.suspend(|| {
                let _ = writeln!(io::stderr(), "{text}"); // whoever reads it may have gone
            }),
            View::Lines { out, .. } => {
                let _ = writeln!(out, "{text}"); // likewise
            }
        }
    }

    /// Since the present piece of work began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Takes the bar off the screen.
    pub fn clear(&mut self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
