//! Whole shards over a tier in memory: one test a rule, and a random model. Each of them fails when its rule is taken out.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod at_once;
mod courtesy;
mod crowds;
mod evaluate;
mod expiry;
mod fences;
mod journal;
mod letters;
mod loads;
mod many;
mod model;
mod modes;
mod rig;
mod scans;
mod spills;
mod stops;
mod topology;
mod updates;
