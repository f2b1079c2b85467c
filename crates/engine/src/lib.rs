//! Runs continuous queries: reads batches from the log, passes them through operators, and commits
//! what was read, what was produced and what changed in state in one step.
//!
//! [`plan`] says what a query is made of; `sql` makes plans, this crate runs them. [`operators`] has
//! a file for each operator. It knows no SQL text, no sockets, and no clock but the one it is handed.

mod added;
mod cache;
pub mod catch_up;
mod chain;
mod dead_letter;
mod difference;
mod elsewhere;
pub mod engine;
mod epoch;
mod epochs;
pub mod error;
mod groups;
mod guard;
pub mod holdings;
mod keyed;
pub mod live;
pub mod lookup;
mod operators;
mod origin;
mod output;
mod peers;
pub mod plan;
mod rows;
pub mod status;
mod task;
mod time;
pub mod view;
