//! The crate as its users see it: statements, HTTP routes, the Postgres port, on a log in memory.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod events;
mod grpc;
mod live;
mod postgres;
mod sql;
mod taken_in;
mod upstream;
mod views;
mod world;
