//! What is left of a calculation when some of its rows are to blame for an error: everything but
//! those. Batches are halved until the offenders stand alone.

use std::ops::Range;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{concat, filter_record_batch};
use arrow::datatypes::DataType;

use super::Rejected;
use crate::error::{Error, Result};
use crate::groups::Groups;

/// Halves a batch until what can't be done stands alone. `attempt` must change nothing where it fails.
pub fn by_rows(
    batch: RecordBatch,
    rejected: &mut Vec<Rejected>,
    mut attempt: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let mut pending = vec![batch];
    while let Some(batch) = pending.pop() {
        let error = match attempt(&batch) {
            Ok(()) => continue,
            Err(error) if error.is_of_data() && batch.num_rows() > 0 => error,
            Err(error) => return Err(error),
        };
        let rows = batch.num_rows();
        if rows == 1 {
            rejected.push(Rejected::because(&error, batch));
            continue;
        }
        pending.push(batch.slice(rows / 2, rows - rows / 2));
        pending.push(batch.slice(0, rows / 2));
    }
    Ok(())
}

/// Rows that belong together by group.
pub struct ByGroup<'a> {
    pub types: &'a [DataType],
    /// The group's columns in the parts.
    pub columns: Range<usize>,
    pub parts: &'a [RecordBatch],
    /// What is handed back of a group that can't be computed: its rows in these.
    pub blamed: &'a [RecordBatch],
}

impl ByGroup<'_> {
    /// Halves the groups until those that fail stand alone; every result is that of some groups.
    pub fn each<T>(
        &self,
        rejected: &mut Vec<Rejected>,
        mut attempt: impl FnMut(&[RecordBatch]) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut groups = Groups::new(self.types)?;
        let parts = self.indices(&mut groups, self.parts)?;
        let blamed = self.indices(&mut groups, self.blamed)?;
        let mut results = Vec::new();
        let mut pending: Vec<Range<usize>> = std::iter::once(0..groups.len()).collect();
        while let Some(range) = pending.pop().filter(|range| !range.is_empty()) {
            let error = match attempt(&only(self.parts, &parts, &range)?) {
                Ok(result) => {
                    results.push(result);
                    continue;
                }
                Err(error) if error.is_of_data() => error,
                Err(error) => return Err(error),
            };
            if range.len() == 1 {
                let rows = only(self.blamed, &blamed, &range)?;
                rejected.extend(rows.into_iter().map(|rows| Rejected::because(&error, rows)));
                continue;
            }
            let middle = range.start + range.len() / 2;
            pending.push(middle..range.end);
            pending.push(range.start..middle);
        }
        Ok(results)
    }

    fn indices(&self, groups: &mut Groups, parts: &[RecordBatch]) -> Result<Vec<Vec<usize>>> {
        let indices = parts.iter().map(|part| {
            let mut indices = Vec::new();
            groups.intern(&part.columns()[self.columns.clone()], part.num_rows(), &mut indices)?;
            Ok(indices)
        });
        indices.collect()
    }
}

/// The columns of results one below the other; at least one result.
pub fn stacked(results: &[Vec<ArrayRef>]) -> Result<Vec<ArrayRef>> {
    let columns = results.first().map_or(0, Vec::len);
    let stacked = (0..columns).map(|column| {
        let each: Vec<_> = results.iter().map(|result| result[column].as_ref()).collect();
        Ok(concat(&each)?)
    });
    stacked.collect()
}

/// The rows of parts whose group is in the range; parts without any are left out.
fn only(parts: &[RecordBatch], indices: &[Vec<usize>], range: &Range<usize>) -> Result<Vec<RecordBatch>> {
    let mut kept = Vec::with_capacity(parts.len());
    for (part, indices) in parts.iter().zip(indices) {
        let ours: BooleanArray = indices.iter().map(|index| Some(range.contains(index))).collect();
        match ours.true_count() {
            0 => {}
            all if all == part.num_rows() => kept.push(part.clone()),
            _ => kept.push(filter_record_batch(part, &ours).map_err(Error::from)?),
        }
    }
    Ok(kept)
}
