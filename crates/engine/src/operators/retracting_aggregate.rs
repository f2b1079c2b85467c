//! Aggregates the rows of a changelog by group, for functions that can't take a value back.
//!
//! It keeps every row of a group, equal ones once with their count (see [`crate::keyed`]): under the
//! suffix `1 | row-encoded arguments` the count as u64 BE, and under the suffix `0` the row-encoded
//! results that were last emitted. At the end of an epoch the groups that it touched are computed anew
//! from all their rows. So a change costs as much as its group has different rows.
//!
//! A group that can't be computed, because a sum overflows for instance, keeps its last results, and the rows that
//! came for it in this epoch are handed back as rejected. It is tried again when another row comes.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int8Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use datafusion_common::cast::as_boolean_array;
use hashbrown::HashMap;
use headwater_event::op::Op;

use super::accumulation::{Accumulators, Arguments};
use super::{Operator, Rejected, Saved, StateChanges, batch_of, evaluate};
use crate::difference::difference;
use crate::error::{Error, Result};
use crate::holdings::Held;
use crate::keyed::Keyed;
use crate::plan;
use crate::plan::Aggregate;
use crate::rows::encode_rows;

const RESULTS: [u8; 1] = [0];
const ROW: [u8; 1] = [1];

pub struct RetractingAggregate {
    plan: plan::RetractingAggregate,
    aggregates: Arc<[Aggregate]>,
    input: SchemaRef,
    /// Of the group columns, of the arguments behind them, of the results.
    keys: RowConverter,
    arguments: RowConverter,
    results: RowConverter,
    state: Keyed,
    taken: Vec<RecordBatch>,
    rejected: Vec<Rejected>,
}

/// The groups that an epoch has touched, in the order in which they came.
struct Touched {
    rows: RecordBatch,
    keys: Vec<Bytes>,
    /// The group of every row.
    group_of: Vec<usize>,
}

impl RetractingAggregate {
    pub fn new(plan: plan::RetractingAggregate, input: &SchemaRef) -> Result<Self> {
        let converter = |columns: Range<usize>| {
            let types = input.fields()[columns].iter().map(|field| field.data_type().clone());
            stored(types.map(SortField::new).collect())
        };
        let results = plan
            .aggregates
            .iter()
            .map(|aggregate| aggregate.result_field.data_type().clone());
        Ok(Self {
            aggregates: plan.aggregates.as_slice().into(),
            keys: converter(0..plan.groups)?,
            arguments: converter(plan.groups..input.fields().len() - 1)?,
            results: stored(results.map(SortField::new).collect())?,
            input: input.clone(),
            state: Keyed::new(),
            taken: Vec::new(),
            rejected: Vec::new(),
            plan,
        })
    }

    /// Puts the epoch's rows into their groups.
    fn settle(&mut self) -> Result<Touched> {
        let rows = concat_batches(&self.input, &std::mem::take(&mut self.taken))?;
        let count = rows.num_rows();
        let columns = rows.columns();
        let keys = encode_rows(&self.keys, &columns[..self.plan.groups], count, &[])?;
        let arguments = &columns[self.plan.groups..columns.len() - 1];
        let suffixes = encode_rows(&self.arguments, arguments, count, &ROW)?;
        let ops = columns[columns.len() - 1].as_primitive::<Int8Type>().values().clone();
        let mut touched = Touched {
            rows,
            keys: Vec::new(),
            group_of: Vec::with_capacity(count),
        };
        let mut known: HashMap<Bytes, usize> = HashMap::new();
        for ((key, suffix), &op) in keys.into_iter().zip(suffixes).zip(&ops) {
            let group = *known.entry(key.clone()).or_insert(touched.keys.len());
            let mut rows = self.state.group(&key)?;
            let count = rows.rows().get(&suffix).map_or(0, |count| count_of(count));
            let count = match Op::from_i8(op).is_some_and(Op::adds) {
                true => count + 1,
                false => count.saturating_sub(1),
            };
            match count {
                0 => drop(rows.remove(&suffix)),
                count => rows.put(suffix, count.to_be_bytes().to_vec().into()),
            }
            if group == touched.keys.len() {
                touched.keys.push(key);
            }
            touched.group_of.push(group);
        }
        Ok(touched)
    }

    /// The results of groups, from all their rows. Accumulators want each to have some.
    fn compute(&mut self, keys: &[Bytes]) -> Result<Vec<ArrayRef>> {
        let mut rows = Vec::new();
        let mut group_of = Vec::new();
        for (group, key) in keys.iter().enumerate() {
            for (suffix, count) in self
                .state
                .group(key)?
                .rows()
                .iter()
                .filter(|(suffix, _)| is_row(suffix))
            {
                for _ in 0..count_of(count) {
                    rows.push(suffix.slice(ROW.len()..));
                    group_of.push(group);
                }
            }
        }
        let parser = self.arguments.parser();
        let columns = self.arguments.convert_rows(rows.iter().map(|row| parser.parse(row)))?;
        let mut columns_of_input: Vec<ArrayRef> = Vec::with_capacity(self.input.fields().len());
        // The aggregates look at the arguments alone.
        let absent = |at: usize| arrow::array::new_null_array(self.input.field(at).data_type(), rows.len());
        columns_of_input.extend((0..self.plan.groups).map(absent));
        columns_of_input.extend(columns);
        columns_of_input.push(absent(self.input.fields().len() - 1));
        let nullable: Vec<_> = self
            .input
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        let batch = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(nullable)), columns_of_input)?;
        let arguments = self.aggregates.iter().map(|aggregate| {
            let values = aggregate.arguments.iter().map(|argument| evaluate(argument, &batch));
            let filter = aggregate
                .filter
                .as_ref()
                .map(|filter| evaluate(filter, &batch))
                .transpose()?;
            Ok(Arguments {
                values: values.collect::<Result<_>>()?,
                filter: filter.map(|filter| as_boolean_array(&filter).cloned()).transpose()?,
            })
        });
        let arguments = arguments.collect::<Result<Vec<_>>>()?;
        let mut accumulators = Accumulators::new(&self.aggregates)?;
        accumulators.update(&group_of, keys.len(), &arguments)?;
        accumulators.take_results()
    }

    /// The changes of the groups that have rows; those that fail keep what they had.
    fn emit(&mut self, touched: &Touched, alive: &[usize], out: &mut Vec<RecordBatch>) -> Result<()> {
        let mut pending: Vec<&[usize]> = vec![alive];
        while let Some(groups) = pending.pop().filter(|groups| !groups.is_empty()) {
            let keys: Vec<Bytes> = groups.iter().map(|&group| touched.keys[group].clone()).collect();
            match self.compute(&keys) {
                Ok(results) => self.replace(&keys, &results, out)?,
                Err(error) if error.is_of_data() && groups.len() > 1 => {
                    let (first, second) = groups.split_at(groups.len() / 2);
                    pending.extend([second, first]);
                }
                Err(error) if error.is_of_data() => {
                    let rows = touched.rows_of(groups[0])?;
                    self.rejected.push(Rejected::because(&error, rows));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Puts new results in place of the last ones, and hands on what is different.
    fn replace(&mut self, keys: &[Bytes], after: &[ArrayRef], out: &mut Vec<RecordBatch>) -> Result<()> {
        let mut before = Vec::new();
        let mut before_of = Vec::with_capacity(keys.len());
        for (key, results) in keys.iter().zip(encode_rows(&self.results, after, keys.len(), &[])?) {
            let mut group = self.state.group(key)?;
            let known = group.rows().get(&RESULTS).cloned();
            before_of.push(known.as_ref().map(|_| before.len() as u32));
            before.extend(known);
            group.put(Bytes::from_static(&RESULTS), results);
        }
        let before = decode(&self.results, &before)?;
        let changes = difference(&self.groups(keys)?, &before, &before_of, after, |_| false)?;
        let changes = batch_of(&self.plan.schema, changes)?;
        if changes.num_rows() > 0 {
            out.push(changes);
        }
        Ok(())
    }

    /// Takes the results of groups back that have no rows any more.
    fn retract(&mut self, keys: Vec<Bytes>, out: &mut Vec<RecordBatch>) -> Result<()> {
        let (mut known, mut results) = (Vec::new(), Vec::new());
        for key in keys {
            if let Some(last) = self.state.group(&key)?.remove(&RESULTS) {
                known.push(key);
                results.push(last);
            }
        }
        if known.is_empty() {
            return Ok(());
        }
        let mut columns = self.groups(&known)?;
        columns.extend(decode(&self.results, &results)?);
        columns.push(Arc::new(Int8Array::from_value(Op::Delete as i8, known.len())));
        out.push(batch_of(&self.plan.schema, columns)?);
        Ok(())
    }

    fn groups(&self, keys: &[Bytes]) -> Result<Vec<ArrayRef>> {
        match self.plan.groups {
            0 => Ok(Vec::new()),
            _ => decode(&self.keys, keys),
        }
    }
}

impl Touched {
    fn rows_of(&self, group: usize) -> Result<RecordBatch> {
        let rows = (0..).zip(&self.group_of).filter(|(_, of)| **of == group);
        Ok(take_record_batch(
            &self.rows,
            &rows.map(|(row, _)| row).collect::<UInt32Array>(),
        )?)
    }
}

impl Operator for RetractingAggregate {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        self.taken.push(batch);
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<RecordBatch>) -> Result<()> {
        if self.taken.is_empty() {
            return Ok(());
        }
        let touched = self.settle()?;
        let (mut alive, mut gone) = (Vec::new(), Vec::new());
        for (group, key) in touched.keys.iter().enumerate() {
            let group_rows = self.state.group(key)?;
            let has_rows = group_rows
                .rows()
                .iter()
                .next_back()
                .is_some_and(|(suffix, _)| is_row(suffix));
            match has_rows {
                true => alive.push(group),
                false => gone.push(key.clone()),
            }
        }
        self.retract(gone, out)?;
        self.emit(&touched, &alive, out)
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

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}

fn is_row(suffix: &[u8]) -> bool {
    suffix.starts_with(&ROW)
}

fn decode(converter: &RowConverter, rows: &[Bytes]) -> Result<Vec<ArrayRef>> {
    let parser = converter.parser();
    Ok(converter.convert_rows(rows.iter().map(|row| parser.parse(row)))?)
}

fn count_of(count: &[u8]) -> u64 {
    count.try_into().map_or(0, u64::from_be_bytes)
}

fn stored(fields: Vec<SortField>) -> Result<RowConverter> {
    RowConverter::new(fields).map_err(|error| Error::Plan(format!("rows that can't be stored: {error}")))
}
