//! Columns into bytes.
//!
//! Time stamps are written in RFC 3339 with `Z`, with three, six or nine digits of the second only
//! where they are not zero; integers of any size as plain numbers; numbers that are none (NaN,
//! infinity) as null; `BYTEA` as base64; `JSON` as it is; `DECIMAL` as a number with all digits of
//! its scale; intervals and durations as text. The types that only queries make (dictionaries,
//! views, maps, unsigned integers, …) are written as what they hold.

mod column;
mod csv;
pub mod limits;
mod scalar;
#[cfg(test)]
mod tests;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;

use crate::encode::column::{Column, named, write_object};
pub use crate::encode::csv::{CsvRows, csv, csv_names};
pub(crate) use crate::encode::scalar::write_string;

/// Writes rows of one batch as JSON objects; looks at the columns once.
pub struct JsonRows {
    columns: Vec<(Vec<u8>, Column)>,
    rows: usize,
}

impl JsonRows {
    pub fn new(batch: &RecordBatch) -> Result<Self, ArrowError> {
        Ok(Self {
            columns: named(batch.schema_ref().fields(), batch.columns())?,
            rows: batch.num_rows(),
        })
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Appends the row as one object, without a line break.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        write_object(&self.columns, row, out);
    }

    /// Appends a value as text: text as it is, other values as in JSON, without quotes. False, and nothing, for NULL.
    pub fn write_text(&self, row: usize, column: usize, out: &mut Vec<u8>) -> bool {
        let column = &self.columns[column].1;
        if column.is_null(row) {
            return false;
        }
        column.write_text(row, out);
        true
    }

    /// Appends one value, by the place of its column.
    pub fn write_value(&self, row: usize, column: usize, out: &mut Vec<u8>) {
        self.columns[column].1.write(row, out);
    }
}

/// Appends one row as an object. For more than one of a batch, [`JsonRows`] is faster.
pub fn json_object(batch: &RecordBatch, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    JsonRows::new(batch)?.write(row, out);
    Ok(())
}

/// Appends every row as an object on a line.
pub fn json_lines(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let rows = JsonRows::new(batch)?;
    for row in 0..rows.len() {
        rows.write(row, out);
        out.push(b'\n');
    }
    Ok(())
}

/// Appends the rows as an array of objects.
pub fn json_array(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let rows = JsonRows::new(batch)?;
    out.push(b'[');
    for row in 0..rows.len() {
        if row > 0 {
            out.push(b',');
        }
        rows.write(row, out);
    }
    out.push(b']');
    Ok(())
}
