//! How the rows of a view lie in its state table, and how changes get there.
//!
//! The key is the row encoding (`arrow-row`, ascending, NULL first) of the key columns, so that
//! rows sort by key and a prefix of the key columns is a prefix of the key. The value is the row
//! encoding of the other columns. A view with a key of no columns has one row, under the key `00`.
//! A view without a key has its rows under the place that they came from:
//! `partition u32 BE | offset u64 BE | row u32 BE`, which is the order in which they arrived. Rows
//! that come out at the end of an epoch have the last offset that was read, and a row number from
//! [`FLUSHED_ROWS`] on. Where such rows can go again, a row has its content and the number of the copy for a name:
//! `XXH3-128 of the value | partition u32 BE | copy u32 BE`.

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Int8Type, SchemaRef, UInt32Type};
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use headwater_event::offset::Offset;
use headwater_event::op::{Op, changelog_schema, is_changelog};
use headwater_log::StateTable;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, Result};
use crate::plan::ViewKey;
use crate::rows::encode_rows;

const ONLY_KEY: [u8; 1] = [0];
const POSITION_BYTES: usize = 16;

/// No batch has as many rows: from here on they are numbered that come from many.
pub const FLUSHED_ROWS: u32 = 1 << 31;

/// Turns rows of a view into entries of its table, and back.
#[derive(Debug)]
pub struct ViewCodec {
    schema: SchemaRef,
    changes_schema: SchemaRef,
    key: ViewKey,
    rest: Vec<usize>,
    keys: RowConverter,
    values: RowConverter,
}

/// Where a batch of rows came from, for views without a key: unique among all batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub partition: u32,
    pub offset: Offset,
    /// Rows with the same partition and offset before this batch.
    pub row: u32,
}

impl Place {
    /// The number of the first row of this partition and offset, at `self.row` or after, that the
    /// table has not got yet.
    pub fn next_row(&self, table: &dyn StateTable) -> Result<u32> {
        let Some(from) = positions(*self, 1).pop() else {
            return Ok(self.row);
        };
        let mut next = self.row;
        for entry in table.scan_from(&from) {
            let (key, _) = entry?;
            if key.len() != POSITION_BYTES || key[..12] != from[..12] {
                break;
            }
            next += 1;
        }
        Ok(next)
    }
}

/// What a batch of rows does to a view.
#[derive(Debug)]
pub struct ViewChange {
    pub entries: Vec<(Bytes, Option<Bytes>)>,
    /// For the topic of the view's changes.
    pub changes: RecordBatch,
}

impl ViewCodec {
    /// `schema` is that of the view's rows, without the op column.
    pub fn new(schema: SchemaRef, key: &ViewKey) -> Result<Self> {
        let in_key = match key {
            ViewKey::Columns(columns) => columns.as_slice(),
            ViewKey::Position | ViewKey::Copies => &[],
        };
        let rest: Vec<usize> = (0..schema.fields().len())
            .filter(|column| !in_key.contains(column))
            .collect();
        Ok(Self {
            keys: converter(&schema, in_key)?,
            values: converter(&schema, &rest)?,
            changes_schema: changelog_schema(&schema),
            key: key.clone(),
            rest,
            schema,
        })
    }

    /// Whether rows are named by their place.
    pub fn is_by_place(&self) -> bool {
        self.key == ViewKey::Position
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The keys of rows whose key columns are `columns`, in the order of the view's key.
    pub fn key(&self, columns: &[ArrayRef]) -> Result<Vec<Bytes>> {
        let rows = columns.first().map_or(1, |column| column.len());
        if columns.is_empty() {
            return Ok(vec![Bytes::from_static(&ONLY_KEY); rows]);
        }
        Ok(encode_rows(&self.keys, columns, rows, &[])?)
    }

    /// What the keys of all rows begin with whose first key columns are `columns`.
    pub fn prefix(&self, columns: &[ArrayRef]) -> Result<Vec<Bytes>> {
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
        let rows = columns.first().map_or(1, |column| column.len());
        Ok(encode_rows(&RowConverter::new(fields.collect())?, columns, rows, &[])?)
    }

    /// The rows of entries of the view's table.
    pub fn decode(&self, entries: &[(Bytes, Bytes)]) -> Result<RecordBatch> {
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
        if let Some(key) = self.key_columns().filter(|key| !key.is_empty()) {
            let parser = self.keys.parser();
            let decoded = self
                .keys
                .convert_rows(entries.iter().map(|(key, _)| parser.parse(key)))?;
            for (&place, column) in key.iter().zip(decoded) {
                columns[place] = Some(column);
            }
        }
        if !self.rest.is_empty() {
            let parser = self.values.parser();
            let decoded = self
                .values
                .convert_rows(entries.iter().map(|(_, value)| parser.parse(value)))?;
            for (&place, column) in self.rest.iter().zip(decoded) {
                columns[place] = Some(column);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(entries.len()));
        // Every column is in the key or in the rest.
        let columns = columns.into_iter().flatten().collect();
        Ok(RecordBatch::try_new_with_options(
            self.schema.clone(),
            columns,
            &options,
        )?)
    }

    /// What rows, a changelog or not, do to the view.
    pub fn apply(&self, rows: &RecordBatch, place: Place) -> Result<ViewChange> {
        let is_changelog = is_changelog(rows.schema_ref());
        let count = rows.num_rows();
        let data = &rows.columns()[..self.schema.fields().len()];
        let rest: Vec<ArrayRef> = self.rest.iter().map(|&column| Arc::clone(&data[column])).collect();
        let values = encode_rows(&self.values, &rest, count, &[])?;
        let keys = match &self.key {
            ViewKey::Columns(key) if key.is_empty() => vec![Bytes::from_static(&ONLY_KEY); count],
            ViewKey::Columns(key) => {
                let columns: Vec<ArrayRef> = key.iter().map(|&column| Arc::clone(&data[column])).collect();
                encode_rows(&self.keys, &columns, count, &[])?
            }
            ViewKey::Position => positions(place, count),
            ViewKey::Copies => copies(&values, rows.column(data.len()), place.partition),
        };
        let ops: ArrayRef = match rows.columns().last() {
            Some(ops) if is_changelog => Arc::clone(ops),
            _ => Arc::new(Int8Array::from_value(Op::Insert as i8, count)),
        };
        let entries = match is_changelog {
            false => keys
                .into_iter()
                .zip(values)
                .map(|(key, value)| (key, Some(value)))
                .collect(),
            true => changed(keys, values, ops.as_primitive::<Int8Type>()),
        };
        let mut columns = data.to_vec();
        columns.push(ops);
        Ok(ViewChange {
            entries,
            changes: RecordBatch::try_new(self.changes_schema.clone(), columns)?,
        })
    }

    fn key_columns(&self) -> Option<&Vec<usize>> {
        match &self.key {
            ViewKey::Columns(key) => Some(key),
            ViewKey::Position | ViewKey::Copies => None,
        }
    }
}

/// A row as it was before an update needs no entry where the row as it is has the same key.
fn changed(keys: Vec<Bytes>, values: Vec<Bytes>, ops: &Int8Array) -> Vec<(Bytes, Option<Bytes>)> {
    let mut entries: Vec<(Bytes, Option<Bytes>)> = Vec::with_capacity(keys.len());
    for ((key, value), &op) in keys.into_iter().zip(values).zip(ops.values()) {
        let adds = Op::from_i8(op).is_some_and(Op::adds);
        if adds
            && entries
                .last()
                .is_some_and(|(last, value)| value.is_none() && *last == key)
        {
            entries.pop();
        }
        entries.push((key, adds.then_some(value)));
    }
    entries
}

fn positions(place: Place, rows: usize) -> Vec<Bytes> {
    let mut buffer = Vec::with_capacity(rows * POSITION_BYTES);
    for row in 0..rows as u32 {
        buffer.extend_from_slice(&place.partition.to_be_bytes());
        buffer.extend_from_slice(&place.offset.to_be_bytes());
        buffer.extend_from_slice(&(place.row + row).to_be_bytes());
    }
    let buffer = Bytes::from(buffer);
    (0..rows)
        .map(|row| buffer.slice(row * POSITION_BYTES..(row + 1) * POSITION_BYTES))
        .collect()
}

fn copies(values: &[Bytes], numbers: &ArrayRef, partition: u32) -> Vec<Bytes> {
    let numbers = numbers.as_primitive::<UInt32Type>().values();
    let keys = values.iter().zip(numbers).map(|(value, number)| {
        let mut key = Vec::with_capacity(24);
        key.extend_from_slice(&xxh3_128(value).to_be_bytes());
        key.extend_from_slice(&partition.to_be_bytes());
        key.extend_from_slice(&number.to_be_bytes());
        key.into()
    });
    keys.collect()
}

fn converter(schema: &SchemaRef, columns: &[usize]) -> Result<RowConverter> {
    let fields = columns
        .iter()
        .map(|&column| SortField::new(schema.field(column).data_type().clone()));
    RowConverter::new(fields.collect()).map_err(|error| Error::Plan(format!("a view can't keep its rows: {error}")))
}
