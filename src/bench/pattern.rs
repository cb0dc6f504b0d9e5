//! Which key is next.

use std::fmt::Write;
use std::ops::Range;
use std::str::FromStr;

use rand::Rng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};
use thiserror::Error;

use super::Plan;

/// Of the number in a key.
pub const KEY_DIGITS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pattern {
    /// All alike.
    Uniform,
    /// The n-th most popular with a share of 1 / n to the power of this, which is more than 0. Popular keys lie beside each other.
    Zipf(f64),
    /// One after the other; each connection walks through a part of them.
    Sequential,
}

#[derive(Debug, Error)]
#[error("expected `uniform`, `sequential`, or `zipf:S` with S more than 0, as in `zipf:0.99`")]
pub struct PatternError;

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        match (text, text.strip_prefix("zipf:").map(str::parse)) {
            ("uniform", _) => Ok(Self::Uniform),
            ("sequential", _) => Ok(Self::Sequential),
            (_, Some(Ok(exponent))) if exponent > 0.0 && f64::is_finite(exponent) => Ok(Self::Zipf(exponent)),
            _ => Err(PatternError),
        }
    }
}

/// Of one connection.
pub enum Choice {
    Uniform(u64),
    Zipf(Zipf<f64>),
    Sequential { part: Range<u64>, next: u64 },
}

impl Choice {
    /// `part`: where the connection walks, if it does.
    pub fn new(plan: &Plan, part: Range<u64>) -> Self {
        match plan.pattern {
            Pattern::Uniform => Self::Uniform(plan.keys),
            Pattern::Zipf(exponent) => {
                Zipf::new(plan.keys as f64, exponent).map_or(Self::Uniform(plan.keys), Self::Zipf)
            }
            // More connections than keys: those without one have the first.
            Pattern::Sequential if part.is_empty() => Self::Sequential { part: 0..1, next: 0 },
            Pattern::Sequential => Self::Sequential { next: part.start, part },
        }
    }

    pub fn next(&mut self, rng: &mut SmallRng, prefix: &str, key: &mut String) {
        let number = match self {
            Self::Uniform(keys) => rng.random_range(0..*keys),
            Self::Zipf(zipf) => zipf.sample(rng) as u64 - 1, // from 1 on
            Self::Sequential { part, next } => {
                let number = *next;
                *next = if number + 1 < part.end { number + 1 } else { part.start };
                number
            }
        };
        key.clear();
        let _ = write!(key, "{prefix}{number:0KEY_DIGITS$}"); // a string takes it
    }
}
