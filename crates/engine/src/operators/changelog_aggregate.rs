//! Merges partial states by group for ever, and emits what changed at the end of each epoch.
//!
//! State lives in the store, with a bounded cache in front: key `partition u32 BE | row-encoded
//! group`, value the row-encoded states of all aggregates. Where distinct values are counted, of which a group may have
//! any number, the state is how many there were, an `s` stands before the group, and the values themselves are in
//! [`super::distinct_counts`]. An epoch reads the groups that it
//! touched at once, and writes each once. Where the view that is filled has all of it in its rows (see
//! [`plan::ChangelogAggregate::kept_in_view`]), those are what is read, and nothing is written here.
//!
//! A group whose states can't be put together, because a sum overflows for instance, keeps what it
//! had; what came for it in this epoch is left out.
//!
//! Where rows may go again (see [`plan::Retraction`]) a group without any goes with its entry.
//!
//! Without group columns there is one group. It comes into being with the first row: over an
//! empty stream the result has no row, where a batch query would give one.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array, new_empty_array};
use arrow::compute::{nullif, take_arrays};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use headwater_log::StateTable;

use super::accumulation::{Accumulation, Accumulators};
use super::distinct_counts::{DistinctCounts, NewValues};
use super::salvage::ByGroup;
use super::{Operator, Rejected, Saved, StateChanges, batch_of};
use crate::cache::Cache;
use crate::difference::difference;
use crate::error::{Error, Result};
use crate::holdings::Held;
use crate::plan;
use crate::plan::Aggregate;
use crate::rows::encode_rows;

/// Before the keys of groups, where there are other entries as well.
const GROUPS: u8 = b's';

pub struct ChangelogAggregate {
    plan: plan::ChangelogAggregate,
    aggregates: Arc<[Aggregate]>,
    /// Those that don't count distinct values.
    plain: Arc<[Aggregate]>,
    distinct: DistinctCounts,
    group_types: Vec<DataType>,
    epoch: Accumulation,
    /// What came in this epoch, to begin again with, and whether that is to be done.
    taken: Vec<RecordBatch>,
    has_failed: bool,
    rejected: Vec<Rejected>,
    keys: RowConverter,
    states: RowConverter,
    partition: u32,
    table: Option<Arc<dyn StateTable>>,
    cache: Option<Cache>,
    written: Vec<(Bytes, Option<Bytes>)>,
}

/// What an epoch does to some groups.
struct Settled {
    entries: Vec<(Bytes, Option<Bytes>)>,
    changes: RecordBatch,
    new_values: NewValues,
}

/// Columns of aggregates: of those that don't count distinct values, and of those that do.
struct Columns {
    plain: Vec<ArrayRef>,
    distinct: Vec<ArrayRef>,
}

impl ChangelogAggregate {
    pub fn new(plan: plan::ChangelogAggregate, input: &SchemaRef) -> Result<Self> {
        let types: Vec<DataType> = input.fields().iter().map(|field| field.data_type().clone()).collect();
        let (group_types, state_types) = types.split_at(plan.groups);
        let kept_types = match &plan.kept_in_view {
            Some(aggregates) => aggregates.iter().map(|&at| state_types[at].clone()).collect(),
            None => kept_types(&plan.aggregates, state_types),
        };
        let aggregates: Arc<[Aggregate]> = plan.aggregates.as_slice().into();
        let plain = aggregates
            .iter()
            .filter(|aggregate| !aggregate.counts_distinct)
            .cloned();
        Ok(Self {
            plain: plain.collect(),
            distinct: DistinctCounts::new(&aggregates)?,
            epoch: Accumulation::new(group_types, &aggregates)?,
            group_types: group_types.to_vec(),
            taken: Vec::new(),
            has_failed: false,
            rejected: Vec::new(),
            keys: converter(group_types)?,
            states: converter(&kept_types)?,
            partition: 0,
            table: None,
            cache: None,
            written: Vec::new(),
            aggregates,
            plan,
        })
    }

    /// The former states of groups, from the cache or the store.
    fn former(&mut self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        let mut found = Vec::new();
        let mut ends = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            match self.cache.as_mut().and_then(|cache| cache.get(key)) {
                Some(value) => found.extend_from_slice(value),
                None => missing.push(place),
            }
            ends.push(found.len());
        }
        let found = Bytes::from(found);
        let mut start = 0;
        let mut former: Vec<_> = ends
            .into_iter()
            .map(|end| Some(found.slice(std::mem::replace(&mut start, end)..end)))
            .collect();
        let wanted: Vec<Bytes> = missing.iter().map(|&place| keys[place].clone()).collect();
        let is_complete = self.cache.as_ref().is_none_or(Cache::is_complete);
        let values = match &self.table {
            Some(table) if !is_complete && !wanted.is_empty() => table.get_many(&wanted)?,
            _ => vec![None; wanted.len()],
        };
        for (place, value) in missing.into_iter().zip(values) {
            former[place] = value;
        }
        Ok(former)
    }

    fn decode(&self, states: &[Bytes]) -> Result<Vec<ArrayRef>> {
        let parser = self.states.parser();
        let kept = self
            .states
            .convert_rows(states.iter().map(|state| parser.parse(state)))?;
        let Some(places) = &self.plan.kept_in_view else {
            return Ok(kept);
        };
        let of_aggregate = |aggregate| places.iter().position(|&place| place == aggregate);
        let states =
            (0..self.aggregates.len()).map(|aggregate| of_aggregate(aggregate).map(|at| Arc::clone(&kept[at])));
        let states: Option<_> = states.collect();
        states.ok_or_else(|| Error::Plan("the view lacks an aggregate that is to be kept in it".to_owned()))
    }

    /// States as they are kept.
    fn encode(&self, states: &[ArrayRef], count: usize) -> Result<Vec<Bytes>> {
        Ok(match &self.plan.kept_in_view {
            Some(places) => {
                let kept: Vec<_> = places.iter().map(|&place| Arc::clone(&states[place])).collect();
                encode_rows(&self.states, &kept, count, &[])?
            }
            None => encode_rows(&self.states, states, count, &[])?,
        })
    }

    /// The groups' keys in the table.
    fn encode_keys(&self, groups: &[ArrayRef], count: usize) -> Result<Vec<Bytes>> {
        Ok(encode_rows(&self.keys, groups, count, &self.prefix())?)
    }

    /// What the keys of groups begin with.
    fn prefix(&self) -> Vec<u8> {
        let mut prefix = Vec::new();
        // A group is in one partition only, and a view's rows don't say in which.
        if self.plan.kept_in_view.is_none() {
            prefix.extend_from_slice(&self.partition.to_be_bytes());
        }
        if !self.distinct.is_none() {
            prefix.push(GROUPS);
        }
        prefix
    }

    fn accumulators(&self) -> Result<Accumulators> {
        Accumulators::new(&self.plain)
    }

    fn is_distinct(&self) -> impl Iterator<Item = (usize, bool)> {
        let aggregates = self.aggregates.iter();
        aggregates.map(|aggregate| (aggregate.state_fields.len(), aggregate.counts_distinct))
    }

    /// States of all aggregates, those that come or those that are kept.
    fn parted(&self, states: Vec<ArrayRef>) -> Columns {
        let is_distinct = self
            .is_distinct()
            .flat_map(|(fields, is)| std::iter::repeat_n(is, fields));
        let (distinct, plain): (Vec<_>, Vec<_>) = states.into_iter().zip(is_distinct).partition(|(_, is)| *is);
        let columns = |of: Vec<(ArrayRef, bool)>| of.into_iter().map(|(column, _)| column).collect();
        Columns {
            plain: columns(plain),
            distinct: columns(distinct),
        }
    }

    fn states_of(&self, columns: &Columns) -> Vec<ArrayRef> {
        columns.joined(self.is_distinct())
    }

    fn results_of(&self, columns: &Columns) -> Vec<ArrayRef> {
        columns.joined(self.is_distinct().map(|(_, is)| (1, is)))
    }

    fn fresh(&self) -> Result<Accumulation> {
        Accumulation::new(&self.group_types, &self.aggregates)
    }

    /// Settles the epoch anew, and leaves out the groups that fail.
    fn settle_by_group(&mut self, taken: &[RecordBatch]) -> Result<Vec<Settled>> {
        let types = self.group_types.clone();
        let by_group = ByGroup {
            types: &types,
            columns: 0..self.plan.groups,
            parts: taken,
            blamed: taken,
        };
        let mut rejected = Vec::new();
        let settled = by_group.each(&mut rejected, |parts| {
            let mut epoch = self.fresh()?;
            parts
                .iter()
                .try_for_each(|part| merge(&mut epoch, part, self.plan.groups))?;
            let count = epoch.len();
            self.settle(epoch.take_states()?, count)
        });
        self.rejected.append(&mut rejected);
        settled
    }

    /// What the states that have arrived for `count` groups do to them. Changes nothing itself.
    fn settle(&mut self, arrived: Vec<ArrayRef>, count: usize) -> Result<Settled> {
        let (groups, arrived) = arrived.split_at(self.plan.groups);
        let keys = self.encode_keys(groups, count)?;

        // Accumulators want a group to come first with a row of its own. So the known ones take
        // the first places, and bring their former states along.
        let mut order = Vec::with_capacity(count);
        let mut fresh = Vec::new();
        let mut former = Vec::new();
        for (group, state) in self.former(&keys)?.into_iter().enumerate() {
            match state {
                Some(state) => {
                    order.push(group as u32);
                    former.push(state);
                }
                None => fresh.push(group as u32),
            }
        }
        let known = former.len();
        order.append(&mut fresh);
        let keys: Vec<Bytes> = order.iter().map(|&group| keys[group as usize].clone()).collect();
        let order = UInt32Array::from(order);
        let groups = take_arrays(groups, &order, None)?;
        let arrived = self.parted(take_arrays(arrived, &order, None)?);
        let places: Vec<usize> = (0..count).collect();

        let mut before = self.accumulators()?;
        let mut whole = self.accumulators()?;
        let mut counted = Vec::new();
        if known > 0 {
            let former = self.decode(&former)?;
            let former = self.parted(former);
            before.merge(&places[..known], known, &former.plain)?;
            whole.merge(&places[..known], known, &former.plain)?;
            counted = former.distinct;
        }
        whole.merge(&places, count, &arrived.plain)?;
        let plain = whole.take_states()?;
        whole.merge(&places, count, &plain)?;
        let prefix = self.prefix().len();
        let names: Vec<&[u8]> = keys.iter().map(|key| &key[prefix..]).collect();
        let new_values = self.distinct.fresh(&names, &arrived.distinct)?;
        let distinct = new_values.counts.iter().enumerate().map(|(at, new)| {
            let former = counted
                .get(at)
                .map(|counts| counts.as_primitive::<Int64Type>().values());
            let former = former.into_iter().flatten().copied().chain(std::iter::repeat(0));
            Arc::new(
                former
                    .zip(new)
                    .map(|(former, new)| former + new)
                    .collect::<Int64Array>(),
            ) as ArrayRef
        });
        let distinct: Vec<_> = distinct.collect();
        let after = self.results_of(&Columns {
            plain: whole.take_results()?,
            distinct: distinct.clone(),
        });
        let states = self.states_of(&Columns { plain, distinct });
        let before = match known {
            0 => after.iter().map(|column| new_empty_array(column.data_type())).collect(),
            _ => self.results_of(&Columns {
                plain: before.take_results()?,
                distinct: counted,
            }),
        };
        let before_of: Vec<_> = (0..count)
            .map(|place| (place < known).then_some(place as u32))
            .collect();

        let counts = self.plan.retraction.as_ref().map(|retraction| retraction.rows);
        let rows = counts.map(|counts| after[counts].as_primitive::<Int64Type>().values().clone());
        let is_gone = |place: usize| rows.as_ref().is_some_and(|rows| rows[place] == 0);
        let (before, after) = (self.visible(before)?, self.visible(after)?);
        let changes = difference(&groups, &before, &before_of, &after, is_gone)?;
        let values = self.encode(&states, count)?;
        let entries = keys.into_iter().zip(values).enumerate();
        let entries = entries.map(|(place, (key, value))| (key, (!is_gone(place)).then_some(value)));
        Ok(Settled {
            entries: entries.collect(),
            changes: batch_of(&self.plan.schema, changes)?,
            new_values,
        })
    }

    /// The results without those that only count; NULL where nothing is counted.
    fn visible(&self, results: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
        let Some(retraction) = &self.plan.retraction else {
            return Ok(results);
        };
        let visible = retraction
            .counts
            .iter()
            .zip(&results)
            .map(|(count, result)| match count {
                None => Ok(Arc::clone(result)),
                Some(count) => {
                    let counts = results[*count].as_primitive::<Int64Type>();
                    let nothing: BooleanArray = counts.values().iter().map(|&count| Some(count == 0)).collect();
                    Ok(nullif(result, &nothing)?)
                }
            });
        visible.collect()
    }

    fn apply(&mut self, settled: Settled, out: &mut Vec<RecordBatch>) {
        self.distinct.add(&settled.new_values);
        for (key, value) in settled.entries {
            match (&mut self.cache, &value) {
                (Some(cache), Some(value)) => cache.put(&key, value),
                (Some(cache), None) => cache.remove(&key),
                (None, _) => {}
            }
            if self.plan.kept_in_view.is_none() {
                self.written.push((key, value));
            }
        }
        if settled.changes.num_rows() > 0 {
            out.push(settled.changes);
        }
    }
}

impl Operator for ChangelogAggregate {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        if !self.has_failed {
            match merge(&mut self.epoch, &batch, self.plan.groups) {
                Ok(()) => {}
                Err(error) if error.is_of_data() => self.has_failed = true,
                Err(error) => return Err(error),
            }
        }
        self.taken.push(batch);
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<RecordBatch>) -> Result<()> {
        let taken = std::mem::take(&mut self.taken);
        let count = self.epoch.len();
        if !std::mem::take(&mut self.has_failed) {
            if count == 0 {
                return Ok(());
            }
            let states = self.epoch.take_states();
            match states.and_then(|states| self.settle(states, count)) {
                Ok(settled) => {
                    self.apply(settled, out);
                    return Ok(());
                }
                Err(error) if error.is_of_data() => {}
                Err(error) => return Err(error),
            }
        }
        self.epoch = self.fresh()?;
        for settled in self.settle_by_group(&taken)? {
            self.apply(settled, out);
        }
        Ok(())
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        changes.entries.append(&mut self.written);
        match self.distinct.is_none() {
            true => Ok(()),
            false => self.distinct.changes(changes),
        }
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.partition = saved.partition;
        // In a view other partitions' rows are among them.
        let is_empty = saved.table.scan(&self.prefix()).next().transpose()?.is_none();
        if !self.distinct.is_none() {
            self.distinct.restore(saved)?;
        }
        self.cache = Some(Cache::new(saved.caches.share(), is_empty));
        self.table = Some(Arc::clone(&saved.table));
        Ok(())
    }

    fn held(&self) -> Held {
        let cached = self.cache.as_ref().map_or(0, Cache::bytes);
        match self.distinct.is_none() {
            true => Held::cache(cached),
            // Distinct values are most of it.
            false => Held::whole(self.distinct.len(), cached + self.distinct.bytes()),
        }
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}

fn merge(epoch: &mut Accumulation, batch: &RecordBatch, groups: usize) -> Result<()> {
    let (groups, states) = batch.columns().split_at(groups);
    epoch.merge(groups, batch.num_rows(), states)
}

impl Columns {
    /// In the order of the aggregates, of each of which there are so many columns.
    fn joined(&self, aggregates: impl Iterator<Item = (usize, bool)>) -> Vec<ArrayRef> {
        let (mut plain, mut distinct) = (self.plain.iter(), self.distinct.iter());
        let columns = aggregates.flat_map(|(columns, is_distinct)| {
            let from = if is_distinct { &mut distinct } else { &mut plain };
            from.take(columns).cloned().collect::<Vec<_>>()
        });
        columns.collect()
    }
}

/// Of distinct values the number is kept.
fn kept_types(aggregates: &[Aggregate], states: &[DataType]) -> Vec<DataType> {
    let fields = aggregates
        .iter()
        .flat_map(|aggregate| std::iter::repeat_n(aggregate.counts_distinct, aggregate.state_fields.len()));
    let kept = states.iter().zip(fields);
    kept.map(|(kind, is_count)| if is_count { DataType::Int64 } else { kind.clone() })
        .collect()
}

fn converter(types: &[DataType]) -> Result<RowConverter> {
    RowConverter::new(types.iter().cloned().map(SortField::new).collect())
        .map_err(|error| Error::Plan(format!("a state that can't be stored: {error}")))
}
