//! Planned queries under a simulator: one thread, a seed, a log that fails.

mod events;
mod faulty_log;
mod idle;
mod program;
mod programs;
mod random_query;
mod runs;
mod scheduler;
mod trees;
mod world;
