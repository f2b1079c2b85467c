//! `count(DISTINCT …)` for ever: which values a group has had.
//!
//! A value that a group has had is a key of [`crate::added`]: `aggregate u16 BE | group | value`, the latter two row
//! encoded, with an empty row. So an epoch writes the values that are new, many in one entry, and neither reads nor
//! writes the others; how many they are is part of the group's state.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use headwater_event::room::Share;

use super::{Saved, StateChanges};
use crate::added::Added;
use crate::error::{Error, Result};
use crate::plan::Aggregate;

pub struct DistinctCounts {
    /// The aggregates, by their number, that are counts of distinct values, with what encodes those.
    each: Vec<(usize, RowConverter)>,
    values: Added,
    /// Before it is restored, all is kept in memory.
    share: Option<Share>,
}

/// Values that are new to their groups.
#[derive(Default)]
pub struct NewValues {
    /// By aggregate, in the order of the aggregates that count: how many are new to each group.
    pub counts: Vec<Vec<i64>>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl DistinctCounts {
    pub fn new(aggregates: &[Aggregate]) -> Result<Self> {
        let each = aggregates
            .iter()
            .enumerate()
            .filter(|(_, aggregate)| aggregate.counts_distinct);
        let each = each.map(|(number, aggregate)| {
            let DataType::List(values) = aggregate.state_fields[0].data_type() else {
                return Err(Error::Plan(format!("the state of {} is not a list", aggregate.name)));
            };
            let converter = RowConverter::new(vec![SortField::new(values.data_type().clone())]);
            let converter = converter.map_err(|error| Error::Plan(format!("values that can't be stored: {error}")))?;
            Ok((number, converter))
        });
        Ok(Self {
            each: each.collect::<Result<_>>()?,
            values: Added::new(0),
            share: None,
        })
    }

    /// Whether no aggregate counts distinct values.
    pub fn is_none(&self) -> bool {
        self.each.is_empty()
    }

    /// Of what came for groups, a list for each of them and each aggregate that counts, in their order: what is new. A
    /// list has no value twice.
    pub fn fresh(&mut self, groups: &[&[u8]], lists: &[ArrayRef]) -> Result<NewValues> {
        let mut came = NewValues::default();
        let mut counts = vec![vec![0; groups.len()]; self.each.len()];
        let mut places = Vec::new();
        for (number, ((aggregate, converter), lists)) in self.each.iter().zip(lists).enumerate() {
            let lists = lists.as_list::<i32>();
            let offsets = lists.value_offsets();
            let encoded = converter.convert_columns(&[lists.values().clone()])?;
            for (group, bounds) in offsets.windows(2).enumerate() {
                for value in bounds[0] as usize..bounds[1] as usize {
                    if lists.values().is_null(value) {
                        continue;
                    }
                    came.push(*aggregate, groups[group], encoded.row(value).data());
                    places.push((number, group));
                }
            }
        }
        let keys: Vec<&[u8]> = came.iter().collect();
        let known = self.values.find(&keys)?;
        let mut new = NewValues::default();
        for ((key, known), (number, group)) in keys.into_iter().zip(known).zip(places) {
            if known.is_none_or(|known| self.values.rows(known).next().is_none()) {
                counts[number][group] += 1;
                new.bytes.extend_from_slice(key);
                new.ends.push(new.bytes.len());
            }
        }
        new.counts = counts;
        Ok(new)
    }

    pub fn add(&mut self, new: &NewValues) {
        new.iter().for_each(|key| self.values.add(key, &[]));
    }

    pub fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        let bytes_max = self.share.as_ref().map_or(usize::MAX, Share::bytes_max);
        self.values.take_changes(bytes_max, changes)
    }

    pub fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.share = Some(saved.caches.share());
        self.values.restore(&saved.table, saved.partition)
    }

    /// The values that there are.
    pub fn len(&self) -> usize {
        self.values.len() as usize
    }

    /// What it has in memory.
    pub fn bytes(&self) -> usize {
        self.values.bytes()
    }
}

impl NewValues {
    fn push(&mut self, aggregate: usize, group: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(&(aggregate as u16).to_be_bytes());
        self.bytes.extend_from_slice(group);
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len());
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends
            .iter()
            .map(move |&end| &self.bytes[std::mem::replace(&mut start, end)..end])
    }
}
