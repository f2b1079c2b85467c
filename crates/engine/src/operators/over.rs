//! Window functions in the order of event time: every row comes out once, with the functions' results behind
//! its columns, when the watermark has passed its time.
//!
//! 1. Rows wait (see [`super::pending`]) until they are final, and so is what lies before them.
//! 2. The ready rows of a group are put behind the rows of the group that the functions look back to, and the
//!    functions are evaluated over both, as in a batch query.
//! 3. What later rows look back to is kept: of the columns that functions read, the last rows of every
//!    group, or those within a time of the watermark. A function over all earlier rows keeps the state of
//!    its aggregate instead.
//!
//! State (see [`crate::keyed`]): key `1 | row-encoded group`, suffix `time, order-preserving | number u32 BE`,
//! value the row encoding of the columns that functions read; the states of aggregates stand under the
//! empty suffix.
//!
//! A group whose functions can't be evaluated keeps what it had; the rows that were ready are left out.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat, concat_batches, filter, filter_record_batch, take_arrays, take_record_batch};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use datafusion_common::ScalarValue;
use headwater_event::clock::Micros;

use super::pending::Pending;
use super::windows::times;
use super::{Operator, Rejected, Saved, StateChanges, batch_of, evaluate, split_by_time};
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::guard::guarded;
use crate::holdings::Held;
use crate::keyed::Keyed;
use crate::plan;
use crate::plan::{FrameReach, RunningAggregate, WindowFunction};
use crate::rows::encode_rows;

const KEY_PREFIX: [u8; 1] = [1];
/// Where the states of aggregates stand.
const STATES: &[u8] = &[];

pub struct Over {
    plan: plan::Over,
    group_types: Vec<DataType>,
    keys: RowConverter,
    /// The columns that functions read.
    kept: SchemaRef,
    values: RowConverter,
    states: RowConverter,
    pending: Pending,
    keyed: Keyed,
    watermark: Option<Micros>,
    late: u64,
    rejected: Vec<Rejected>,
}

/// A group with ready rows.
struct Ready {
    key: Bytes,
    /// Of the ready batch.
    rows: Vec<u32>,
    /// In the rows that are put together of all groups: those that are looked back to, then the ready ones.
    known: Range<usize>,
    fresh: Range<usize>,
    states: Option<Bytes>,
}

/// What the functions give for the ready rows of a group.
struct Evaluated {
    columns: Vec<ArrayRef>,
    states: Vec<ScalarValue>,
}

impl Over {
    pub fn new(plan: plan::Over, input: SchemaRef) -> Result<Self> {
        let type_of = |&column: &usize| input.field(column).data_type().clone();
        let group_types: Vec<DataType> = plan.partition_by.iter().map(type_of).collect();
        let kept: Vec<FieldRef> = plan
            .reads
            .iter()
            .map(|&column| input.fields()[column].clone())
            .collect();
        let states = running(&plan.functions).flat_map(|running| &running.state_fields);
        Ok(Self {
            keys: converter(group_types.iter().cloned())?,
            group_types,
            values: converter(plan.reads.iter().map(type_of))?,
            states: converter(states.map(|field| field.data_type().clone()))?,
            kept: Arc::new(Schema::new(kept)),
            pending: Pending::new(input, plan.time_column),
            plan,
            keyed: Keyed::new(),
            watermark: None,
            late: 0,
            rejected: Vec::new(),
        })
    }

    /// Puts together, group by group, the rows that are looked back to and the ready ones.
    fn gather(&mut self, batch: &RecordBatch) -> Result<(Vec<Ready>, RecordBatch)> {
        let columns: Vec<ArrayRef> = columns_of(batch, &self.plan.partition_by);
        let mut indices = Vec::new();
        Groups::new(&self.group_types)?.intern(&columns, batch.num_rows(), &mut indices)?;
        let keys = encode_rows(&self.keys, &columns, batch.num_rows(), &KEY_PREFIX)?;
        let mut groups: Vec<Ready> = Vec::new();
        for (row, &group) in indices.iter().enumerate() {
            if group == groups.len() {
                groups.push(Ready {
                    key: keys[row].clone(),
                    rows: Vec::new(),
                    known: 0..0,
                    fresh: 0..0,
                    states: None,
                });
            }
            groups[group].rows.push(row as u32);
        }
        let mut known = Vec::new();
        let mut order = Vec::new();
        for group in &mut groups {
            let first = order.len();
            for (suffix, value) in self.keyed.group(&group.key)?.rows().iter() {
                if suffix.is_empty() {
                    group.states = Some(value.clone());
                } else {
                    order.push((known.len(), None));
                    known.push(value.clone());
                }
            }
            group.known = first..order.len();
            order.extend(group.rows.iter().map(|&row| (0, Some(row))));
            group.fresh = group.known.end..order.len();
        }
        let parser = self.values.parser();
        let total = known.len();
        let known = match self.plan.reads.is_empty() {
            true => Vec::new(),
            false => self
                .values
                .convert_rows(known.iter().map(|value| parser.parse(value)))?,
        };
        let place = |(known, ready): (usize, Option<u32>)| ready.map_or(known as u32, |ready| total as u32 + ready);
        let order: UInt32Array = order.into_iter().map(place).collect::<Vec<_>>().into();
        let both = concat_batches(
            &self.kept,
            [
                &batch_of(&self.kept, known)?,
                &batch_of(&self.kept, columns_of(batch, &self.plan.reads))?,
            ],
        )?;
        Ok((groups, take_record_batch(&both, &order)?))
    }

    fn evaluate(&self, group: &Ready, rows: &RecordBatch) -> Result<Evaluated> {
        let all = rows.slice(group.known.start, group.fresh.end - group.known.start);
        let fresh = rows.slice(group.fresh.start, group.fresh.len());
        let mut former = self.decode_states(group.states.as_ref())?.into_iter();
        let mut evaluated = Evaluated {
            columns: Vec::with_capacity(self.plan.functions.len()),
            states: Vec::new(),
        };
        for function in &self.plan.functions {
            let column = match function {
                WindowFunction::Frame { evaluate, .. } => {
                    let column = guarded(|| evaluate(&all))?;
                    column.slice(group.known.len(), group.fresh.len())
                }
                WindowFunction::Running(running) => {
                    let states: Vec<ArrayRef> = former.by_ref().take(running.state_fields.len()).collect();
                    self.run(running, &states, &fresh, &mut evaluated.states)?
                }
            };
            evaluated.columns.push(column);
        }
        Ok(evaluated)
    }

    /// An aggregate over all rows so far, one after the other; rows of the same time together, where
    /// it says so.
    fn run(
        &self,
        running: &RunningAggregate,
        former: &[ArrayRef],
        fresh: &RecordBatch,
        states: &mut Vec<ScalarValue>,
    ) -> Result<ArrayRef> {
        let arguments = running.arguments.iter().map(|argument| evaluate(argument, fresh));
        let arguments: Vec<ArrayRef> = arguments.collect::<Result<_>>()?;
        let wanted = running
            .filter
            .as_ref()
            .map(|filter| evaluate(filter, fresh))
            .transpose()?;
        let times = times(fresh.column(self.plan.time_among_reads))?.values();
        let aggregated = guarded(|| {
            let mut accumulator = (running.accumulator)()?;
            if !former.is_empty() {
                accumulator.merge_batch(former)?;
            }
            let mut results = Vec::with_capacity(fresh.num_rows());
            let mut first = 0;
            for peers in times.chunk_by(|a, b| running.with_peers && a == b) {
                let mut values: Vec<ArrayRef> = arguments
                    .iter()
                    .map(|argument| argument.slice(first, peers.len()))
                    .collect();
                if let Some(wanted) = &wanted {
                    let wanted = datafusion_common::cast::as_boolean_array(wanted)?.slice(first, peers.len());
                    values = values
                        .iter()
                        .map(|values| filter(values, &wanted))
                        .collect::<Result<_, _>>()?;
                }
                accumulator.update_batch(&values)?;
                let result = accumulator.evaluate()?;
                results.extend(std::iter::repeat_n(result, peers.len()));
                first += peers.len();
            }
            Ok((ScalarValue::iter_to_array(results)?, accumulator.state()?))
        });
        let (results, mut state) = aggregated.map_err(Error::aggregate)?;
        states.append(&mut state);
        Ok(results)
    }

    fn decode_states(&self, states: Option<&Bytes>) -> Result<Vec<ArrayRef>> {
        let Some(states) = states else { return Ok(Vec::new()) };
        let parser = self.states.parser();
        Ok(self.states.convert_rows([parser.parse(states)])?)
    }

    /// Keeps of a group what later rows look back to.
    fn keep(&mut self, group: &Ready, states: &[ScalarValue], times: &[Micros], values: &[Bytes]) -> Result<()> {
        let mut rows_max = 0;
        let mut since = Micros::MAX;
        for function in &self.plan.functions {
            match function {
                WindowFunction::Frame {
                    reach: FrameReach::Rows(rows),
                    ..
                } => rows_max = rows_max.max(*rows),
                WindowFunction::Frame {
                    reach: FrameReach::Time(time),
                    ..
                } => {
                    let watermark = self.watermark.unwrap_or(Micros::MIN);
                    since = since.min(watermark.saturating_sub(*time));
                }
                WindowFunction::Running(_) => {}
            }
        }
        let mut kept = self.keyed.group(&group.key)?;
        let known = kept
            .rows()
            .iter()
            .map(|(suffix, _)| suffix)
            .filter(|suffix| !suffix.is_empty());
        let known: Vec<Bytes> = known.cloned().collect();
        let total = known.len() + group.rows.len();
        // All rows are in the order of time.
        let is_needed = |place: usize, time: Micros| total - place <= rows_max || time >= since;
        for (place, suffix) in known.iter().enumerate() {
            if is_needed(place, time_of(suffix)) {
                break;
            }
            kept.remove(suffix);
        }
        for (number, &row) in group.rows.iter().enumerate() {
            let (time, value) = (times[row as usize], &values[row as usize]);
            if is_needed(known.len() + number, time) {
                kept.put(suffix(time, number as u32), Bytes::copy_from_slice(value));
            }
        }
        if !states.is_empty() {
            let states = states
                .iter()
                .map(ScalarValue::to_array)
                .collect::<Result<Vec<_>, _>>()?;
            let states = encode_rows(&self.states, &states, 1, &[])?;
            kept.put(
                Bytes::from_static(STATES),
                states.into_iter().next().unwrap_or_default(),
            );
        }
        Ok(())
    }

    fn emit(&mut self, batch: &RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        let (groups, rows) = self.gather(batch)?;
        let times = times(batch.column(self.plan.time_column))?.values().clone();
        let values = encode_rows(
            &self.values,
            &columns_of(batch, &self.plan.reads),
            batch.num_rows(),
            &[],
        )?;
        let mut results: Vec<Vec<ArrayRef>> = vec![Vec::with_capacity(groups.len()); self.plan.functions.len()];
        // For every ready row where its results are.
        let mut places: Vec<Option<u32>> = vec![None; batch.num_rows()];
        let mut done = 0;
        for group in &groups {
            let evaluated = match self.evaluate(group, &rows) {
                Ok(evaluated) => evaluated,
                Err(error) if error.is_of_data() => {
                    let rows = take_record_batch(batch, &UInt32Array::from(group.rows.clone()))?;
                    self.rejected.push(Rejected::because(&error, rows));
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.keep(group, &evaluated.states, &times, &values)?;
            for (results, column) in results.iter_mut().zip(evaluated.columns) {
                results.push(column);
            }
            for &row in &group.rows {
                places[row as usize] = Some(done);
                done += 1;
            }
        }
        if done == 0 {
            return Ok(());
        }
        let has_result: BooleanArray = places.iter().map(|place| Some(place.is_some())).collect();
        let mut columns = filter_record_batch(batch, &has_result)?.columns().to_vec();
        let order: UInt32Array = places.into_iter().flatten().collect::<Vec<_>>().into();
        let results = results.iter().map(|results| {
            let each: Vec<&dyn Array> = results.iter().map(AsRef::as_ref).collect();
            concat(&each)
        });
        let results: Vec<ArrayRef> = results.collect::<Result<_, _>>()?;
        columns.extend(take_arrays(&results, &order, None)?);
        out.push(batch_of(&self.plan.schema, columns)?);
        Ok(())
    }
}

impl Operator for Over {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        let (batch, without_time) = split_by_time(batch, self.plan.time_column)?;
        self.late += self.pending.add(batch, self.watermark)?;
        self.rejected.extend(without_time.map(Rejected::without_time));
        Ok(())
    }

    fn advance(&mut self, watermark: Micros, out: &mut Vec<RecordBatch>) -> Result<()> {
        if self.watermark >= Some(watermark) {
            return Ok(());
        }
        self.watermark = Some(watermark);
        match self.pending.take_ready(watermark)? {
            Some(ready) => self.emit(&ready, out),
            None => Ok(()),
        }
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        self.pending.take_changes(changes)?;
        self.keyed.take_changes(changes);
        Ok(())
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.watermark = saved.watermark;
        self.pending.restore(saved)?;
        self.keyed.restore(saved)
    }

    fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }

    fn held(&self) -> Held {
        let waiting = self.pending.bytes();
        Held::cache(waiting + self.keyed.held().bytes as usize)
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}

fn running(functions: &[WindowFunction]) -> impl Iterator<Item = &RunningAggregate> {
    functions.iter().filter_map(|function| match function {
        WindowFunction::Running(running) => Some(running),
        WindowFunction::Frame { .. } => None,
    })
}

fn columns_of(batch: &RecordBatch, columns: &[usize]) -> Vec<ArrayRef> {
    columns.iter().map(|&column| Arc::clone(batch.column(column))).collect()
}

fn converter(types: impl Iterator<Item = DataType>) -> Result<RowConverter> {
    RowConverter::new(types.map(SortField::new).collect())
        .map_err(|error| Error::Plan(format!("a state that can't be stored: {error}")))
}

fn suffix(time: Micros, number: u32) -> Bytes {
    // With the sign bit turned over, negative times sort before positive ones.
    let time = (time as u64 ^ (1 << 63)).to_be_bytes();
    [&time[..], &number.to_be_bytes()].concat().into()
}

fn time_of(suffix: &[u8]) -> Micros {
    let time = suffix.first_chunk().map_or(0, |time| u64::from_be_bytes(*time));
    (time ^ (1 << 63)) as Micros
}
