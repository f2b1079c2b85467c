//! Event-time progress, as it travels in the log beside the batches.

use serde::{Deserialize, Serialize};

use crate::clock::Micros;

/// How far one producing task has come, written with every batch that it produces and, when it
/// has no rows to write, alone.
///
/// A reader applies it *after* the rows of the batch that carries it: the rows of a batch are
/// never late relative to their own batch's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The producing task's partition: a number below the count of the producing stage's tasks.
    pub producer: u32,
    /// No later row of this producer has an event time below this. `None` until it has seen an
    /// event time.
    pub watermark: Option<Micros>,
    /// The producer has had no input for its stream's `idle_timeout`; readers leave it out of
    /// their minimum until it writes again.
    pub idle: bool,
}
