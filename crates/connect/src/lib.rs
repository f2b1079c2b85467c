//! Ways in from elsewhere and out to it: sources and sinks, each a file or folder in [`sources`] or [`sinks`] and a line in its table.
//!
//! A source answers one question, what comes next ([`source::Source`]). The loop around it is
//! here once, in [`runtime`]: rate, retries, metrics, dead letters, and the commit that stores rows
//! together with the position behind them, so that no restart loses or repeats any. It knows nothing of SQL,
//! and nothing of what reads the stream. The same loop looks for what stands in topics of others and is no event ([`intake`]).
//!
//! A table is asked for rows by key, whenever queries need them: [`lookup`] has the connectors' table, the caches, and what happens
//! while a server doesn't answer.
//!
//! Rows of a table can also be kept in Redis, put there by whoever looks them up and taken away by the sink that changes them: `cache_aside`
//! has what both have to do.
//!
//! A sink takes rows and makes them durable elsewhere ([`sink::Sink`]). The loop around it is in [`delivery`]: reading the
//! log, retries, metrics, dead letters, and the commit of the position together with what the sink has promised.

pub mod delivery;
pub mod intake;
pub mod lookup;
pub mod options;
pub mod random;
pub mod reference;
pub mod runtime;
pub mod shared;
pub mod sink;
pub mod sinks;
pub mod source;
pub mod sources;
pub mod within;

mod activity;
mod address;
mod cache_aside;
mod cluster;
mod postgres;
mod redis;
mod template;
mod texts;
