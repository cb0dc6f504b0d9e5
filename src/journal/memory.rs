//! A disk in memory, for tests and simulation: loses what was not synced, tears, fails and rots as it is told.
