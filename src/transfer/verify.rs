//! Comparing what was imported with what is there.

use std::fmt;

use crate::clock::Timestamp;
use crate::command::Found;
use crate::protocol::line::printable;
use crate::record::{Record, is_expired};

use super::state::Written;

/// Differences that are told one by one.
const TOLD_MAX: usize = 20;

/// What reading the records back has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    pub same: u64,
    /// They have died since, or were dead from the start.
    pub expired: u64,
    /// Their versions are later than all that the import wrote: somebody else has changed them.
    pub changed: u64,
    /// The values that they had before the import, which was to leave them.
    pub kept: u64,
    /// Other values, and no version says that somebody else has changed them after the import.
    pub different: u64,
    /// Not there: deleted by somebody, or lost.
    pub missing: u64,
    /// Lines about the first of those that are different or missing.
    pub told: Vec<String>,
}

impl Verified {
    pub fn is_good(&self) -> bool {
        self.different + self.missing == 0
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read back: {} are the same", self.same)?;
        for (count, what) in [
            (self.kept, "have the values that they had before"),
            (self.changed, "were changed by others after the import"),
            (self.expired, "have expired"),
            (self.different, "ARE DIFFERENT"),
            (self.missing, "ARE MISSING"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        for line in &self.told {
            write!(f, "\n{line}")?;
        }
        if !self.is_good() {
            write!(f, "\n(others may have changed or deleted them meanwhile; the same command imports all once more)")?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    verified: Verified,
}

impl Tally {
    pub fn compare(&mut self, record: &Record, found: Option<&Found>, written: &Written, now: Timestamp) {
        let key = || printable(record.key.as_bytes(), 64);
        let verified = &mut self.verified;
        let (count, line) = match found {
            Some(found) if found.value == record.value => return verified.same += 1,
            Some(found) if written.is_later(&record.key, found.version) => return verified.changed += 1,
            _ if is_expired(record.expires_at, now) => return verified.expired += 1,
            Some(found) => {
                let (there, imported) = (found.value.as_bytes().len(), record.value.as_bytes().len());
                let version = found.version;
                let line = format!(
                    "`{}` is different: {there} bytes of version {version} are there, {imported} bytes were imported",
                    key()
                );
                (&mut verified.different, line)
            }
            None => (&mut verified.missing, format!("`{}` is missing", key())),
        };
        *count += 1;
        if verified.told.len() < TOLD_MAX {
            verified.told.push(line);
        }
    }

    /// Which keys were kept is not remembered, only how many: so many may be different.
    pub fn finish(self, kept: u64) -> Verified {
        let mut verified = self.verified;
        verified.kept = verified.different.min(kept);
        verified.different -= verified.kept;
        if verified.different == 0 && verified.missing == 0 {
            verified.told.clear();
        }
        verified
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Key, Value, Version};

    #[test]
    fn each_record_counts_in_one_way() {
        let key = Key::new("k").unwrap();
        let value = |text: &'static str| Value::new(text).unwrap();
        let record = |expires_at: Option<u64>| Record {
            key: key.clone(),
            value: value("v"),
            version: Version::new(1, 1),
            expires_at: expires_at.map(Timestamp),
        };
        let found = |text, lsn| Found { value: value(text), version: Version::new(1, lsn), expires_at: None };
        let mut written = Written::default();
        written.note(&key, Version::new(1, 10));
        let mut tally = Tally::default();
        let now = Timestamp(100);
        tally.compare(&record(None), Some(&found("v", 10)), &written, now);
        tally.compare(&record(None), Some(&found("v", 99)), &written, now);
        tally.compare(&record(None), Some(&found("w", 11)), &written, now);
        tally.compare(&record(None), Some(&found("w", 10)), &written, now);
        tally.compare(&record(Some(100)), None, &written, now);
        tally.compare(&record(Some(101)), None, &written, now);
        let verified = tally.finish(0);
        let told = ["`k` is different: 1 bytes of version 1.10 are there, 1 bytes were imported", "`k` is missing"];
        let Verified { same: 2, expired: 1, changed: 1, kept: 0, different: 1, missing: 1, .. } = verified else {
            panic!("{verified:?}")
        };
        assert_eq!(verified.told, told);
        assert!(!verified.is_good());
    }

    #[test]
    fn as_many_as_were_kept_may_be_different() {
        let record = Record {
            key: Key::new("k").unwrap(),
            value: Value::new("v").unwrap(),
            version: Version::new(1, 1),
            expires_at: None,
        };
        let found = Found { value: Value::new("w").unwrap(), version: Version::new(1, 1), expires_at: None };
        for (kept, good) in [(0, false), (1, false), (2, true), (3, true)] {
            let mut tally = Tally::default();
            for _ in 0..2 {
                tally.compare(&record, Some(&found), &Written::default(), Timestamp(0));
            }
            let verified = tally.finish(kept);
            assert_eq!((verified.is_good(), verified.kept), (good, kept.min(2)));
        }
    }
}
