//! Rules taken out on purpose, for tests that show that their loss is found (`make mutants`). Only with the feature `mutants`:
//! without it, nothing is ever planted and the compiler removes every site. Rules that others cover whatever happens are not
//! here: no flush under a live fence is older than its row, so the guards of R19 are for `tests/tier` to miss.

/// A rule of which one site can be taken out, named after the rule and what goes wrong without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    /// Two writers of a key evaluate at once.
    R1Latch = 1,
    /// A write is applied and acknowledged before it is committed.
    R2Commit,
    /// What the journal could still lose is spilled.
    R10Harden,
    /// What is not synced counts as synced.
    R10Sync,
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
    /// A row keeps its value and takes the newer version.
    R19Order,
    /// A flush under any token is committed.
    R20Token,
    /// A new token outdates the flushes of one lane only.
    R20Lanes,
    /// A checkpoint does not wait for what was appended before it and is not applied yet.
    R13Trim,
    /// In write-through, what the tier has not confirmed is told.
    R18Visible,
    /// A failed sync is taken for a good one.
    R23Sync,
    /// What is corrupt is cut off like what is torn.
    R24Corrupt,
    /// What an earlier tenure left in the journal counts again.
    R42Tenure,
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
    pub const ALL: [Self; 24] = [
        Self::R1Latch,
        Self::R2Commit,
        Self::R10Harden,
        Self::R10Sync,
        Self::R13Trim,
        Self::R18Visible,
        Self::R23Sync,
        Self::R24Corrupt,
        Self::R42Tenure,
        Self::R11Version,
        Self::R11Again,
        Self::R12Poison,
        Self::R13Tombstone,
        Self::R13Unflushed,
        Self::R15NotFound,
        Self::R15Bound,
        Self::R17Maybe,
        Self::R19Order,
        Self::R20Token,
        Self::R20Lanes,
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
