//! Which rows of a stretch match which of those that were found. The filter is evaluated for many pairs at once;
//! where it fails, the stretch is halved until the rows that are to blame stand alone.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{filter_record_batch, prep_null_mask_filter, take_arrays};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::cast::as_boolean_array;
use headwater_event::clock::Micros;

use super::side::LEFT;
use super::stretch::Stretch;
use super::{Found, Shape};
use crate::error::{Error, Result};
use crate::operators::evaluate;
use crate::plan::{JoinKind, Reach};

/// So many pairs are put together at once.
const PAIRS_MAX: usize = 8 * 1024;

pub struct Pairs<'a, P> {
    shape: &'a Shape,
    own: usize,
    stretch: &'a Stretch,
    found: &'a Found<P>,
    /// Of the left columns with the right ones behind them.
    schema: SchemaRef,
}

/// Pairs that match.
pub struct Lot {
    /// Places of changes of the stretch, and of rows that were found.
    pub pairs: Vec<(u32, u32)>,
    /// What they give, as often as there are copies of them; nothing where pairs are not part of the result.
    pub columns: Vec<ArrayRef>,
    pub retracts: bool,
}

impl<'a, P> Pairs<'a, P> {
    pub fn new(shape: &'a Shape, own: usize, stretch: &'a Stretch, found: &'a Found<P>) -> Result<Self> {
        let types = shape.sides.iter().flat_map(|side| &side.types).enumerate();
        let fields = types.map(|(place, kind)| Field::new(format!("{place}"), kind.clone(), true));
        Ok(Self {
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            shape,
            own,
            stretch,
            found,
        })
    }

    /// All of them. `failed` takes the places of the changes that the filter fails for; they match nothing.
    pub fn matched(&self, failed: &mut Vec<(usize, Error)>) -> Result<Vec<Lot>> {
        let (retractions, all) = (self.stretch.retractions(), self.stretch.changes.len());
        let mut lots = Vec::new();
        let mut pending = vec![retractions..all, 0..retractions];
        while let Some(changes) = pending.pop() {
            match self.attempt(changes.clone()) {
                Ok(mut matched) => lots.append(&mut matched),
                Err(error) if error.is_of_data() && changes.len() == 1 => failed.push((changes.start, error)),
                Err(error) if error.is_of_data() && changes.len() > 1 => {
                    let middle = changes.start + changes.len() / 2;
                    pending.push(middle..changes.end);
                    pending.push(changes.start..middle);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(lots)
    }

    /// Of changes that all retract, or that all add.
    fn attempt(&self, changes: Range<usize>) -> Result<Vec<Lot>> {
        let mut lots = Vec::new();
        let mut candidates = Vec::new();
        for place in changes {
            let row = self.stretch.changes[place].row as usize;
            let key = self.stretch.key_of[row];
            for found in self.found.starts[key]..self.found.starts[key + 1] {
                if self
                    .shape
                    .plan
                    .reach
                    .is_none_or(|reach| self.reaches(reach, row, found))
                {
                    candidates.push((place as u32, found as u32));
                }
            }
            if candidates.len() >= PAIRS_MAX {
                lots.push(self.lot(std::mem::take(&mut candidates))?);
            }
        }
        if !candidates.is_empty() {
            lots.push(self.lot(candidates)?);
        }
        Ok(lots)
    }

    fn reaches(&self, reach: Reach, row: usize, found: usize) -> bool {
        let (own, other) = (self.stretch.times[row], self.found.times[found]);
        within(reach, self.own, (own, own)).contains(&other)
    }

    /// Those of the candidates that match.
    fn lot(&self, mut pairs: Vec<(u32, u32)>) -> Result<Lot> {
        let retracts = self.stretch.changes[pairs[0].0 as usize].copies < 0;
        let shows_pairs = !matches!(self.shape.plan.kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
        let mut columns = Vec::new();
        if shows_pairs || self.shape.plan.filter.is_some() {
            columns = self.columns(&pairs)?;
        }
        if let Some(filter) = &self.shape.plan.filter {
            let options = RecordBatchOptions::new().with_row_count(Some(pairs.len()));
            let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
            let keep = evaluate(filter, &batch)?;
            let mut keep = as_boolean_array(&keep)?.clone();
            if Array::nulls(&keep).is_some() {
                keep = prep_null_mask_filter(&keep);
            }
            columns = filter_record_batch(&batch, &keep)?.columns().to_vec();
            let mut kept = keep.values().iter();
            pairs.retain(|_| kept.next().unwrap_or(false));
        }
        if !shows_pairs {
            columns.clear();
        } else if let Some(repeated) = self.repeated(&pairs) {
            columns = take_arrays(&columns, &repeated, None)?;
        }
        Ok(Lot {
            pairs,
            columns,
            retracts,
        })
    }

    fn columns(&self, pairs: &[(u32, u32)]) -> Result<Vec<ArrayRef>> {
        let own: UInt32Array = pairs
            .iter()
            .map(|(place, _)| self.stretch.changes[*place as usize].row)
            .collect();
        let found: UInt32Array = pairs.iter().map(|(_, found)| *found).collect();
        let mut own = take_arrays(&self.stretch.columns, &own, None)?;
        let mut found = take_arrays(&self.found.columns, &found, None)?;
        let (left, right) = match self.own {
            LEFT => (&mut own, &mut found),
            _ => (&mut found, &mut own),
        };
        left.append(right);
        Ok(std::mem::take(left))
    }

    /// Every pair as often as it is there, where one is more than once.
    fn repeated(&self, pairs: &[(u32, u32)]) -> Option<UInt32Array> {
        let copies = |(place, found): &(u32, u32)| {
            self.stretch.changes[*place as usize].copies.unsigned_abs() * self.found.copies[*found as usize]
        };
        if pairs.iter().all(|pair| copies(pair) == 1) {
            return None;
        }
        let repeated = pairs.iter().enumerate();
        Some(
            repeated
                .flat_map(|(pair, of)| (0..copies(of)).map(move |_| pair as u32))
                .collect(),
        )
    }
}

/// The times on the other side within reach of some row of times from the first to the last.
pub fn within(reach: Reach, own: usize, (first, last): (Micros, Micros)) -> std::ops::RangeInclusive<Micros> {
    match own {
        LEFT => first.saturating_add(reach.lower)..=last.saturating_add(reach.upper),
        _ => first.saturating_sub(reach.upper)..=last.saturating_sub(reach.lower),
    }
}
