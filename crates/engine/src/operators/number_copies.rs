//! Numbers equal rows of a changelog, so that each has a name of its own in a view without a key.
//!
//! State: under the row-encoded row how many of them there are, as u32 BE.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{Int8Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use headwater_event::op::Op;

use super::{Operator, Saved, StateChanges, batch_of};
use crate::error::{Error, Result};
use crate::holdings::Held;
use crate::keyed::Keyed;
use crate::plan;
use crate::rows::encode_rows;

pub struct NumberCopies {
    plan: plan::NumberCopies,
    rows: RowConverter,
    state: Keyed,
}

impl NumberCopies {
    pub fn new(plan: plan::NumberCopies, input: &SchemaRef) -> Result<Self> {
        let columns = input.fields().iter().take(input.fields().len() - 1);
        let fields = columns.map(|field| SortField::new(field.data_type().clone())).collect();
        Ok(Self {
            rows: RowConverter::new(fields)
                .map_err(|error| Error::Plan(format!("a view can't keep its rows: {error}")))?,
            state: Keyed::new(),
            plan,
        })
    }

    /// The number of a row that comes or goes.
    fn number(&mut self, row: &Bytes, adds: bool) -> Result<u32> {
        let mut group = self.state.group(row)?;
        let copies = group.rows().get(&[]).and_then(|copies| copies[..].try_into().ok());
        let copies = copies.map_or(0, u32::from_be_bytes);
        let (number, left) = match adds {
            true => (copies, copies + 1),
            false => (copies.saturating_sub(1), copies.saturating_sub(1)),
        };
        match left {
            0 => drop(group.remove(&[])),
            left => group.put(Bytes::new(), Bytes::copy_from_slice(&left.to_be_bytes())),
        }
        Ok(number)
    }
}

impl Operator for NumberCopies {
    fn process(&mut self, batch: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        let Some((ops, data)) = batch.columns().split_last() else {
            return Ok(());
        };
        let rows = encode_rows(&self.rows, data, batch.num_rows(), &[])?;
        let ops_of_rows = ops.as_primitive::<Int8Type>().values();
        let numbers = rows
            .iter()
            .zip(ops_of_rows)
            .map(|(row, &op)| self.number(row, Op::from_i8(op).is_some_and(Op::adds)));
        let numbers: ArrayRef = Arc::new(numbers.collect::<Result<UInt32Array>>()?);
        let mut columns = data.to_vec();
        columns.extend([numbers, Arc::clone(ops)]);
        out.push(batch_of(&self.plan.schema, columns)?);
        Ok(())
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        self.state.take_changes(changes);
        Ok(())
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.state.restore(saved)
    }

    fn held(&self) -> Held {
        self.state.held()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int8Array, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
    use headwater_event::op::changelog_schema;

    use super::*;

    #[test]
    fn a_row_that_has_gone_leaves_nothing_behind() {
        let value = Field::new("v", DataType::Int64, false);
        let numbered = Schema::new(vec![value.clone(), Field::new("copy", DataType::UInt32, false)]);
        let plan = plan::NumberCopies {
            schema: changelog_schema(&numbered),
        };
        let input = changelog_schema(&Schema::new(vec![value]));
        let mut copies = NumberCopies::new(plan, &input).unwrap();
        let ops = [Op::Insert, Op::Insert, Op::Delete, Op::Delete].map(|op| op as i8);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_value(7, ops.len())),
            Arc::new(Int8Array::from(ops.to_vec())),
        ];
        let mut out = Vec::new();
        copies
            .process(RecordBatch::try_new(input, columns).unwrap(), &mut out)
            .unwrap();
        let numbers = out[0].column(1).as_primitive::<UInt32Type>();
        assert_eq!(numbers.values(), &[0, 1, 1, 0]);
        let mut changes = StateChanges {
            partition: 0,
            entries: Vec::new(),
        };
        copies.changes(&mut changes).unwrap();
        assert!(changes.entries.last().is_some_and(|(_, value)| value.is_none()));
    }
}
