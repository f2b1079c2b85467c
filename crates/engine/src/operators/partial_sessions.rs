//! Partial states of one epoch's rows by group and fragment: rows each of which came closer than
//! the gap to those before it.
//!
//! Two fragments may turn out to belong together when a row comes between them late. Nothing is
//! done about it here: whoever merges fragments into sessions (see [`super::session_aggregate`]) has to
//! find those that touch anyway.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_arrays;
use arrow::datatypes::{DataType, SchemaRef};
use headwater_event::clock::Micros;

use super::accumulation::{Accumulators, Evaluated};
use super::batch_of;
use super::partial::States;
use super::windows::times;
use crate::error::Result;
use crate::groups::Groups;
use crate::plan;
use crate::plan::Aggregate;

/// A row is looked up in so many of its group's fragments, the latest first, before it begins
/// one of its own.
const FRAGMENTS_TRIED: usize = 4;

pub struct PartialSessions {
    plan: plan::PartialSessions,
    aggregates: Arc<[Aggregate]>,
    groups: Groups,
    accumulators: Accumulators,
    fragments: Vec<Fragment>,
    /// By group.
    latest: Vec<Option<usize>>,
    indices: Vec<usize>,
}

struct Fragment {
    group: usize,
    start: Micros,
    last: Micros,
    /// The fragment of the same group that was begun before.
    former: Option<usize>,
}

/// Rows with all that is to be computed of them.
pub struct Timed {
    times: Vec<Micros>,
    rows: Evaluated,
}

impl PartialSessions {
    pub fn new(plan: plan::PartialSessions, input: &SchemaRef) -> Result<Self> {
        let group_types = plan.groups.iter().map(|group| Ok(group.data_type(input)?));
        let group_types: Vec<DataType> = group_types.collect::<Result<_>>()?;
        let aggregates: Arc<[Aggregate]> = plan.aggregates.as_slice().into();
        Ok(Self {
            groups: Groups::new(&group_types)?,
            accumulators: Accumulators::new(&aggregates)?,
            fragments: Vec::new(),
            latest: Vec::new(),
            indices: Vec::new(),
            aggregates,
            plan,
        })
    }

    /// The fragment that a row belongs to.
    fn fragment_of(&mut self, group: usize, time: Micros) -> usize {
        let gap = self.plan.gap;
        let mut tried = self.latest[group];
        for _ in 0..FRAGMENTS_TRIED {
            let Some(place) = tried else { break };
            let fragment = &mut self.fragments[place];
            if time < fragment.last + gap && fragment.start < time + gap {
                fragment.start = fragment.start.min(time);
                fragment.last = fragment.last.max(time);
                return place;
            }
            tried = fragment.former;
        }
        self.fragments.push(Fragment {
            group,
            start: time,
            last: time,
            former: self.latest[group],
        });
        let place = self.fragments.len() - 1;
        self.latest[group] = Some(place);
        place
    }
}

impl States for PartialSessions {
    type Evaluated = Timed;

    fn time_column(&self) -> Option<usize> {
        Some(self.plan.time_column)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<Timed> {
        Ok(Timed {
            times: times(batch.column(self.plan.time_column))?.values().to_vec(),
            rows: Evaluated::of(&self.plan.groups, &self.aggregates, batch)?,
        })
    }

    fn update(&mut self, Timed { times, rows }: &Timed) -> Result<()> {
        let mut indices = std::mem::take(&mut self.indices);
        self.groups.intern(&rows.groups, rows.rows, &mut indices)?;
        self.latest.resize(self.groups.len(), None);
        for (index, &time) in indices.iter_mut().zip(times) {
            *index = self.fragment_of(*index, time);
        }
        self.indices = indices;
        self.accumulators
            .update(&self.indices, self.fragments.len(), &rows.arguments)
    }

    fn take(&mut self) -> Result<Vec<RecordBatch>> {
        if self.fragments.is_empty() {
            return Ok(Vec::new());
        }
        let each = || self.fragments.iter();
        let groups: UInt32Array = each().map(|fragment| fragment.group as u32).collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(each().map(|fragment| fragment.start).collect::<Int64Array>()),
            Arc::new(each().map(|fragment| fragment.last).collect::<Int64Array>()),
        ];
        columns.extend(take_arrays(&self.groups.columns()?, &groups, None)?);
        columns.extend(self.accumulators.take_states()?);
        let states = batch_of(&self.plan.schema, columns)?;
        self.forget();
        Ok(vec![states])
    }

    fn clear(&mut self) -> Result<()> {
        self.accumulators = Accumulators::new(&self.aggregates)?;
        self.forget();
        Ok(())
    }
}

impl PartialSessions {
    fn forget(&mut self) {
        self.groups.clear();
        self.fragments.clear();
        self.latest.clear();
    }
}
