//! Sources and sinks in the loops that run them: nothing is lost or repeated, whatever happens in between.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod files;
mod fixture;
mod parquet;
mod restarts;
mod sinks;
