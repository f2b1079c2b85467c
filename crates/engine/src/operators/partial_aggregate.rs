//! Partial states of one epoch's rows by group, and by slice of time where there is a window.
//!
//! Of a changelog, rows that come and rows that go are aggregated apart, and the states of the latter come out
//! with the opposite sign.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::kernels::numeric::neg_wrapping;
use arrow::compute::{filter_record_batch, not, take_record_batch};
use arrow::datatypes::{DataType, Int8Type, SchemaRef};
use headwater_event::clock::Micros;
use headwater_event::op::{Op, is_changelog};

use super::accumulation::{Accumulation, Evaluated};
use super::batch_of;
use super::partial::States;
use super::windows::times;
use crate::error::Result;
use crate::plan;
use crate::plan::Aggregate;

/// Of a changelog, in place of slices: rows that come, and rows that go.
const ADDED: Micros = 0;
const REMOVED: Micros = 1;
/// Up to this many stretches of rows in one slice each, a batch is cut without copying.
const RUNS_MAX: usize = 16;

pub struct PartialAggregate {
    plan: plan::PartialAggregate,
    aggregates: Arc<[Aggregate]>,
    group_types: Vec<DataType>,
    is_changelog: bool,
    /// By start of the slice; without a window under `ADDED` and `REMOVED`.
    slices: BTreeMap<Micros, Accumulation>,
    /// Emptied ones, with their room.
    spare: Vec<Accumulation>,
}

impl PartialAggregate {
    pub fn new(plan: plan::PartialAggregate, input: &SchemaRef) -> Result<Self> {
        let group_types = plan.groups.iter().map(|group| Ok(group.data_type(input)?));
        Ok(Self {
            aggregates: plan.aggregates.as_slice().into(),
            group_types: group_types.collect::<Result<_>>()?,
            is_changelog: is_changelog(input),
            slices: BTreeMap::new(),
            spare: Vec::new(),
            plan,
        })
    }

    fn evaluate_stretch(&self, batch: &RecordBatch) -> Result<Evaluated> {
        Evaluated::of(&self.plan.groups, &self.aggregates, batch)
    }

    fn states(&self, slice: Micros, accumulation: &mut Accumulation) -> Result<RecordBatch> {
        let groups = accumulation.len();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.plan.schema.fields().len());
        if self.plan.window.is_some() {
            columns.push(Arc::new(Int64Array::from_value(slice, groups)));
        }
        let states = accumulation.take_states()?;
        if self.is_changelog && slice == REMOVED {
            let (groups, states) = states.split_at(self.plan.groups.len());
            columns.extend(groups.iter().cloned());
            for state in states {
                columns.push(neg_wrapping(state)?);
            }
        } else {
            columns.extend(states);
        }
        batch_of(&self.plan.schema, columns)
    }
}

impl States for PartialAggregate {
    /// By slice.
    type Evaluated = Vec<(Micros, Evaluated)>;

    fn time_column(&self) -> Option<usize> {
        self.plan.window.map(|(time_column, _)| time_column)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<Self::Evaluated> {
        let Some((time_column, window)) = self.plan.window else {
            let evaluated = by_op(batch, self.is_changelog)?
                .into_iter()
                .map(|(op, rows)| Ok((op, self.evaluate_stretch(&rows)?)));
            return evaluated.collect();
        };
        let times = times(batch.column(time_column))?.values();
        let (Some(&least), Some(&greatest)) = (times.iter().min(), times.iter().max()) else {
            return Ok(Vec::new());
        };
        let slice = window.slice_of(least);
        if slice == window.slice_of(greatest) {
            return Ok(vec![(slice, self.evaluate_stretch(batch)?)]);
        }
        let slices: Vec<_> = times.iter().map(|&time| window.slice_of(time)).collect();
        let stretches = by_slice(batch, &slices)?;
        let evaluated = stretches
            .iter()
            .map(|(slice, rows)| Ok((*slice, self.evaluate_stretch(rows)?)));
        evaluated.collect()
    }

    fn update(&mut self, rows: &Self::Evaluated) -> Result<()> {
        for (slice, rows) in rows {
            if !self.slices.contains_key(slice) {
                let fresh = match self.spare.pop() {
                    Some(spare) => spare,
                    None => Accumulation::new(&self.group_types, &self.aggregates)?,
                };
                self.slices.insert(*slice, fresh);
            }
            if let Some(accumulation) = self.slices.get_mut(slice) {
                accumulation.update(&rows.groups, rows.rows, &rows.arguments)?;
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::with_capacity(self.slices.len());
        while let Some((slice, mut accumulation)) = self.slices.pop_first() {
            if accumulation.is_empty() {
                continue;
            }
            batches.push(self.states(slice, &mut accumulation)?);
            self.spare.push(accumulation);
        }
        self.spare.truncate(RUNS_MAX);
        Ok(batches)
    }

    fn clear(&mut self) -> Result<()> {
        self.slices.clear();
        self.spare.clear();
        Ok(())
    }
}

/// The rows that come and those that go.
fn by_op(batch: &RecordBatch, is_changelog: bool) -> Result<Vec<(Micros, RecordBatch)>> {
    let Some(ops) = batch.columns().last().filter(|_| is_changelog) else {
        return Ok(vec![(ADDED, batch.clone())]);
    };
    let ops = ops.as_primitive::<Int8Type>().values().iter();
    let adds: BooleanArray = ops.map(|&op| Op::from_i8(op).map(Op::adds)).collect();
    let added = filter_record_batch(batch, &adds)?;
    if added.num_rows() == batch.num_rows() {
        return Ok(vec![(ADDED, added)]);
    }
    let removed = filter_record_batch(batch, &not(&adds)?)?;
    Ok(vec![(ADDED, added), (REMOVED, removed)])
}

/// The rows by slice; rows of one slice stay in their order.
fn by_slice(batch: &RecordBatch, slices: &[Micros]) -> Result<Vec<(Micros, RecordBatch)>> {
    let changes = slices.windows(2).filter(|pair| pair[0] != pair[1]).count();
    if changes < RUNS_MAX {
        let mut start = 0;
        let runs = slices.chunk_by(|a, b| a == b).map(|run| {
            start += run.len();
            (run[0], batch.slice(start - run.len(), run.len()))
        });
        return Ok(runs.collect());
    }
    let mut rows_of: BTreeMap<Micros, Vec<u32>> = BTreeMap::new();
    for (row, &slice) in slices.iter().enumerate() {
        rows_of.entry(slice).or_default().push(row as u32);
    }
    let taken = rows_of
        .into_iter()
        .map(|(slice, rows)| Ok((slice, take_record_batch(batch, &UInt32Array::from(rows))?)));
    taken.collect()
}
