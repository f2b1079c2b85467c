//! The doors that events come in by, and the one pipeline behind them.
//!
//! [`ingest`] decodes, validates, fills defaults, recognises repeated events, splits by partition
//! key and appends to the log; it answers when the events are durable. [`http`] and [`grpc`] are the
//! doors. A door learns who sends and reads the bytes, within bounds; everything that is the same
//! for all doors is in the pipeline.
//!
//! Knows nothing of SQL: what a stream looks like, the catalog says.

pub mod grpc;
pub mod http;
pub mod ingest;
