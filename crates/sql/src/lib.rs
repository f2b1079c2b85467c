//! Headwater's SQL: from text to statements, from statements to catalog objects, and from
//! continuous queries to stages.
//!
//! [`parse`] makes [`statement`]s; [`define`] makes a catalog definition of one, [`plan`] the stages
//! that run it, [`explain`] the text that tells a person about them. [`session`] is DataFusion set
//! up the same way for one-off queries. Everything here is a function of its arguments: no I/O, no
//! clock, and nothing runs.

pub mod define;
pub mod error;
pub mod explain;
pub mod functions;
pub mod parse;
pub mod plan;
pub mod session;
pub mod statement;
mod time;
mod types;
