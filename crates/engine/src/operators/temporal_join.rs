//! Rows meet versions of others: every left row meets the right row with its key that was valid at the left row's
//! time (`FOR SYSTEM_TIME AS OF`). A right row is valid from its time on, until the next one with its key.
//!
//! 1. Rows of both sides wait (see [`super::pending`]) until the watermark has passed their time, and so everything that lies
//!    before it is there.
//! 2. The ready rows are gone through in the order of time, at each time the right ones first: they become the versions of
//!    their keys. Of several of one time the last in the plan's order counts, in whatever order they came.
//! 3. What a left row meets must also pass the filter. If it doesn't, the row has no match.
//!
//! State (see [`crate::keyed`]): of every key the newest version below the watermark; later ones still wait. Key
//! `1 | row-encoded key`, no suffix, value the row encoding of the right columns.
//!
//! A row for which the filter fails is left out.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::{concat, take_arrays, take_record_batch};
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use bytes::Bytes;
use datafusion_common::cast::as_boolean_array;
use headwater_event::clock::Micros;

use super::pending::Pending;
use super::salvage::by_rows;
use super::windows::times;
use super::{Operator, Rejected, Saved, StateChanges, batch_of, evaluate, split_by_time};
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::holdings::Held;
use crate::keyed::Keyed;
use crate::plan;
use crate::rows::encode_rows;

const KEY_PREFIX: [u8; 1] = [1];
/// A key has one version.
const NO_SUFFIX: &[u8] = &[];
const RIGHT: i8 = 1;

pub struct TemporalJoin {
    plan: plan::TemporalJoin,
    /// The same columns of the input on both sides.
    key_columns: Vec<usize>,
    key_types: Vec<DataType>,
    keys: RowConverter,
    versions: RowConverter,
    /// Of the columns that order versions of one time.
    order: RowConverter,
    /// What the filter is over: the left columns, then the right ones.
    pair: SchemaRef,
    pending: Pending,
    keyed: Keyed,
    watermark: Option<Micros>,
    late: u64,
    rejected: Vec<Rejected>,
}

/// A left row and what it meets, by their places.
struct Met {
    row: u32,
    /// Among the known versions with the fresh ones behind them.
    version: Option<u32>,
}

/// Ready right rows that have a key.
struct Fresh {
    columns: Vec<ArrayRef>,
    encoded: Rows,
    /// They sort as the rows of one time do.
    ordered: Rows,
    /// For every ready row which of these it is.
    place_of: Vec<Option<u32>>,
}

/// Versions by group: those that are kept, and those that the ready rows bring.
struct Versions {
    /// Encoded.
    known: Vec<Bytes>,
    known_of: Vec<Option<u32>>,
    /// The newest so far, with its time.
    fresh_of: Vec<Option<(Micros, u32)>>,
}

impl TemporalJoin {
    pub fn new(plan: plan::TemporalJoin, input: SchemaRef) -> Result<Self> {
        let of = |side: &plan::JoinSide| side.keys.iter().map(|&key| side.columns[key]).collect::<Vec<_>>();
        let key_columns = of(&plan.left);
        if key_columns.is_empty() || key_columns != of(&plan.right) {
            return Err(Error::Plan(
                "both sides of a temporal join have the same key columns".to_owned(),
            ));
        }
        let type_of = |column: usize| input.field(column).data_type().clone();
        let key_types: Vec<DataType> = key_columns.iter().map(|&column| type_of(column)).collect();
        let columns = plan.left.columns.iter().chain(&plan.right.columns).enumerate();
        let fields = columns.map(|(place, &column)| Field::new(format!("{place}"), type_of(column), true));
        let fields_of = |columns: &[usize]| columns.iter().map(|&column| SortField::new(type_of(column))).collect();
        let order = plan.version_order.iter();
        let order = order.map(|&(column, options)| SortField::new_with_options(type_of(column), options));
        Ok(Self {
            keys: converter(fields_of(&key_columns))?,
            versions: converter(fields_of(&plan.right.columns))?,
            order: converter(order.collect())?,
            pair: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            pending: Pending::new(input, plan.time_column),
            key_columns,
            key_types,
            plan,
            keyed: Keyed::new(),
            watermark: None,
            late: 0,
            rejected: Vec::new(),
        })
    }

    /// Joins the rows that are final, which are in the order of time, and keeps the versions among them.
    fn emit(&mut self, ready: &RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        let key_columns = columns_of(ready, &self.key_columns);
        let (mut groups, mut group_of) = (Groups::new(&self.key_types)?, Vec::new());
        groups.intern(&key_columns, ready.num_rows(), &mut group_of)?;
        let keys = encode_rows(&self.keys, &groups.columns()?, groups.len(), &KEY_PREFIX)?;
        let nulls = key_columns.iter().fold(None, |nulls, column| {
            NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref())
        });
        let has_key = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));

        let sides = ready.column(0).as_primitive::<Int8Type>().values();
        let fresh = self.fresh(ready, |row| sides[row] == RIGHT && has_key(row))?;
        let mut versions = self.known(&keys)?;
        let times = times(ready.column(self.plan.time_column))?;
        let mut met = Vec::with_capacity(ready.num_rows());
        let mut first = 0;
        for peers in times.values().chunk_by(|one, other| one == other) {
            let rows = first..first + peers.len();
            first = rows.end;
            for row in rows.clone() {
                if let Some(place) = fresh.place_of[row] {
                    versions.add(group_of[row], peers[0], place, &fresh.ordered);
                }
            }
            for row in rows.filter(|&row| sides[row] != RIGHT) {
                let version = has_key(row).then(|| versions.of(group_of[row])).flatten();
                if version.is_some() || self.plan.keeps_unmatched {
                    let row = row as u32;
                    met.push(Met { row, version });
                }
            }
        }
        let columns = self.columns(&versions.known, &fresh)?;
        let met = self.filtered(ready, &columns, met)?;
        self.put_together(ready, &columns, &met, out)?;
        self.keep(&keys, &versions, &fresh)
    }

    fn fresh(&self, ready: &RecordBatch, is_version: impl Fn(usize) -> bool) -> Result<Fresh> {
        let mut rows: Vec<u32> = Vec::new();
        let place_of = (0..ready.num_rows()).map(|row| {
            is_version(row).then(|| {
                rows.push(row as u32);
                rows.len() as u32 - 1
            })
        });
        let place_of = place_of.collect();
        let rows = UInt32Array::from(rows);
        let columns = take_arrays(&columns_of(ready, &self.plan.right.columns), &rows, None)?;
        let order: Vec<usize> = self.plan.version_order.iter().map(|(column, _)| *column).collect();
        let ordered = take_arrays(&columns_of(ready, &order), &rows, None)?;
        Ok(Fresh {
            encoded: self.versions.convert_columns(&columns)?,
            ordered: self.order.convert_columns(&ordered)?,
            columns,
            place_of,
        })
    }

    /// What is kept of these keys.
    fn known(&mut self, keys: &[Bytes]) -> Result<Versions> {
        let mut known = Vec::new();
        let mut known_of = Vec::with_capacity(keys.len());
        for key in keys {
            let group = self.keyed.group(key)?;
            let version = group.rows().get(NO_SUFFIX);
            known_of.push(version.map(|_| known.len() as u32));
            known.extend(version.cloned());
        }
        Ok(Versions {
            known,
            known_of,
            fresh_of: vec![None; keys.len()],
        })
    }

    /// The right columns of all versions.
    fn columns(&self, known: &[Bytes], fresh: &Fresh) -> Result<Vec<ArrayRef>> {
        if known.is_empty() {
            return Ok(fresh.columns.clone());
        }
        let parser = self.versions.parser();
        let known = self
            .versions
            .convert_rows(known.iter().map(|version| parser.parse(version)))?;
        let both = known.iter().zip(&fresh.columns);
        both.map(|(known, fresh)| Ok(concat(&[known.as_ref(), fresh.as_ref()])?))
            .collect()
    }

    /// What is left of the matches by the filter.
    fn filtered(&mut self, ready: &RecordBatch, versions: &[ArrayRef], met: Vec<Met>) -> Result<Vec<Met>> {
        let Some(filter) = self.plan.filter.clone() else {
            return Ok(met);
        };
        let pairs: Vec<(u32, u32)> = met.iter().filter_map(|met| Some((met.row, met.version?))).collect();
        let rows: UInt32Array = pairs.iter().map(|(row, _)| *row).collect();
        // By pair; nothing where the filter failed.
        let mut passes: Vec<Option<bool>> = Vec::with_capacity(pairs.len());
        by_rows(take_record_batch(ready, &rows)?, &mut self.rejected, |left| {
            let first = passes.len();
            let of: UInt32Array = pairs[first..first + left.num_rows()]
                .iter()
                .map(|(_, of)| *of)
                .collect();
            let mut columns = columns_of(left, &self.plan.left.columns);
            columns.extend(take_arrays(versions, &of, None)?);
            let options = RecordBatchOptions::new().with_row_count(Some(left.num_rows()));
            let pair = RecordBatch::try_new_with_options(self.pair.clone(), columns, &options)?;
            match evaluate(&filter, &pair) {
                Ok(passed) => {
                    let passed = as_boolean_array(&passed)?;
                    passes.extend(passed.iter().map(|passed| Some(passed.unwrap_or(false))));
                    Ok(())
                }
                Err(error) => {
                    // It stands alone, and is left out.
                    passes.extend((left.num_rows() == 1).then_some(None));
                    Err(error)
                }
            }
        })?;
        let mut passes = passes.into_iter();
        let left = met.into_iter().filter_map(|met| {
            if met.version.is_none() {
                return Some(met);
            }
            match passes.next().flatten() {
                Some(true) => Some(met),
                Some(false) if self.plan.keeps_unmatched => Some(Met { version: None, ..met }),
                _ => None,
            }
        });
        Ok(left.collect())
    }

    fn put_together(
        &self,
        ready: &RecordBatch,
        versions: &[ArrayRef],
        met: &[Met],
        out: &mut Vec<RecordBatch>,
    ) -> Result<()> {
        if met.is_empty() {
            return Ok(());
        }
        let rows: UInt32Array = met.iter().map(|met| met.row).collect();
        let of: UInt32Array = met.iter().map(|met| met.version).collect();
        let mut columns = take_arrays(&columns_of(ready, &self.plan.left.columns), &rows, None)?;
        columns.extend(take_arrays(versions, &of, None)?);
        out.push(batch_of(&self.plan.schema, columns)?);
        Ok(())
    }

    fn keep(&mut self, keys: &[Bytes], versions: &Versions, fresh: &Fresh) -> Result<()> {
        for (key, newest) in keys.iter().zip(&versions.fresh_of) {
            if let Some((_, place)) = newest {
                let version = Bytes::copy_from_slice(fresh.encoded.row(*place as usize).data());
                self.keyed.group(key)?.put(Bytes::from_static(NO_SUFFIX), version);
            }
        }
        Ok(())
    }
}

impl Versions {
    /// A row that came at a time becomes the version of its group, unless one of the same time counts.
    fn add(&mut self, group: usize, time: Micros, place: u32, ordered: &Rows) {
        let counts =
            |(at, other): (Micros, u32)| at == time && ordered.row(other as usize) >= ordered.row(place as usize);
        if !self.fresh_of[group].is_some_and(counts) {
            self.fresh_of[group] = Some((time, place));
        }
    }

    fn of(&self, group: usize) -> Option<u32> {
        match self.fresh_of[group] {
            Some((_, place)) => Some(self.known.len() as u32 + place),
            None => self.known_of[group],
        }
    }
}

impl Operator for TemporalJoin {
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
        Held::cache(self.pending.bytes() + self.keyed.held().bytes as usize)
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}

fn columns_of(batch: &RecordBatch, columns: &[usize]) -> Vec<ArrayRef> {
    columns.iter().map(|&column| Arc::clone(batch.column(column))).collect()
}

fn converter(fields: Vec<SortField>) -> Result<RowConverter> {
    RowConverter::new(fields).map_err(|error| Error::Plan(format!("a temporal join can't keep its versions: {error}")))
}
