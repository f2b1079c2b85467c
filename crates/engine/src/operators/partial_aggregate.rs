//! Aggregates the rows of one epoch by group, and by slice of time where there is a window.
//!
//! Its result is what travels and what is persisted: a hot key costs one row an epoch, however
//! many rows it had. All expressions are evaluated before any state changes.
//!
//! Of a changelog, rows that come and rows that go are aggregated apart, and the states of the latter come out
//! with the opposite sign.
//!
//! Where an aggregate fails, the accumulators are of no use any more. Then the epoch begins again
//! from its batches: each is aggregated apart from the others and, where that fails, halved, until
//! the rows that are to blame stand alone. Partial states of a group may come out in any number of
//! pieces, so nothing else is different.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::kernels::numeric::neg_wrapping;
use arrow::compute::{filter_record_batch, not, take_record_batch};
use arrow::datatypes::{DataType, Int8Type, SchemaRef};
use datafusion_common::cast::as_boolean_array;
use headwater_event::clock::Micros;
use headwater_event::op::{Op, is_changelog};

use super::accumulation::{Accumulation, Arguments};
use super::salvage::by_rows;
use super::windows::times;
use super::{Operator, Rejected, batch_of, evaluate, split_by_time};
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
    /// The epoch's batches, to begin again with.
    taken: Vec<RecordBatch>,
    /// Whether an aggregate has failed in this epoch; from then on, states by themselves.
    has_failed: bool,
    apart: Vec<RecordBatch>,
    rejected: Vec<Rejected>,
}

/// A stretch of rows with all that was computed for it.
struct Evaluated {
    groups: Vec<ArrayRef>,
    arguments: Vec<Arguments>,
    rows: usize,
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
            taken: Vec::new(),
            has_failed: false,
            apart: Vec::new(),
            rejected: Vec::new(),
            plan,
        })
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<Evaluated> {
        let groups = self.plan.groups.iter().map(|group| evaluate(group, batch));
        let arguments = self.aggregates.iter().map(|aggregate| {
            let values = aggregate.arguments.iter().map(|argument| evaluate(argument, batch));
            let filter = aggregate
                .filter
                .as_ref()
                .map(|filter| evaluate(filter, batch))
                .transpose()?;
            Ok(Arguments {
                values: values.collect::<Result<_>>()?,
                filter: filter.map(|filter| as_boolean_array(&filter).cloned()).transpose()?,
            })
        });
        Ok(Evaluated {
            groups: groups.collect::<Result<_>>()?,
            arguments: arguments.collect::<Result<_>>()?,
            rows: batch.num_rows(),
        })
    }

    fn update(&mut self, slice: Micros, rows: &Evaluated) -> Result<()> {
        if !self.slices.contains_key(&slice) {
            let fresh = match self.spare.pop() {
                Some(spare) => spare,
                None => Accumulation::new(&self.group_types, &self.aggregates)?,
            };
            self.slices.insert(slice, fresh);
        }
        match self.slices.get_mut(&slice) {
            Some(accumulation) => accumulation.update(&rows.groups, rows.rows, &rows.arguments),
            None => Ok(()),
        }
    }

    /// The rows by slice, with all that is to be computed of them.
    fn evaluate_slices(&self, batch: &RecordBatch) -> Result<Vec<(Micros, Evaluated)>> {
        let Some((time_column, window)) = self.plan.window else {
            let evaluated = by_op(batch, self.is_changelog)?
                .into_iter()
                .map(|(op, rows)| Ok((op, self.evaluate(&rows)?)));
            return evaluated.collect();
        };
        let times = times(batch.column(time_column))?.values();
        let (Some(&least), Some(&greatest)) = (times.iter().min(), times.iter().max()) else {
            return Ok(Vec::new());
        };
        let slice = window.slice_of(least);
        if slice == window.slice_of(greatest) {
            return Ok(vec![(slice, self.evaluate(batch)?)]);
        }
        let slices: Vec<_> = times.iter().map(|&time| window.slice_of(time)).collect();
        let stretches = by_slice(batch, &slices)?;
        let evaluated = stretches.iter().map(|(slice, rows)| Ok((*slice, self.evaluate(rows)?)));
        evaluated.collect()
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

    /// The states of all slices, which are forgotten here.
    fn take_slices(&mut self) -> Result<Vec<RecordBatch>> {
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

    /// Aggregates everything that came in this epoch anew, batch by batch.
    fn begin_again(&mut self) -> Result<()> {
        self.has_failed = true;
        self.slices.clear();
        self.spare.clear();
        for batch in std::mem::take(&mut self.taken) {
            self.aggregate_apart(batch)?;
        }
        Ok(())
    }

    fn aggregate_apart(&mut self, batch: RecordBatch) -> Result<()> {
        let mut apart = std::mem::take(&mut self.apart);
        let mut rejected = std::mem::take(&mut self.rejected);
        let result = by_rows(batch, &mut rejected, |rows| {
            apart.append(&mut self.states_of(rows)?);
            Ok(())
        });
        self.apart = apart;
        self.rejected = rejected;
        result
    }

    fn states_of(&self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let evaluated = self.evaluate_slices(batch)?;
        let states = evaluated.iter().map(|(slice, rows)| {
            let mut fresh = Accumulation::new(&self.group_types, &self.aggregates)?;
            fresh.update(&rows.groups, rows.rows, &rows.arguments)?;
            self.states(*slice, &mut fresh)
        });
        states.collect()
    }
}

impl Operator for PartialAggregate {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        let batch = match self.plan.window {
            Some((time_column, _)) => {
                let (batch, without_time) = split_by_time(batch, time_column)?;
                self.rejected.extend(without_time.map(Rejected::without_time));
                batch
            }
            None => batch,
        };
        // Evaluated all before the first update, so that an error leaves nothing behind.
        let evaluated = self.evaluate_slices(&batch)?;
        if self.has_failed {
            return self.aggregate_apart(batch);
        }
        self.taken.push(batch);
        let updated = evaluated.iter().try_for_each(|(slice, rows)| self.update(*slice, rows));
        match updated {
            Err(error) if error.is_of_data() => self.begin_again(),
            updated => updated,
        }
    }

    fn flush(&mut self, out: &mut Vec<RecordBatch>) -> Result<()> {
        match self.take_slices() {
            Ok(mut states) => out.append(&mut states),
            Err(error) if error.is_of_data() => self.begin_again()?,
            Err(error) => return Err(error),
        }
        out.append(&mut self.apart);
        self.taken.clear();
        self.has_failed = false;
        Ok(())
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
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
