//! How far a transfer is, for a person: a bar on a terminal, else a line now and then.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

const LINE_INTERVAL: Duration = Duration::from_secs(10);
const BAR_INTERVAL: Duration = Duration::from_millis(200);
const BAR: &str = "{prefix} {wide_bar} {human_pos}/{human_len} records, {per_sec}, {eta} left";
/// Where the total is not known.
const SPINNER: &str = "{prefix} {spinner} {human_pos} records, {per_sec}, {elapsed}";

/// Tells about one piece of work after the other. Where nobody reads what it writes, it goes on silently.
pub struct Progress {
    view: View,
    what: &'static str,
    records: u64,
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
    pub fn stderr() -> Self {
        if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(BAR_INTERVAL);
            Self::new(View::Bar(bar))
        } else {
            Self::lines(Box::new(io::stderr()))
        }
    }

    /// Lines only.
    pub fn lines(out: Box<dyn Write + Send>) -> Self {
        Self::new(View::Lines { out, next: Instant::now() + LINE_INTERVAL })
    }

    fn new(view: View) -> Self {
        Self { view, what: "", records: 0, total: None, bytes: 0, begun: Instant::now() }
    }

    /// Begins another piece of work, of which so many records are done already.
    pub fn begin(&mut self, what: &'static str, total: Option<u64>, done: u64) {
        (self.what, self.total, self.records, self.bytes, self.begun) = (what, total, done, 0, Instant::now());
        match &mut self.view {
            View::Bar(bar) => {
                let template = if total.is_some() { BAR } else { SPINNER };
                // The templates are ours, and right.
                bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.set_prefix(what);
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

    pub fn advance(&mut self, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
        match &mut self.view {
            View::Bar(bar) => {
                // COUNT is a moment's figure.
                if self.total.is_some_and(|total| total < self.records) {
                    bar.set_length(self.records);
                }
                bar.set_position(self.records);
            }
            View::Lines { next, .. } if Instant::now() < *next => {}
            View::Lines { next, .. } => {
                *next = Instant::now() + LINE_INTERVAL;
                let of = self.total.map(|total| format!(" of about {total}")).unwrap_or_default();
                let (what, records, bytes) = (self.what, self.records, ByteSize(self.bytes));
                self.say(&format!("{what}: {records}{of} records, {bytes}"));
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
