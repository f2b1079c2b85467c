//! Rows of groups as bytes that sort as the rows are to be ordered.
//!
//! A row falls into two row encodings (`arrow-row`): that of its group columns, the key, and that of
//! all other columns, those of the order first. So rows of a group compare as bytes, rows that the
//! order leaves open follow the rest of their encoding, and key and row together give all columns
//! back. An encoding of the order's columns alone is a prefix of the row's: it tells most rows that come
//! too late in the order without a look at the rest of their columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use headwater_event::op::is_changelog;

use crate::error::{Error, Result};

pub struct RowOrder {
    groups: Part,
    lead: Part,
    rows: Part,
}

/// Some columns of a batch, and what turns them into bytes and back.
struct Part {
    columns: Vec<usize>,
    converter: RowConverter,
}

/// The bytes of some columns of every row; of no columns they are empty.
pub struct Encoded(Option<Rows>);

impl RowOrder {
    /// Of rows of `schema`, but for its op column.
    pub fn new(schema: &SchemaRef, partition_by: &[usize], order_by: &[(usize, SortOptions)]) -> Result<Self> {
        let mut lead: Vec<(usize, SortOptions)> = Vec::with_capacity(order_by.len());
        for &(column, options) in order_by {
            // In a group all rows agree in its columns, and in a column that was compared before.
            if !partition_by.contains(&column) && lead.iter().all(|(known, _)| *known != column) {
                lead.push((column, options));
            }
        }
        let mut all = lead.clone();
        let is_left = |column: &usize| !partition_by.contains(column) && lead.iter().all(|(known, _)| known != column);
        let rest = (0..data_columns(schema)).filter(is_left);
        all.extend(rest.map(|column| (column, SortOptions::default())));
        let groups: Vec<_> = partition_by
            .iter()
            .map(|&column| (column, SortOptions::default()))
            .collect();
        Ok(Self {
            groups: Part::new(schema, &groups)?,
            lead: Part::new(schema, &lead)?,
            rows: Part::new(schema, &all)?,
        })
    }

    pub fn keys(&self, batch: &RecordBatch) -> Result<Encoded> {
        self.groups.encode(batch)
    }

    /// What the bytes of each row begin with.
    pub fn leads(&self, batch: &RecordBatch) -> Result<Encoded> {
        self.lead.encode(batch)
    }

    pub fn rows(&self, batch: &RecordBatch) -> Result<Encoded> {
        self.rows.encode(batch)
    }

    /// The columns of rows, given as key and row.
    pub fn decode<'a>(&self, rows: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Result<Vec<ArrayRef>> {
        let mut columns = vec![None; self.groups.columns.len() + self.rows.columns.len()];
        self.groups.decode(rows.clone().map(|(key, _)| key), &mut columns)?;
        self.rows.decode(rows.map(|(_, row)| row), &mut columns)?;
        // Every column is in one of the two.
        Ok(columns.into_iter().flatten().collect())
    }
}

impl Part {
    fn new(schema: &SchemaRef, columns: &[(usize, SortOptions)]) -> Result<Self> {
        let fields = columns
            .iter()
            .map(|&(column, options)| SortField::new_with_options(schema.field(column).data_type().clone(), options));
        let converter = RowConverter::new(fields.collect())
            .map_err(|error| Error::Plan(format!("rows that can't be put in order: {error}")))?;
        let columns = columns.iter().map(|(column, _)| *column).collect();
        Ok(Self { columns, converter })
    }

    fn encode(&self, batch: &RecordBatch) -> Result<Encoded> {
        if self.columns.is_empty() {
            return Ok(Encoded(None));
        }
        let columns: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|&column| Arc::clone(batch.column(column)))
            .collect();
        Ok(Encoded(Some(self.converter.convert_columns(&columns)?)))
    }

    fn decode<'a>(
        &self,
        rows: impl Iterator<Item = &'a [u8]>,
        columns: &mut [Option<ArrayRef>],
    ) -> Result<(), ArrowError> {
        if self.columns.is_empty() {
            return Ok(());
        }
        let parser = self.converter.parser();
        let decoded = self.converter.convert_rows(rows.map(|row| parser.parse(row)))?;
        for (&place, column) in self.columns.iter().zip(decoded) {
            columns[place] = Some(column);
        }
        Ok(())
    }
}

impl Encoded {
    pub fn get(&self, row: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |rows| rows.row(row).data())
    }
}

/// The number of columns but for the op column.
pub fn data_columns(schema: &SchemaRef) -> usize {
    schema.fields().len() - usize::from(is_changelog(schema))
}
