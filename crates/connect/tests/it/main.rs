//! Sources in the loop that runs them: nothing is lost or repeated, whatever happens in between.

mod files;
mod fixture;
mod restarts;
