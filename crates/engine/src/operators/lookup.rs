//! Looks up every row's match in a table that is kept elsewhere.
//!
//! 1. All keys of a batch are asked for at once, before it is processed. Nothing is kept from one batch to the next: what may
//!    be remembered, and for how long, is the table's business.
//! 2. The rows that were found are put beside those of the batch. The filter is evaluated for all of these pairs; where it
//!    fails, the batch is halved until the rows that are to blame stand alone.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter, filter_record_batch, is_not_null, prep_null_mask_filter, take};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::cast::{as_boolean_array, as_uint32_array};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Operator, Rejected, evaluate};
use crate::error::{Error, Result};
use crate::lookup::{Found, Table, Tables};
use crate::plan;

pub struct Lookup {
    plan: plan::Lookup,
    table: Arc<dyn Table>,
    /// What the filter sees: the columns of the result, any of which may be NULL.
    pairs: SchemaRef,
    /// For the rows of the batch that comes next.
    found: Option<Found>,
    rejected: Vec<Rejected>,
}

impl Lookup {
    pub fn new(plan: plan::Lookup, tables: Option<&dyn Tables>) -> Result<Self> {
        let table = tables.and_then(|tables| tables.open(&plan.table));
        let table = table.ok_or_else(|| Error::Plan(format!("there is no table {} to look rows up in", plan.table)))?;
        let fields = plan.schema.fields().iter();
        let fields: Vec<_> = fields.map(|field| Field::clone(field).with_nullable(true)).collect();
        Ok(Self {
            pairs: Arc::new(Schema::new(fields)),
            plan,
            table,
            found: None,
            rejected: Vec::new(),
        })
    }

    async fn look_up(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut keys: Vec<ArrayRef> = self
            .plan
            .keys
            .iter()
            .map(|&key| Arc::clone(batch.column(key)))
            .collect();
        let Some(whole) = without_nulls(&keys, batch.num_rows()) else {
            self.found = Some(self.table.rows(&keys).await?);
            return Ok(());
        };
        for key in &mut keys {
            *key = filter(key, &whole)?;
        }
        let found = self.table.rows(&keys).await?;
        let rows: Vec<usize> = whole
            .iter()
            .enumerate()
            .filter(|(_, whole)| *whole == Some(true))
            .map(|(row, _)| row)
            .collect();
        let mut places = found.places.iter();
        let of_row = |is_whole: Option<bool>| match is_whole {
            Some(true) => places.next().flatten(),
            _ => None,
        };
        self.found = Some(Found {
            places: whole.iter().map(of_row).collect(),
            unusable: found.unusable.into_iter().map(|(key, why)| (rows[key], why)).collect(),
            rows: found.rows,
        });
        Ok(())
    }

    /// Sets the rows aside whose match can't be used.
    fn without_unusable(&mut self, batch: RecordBatch, found: Found) -> Result<(RecordBatch, Found)> {
        if found.unusable.is_empty() {
            return Ok((batch, found));
        }
        let mut keep = vec![true; batch.num_rows()];
        for (row, why) in found.unusable {
            keep[row] = false;
            self.rejected.push(Rejected {
                reason: "lookup",
                detail: why,
                rows: batch.slice(row, 1),
            });
        }
        let keep = BooleanArray::from(keep);
        let places = filter(&found.places, &keep)?;
        let found = Found {
            rows: found.rows,
            places: as_uint32_array(&places)?.clone(),
            unusable: Vec::new(),
        };
        Ok((filter_record_batch(&batch, &keep)?, found))
    }

    /// The rows of the batch with their matches.
    fn joined(&self, batch: &RecordBatch, rows: &[ArrayRef], places: &UInt32Array) -> Result<RecordBatch> {
        let places = self.matches(batch, rows, places)?;
        if self.plan.keeps_unmatched || places.null_count() == 0 {
            return beside(&self.plan.schema, batch, rows, &places);
        }
        let (batch, places) = matched(batch, &places)?;
        beside(&self.plan.schema, &batch, rows, &places)
    }

    /// The places without those that the filter doesn't let through.
    fn matches(&self, batch: &RecordBatch, rows: &[ArrayRef], places: &UInt32Array) -> Result<UInt32Array> {
        let Some(condition) = &self.plan.filter else {
            return Ok(places.clone());
        };
        let (found, of_found) = matched(batch, places)?;
        let pairs = beside(&self.pairs, &found, rows, &of_found)?;
        let keep = evaluate(condition, &pairs)?;
        let mut keep = as_boolean_array(&keep)?.clone();
        if Array::nulls(&keep).is_some() {
            keep = prep_null_mask_filter(&keep);
        }
        let mut kept = keep.values().iter();
        let matches = places
            .iter()
            .map(|place| place.filter(|_| kept.next().unwrap_or(false)));
        Ok(matches.collect())
    }
}

impl Operator for Lookup {
    fn wait_for<'a>(&'a mut self, batch: &'a RecordBatch) -> Option<BoxFuture<'a, Result<()>>> {
        Some(self.look_up(batch).boxed())
    }

    fn process(&mut self, batch: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        let found = self.found.take();
        let found = found.filter(|found| found.places.len() == batch.num_rows());
        let found = found.ok_or_else(|| Error::Plan("rows come that nobody looked up".to_owned()))?;
        let (batch, found) = self.without_unusable(batch, found)?;
        let Found { rows, places, .. } = found;
        let rows: Vec<_> = self
            .plan
            .columns
            .iter()
            .map(|&column| Arc::clone(&rows[column]))
            .collect();
        let mut joined = Vec::new();
        let mut pending: Vec<_> = std::iter::once(0..batch.num_rows()).collect();
        while let Some(range) = pending.pop().filter(|range| !range.is_empty()) {
            let part = batch.slice(range.start, range.len());
            match self.joined(&part, &rows, &places.slice(range.start, range.len())) {
                Ok(rows) => joined.push(rows),
                Err(error) if error.is_of_data() && range.len() == 1 => {
                    self.rejected.push(Rejected::because(&error, part));
                }
                Err(error) if error.is_of_data() => {
                    let middle = range.start + range.len() / 2;
                    pending.push(middle..range.end);
                    pending.push(range.start..middle);
                }
                Err(error) => return Err(error),
            }
        }
        let joined = match <[_; 1]>::try_from(joined) {
            Ok([whole]) => whole,
            Err(parts) => concat_batches(&self.plan.schema, &parts)?,
        };
        if joined.num_rows() > 0 {
            out.push(joined);
        }
        Ok(())
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}

/// Which rows have all of their keys; `None` where all do.
fn without_nulls(keys: &[ArrayRef], rows: usize) -> Option<BooleanArray> {
    if keys.iter().all(|key| key.null_count() == 0) {
        return None;
    }
    let is_whole = |row| keys.iter().all(|key| !key.is_null(row));
    Some((0..rows).map(|row| Some(is_whole(row))).collect())
}

/// The rows of the batch that have a place, and their places.
fn matched(batch: &RecordBatch, places: &UInt32Array) -> Result<(RecordBatch, UInt32Array)> {
    if places.null_count() == 0 {
        return Ok((batch.clone(), places.clone()));
    }
    let has_place = is_not_null(places)?;
    let places = filter(places, &has_place)?;
    Ok((
        filter_record_batch(batch, &has_place)?,
        as_uint32_array(&places)?.clone(),
    ))
}

fn beside(schema: &SchemaRef, batch: &RecordBatch, rows: &[ArrayRef], places: &UInt32Array) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    for column in rows {
        columns.push(take(column, places, None)?);
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

#[cfg(test)]
mod tests;
