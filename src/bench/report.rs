//! What came of it.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::Plan;
use super::wire::Reply;

/// Latencies that are longer count as this.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// Of a latency: it is right within 1 %.
const DIGITS: u8 = 2;
const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// Latencies of one kind of request.
#[derive(Debug, Clone)]
pub struct Figures(Histogram<u64>);

/// A connection's.
#[derive(Debug, Default)]
pub struct Tally {
    gets: Figures,
    sets: Figures,
    hits: u64,
    errors: u64,
    first_error: Option<String>,
    pub unsent: u64,
    /// When the last reply came.
    pub ended: Option<Instant>,
}

/// The figures of a run. `Display` is a table for people.
#[derive(Debug)]
pub struct Report {
    /// From the first request to the last reply.
    pub elapsed: Duration,
    pub gets: Figures,
    pub sets: Figures,
    /// Of the GETs.
    pub hits: u64,
    /// Replies that were errors.
    pub errors: u64,
    /// In the server's words.
    pub first_error: Option<String>,
    /// Requests that were due, and that the server left no time for.
    pub unsent: u64,
    /// What was run.
    how: String,
}

impl Default for Figures {
    fn default() -> Self {
        let max = LATENCY_MAX.as_nanos() as u64;
        // The bounds are constants, and good ones.
        Self(Histogram::new_with_bounds(1_000, max, DIGITS).unwrap_or_else(|error| unreachable!("{error}")))
    }
}

impl Figures {
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Within 1 %.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_percentile(percent))
    }

    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.0.mean() as u64)
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Takes those of another in.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    fn to_json(&self) -> Value {
        let micros = |duration: Duration| Value::from((duration.as_nanos() as f64 / 100.0).round() / 10.0);
        let percentiles = PERCENTILES.map(|percent| (format!("p{percent}"), micros(self.percentile(percent))));
        let ends = [("mean".to_owned(), micros(self.mean())), ("max".to_owned(), micros(self.max()))];
        let latencies: Map<String, Value> = percentiles.into_iter().chain(ends).collect();
        json!({ "count": self.count(), "latency_us": latencies })
    }
}

impl Tally {
    pub fn count(&mut self, is_get: bool, latency: Duration, reply: &Reply) {
        if is_get { &mut self.gets } else { &mut self.sets }.record(latency);
        match reply {
            Reply::Hit(_) => self.hits += 1,
            Reply::Miss | Reply::Done => {}
            Reply::Error(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| error.clone());
            }
        }
    }
}

impl Report {
    pub(super) fn new(plan: &Plan, started: Instant, tallies: impl Iterator<Item = Tally>) -> Self {
        let rate = plan.rate.map(|rate| format!(", {rate} a second due")).unwrap_or_default();
        let how = format!("{} connections, pipelines of {}{rate}", plan.connections, plan.pipeline);
        let (gets, sets) = Default::default();
        let mut report =
            Self { elapsed: Duration::ZERO, gets, sets, hits: 0, errors: 0, first_error: None, unsent: 0, how };
        for tally in tallies {
            report.gets.add(&tally.gets);
            report.sets.add(&tally.sets);
            report.hits += tally.hits;
            report.errors += tally.errors;
            report.first_error = report.first_error.or(tally.first_error);
            report.unsent += tally.unsent;
            let ended = tally.ended.map(|ended| ended.saturating_duration_since(started));
            report.elapsed = report.elapsed.max(ended.unwrap_or_default());
        }
        report
    }

    /// Requests that were answered.
    pub fn count(&self) -> u64 {
        self.gets.count() + self.sets.count()
    }

    /// Of all requests.
    pub fn all(&self) -> Figures {
        let mut all = self.gets.clone();
        all.add(&self.sets);
        all
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.count() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// All in one object; latencies are in microseconds.
    pub fn to_json(&self) -> String {
        json!({
            "seconds": self.elapsed.as_secs_f64(),
            "requests": self.count(),
            "requests_per_second": self.rate().round(),
            "hits": self.hits,
            "errors": self.errors,
            "first_error": self.first_error,
            "unsent": self.unsent,
            "get": self.gets.to_json(),
            "set": self.sets.to_json(),
            "all": self.all().to_json(),
        })
        .to_string()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        writeln!(f, "{:.0} requests/s: {} in {seconds:.1} s, {}", self.rate(), self.count(), self.how)?;
        write!(f, "{:<4} {:>11} {:>10}", "", "requests", "mean")?;
        for percent in PERCENTILES {
            write!(f, " {:>10}", format!("p{percent}"))?;
        }
        writeln!(f, " {:>10}", "max")?;
        let (all, kinds) = (self.all(), [("GET", &self.gets), ("SET", &self.sets)]);
        for (name, figures) in kinds.into_iter().filter(|(_, figures)| figures.count() > 0).chain([("all", &all)]) {
            write!(f, "{name:<4} {:>11} {:>10}", figures.count(), short(figures.mean()))?;
            for percent in PERCENTILES {
                write!(f, " {:>10}", short(figures.percentile(percent)))?;
            }
            writeln!(f, " {:>10}", short(figures.max()))?;
        }
        if self.gets.count() > 0 {
            writeln!(f, "{:.1} % of the GETs found their key", 100.0 * self.hits as f64 / self.gets.count() as f64)?;
        }
        if self.unsent > 0 {
            writeln!(f, "{} requests were due and never sent: the server is slower than the rate", self.unsent)?;
        }
        match &self.first_error {
            None => Ok(()),
            Some(error) => writeln!(f, "{} replies were errors; the first: {error}", self.errors),
        }
    }
}

/// Three digits and a unit.
fn short(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    let (value, unit) = match micros {
        ..1e3 => (micros, "µs"),
        ..1e6 => (micros / 1e3, "ms"),
        _ => (micros / 1e6, "s"),
    };
    let digits = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}
