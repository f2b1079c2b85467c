//! Each row of a changelog as often as its count says. Keeps nothing: an update of a row's count is the copies that come or go.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int8Array, RecordBatch, UInt32Array};
use arrow::compute::take_arrays;
use arrow::datatypes::{Int8Type, Int64Type};
use arrow::row::{RowConverter, SortField};
use headwater_event::op::Op;

use super::{Operator, batch_of};
use crate::error::{Error, Result};
use crate::plan;

pub struct Copies {
    plan: plan::Copies,
    rows: RowConverter,
}

impl Copies {
    pub fn new(plan: plan::Copies) -> Result<Self> {
        let columns = plan.schema.fields().iter().take(plan.schema.fields().len() - 1);
        let fields = columns.map(|field| SortField::new(field.data_type().clone())).collect();
        let rows = RowConverter::new(fields);
        Ok(Self {
            rows: rows.map_err(|error| Error::Plan(format!("rows that can't be compared: {error}")))?,
            plan,
        })
    }
}

impl Operator for Copies {
    fn process(&mut self, batch: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        let mut columns = batch.columns().to_vec();
        let counts = columns.remove(self.plan.count);
        let (counts, Some(ops)) = (counts.as_primitive::<Int64Type>(), columns.pop()) else {
            return Ok(());
        };
        let ops = ops.as_primitive::<Int8Type>().values();
        let rows = self.rows.convert_columns(&columns)?;
        let signed = |row: usize| {
            let count = if counts.is_null(row) { 0 } else { counts.value(row) };
            match Op::from_i8(ops[row]).is_some_and(Op::adds) {
                true => count,
                false => -count,
            }
        };
        let (mut places, mut changes) = (Vec::new(), Vec::new());
        let mut row = 0;
        while row < batch.num_rows() {
            // A filter may have let one row of an update through, and of the next update the other.
            let is_update = ops[row] == Op::UpdateBefore as i8
                && ops.get(row + 1) == Some(&(Op::UpdateAfter as i8))
                && rows.row(row) == rows.row(row + 1);
            let change = if is_update {
                signed(row) + signed(row + 1)
            } else {
                signed(row)
            };
            let op = if change > 0 { Op::Insert } else { Op::Delete };
            let copies = usize::try_from(change.unsigned_abs()).unwrap_or(usize::MAX);
            places.extend(std::iter::repeat_n(row as u32, copies));
            changes.extend(std::iter::repeat_n(op as i8, copies));
            row += 1 + usize::from(is_update);
        }
        if places.is_empty() {
            return Ok(());
        }
        let mut columns: Vec<ArrayRef> = take_arrays(&columns, &UInt32Array::from(places), None)?;
        columns.push(Arc::new(Int8Array::from(changes)));
        out.push(batch_of(&self.plan.schema, columns)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use headwater_event::op::changelog_schema;

    use super::*;

    #[test]
    fn an_update_is_the_copies_that_come_or_go() {
        let number = |name: &str| Field::new(name, DataType::Int64, true);
        let schema = changelog_schema(&Schema::new(vec![number("v")]));
        let input = changelog_schema(&Schema::new(vec![number("v"), number("count")]));
        let mut copies = Copies::new(plan::Copies {
            count: 1,
            schema: schema.clone(),
        })
        .unwrap();
        use Op::{Delete, Insert, UpdateAfter, UpdateBefore};
        // The update of 3 and that of 4 have lost a row each to a filter.
        let rows = [
            (1, 2, Insert),
            (2, 5, UpdateBefore),
            (2, 3, UpdateAfter),
            (3, 1, UpdateBefore),
            (4, 1, UpdateAfter),
            (5, 1, UpdateBefore),
            (5, 2, UpdateAfter),
            (6, 1, Delete),
        ];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
            Arc::new(Int8Array::from_iter_values(rows.iter().map(|row| row.2 as i8))),
        ];
        let mut out = Vec::new();
        copies
            .process(RecordBatch::try_new(input, columns).unwrap(), &mut out)
            .unwrap();
        let values = out[0].column(0).as_primitive::<Int64Type>().values();
        let ops = out[0].column(1).as_primitive::<Int8Type>().values();
        let found: Vec<(i64, i8)> = values.iter().copied().zip(ops.iter().copied()).collect();
        let (comes, goes) = (Insert as i8, Delete as i8);
        assert_eq!(
            found,
            [
                (1, comes),
                (1, comes),
                (2, goes),
                (2, goes),
                (3, goes),
                (4, comes),
                (5, comes),
                (6, goes)
            ]
        );
    }
}
