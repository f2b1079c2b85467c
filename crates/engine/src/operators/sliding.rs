//! The merged states of a window that moves over slices, without merging all of them again each
//! time: two stacks, in columns. (After "Low-Latency Sliding-Window Aggregation in Worst-Case Constant
//! Time", Tangwongsan et al. 2017, without its last step.)
//!
//! 1. The back has the older slices of the window, each as a layer. A row of a layer is what its group has
//!    in this slice and in all later ones of the back. So what a group has in the back is one row, its head, in the oldest
//!    layer that knows it.
//! 2. When the window leaves a slice, the heads in its layer give way to the rows that they were merged from.
//! 3. The front has the later slices, merged into one part. A window that grows has nothing else.
//! 4. When the window leaves the first slice of the front, all of the front's slices become the back.
//!
//! So each row of a slice is merged a number of times that does not depend on the number of slices, and
//! the two stacks hold no more rows than the slices.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};
use headwater_event::clock::Micros;

use super::accumulation::Accumulation;
use super::batch_of;
use super::slice::Slice;
use super::windows::Span;
use crate::error::Result;
use crate::groups::Groups;
use crate::plan::Aggregate;

pub struct Sliding {
    aggregates: Arc<[Aggregate]>,
    /// Of parts: the slice, the groups, the states.
    input: SchemaRef,
    group_types: Vec<DataType>,
    /// Where the back begins, the front begins, the front ends.
    start: Micros,
    middle: Micros,
    end: Micros,
    /// The latest slice first.
    layers: Vec<Layer>,
    /// All that were ever in the back, and their heads.
    groups: Groups,
    heads: Vec<Option<Place>>,
    front: Option<RecordBatch>,
}

struct Layer {
    slice: Micros,
    rows: RecordBatch,
    /// By row: the group, and what was its head before.
    groups: Vec<usize>,
    former: Vec<Option<Place>>,
}

/// The number of a layer, and of a row in it.
type Place = (usize, usize);

impl Sliding {
    pub fn new(group_types: &[DataType], aggregates: &Arc<[Aggregate]>, input: &SchemaRef) -> Result<Self> {
        Ok(Self {
            aggregates: Arc::clone(aggregates),
            input: input.clone(),
            group_types: group_types.to_vec(),
            start: 0,
            middle: 0,
            end: 0,
            layers: Vec::new(),
            groups: Groups::new(group_types)?,
            heads: Vec::new(),
            front: None,
        })
    }

    /// Parts with the states of all groups in the window: each group at most once in each of them, and
    /// at most two. Windows come in the order of their ends. After an error it has to be cleared.
    pub fn window(&mut self, span: Span, slices: &BTreeMap<Micros, Slice>) -> Result<Vec<RecordBatch>> {
        if span.start < self.start || span.start >= self.end {
            self.clear();
            (self.start, self.middle, self.end) = (span.start, span.start, span.start);
        }
        if span.start > self.middle {
            self.turn_over(span.start, slices)?;
        }
        self.leave(span.start);
        self.grow(span.end, slices)?;
        let heads: Vec<Place> = self.heads.iter().copied().flatten().collect();
        let back = match heads.is_empty() {
            true => None,
            false => Some(self.rows_at(&heads)?),
        };
        Ok(back.into_iter().chain(self.front.clone()).collect())
    }

    /// Forgets everything: slices that it has seen are not what they were.
    pub fn clear(&mut self) {
        self.layers.clear();
        self.groups.clear();
        self.heads.clear();
        self.front = None;
        self.end = self.start;
    }

    /// Whether it has seen slices that begin here.
    pub fn knows(&self, slice: Micros) -> bool {
        slice < self.end
    }

    /// Makes the slices from `start` to the end of the front the back.
    fn turn_over(&mut self, start: Micros, slices: &BTreeMap<Micros, Slice>) -> Result<()> {
        let end = self.end;
        self.clear();
        (self.start, self.middle, self.end) = (start, end, end);
        for (&slice, parts) in slices.range(start..end).rev() {
            self.push(slice, &parts.parts)?;
        }
        Ok(())
    }

    /// Puts a layer before the others.
    fn push(&mut self, slice: Micros, parts: &[RecordBatch]) -> Result<()> {
        let mut indices = Vec::new();
        let mut heads = Vec::new();
        for part in parts {
            self.groups.intern(self.keys(part), part.num_rows(), &mut indices)?;
            self.heads.resize(self.groups.len(), None);
            heads.extend(indices.iter().filter_map(|&group| self.heads[group]));
        }
        // A group in several parts has one head.
        heads.sort_unstable();
        heads.dedup();
        let mut whole = Accumulation::new(&self.group_types, &self.aggregates)?;
        if !heads.is_empty() {
            self.merge(&mut whole, &self.rows_at(&heads)?)?;
        }
        parts.iter().try_for_each(|part| self.merge(&mut whole, part))?;
        let rows = self.part_of(slice, &mut whole)?;
        self.groups.intern(self.keys(&rows), rows.num_rows(), &mut indices)?;
        let layer = self.layers.len();
        let former = indices
            .iter()
            .enumerate()
            .map(|(row, &group)| self.heads[group].replace((layer, row)));
        let former = former.collect();
        self.layers.push(Layer {
            slice,
            rows,
            groups: indices,
            former,
        });
        Ok(())
    }

    /// Leaves the slices before `start`.
    fn leave(&mut self, start: Micros) {
        self.start = start;
        while let Some(layer) = self.layers.pop_if(|layer| layer.slice < start) {
            for (&group, former) in layer.groups.iter().zip(layer.former) {
                self.heads[group] = former;
            }
        }
    }

    /// Adds the slices up to `end` to the front.
    fn grow(&mut self, end: Micros, slices: &BTreeMap<Micros, Slice>) -> Result<()> {
        let mut added = slices.range(self.end.min(end)..end).peekable();
        if added.peek().is_some() {
            let mut whole = Accumulation::new(&self.group_types, &self.aggregates)?;
            if let Some(front) = &self.front {
                self.merge(&mut whole, front)?;
            }
            for part in added.flat_map(|(_, slice)| &slice.parts) {
                self.merge(&mut whole, part)?;
            }
            self.front = Some(self.part_of(self.middle, &mut whole)?);
        }
        self.end = self.end.max(end);
        Ok(())
    }

    fn keys<'a>(&self, part: &'a RecordBatch) -> &'a [ArrayRef] {
        &part.columns()[1..=self.group_types.len()]
    }

    fn merge(&self, accumulation: &mut Accumulation, part: &RecordBatch) -> Result<()> {
        let states = &part.columns()[1 + self.group_types.len()..];
        accumulation.merge(self.keys(part), part.num_rows(), states)
    }

    fn part_of(&self, slice: Micros, whole: &mut Accumulation) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_value(slice, whole.len()))];
        columns.extend(whole.take_states()?);
        batch_of(&self.input, columns)
    }

    /// Rows of layers, at least one.
    fn rows_at(&self, places: &[Place]) -> Result<RecordBatch> {
        let columns: Range<usize> = 0..self.input.fields().len();
        let gathered = columns.map(|column| {
            let each: Vec<&dyn Array> = self
                .layers
                .iter()
                .map(|layer| layer.rows.column(column).as_ref())
                .collect();
            Ok(interleave(&each, places)?)
        });
        Ok(RecordBatch::try_new(
            self.input.clone(),
            gathered.collect::<Result<_>>()?,
        )?)
    }
}
