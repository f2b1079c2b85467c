//! What a stretch does to the result: first what goes, then what comes.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{cast, concat_batches, take_arrays};
use headwater_event::op::{Op, is_changelog};

use super::Shape;
use super::side::LEFT;
use super::stretch::changes;
use crate::error::Result;
use crate::plan::JoinKind;

/// Batches of fewer rows are put together.
const ROWS_MIN: usize = 4 * 1024;

pub struct Results<'a> {
    shape: &'a Shape,
    gone: Vec<RecordBatch>,
    come: Vec<RecordBatch>,
}

impl<'a> Results<'a> {
    pub fn new(shape: &'a Shape) -> Self {
        Self {
            shape,
            gone: Vec::new(),
            come: Vec::new(),
        }
    }

    /// Pairs: the left columns with the right ones behind them.
    pub fn pairs(&mut self, columns: Vec<ArrayRef>, retracts: bool) -> Result<()> {
        match columns.first() {
            Some(first) if !first.is_empty() => self.add(columns, retracts),
            _ => Ok(()),
        }
    }

    /// Rows of a side on their own, each with how many of it come, or go where that is negative.
    pub fn alone(
        &mut self,
        side: usize,
        columns: &[ArrayRef],
        changes: impl Iterator<Item = (u32, i64)>,
    ) -> Result<()> {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for (row, copies) in changes {
            let rows = if copies < 0 { &mut gone } else { &mut come };
            rows.extend((0..copies.unsigned_abs()).map(|_| row));
        }
        for (rows, retracts) in [(gone, true), (come, false)] {
            if !rows.is_empty() {
                let rows = UInt32Array::from(rows);
                let columns = self.padded(side, take_arrays(columns, &rows, None)?, rows.len());
                self.add(columns, retracts)?;
            }
        }
        Ok(())
    }

    /// Rows of the input that can't have a match.
    pub fn unmatched(&mut self, side: usize, input: &RecordBatch) -> Result<()> {
        let columns = self.shape.sides[side].columns_of(input);
        let changes = changes(input, &self.shape.sides[side].rows.convert_columns(&columns)?);
        let changes = changes.into_iter().map(|change| (change.row, change.copies));
        self.alone(side, &columns, changes)
    }

    /// With the other side's columns, where those are part of the result.
    fn padded(&self, side: usize, mut columns: Vec<ArrayRef>, rows: usize) -> Vec<ArrayRef> {
        if matches!(self.shape.plan.kind, JoinKind::LeftSemi | JoinKind::LeftAnti) {
            return columns;
        }
        let others = self.shape.sides[1 - side].types.iter();
        let mut nothing: Vec<ArrayRef> = others.map(|kind| new_null_array(kind, rows)).collect();
        if side == LEFT {
            columns.append(&mut nothing);
            return columns;
        }
        nothing.append(&mut columns);
        nothing
    }

    fn add(&mut self, mut columns: Vec<ArrayRef>, retracts: bool) -> Result<()> {
        let schema = &self.shape.plan.schema;
        let rows = columns.first().map_or(0, |column| column.len());
        if is_changelog(schema) {
            let op = if retracts { Op::Delete } else { Op::Insert };
            columns.push(Arc::new(Int8Array::from_value(op as i8, rows)));
        }
        let columns = columns.into_iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(column),
            false => cast(&column, field.data_type()),
        });
        let columns = columns.collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
        match retracts {
            true => self.gone.push(batch),
            false => self.come.push(batch),
        }
        Ok(())
    }

    pub fn hand_on(self, out: &mut Vec<RecordBatch>) -> Result<()> {
        let mut small = Vec::new();
        let mut rows = 0;
        for batch in self.gone.into_iter().chain(self.come) {
            rows += batch.num_rows();
            small.push(batch);
            if rows >= ROWS_MIN {
                out.push(whole(&mut small)?);
                rows = 0;
            }
        }
        if !small.is_empty() {
            out.push(whole(&mut small)?);
        }
        Ok(())
    }
}

fn whole(batches: &mut Vec<RecordBatch>) -> Result<RecordBatch> {
    let whole = match batches.as_slice() {
        [only] => only.clone(),
        batches => concat_batches(batches[0].schema_ref(), batches.iter())?,
    };
    batches.clear();
    Ok(whole)
}
