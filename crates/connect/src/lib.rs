//! Ways in from elsewhere: sources, each a file or folder in [`sources`] and a line in its table.
//!
//! A connector answers one question, what comes next ([`source::Source`]). The loop around it is
//! here once, in [`runtime`]: rate, retries, metrics, dead letters, and the commit that stores rows
//! together with the position behind them, so that no restart loses or repeats any. It knows nothing of SQL,
//! and nothing of what reads the stream.

pub mod options;
pub mod random;
pub mod runtime;
pub mod source;
pub mod sources;
