//! Answers over everything that Headwater keeps, and the doors that they go out by.
//!
//! [`tables`] and [`views`] read streams and views; a [`session`] runs SQL on them, and changes the
//! catalog. The doors: [`http`] (REST, `/v1/sql`, live by WebSocket and SSE), [`grpc`] and [`postgres`]. This
//! crate keeps no state of its own beyond what makes reading fast, and computes no continuous
//! query: those run in the engine.

pub mod elsewhere;
pub mod error;
pub mod execution;
pub mod freshness;
pub mod grpc;
pub mod http;
pub mod position;
pub mod postgres;
pub mod question;
pub mod reader;
pub mod session;
pub mod shared;
pub mod tables;
pub mod taken_in;
pub mod upstream;
pub mod value;
pub mod views;
