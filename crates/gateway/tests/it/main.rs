//! The pipeline and its door, on a log in memory and on the embedded one.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod bad_input;
mod embedded;
mod fixture;
mod grpc;
mod http;
mod keys;
mod pipeline;
mod place;
