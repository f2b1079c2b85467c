//! Streams and views as DataFusion's tables.
//!
//! A query sees a stream from the earliest event that is kept to the last one as of its planning,
//! and a view as it stands when the scan begins. Nothing here writes.

pub mod catalog;
pub mod stream;
pub mod view;
