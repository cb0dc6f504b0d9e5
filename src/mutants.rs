//! Rules taken out on purpose, for tests that show that their loss is found (`make mutants`). Only with the feature `mutants`:
//! without it, nothing is ever planted and the compiler removes every site.

/// A rule of which one site can be taken out, named after the rule and what goes wrong without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    /// Two writers of a key evaluate at once.
    R1Latch = 1,
    /// Whatever was flushed, the record counts as clean.
    R11Version,
    /// What is written while an older version is being flushed is not handed out afterwards.
    R11Again,
    /// A load that a write has overtaken brings its row into memory.
    R12Poison,
    /// A deleted key is forgotten before its row is gone.
    R13Tombstone,
    /// What could not be flushed is dropped like what was.
    R13Unflushed,
    /// A tier that does not answer counts as one that has no row.
    R15NotFound,
    /// Memory takes more than its bound.
    R15Bound,
    /// Every key may have a row.
    R17Maybe,
    /// A key whose flush has failed may have a row, and the filter does not know.
    R17Unknown,
    /// A row keeps its value and takes the newer version.
    R19Order,
    /// A row takes whatever is flushed.
    R19Guard,
    /// A row goes by a deletion that is older.
    R19Delete,
    /// A flush under any token is committed.
    R20Token,
    /// Who lost records serves without being told to.
    R22Refusal,
    /// A stop marks the fence clean, whatever is unspilled.
    R22Clean,
    /// The old token goes on after a commit of unknown outcome.
    R26Token,
    /// A row that has expired is deleted without looking at what the key is by now.
    R27Sweep,
}

impl Rule {
    pub const ALL: [Self; 18] = [
        Self::R1Latch,
        Self::R11Version,
        Self::R11Again,
        Self::R12Poison,
        Self::R13Tombstone,
        Self::R13Unflushed,
        Self::R15NotFound,
        Self::R15Bound,
        Self::R17Maybe,
        Self::R17Unknown,
        Self::R19Order,
        Self::R19Guard,
        Self::R19Delete,
        Self::R20Token,
        Self::R22Refusal,
        Self::R22Clean,
        Self::R26Token,
        Self::R27Sweep,
    ];
}

/// Whether a rule is taken out.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_planted(_rule: Rule) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use planted::{is_planted, plant};

#[cfg(feature = "mutants")]
mod planted {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Rule;

    /// Zero: none. Relaxed everywhere: set while nothing runs.
    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Takes one rule out, in the whole process, or none.
    pub fn plant(rule: Option<Rule>) {
        PLANTED.store(rule.map_or(0, |rule| rule as u8), Ordering::Relaxed);
    }

    pub fn is_planted(rule: Rule) -> bool {
        PLANTED.load(Ordering::Relaxed) == rule as u8
    }
}
