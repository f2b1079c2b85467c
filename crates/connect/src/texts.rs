//! Values as texts, which is what keys and fields elsewhere are: what is a text already as it is, anything else as in JSON, without quotes.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::error::ArrowError;
use headwater_schema::encode::JsonRows;

pub(crate) struct Texts {
    columns: Vec<ArrayRef>,
    json: JsonRows,
}

impl Texts {
    pub(crate) fn new(rows: &RecordBatch) -> Result<Self, ArrowError> {
        Ok(Self {
            columns: rows.columns().to_vec(),
            json: JsonRows::new(rows)?,
        })
    }

    /// None for NULL.
    pub(crate) fn get(&self, row: usize, column: usize) -> Option<Cow<'_, [u8]>> {
        let array = &self.columns[column];
        if array.is_null(row) {
            return None;
        }
        if let Some(texts) = array.as_string_opt::<i32>() {
            return Some(Cow::Borrowed(texts.value(row).as_bytes()));
        }
        let mut text = Vec::new();
        self.json.write_value(row, column, &mut text);
        let inner = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
        Some(Cow::Owned(inner.map(<[u8]>::to_vec).unwrap_or(text)))
    }

    /// The row as one JSON object.
    pub(crate) fn object(&self, row: usize) -> Vec<u8> {
        let mut object = Vec::new();
        self.json.write(row, &mut object);
        object
    }
}
