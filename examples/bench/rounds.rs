//! Several sides asked in turns, and how they compare within each round.

use std::fmt;

/// What a ratio is to come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// How a figure is told.
#[derive(Debug, Clone, Copy)]
pub struct Unit {
    name: &'static str,
    digits: usize,
    is_less_better: bool,
}

/// Of an operation.
pub const MICROS: Unit = Unit { name: "µs", digits: 2, is_less_better: true };
/// Of the time that passes.
pub const OF_A_CORE: Unit = Unit { name: "% of a core", digits: 0, is_less_better: true };
/// Of an answer.
pub const LATENCY: Unit = Unit { name: "µs", digits: 0, is_less_better: true };
pub const PER_SECOND: Unit = Unit { name: "/s", digits: 0, is_less_better: false };
pub const BYTES: Unit = Unit { name: "B", digits: 0, is_less_better: true };

/// What was measured of each side in each round. The first side is ours.
pub struct Sides<T>(Vec<(String, Vec<T>)>);

/// A line of a table.
#[derive(Debug, Clone)]
pub struct Row {
    pub what: String,
    pub ours: String,
    pub peers: String,
    pub ratio: String,
    pub goal: String,
    /// `None` where there is no goal.
    pub is_reached: Option<bool>,
}

/// A ratio in all rounds.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    min: f64,
    max: f64,
}

/// A round of turns: who begins differs from round to round.
pub fn turns<T>(sides: &[T], round: usize) -> impl Iterator<Item = &T> {
    sides.iter().cycle().skip(round % sides.len().max(1)).take(sides.len())
}

/// Tells who waits what runs.
pub fn tell(what: &str, round: usize, rounds: usize) {
    eprintln!("{what}: {} of {rounds}", round + 1);
}

pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl Spread {
    pub fn of(figures: &[f64]) -> Self {
        let fold = |start, choose: fn(f64, f64) -> f64| figures.iter().copied().fold(start, choose);
        Self { median: median(figures), min: fold(f64::INFINITY, f64::min), max: fold(0.0, f64::max) }
    }
}

impl Row {
    /// Whether there is a goal that is not reached.
    pub fn is_missed(&self) -> bool {
        self.is_reached == Some(false)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "**{:.2}** ({:.2}–{:.2})", self.median, self.min, self.max)
    }
}

impl Goal {
    pub fn is_reached(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most} ×"),
            Self::AtLeast(least) => write!(f, "≥ {least} ×"),
        }
    }
}

impl Unit {
    pub fn tell(self, figure: f64) -> String {
        let text = format!("{figure:.*}", self.digits);
        let text = if self.digits == 0 { grouped(&text) } else { text };
        if self.name.starts_with('/') { text + self.name } else { format!("{text} {}", self.name) }
    }
}

/// As text, with commas between thousands.
pub fn count(number: impl ToString) -> String {
    grouped(&number.to_string())
}

fn grouped(digits: &str) -> String {
    let behind = |i: usize| digits.len() - i;
    let separated = digits.char_indices().flat_map(|(i, digit)| {
        let comma = (i > 0 && behind(i) % 3 == 0).then_some(',');
        comma.into_iter().chain([digit])
    });
    separated.collect()
}

impl<T> Sides<T> {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn push(&mut self, name: &str, sample: T) {
        match self.0.iter_mut().find(|(side, _)| side == name) {
            Some((_, samples)) => samples.push(sample),
            None => self.0.push((name.to_owned(), vec![sample])),
        }
    }

    /// The medians of all sides, by name.
    pub fn medians(&self, figure: impl Fn(&T) -> f64) -> Vec<(String, f64)> {
        let of = |samples: &[T]| median(&samples.iter().map(&figure).collect::<Vec<_>>());
        self.0.iter().map(|(name, samples)| (name.clone(), of(samples))).collect()
    }

    /// One side's to another's, round by round.
    fn ratios(&self, one: &str, other: &str, figure: &impl Fn(&T) -> f64) -> Vec<f64> {
        let of = |name: &str| {
            let samples = self.0.iter().find(|(side, _)| side == name).map(|(_, samples)| samples.as_slice());
            samples.unwrap_or_default().iter().map(figure).collect::<Vec<_>>()
        };
        of(one).iter().zip(of(other)).map(|(one, other)| one / other).collect()
    }

    /// Us beside each of `peers`, with our ratio to the one that does best, which is the one that is hardest to reach the goal with.
    pub fn compare(
        &self,
        what: &str,
        ours: &str,
        peers: &[&str],
        unit: Unit,
        goal: Option<Goal>,
        figure: impl Fn(&T) -> f64,
    ) -> Row {
        let medians = self.medians(&figure);
        let of = |name: &str| medians.iter().find(|(side, _)| side == name).map(|(_, figure)| *figure);
        let mut ranked: Vec<(&str, f64)> = peers.iter().filter_map(|peer| Some((*peer, of(peer)?))).collect();
        ranked.sort_by(|(_, a), (_, b)| if unit.is_less_better { a.total_cmp(b) } else { b.total_cmp(a) });
        let told = |(name, figure): &(&str, f64)| format!("{name} {}", unit.tell(*figure));
        let spread = ranked.first().map(|(best, _)| Spread::of(&self.ratios(ours, best, &figure)));
        Row {
            what: what.to_owned(),
            ours: of(ours).map(|figure| unit.tell(figure)).unwrap_or_default(),
            peers: ranked.iter().map(told).collect::<Vec<_>>().join(" · "),
            ratio: spread.map(|spread| spread.to_string()).unwrap_or_default(),
            goal: goal.map(|goal| goal.to_string()).unwrap_or_default(),
            is_reached: goal.zip(spread).map(|(goal, spread)| goal.is_reached(spread.median)),
        }
    }
}
