//! Where the rows of a batch were read: small batches of an epoch are put together, and a row must
//! still be found again by its offset.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use headwater_event::offset::Offset;
use headwater_log::LoggedBatch;

use crate::error::Result;

/// Small batches of an epoch are put together up to this many rows.
const BATCH_ROWS: usize = 16 * 1024;

/// Rows of one or more batches of a partition.
#[derive(Debug)]
pub struct Gathered {
    pub origin: Origin,
    pub rows: RecordBatch,
}

/// The offsets of gathered rows.
#[derive(Debug)]
pub struct Origin {
    /// The first row of every batch, and its offset; ascending, at least one.
    runs: Vec<(usize, Offset)>,
}

impl Origin {
    /// The offset of a row.
    pub fn offset(&self, row: usize) -> Offset {
        let after = self.runs.partition_point(|(first, _)| *first <= row);
        let (first, base) = self.runs.get(after.saturating_sub(1)).copied().unwrap_or_default();
        base + row.saturating_sub(first) as Offset
    }
}

/// The rows of batches, small ones put together.
pub fn gathered(batches: &[LoggedBatch]) -> Result<Vec<Gathered>> {
    let mut all = Vec::new();
    let mut pending: Vec<&LoggedBatch> = Vec::new();
    let mut pending_rows = 0;
    for batch in batches.iter().filter(|batch| batch.rows.num_rows() > 0) {
        if pending_rows + batch.rows.num_rows() > BATCH_ROWS {
            all.extend(put_together(&pending)?);
            pending.clear();
            pending_rows = 0;
        }
        pending_rows += batch.rows.num_rows();
        pending.push(batch);
    }
    all.extend(put_together(&pending)?);
    Ok(all)
}

fn put_together(batches: &[&LoggedBatch]) -> Result<Option<Gathered>> {
    let mut runs = Vec::with_capacity(batches.len());
    let mut rows = 0;
    for batch in batches {
        runs.push((rows, batch.base));
        rows += batch.rows.num_rows();
    }
    let rows = match batches {
        [] => return Ok(None),
        [one] => one.rows.clone(),
        [first, ..] => concat_batches(first.rows.schema_ref(), batches.iter().map(|batch| &batch.rows))?,
    };
    Ok(Some(Gathered {
        origin: Origin { runs },
        rows,
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    fn batch(base: Offset, rows: usize) -> LoggedBatch {
        let column = Arc::new(Int64Array::from_iter_values(0..rows as i64));
        LoggedBatch {
            base,
            appended: 0,
            progress: None,
            rows: RecordBatch::try_from_iter([("n", column as _)]).unwrap(),
        }
    }

    #[test]
    fn rows_are_found_again_over_gaps() {
        let gathered = gathered(&[batch(5, 2), batch(7, 0), batch(8, 3), batch(20, 1)]).unwrap();
        let [one] = gathered.as_slice() else {
            panic!("{gathered:?}")
        };
        let offsets: Vec<_> = (0..one.rows.num_rows()).map(|row| one.origin.offset(row)).collect();
        assert_eq!(offsets, [5, 6, 8, 9, 10, 20]);
    }

    #[test]
    fn large_batches_stay_alone() {
        let gathered = gathered(&[batch(0, 10), batch(10, BATCH_ROWS), batch(20_000, 1)]).unwrap();
        let rows: Vec<_> = gathered.iter().map(|one| one.rows.num_rows()).collect();
        assert_eq!(rows, [10, BATCH_ROWS, 1]);
        assert_eq!(gathered[1].origin.offset(3), 13);
    }
}
