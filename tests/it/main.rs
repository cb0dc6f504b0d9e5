//! Whole nodes as their users run them: real processes, real sockets, a real database.
//!
//! `KV_TEST_MYSQL_URL` names the server (`make test` starts one); each test makes a database of its own on it. Tests that
//! kill their server start a private MariaDB.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod bad_input;
mod bulk;
mod command_line;
mod crash;
mod defects;
mod galera;
mod lists;
mod session;
mod stress;
mod support;
mod transfer;
