//! Whole pipelines on the log in memory, against DataFusion as a batch oracle.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod failures;
mod faults;
mod join;
mod lateness;
mod lookup;
mod oracle;
mod over;
mod poison;
mod session;
mod support;
mod temporal_join;
mod time;
mod top_n;
mod touchy;
mod trim;
