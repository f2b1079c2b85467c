//! The shapes of events, and the formats they come in and go out as.
//!
//! [`column`] says what a stream's columns are; [`decode`] turns bytes into columns, straight, with
//! an error for each event that does not fit; [`conform`] does the same to rows that are columns
//! already; [`future`] keeps out rows whose time can't be right yet; [`lossless`] fits rows of files that have types of
//! their own; [`encode`] turns columns into bytes. Knows nothing of SQL, of the log, or of where the
//! bytes come from.

pub mod base64;
pub mod calendar;
pub mod column;
pub mod conform;
pub mod dead_letter;
pub mod decode;
pub mod encode;
pub mod future;
pub mod lossless;
pub mod size;
pub mod span;
pub mod types;
