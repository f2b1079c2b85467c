//! Window functions over the rows of a changelog: all rows of a group are kept, and the group is evaluated
//! anew when one of them comes or goes.
//!
//! State: the rows by group (see [`super::counted_rows`]) in their order (see [`super::row_order`]). Before a group
//! changes for the first time in an epoch its rows are noted. At the epoch's end the functions are evaluated over
//! those and over the rows as they are then, and what differs is emitted. So a change costs as much as its group
//! has rows, once in an epoch.
//!
//! A group whose functions can't be evaluated shows what it showed before, or nothing; its rows are kept, and it shows
//! them when the offending one has gone.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int8Type, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use headwater_event::op::{Op, is_changelog};

use super::counted_rows::{GROUP_BYTES_MAX, cut, each, insert, remove, too_long};
use super::row_order::{RowOrder, data_columns};
use super::{Operator, Rejected, Saved, StateChanges, batch_of};
use crate::error::Result;
use crate::guard::guarded;
use crate::holdings::Held;
use crate::keyed::Keyed;
use crate::plan;

pub struct ChangelogOver {
    plan: plan::ChangelogOver,
    is_changelog: bool,
    /// Of the rows without the op column, and of those with results.
    rows: SchemaRef,
    results: SchemaRef,
    order: RowOrder,
    converter: RowConverter,
    keyed: Keyed,
    /// The groups that changed in this epoch, with their rows from before.
    touched: Vec<(Bytes, Vec<Bytes>)>,
    is_touched: HashSet<Bytes>,
    rejected: Vec<Rejected>,
}

/// The rows of a group before and after an epoch, as ranges of one batch.
struct Versions {
    before: Range<usize>,
    after: Range<usize>,
}

impl ChangelogOver {
    pub fn new(plan: plan::ChangelogOver, input: &SchemaRef) -> Result<Self> {
        let data = |schema: &SchemaRef| {
            let fields = schema.fields().iter().take(data_columns(schema)).cloned();
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        };
        let results = data(&plan.schema);
        let types = results
            .fields()
            .iter()
            .map(|field| SortField::new(field.data_type().clone()));
        Ok(Self {
            is_changelog: is_changelog(input),
            rows: data(input),
            order: RowOrder::new(input, &plan.partition_by, &plan.order_by)?,
            converter: RowConverter::new(types.collect())?,
            results,
            plan,
            keyed: Keyed::new(),
            touched: Vec::new(),
            is_touched: HashSet::new(),
            rejected: Vec::new(),
        })
    }

    /// All rows of the touched groups as they were and as they are.
    fn versions(&mut self, touched: &[(Bytes, Vec<Bytes>)]) -> Result<(Vec<Versions>, RecordBatch)> {
        let mut rows: Vec<(&[u8], Bytes)> = Vec::new();
        let mut versions = Vec::with_capacity(touched.len());
        for (key, before) in touched {
            let first = rows.len();
            rows.extend(before.iter().map(|row| (&**key, row.clone())));
            let middle = rows.len();
            rows.extend(each(self.keyed.group(key)?.rows()).map(|row| (&**key, row)));
            versions.push(Versions {
                before: first..middle,
                after: middle..rows.len(),
            });
        }
        let columns = self.order.decode(rows.iter().map(|(key, row)| (*key, &**row)))?;
        // `count(*) OVER ()` looks at no column at all.
        let count = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let rows = RecordBatch::try_new_with_options(self.rows.clone(), columns, &count)?;
        Ok((versions, rows))
    }

    fn evaluate(&self, rows: RecordBatch) -> Result<RecordBatch> {
        let mut columns = rows.columns().to_vec();
        if rows.num_rows() == 0 {
            return Ok(RecordBatch::new_empty(self.results.clone()));
        }
        for function in &self.plan.functions {
            columns.push(guarded(|| (function.evaluate)(&rows))?);
        }
        batch_of(&self.results, columns)
    }

    /// The groups with their results, where those can be computed.
    fn evaluated(&mut self, versions: Vec<Versions>, rows: &RecordBatch) -> Result<(Vec<Versions>, RecordBatch)> {
        let mut batches = Vec::new();
        let mut total = 0;
        let mut add = |evaluated: RecordBatch| {
            let first = total;
            total += evaluated.num_rows();
            batches.push(evaluated);
            first..total
        };
        let mut results = Vec::with_capacity(versions.len());
        for Versions { before, after } in versions {
            let before = match self.evaluate(rows.slice(before.start, before.len())) {
                Ok(evaluated) => add(evaluated),
                // It didn't show then either.
                Err(error) if error.is_of_data() => add(RecordBatch::new_empty(self.results.clone())),
                Err(error) => return Err(error),
            };
            let rows = rows.slice(after.start, after.len());
            let after = match self.evaluate(rows.clone()) {
                Ok(evaluated) => add(evaluated),
                Err(error) if error.is_of_data() => {
                    self.rejected.push(Rejected::because(&error, rows));
                    add(RecordBatch::new_empty(self.results.clone()))
                }
                Err(error) => return Err(error),
            };
            results.push(Versions { before, after });
        }
        Ok((results, concat_batches(&self.results, &batches)?))
    }
}

impl Operator for ChangelogOver {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        let keys = self.order.keys(&batch)?;
        let rows = self.order.rows(&batch)?;
        let ops = batch.columns().last().filter(|_| self.is_changelog);
        let ops = ops.map(|ops| ops.as_primitive::<Int8Type>());
        let mut unfit = Vec::new();
        for row in 0..batch.num_rows() {
            let key = keys.get(row);
            if key.len() > GROUP_BYTES_MAX {
                unfit.push(row as u32);
                continue;
            }
            let (suffix, tail) = cut(rows.get(row));
            let mut group = self.keyed.group(key)?;
            if !self.is_touched.contains(key) {
                let key = Bytes::copy_from_slice(key);
                self.is_touched.insert(key.clone());
                self.touched.push((key, each(group.rows()).collect()));
            }
            match ops.is_none_or(|ops| Op::from_i8(ops.value(row)).is_some_and(Op::adds)) {
                true => insert(&mut group, &suffix, tail),
                false => remove(&mut group, &suffix),
            }
        }
        self.rejected.extend(too_long(&batch, unfit)?);
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<RecordBatch>) -> Result<()> {
        self.is_touched.clear();
        let touched = std::mem::take(&mut self.touched);
        if touched.is_empty() {
            return Ok(());
        }
        let (versions, rows) = self.versions(&touched)?;
        let (versions, results) = self.evaluated(versions, &rows)?;
        let encoded = self.converter.convert_columns(results.columns())?;
        let mut places = Vec::new();
        let mut ops = Vec::new();
        for Versions { before, after } in versions {
            for (place, op) in difference(&encoded, before, after) {
                places.push(place as u32);
                ops.push(op as i8);
            }
        }
        if !places.is_empty() {
            let mut columns = take_record_batch(&results, &UInt32Array::from(places))?
                .columns()
                .to_vec();
            columns.push(Arc::new(Int8Array::from(ops)) as ArrayRef);
            out.push(batch_of(&self.plan.schema, columns)?);
        }
        Ok(())
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        self.keyed.take_changes(changes);
        Ok(())
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.keyed.restore(saved)
    }

    fn held(&self) -> Held {
        self.keyed.held()
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}

/// What goes, then what comes: rows that are in both, as often, do neither.
fn difference(rows: &Rows, before: Range<usize>, after: Range<usize>) -> Vec<(usize, Op)> {
    let mut surplus: HashMap<&[u8], i64> = HashMap::new();
    for place in after.clone() {
        *surplus.entry(rows.row(place).data()).or_default() += 1;
    }
    for place in before.clone() {
        *surplus.entry(rows.row(place).data()).or_default() -= 1;
    }
    let mut changes = Vec::new();
    for (places, sign, op) in [(before, -1, Op::Delete), (after, 1, Op::Insert)] {
        for place in places {
            if let Some(left) = surplus.get_mut(rows.row(place).data()).filter(|left| **left * sign > 0) {
                *left -= sign;
                changes.push((place, op));
            }
        }
    }
    changes
}
