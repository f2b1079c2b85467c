//! Sources in the loop that runs them: nothing is lost or repeated, whatever happens in between.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod files;
mod fixture;
mod restarts;
