//! A slice of time as windows keep it: partial states, merged or as they came, and what the state
//! table has of them.

use std::ops::Range;

use arrow::array::RecordBatch;

use super::accumulation::Accumulation;
use crate::holdings::{Held, bytes_of};

#[derive(Default)]
pub struct Slice {
    /// Merged so far, until a window that has other slices too needs it.
    pub live: Option<Accumulation>,
    /// States as columns, with what the epoch brought last of all.
    pub parts: Vec<RecordBatch>,
    /// What the epoch brought.
    pub arrived: Vec<RecordBatch>,
    /// The numbers of its entries in the state table.
    pub entries: Range<u64>,
    /// The rows of those entries, and how many of them a rewriting left.
    pub rows_stored: usize,
    pub rows_rewritten: usize,
}

impl Slice {
    pub fn held(&self) -> Held {
        let live = self.live.as_ref();
        let rows: usize = self.parts.iter().map(RecordBatch::num_rows).sum();
        let bytes = live.map_or(0, Accumulation::bytes) + bytes_of(self.parts.iter().chain(&self.arrived));
        Held::whole(live.map_or(0, Accumulation::len) + rows, bytes)
    }
}
