//! Merges partial states of windows, and emits a window's rows when the watermark passes its end.
//!
//! 1. Partial states come by slice (see [`super::windows`]). They are merged into the slice's
//!    groups in memory and appended, as they came, to the state table: an epoch writes what it
//!    brought, never what was there before. Key: `partition u32 BE | slice i64, order-preserving |
//!    number u64 BE`. A slice with many small entries is rewritten as one now and then.
//! 2. When the watermark passes a window's end, a tumbling window's only slice is evaluated as it
//!    is. The slices of other windows give up their states once, as columns. Where most groups are in few
//!    of a window's slices, all of these are merged for every window that covers them; else they are
//!    merged as the window moves on (see [`super::sliding`]).
//! 3. A slice goes, with its entries, after the last window that needs it.
//!
//! Windows come out in the order of their ends; within a window groups come in the order in which
//! they were first seen. Partial states of a slice whose windows are all closed are dropped and
//! counted.
//!
//! With `lateness` a window is kept for so long after its end, its slices as columns. What comes for it then
//! corrects what it gave: at the end of the epoch it is evaluated without and with what the epoch brought, for the groups that
//! it touched, and the difference is emitted.
//!
//! With `emit_changes` that goes for open windows too, and slices stay columns. So nothing is left to emit when a window
//! closes, and what was emitted before a restart need not be stored.
//!
//! A group whose states can't be put together, because a sum overflows for instance, has no row in
//! the windows that it concerns, and its states are handed back as rejected. Where that shows while
//! states are merged in memory, the slice is taken from the state table again, as columns.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int8Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_arrays};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use headwater_event::clock::Micros;
use headwater_event::op::Op;

use super::accumulation::Accumulation;
use super::salvage::{ByGroup, stacked};
use super::slice::Slice;
use super::sliding::Sliding;
use super::windows::{Span, time_column};
use super::{Operator, Rejected, Saved, StateChanges, batch_of, parts};
use crate::difference::difference;
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::holdings::Held;
use crate::plan;
use crate::plan::Aggregate;

/// A slice with this many entries is rewritten as one, if that makes it much smaller.
const ENTRIES_MAX: u64 = 64;
/// A window whose slices have more rows for each group than this is not merged anew each time.
const ROWS_PER_GROUP_MAX: usize = 4;

pub struct WindowAggregate {
    plan: plan::WindowAggregate,
    aggregates: Arc<[Aggregate]>,
    input: SchemaRef,
    group_types: Vec<DataType>,
    slices: BTreeMap<Micros, Slice>,
    sliding: Sliding,
    /// In the window that was closed last.
    groups_closed: usize,
    /// Windows that end here or before are closed.
    closed: Option<Micros>,
    /// Entries of slices that have gone.
    gone: Vec<(Micros, Range<u64>)>,
    late: u64,
    rejected: Vec<Rejected>,
    /// Where its entries are.
    saved: Option<Saved>,
}

impl WindowAggregate {
    pub fn new(plan: plan::WindowAggregate, input: SchemaRef) -> Result<Self> {
        let groups = input.fields().iter().skip(1).take(plan.groups);
        let group_types: Vec<DataType> = groups.map(|field| field.data_type().clone()).collect();
        let aggregates = plan.aggregates.as_slice().into();
        Ok(Self {
            sliding: Sliding::new(&group_types, &aggregates, &input)?,
            groups_closed: 0,
            aggregates,
            group_types,
            slices: BTreeMap::new(),
            closed: None,
            gone: Vec::new(),
            late: 0,
            rejected: Vec::new(),
            saved: None,
            input,
            plan,
        })
    }

    /// Whether every window that the slice belongs to is closed, and can't be corrected any more.
    fn is_closed(&self, slice: Micros) -> bool {
        let end = self.plan.window.last_end(slice);
        self.expired().is_some_and(|expired| end <= expired)
    }

    /// Windows that end here or before can't be corrected any more.
    fn expired(&self) -> Option<Micros> {
        self.closed.map(|closed| closed.saturating_sub(self.plan.lateness))
    }

    /// Whether a window that the slice belongs to has given its rows already.
    fn has_given(&self, slice: Micros) -> bool {
        let end = self.plan.window.first_ending_after(slice).end;
        self.closed.is_some_and(|closed| end <= closed)
    }

    fn merge(&self, accumulation: &mut Accumulation, part: &RecordBatch) -> Result<()> {
        let groups = &part.columns()[1..=self.plan.groups];
        let states = &part.columns()[1 + self.plan.groups..];
        accumulation.merge(groups, part.num_rows(), states)
    }

    fn arrive(&mut self, start: Micros, part: RecordBatch) -> Result<()> {
        if self.sliding.knows(start) {
            self.sliding.clear();
        }
        let mut slice = self.slices.remove(&start).unwrap_or_default();
        slice.arrived.push(part.clone());
        if self.plan.emit_changes || !slice.parts.is_empty() || self.has_given(start) {
            slice.parts.push(part);
        } else {
            let mut live = match slice.live.take() {
                Some(live) => live,
                None => self.fresh()?,
            };
            match self.merge(&mut live, &part) {
                Ok(()) => slice.live = Some(live),
                Err(error) if error.is_of_data() => self.reload(start, &mut slice)?,
                Err(error) => return Err(error),
            }
        }
        self.slices.insert(start, slice);
        Ok(())
    }

    fn fresh(&self) -> Result<Accumulation> {
        Accumulation::new(&self.group_types, &self.aggregates)
    }

    /// Takes a slice's states from the state table, and what has arrived since the last commit,
    /// as columns: what was merged in memory is broken.
    fn reload(&self, start: Micros, slice: &mut Slice) -> Result<()> {
        slice.live = None;
        slice.parts.clear();
        if let Some(saved) = &self.saved {
            for number in slice.entries.clone() {
                let key = parts::key(saved.partition, start, number);
                let place = || format!("entry {number} of a window's slice in partition {}", saved.partition);
                let value = saved.table.get(&key)?.ok_or_else(|| Error::State {
                    place: place(),
                    what: "it is missing".to_owned(),
                })?;
                slice.parts.push(parts::decode(&value, &place())?);
            }
        }
        slice.parts.extend(slice.arrived.iter().cloned());
        Ok(())
    }

    fn part_of(&self, start: Micros, states: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_value(start, rows))];
        columns.extend(states);
        batch_of(&self.input, columns)
    }

    /// The rows of a window.
    fn evaluate(&mut self, span: Span) -> Result<RecordBatch> {
        if self.plan.window.is_tumbling()
            && self.plan.lateness == 0
            && let Some(live) = self.slices.get_mut(&span.start).and_then(|slice| slice.live.as_mut())
        {
            let groups = live.len();
            let results = live.take_results();
            match results.and_then(|results| self.rows_of(span, groups, results)) {
                Err(error) if error.is_of_data() => {
                    let mut slice = self.slices.remove(&span.start).unwrap_or_default();
                    self.reload(span.start, &mut slice)?;
                    self.slices.insert(span.start, slice);
                }
                rows => return rows,
            }
        }
        self.seal(span.start..span.end)?;
        let results = match self.merged_results(span) {
            Err(error) if error.is_of_data() => {
                self.sliding.clear();
                let parts = self.parts_of(span);
                let mut rejected = Vec::new();
                let results = self.results(&parts, &parts, &mut rejected)?;
                self.rejected.append(&mut rejected);
                results
            }
            results => results?,
        };
        self.groups_closed = rows_in(&results);
        self.rows_of(span, rows_in(&results), results)
    }

    fn parts_of(&self, span: Span) -> Vec<RecordBatch> {
        let slices = self.slices.range(span.start..span.end);
        slices.flat_map(|(_, slice)| slice.parts.clone()).collect()
    }

    /// The keys and results of all groups of a window, whose slices are all columns.
    fn merged_results(&mut self, span: Span) -> Result<Vec<ArrayRef>> {
        let slices = self.slices.range(span.start..span.end);
        let parts = slices.flat_map(|(_, slice)| &slice.parts);
        let rows: usize = parts.map(RecordBatch::num_rows).sum();
        let parts = if rows > ROWS_PER_GROUP_MAX * self.groups_closed {
            self.sliding.window(span, &self.slices)?
        } else {
            self.sliding.clear();
            self.parts_of(span)
        };
        self.merged(&parts)
    }

    fn merged(&self, parts: &[RecordBatch]) -> Result<Vec<ArrayRef>> {
        let mut whole = self.fresh()?;
        parts.iter().try_for_each(|part| self.merge(&mut whole, part))?;
        whole.take_results()
    }

    /// The keys and results of all groups of the parts, but those that fail: their rows in
    /// `blamed` are rejected.
    fn results(
        &self,
        parts: &[RecordBatch],
        blamed: &[RecordBatch],
        rejected: &mut Vec<Rejected>,
    ) -> Result<Vec<ArrayRef>> {
        match self.merged(parts) {
            Err(error) if error.is_of_data() => {}
            results => return results,
        }
        let by_group = ByGroup {
            types: &self.group_types,
            columns: 1..1 + self.plan.groups,
            parts,
            blamed,
        };
        let mut each = by_group.each(rejected, |parts| self.merged(parts))?;
        if each.is_empty() {
            each.push(self.fresh()?.take_results()?);
        }
        stacked(&each)
    }

    /// Turns the states of slices into columns.
    fn seal(&mut self, slices: Range<Micros>) -> Result<()> {
        let live = self.slices.range(slices).filter(|(_, slice)| slice.live.is_some());
        let live: Vec<Micros> = live.map(|(&start, _)| start).collect();
        for start in live {
            let mut slice = self.slices.remove(&start).unwrap_or_default();
            if let Some(mut live) = slice.live.take() {
                let rows = live.len();
                let states = live.take_states();
                match states.and_then(|states| self.part_of(start, states, rows)) {
                    Ok(part) => slice.parts.push(part),
                    Err(error) if error.is_of_data() => self.reload(start, &mut slice)?,
                    Err(error) => return Err(error),
                }
            }
            self.slices.insert(start, slice);
        }
        Ok(())
    }

    fn rows_of(&self, span: Span, rows: usize, mut results: Vec<ArrayRef>) -> Result<RecordBatch> {
        if self.plan.lateness > 0 {
            results.push(Arc::new(Int8Array::from_value(Op::Insert as i8, rows)));
        }
        batch_of(&self.plan.schema, self.with_bounds(span, rows, results))
    }

    fn with_bounds(&self, span: Span, rows: usize, rest: Vec<ArrayRef>) -> Vec<ArrayRef> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(rest.len() + 2);
        for (bound, field) in [span.start, span.end].into_iter().zip(self.plan.schema.fields()) {
            columns.push(Arc::new(time_column(vec![bound; rows], field.data_type())));
        }
        columns.extend(rest);
        columns
    }

    /// What this epoch changed in a window that has given rows: what is new or different, then the rows of groups
    /// that can't be computed any more.
    fn changes_of(&self, span: Span, rejected: &mut Vec<Rejected>) -> Result<[RecordBatch; 2]> {
        let mut touched = Groups::new(&self.group_types)?;
        let mut indices = Vec::new();
        let slices = || self.slices.range(span.start..span.end).map(|(_, slice)| slice);
        for part in slices().flat_map(|slice| &slice.arrived) {
            touched.intern(&part.columns()[1..=self.plan.groups], part.num_rows(), &mut indices)?;
        }
        let total = touched.len();
        let arrived: Vec<RecordBatch> = slices().flat_map(|slice| slice.arrived.clone()).collect();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for slice in slices() {
            let known = slice.parts.len() - slice.arrived.len();
            for (position, part) in slice.parts.iter().enumerate() {
                touched.intern(&part.columns()[1..=self.plan.groups], part.num_rows(), &mut indices)?;
                let ours: BooleanArray = indices.iter().map(|&index| Some(index < total)).collect();
                let part = filter_record_batch(part, &ours)?;
                if position < known {
                    before.push(part.clone());
                }
                after.push(part);
            }
        }
        // Those that failed before were rejected before.
        let before_all = self.results(&before, &[], &mut Vec::new())?;
        let after_all = self.results(&after, &arrived, rejected)?;
        let (before_groups, before) = before_all.split_at(self.plan.groups);
        let (after_groups, after) = after_all.split_at(self.plan.groups);
        let mut places = Groups::new(&self.group_types)?;
        places.intern(after_groups, rows_in(&after_all), &mut indices)?;
        let mut before_of = vec![None; places.len()];
        let mut lost = Vec::new();
        places.intern(before_groups, rows_in(&before_all), &mut indices)?;
        for (row, &place) in indices.iter().enumerate() {
            match before_of.get_mut(place) {
                Some(before) => *before = Some(row as u32),
                None => lost.push(row as u32),
            }
        }
        let difference = difference(after_groups, before, &before_of, after, |_| false)?;
        let mut gone = take_arrays(&before_all, &UInt32Array::from(lost.clone()), None)?;
        gone.push(Arc::new(Int8Array::from_value(Op::Delete as i8, lost.len())));
        let batch =
            |columns: Vec<ArrayRef>| batch_of(&self.plan.schema, self.with_bounds(span, rows_in(&columns), columns));
        Ok([batch(difference)?, batch(gone)?])
    }

    /// The windows that this epoch touched of those that have given rows.
    fn touched_windows(&self) -> Vec<Span> {
        let touched = self.slices.iter().filter(|(_, slice)| !slice.arrived.is_empty());
        let after = self.expired().unwrap_or(Micros::MIN);
        let windows = touched.flat_map(|(&slice, _)| self.plan.window.holding(slice, after));
        let has_given = |span: &Span| self.plan.emit_changes || self.closed.is_some_and(|closed| span.end <= closed);
        let mut windows: Vec<Span> = windows.filter(has_given).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }

    /// The first slice of the windows that are not closed.
    fn first_open(&self) -> Option<Micros> {
        let Some(closed) = self.closed else {
            return self.slices.keys().next().copied();
        };
        let first = self.plan.window.first_ending_after(closed).start;
        self.slices.range(first..).next().map(|(&slice, _)| slice)
    }

    /// Lets the first slices go that no window needs.
    fn drop_closed(&mut self) {
        while let Some((&start, _)) = self.slices.first_key_value() {
            if !self.is_closed(start) {
                return;
            }
            if let Some(slice) = self.slices.remove(&start)
                && !slice.entries.is_empty()
            {
                self.gone.push((start, slice.entries));
            }
        }
    }

    /// What arrived as one batch or, where there are many entries already, one in place of all.
    fn storable(&mut self, start: Micros, slice: &mut Slice) -> Result<RecordBatch> {
        let arrived = concat_batches(&self.input, &slice.arrived)?;
        slice.arrived.clear();
        let entries = slice.entries.end - slice.entries.start;
        if entries < ENTRIES_MAX || slice.rows_stored < 2 * slice.rows_rewritten {
            return Ok(arrived);
        }
        let part = match self.rewritten(start, slice) {
            Ok(part) => part,
            Err(error) if error.is_of_data() => {
                // It stays as it is: the groups that fail are found when a window closes.
                if slice.live.is_some() {
                    slice.arrived.push(arrived.clone());
                    self.reload(start, slice)?;
                    slice.arrived.clear();
                }
                return Ok(arrived);
            }
            Err(error) => return Err(error),
        };
        self.gone.push((start, slice.entries.clone()));
        slice.entries.start = slice.entries.end;
        slice.rows_stored = 0;
        slice.rows_rewritten = part.num_rows();
        Ok(part)
    }
}

impl WindowAggregate {
    /// All of a slice as one part. Where this fails, live states are broken.
    fn rewritten(&self, start: Micros, slice: &mut Slice) -> Result<RecordBatch> {
        if let Some(live) = &mut slice.live {
            let rows = live.len();
            let part = self.part_of(start, live.take_states()?, rows)?;
            self.merge(live, &part)?;
            return Ok(part);
        }
        let mut whole = self.fresh()?;
        slice.parts.iter().try_for_each(|part| self.merge(&mut whole, part))?;
        let rows = whole.len();
        let part = self.part_of(start, whole.take_states()?, rows)?;
        slice.parts = vec![part.clone()];
        Ok(part)
    }
}

impl Operator for WindowAggregate {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        let mut first = 0;
        let starts = batch.column(0).as_primitive::<Int64Type>().values().clone();
        for run in starts.chunk_by(|a, b| a == b) {
            let part = batch.slice(first, run.len());
            first += run.len();
            if self.is_closed(run[0]) {
                self.late += run.len() as u64;
                continue;
            }
            self.arrive(run[0], part)?;
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<RecordBatch>) -> Result<()> {
        if !self.plan.emit_changes && self.plan.lateness == 0 {
            return Ok(());
        }
        for span in self.touched_windows() {
            let mut rejected = Vec::new();
            let changes = self.changes_of(span, &mut rejected)?;
            self.rejected.append(&mut rejected);
            out.extend(changes.into_iter().filter(|changes| changes.num_rows() > 0));
        }
        Ok(())
    }

    fn advance(&mut self, watermark: Micros, out: &mut Vec<RecordBatch>) -> Result<()> {
        let window = self.plan.window;
        while let Some(slice) = self.first_open() {
            let span = window.first_ending_after(self.closed.map_or(slice, |closed| closed.max(slice)));
            if span.end > watermark {
                break;
            }
            if !self.plan.emit_changes {
                let rows = self.evaluate(span)?;
                if rows.num_rows() > 0 {
                    out.push(rows);
                }
            }
            self.closed = Some(span.end);
            self.drop_closed();
        }
        self.closed = Some(self.closed.map_or(watermark, |closed| closed.max(watermark)));
        self.drop_closed();
        Ok(())
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        let arrived = self.slices.iter().filter(|(_, slice)| !slice.arrived.is_empty());
        let arrived: Vec<Micros> = arrived.map(|(&start, _)| start).collect();
        for start in arrived {
            let Some(mut slice) = self.slices.remove(&start) else {
                continue;
            };
            let part = self.storable(start, &mut slice)?;
            let key = parts::key(changes.partition, start, slice.entries.end);
            changes.entries.push((key, Some(parts::encode(&part)?)));
            slice.entries.end += 1;
            slice.rows_stored += part.num_rows();
            self.slices.insert(start, slice);
        }
        for (start, numbers) in self.gone.drain(..) {
            let keys = numbers.map(|number| parts::key(changes.partition, start, number));
            changes.entries.extend(keys.map(|key| (key, None)));
        }
        Ok(())
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.closed = saved.watermark;
        self.saved = Some(saved.clone());
        for entry in saved.table.scan(&saved.partition.to_be_bytes()) {
            let (key, value) = entry?;
            let place = format!("partition {}", saved.partition);
            let (start, number) = parts::parse_key(&key).ok_or_else(|| Error::State {
                place: place.clone(),
                what: format!("a key of {} bytes", key.len()),
            })?;
            let part = parts::decode(&value, &place)?;
            let rows = part.num_rows();
            self.arrive(start, part)?;
            if let Some(slice) = self.slices.get_mut(&start) {
                slice.arrived.clear();
                if slice.entries.is_empty() {
                    slice.entries = number..number;
                }
                slice.entries.end = number + 1;
                slice.rows_stored += rows;
            }
        }
        Ok(())
    }

    fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }

    fn held(&self) -> Held {
        let slices = self.slices.values().map(Slice::held);
        slices.sum()
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}

fn rows_in(columns: &[ArrayRef]) -> usize {
    columns.first().map_or(0, |column| column.len())
}
