//! Columns as CSV (RFC 4180): NULL is nothing, an empty string is `""`, and what is nested is JSON.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;

use crate::encode::column::Column;

const LINE_END: &[u8] = b"\r\n";

/// Appends the rows as lines, with a first line of names if `header` says so.
pub fn csv(batch: &RecordBatch, header: bool, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    if header {
        csv_names(batch.schema_ref(), out);
        out.extend_from_slice(LINE_END);
    }
    let rows = CsvRows::new(batch)?;
    for row in 0..batch.num_rows() {
        rows.write(row, out);
        out.extend_from_slice(LINE_END);
    }
    Ok(())
}

/// Appends the names of the columns, without the line's end.
pub fn csv_names(schema: &Schema, out: &mut Vec<u8>) {
    write_fields(schema.fields().iter(), out, |field, out| write_text(field.name(), out));
}

/// Writes rows of one batch one by one; looks at the columns once.
pub struct CsvRows {
    columns: Vec<Column>,
}

impl CsvRows {
    pub fn new(batch: &RecordBatch) -> Result<Self, ArrowError> {
        let columns = batch.schema_ref().fields().iter().zip(batch.columns());
        let columns = columns.map(|(field, array)| Column::new(field, array));
        Ok(Self {
            columns: columns.collect::<Result<_, _>>()?,
        })
    }

    /// Appends the row, without the line's end.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        write_fields(self.columns.iter(), out, |column, out| write_value(column, row, out));
    }
}

fn write_fields<T>(values: impl Iterator<Item = T>, out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    for (n, value) in values.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write(value, out);
    }
}

fn write_value(column: &Column, row: usize, out: &mut Vec<u8>) {
    if column.is_null(row) {
        return;
    }
    if !column.is_nested()
        && let Some(text) = column.text(row)
    {
        return write_text(text, out);
    }
    let start = out.len();
    column.write(row, out);
    if column.is_nested() {
        let json = String::from_utf8_lossy(&out[start..]).into_owned();
        out.truncate(start);
        write_text(&json, out);
    } else if let [b'"', .., b'"'] = out[start..] {
        // Times, base64 and the like hold nothing that needs quotes, in JSON or here.
        out.pop();
        out.remove(start);
    } else if out[start..] == *b"null" {
        out.truncate(start);
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let special = |byte: &u8| matches!(byte, b',' | b'"' | b'\r' | b'\n');
    let edge = |byte: Option<&u8>| byte.is_none_or(|&byte| byte == b' ' || byte == b'\t');
    if !edge(bytes.first()) && !edge(bytes.last()) && !bytes.iter().any(special) {
        return out.extend_from_slice(bytes);
    }
    out.push(b'"');
    for &byte in bytes {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}
