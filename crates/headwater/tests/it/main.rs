//! The real binary, from outside: what it says, what it answers, and what is left after `kill -9`.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "the real binary runs by the real clock, and a run says what it tried"
)]

mod access_log;
mod aggregates;
mod bad_input;
mod bad_sql;
mod cache;
mod chaos;
mod cli;
mod cluster;
mod corpus;
mod crash;
mod deploy;
mod disk;
mod docs;
mod freshness;
mod grpc;
mod kafka;
mod kafka_records;
mod kafka_rights;
mod keep;
mod lookup;
mod nexmark;
mod oracle;
mod overload;
mod postgres;
mod replace;
mod retention;
mod server;
mod sink_postgres;
mod sink_redis;
mod sinks;
mod spread;
mod sql_files;
mod stop;
mod tidy;
mod tour;
