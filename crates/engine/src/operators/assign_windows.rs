//! Gives every row the windows that hold it: once for each of them. Rows without a time are in
//! none, and left out.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;

use super::windows::{time_column, times};
use super::{Operator, Rejected, batch_of, split_by_time};
use crate::error::Result;
use crate::plan;

pub struct AssignWindows {
    plan: plan::AssignWindows,
    rejected: Vec<Rejected>,
}

impl AssignWindows {
    pub fn new(plan: plan::AssignWindows) -> Self {
        Self {
            plan,
            rejected: Vec::new(),
        }
    }
}

impl Operator for AssignWindows {
    fn process(&mut self, batch: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        let (batch, without_time) = split_by_time(batch, self.plan.time_column)?;
        self.rejected.extend(without_time.map(Rejected::without_time));
        let window = &self.plan.window;
        let column = batch.column(self.plan.time_column);
        let mut starts = Vec::with_capacity(batch.num_rows());
        let mut ends = Vec::with_capacity(batch.num_rows());
        let mut rows = Vec::with_capacity(batch.num_rows());
        for (row, &time) in times(column)?.values().iter().enumerate() {
            for span in window.holding(time, time) {
                starts.push(span.start);
                ends.push(span.end);
                rows.push(row as u32);
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let lasts: Vec<_> = ends.iter().map(|end| end - 1).collect();
        let data_type = column.data_type().clone();
        let rows = if window.is_tumbling() {
            batch
        } else {
            take_record_batch(&batch, &UInt32Array::from(rows))?
        };
        let mut columns = rows.columns().to_vec();
        for times in [starts, ends, lasts] {
            columns.push(Arc::new(time_column(times, &data_type)));
        }
        out.push(batch_of(&self.plan.schema, columns)?);
        Ok(())
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}
