//! Bytes into columns.
//!
//! A [`Decoder`] owns the columns of a batch under construction. [`Decoder::decode`] reads a body
//! of events straight into them; [`Decoder::finish`] hands them out as a `RecordBatch`. A body, or
//! an event, that turns out to be bad is cut off again, and a [`Failure`] says why and where.

mod access_log;
mod body;
pub(crate) mod builder;
mod csv;
pub(crate) mod fields;
mod fuzz;
pub(crate) mod json;
pub(crate) mod nearest;
mod number;
pub(crate) mod problem;
#[cfg(test)]
pub(crate) mod tests;
mod text;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use headwater_event::clock::Micros;
use headwater_event::id::Ids;

use crate::column::{ColumnDefault, EventSchema, UnknownFields};
use crate::decode::body::Body;
use crate::decode::builder::{Builder, is_supported};
use crate::decode::fields::{Context, Fields};
pub use crate::decode::fuzz::fuzz;
pub use crate::decode::problem::Failure;
use crate::decode::problem::Failures;

/// How many failures of a rejected body are told; the others are counted.
pub const FAILURES_TOLD_MAX: usize = 20;

/// How many events of a body can fail when failures are collected. With more the body is rejected
/// after all, so that memory stays bounded whatever comes and its sender still has everything.
pub const FAILURES_COLLECTED_MAX: usize = 10_000;

/// What a body is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One object, or an array of objects.
    Json,
    /// Objects on lines.
    NdJson,
    /// RFC 4180 with a header line that names the columns.
    Csv,
    /// The lines of Apache's and nginx's access logs.
    CombinedLog,
}

/// What becomes of a body that holds a bad event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Nothing of it is taken.
    Reject,
    /// Its good events are taken.
    Collect,
}

/// What came of a body.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// How many rows it added.
    pub rows: usize,
    /// Nothing of the body was taken: for any failure with [`OnError::Reject`], for more than
    /// [`FAILURES_COLLECTED_MAX`] with [`OnError::Collect`].
    pub rejected: bool,
    /// Ascending by place. All of them when collecting, else the first [`FAILURES_TOLD_MAX`].
    pub failures: Vec<Failure>,
    /// How many events failed; where collecting gave up, the rest of the body counts for one.
    pub failed: usize,
}

/// A batch under construction.
#[derive(Debug)]
pub struct Decoder {
    schema: SchemaRef,
    fields: Fields,
    unknown: UnknownFields,
    ids: Arc<Ids>,
}

impl Decoder {
    /// Columns of types that can't be read (see [`check`]) take NULL alone.
    pub fn new(schema: &EventSchema, ids: Arc<Ids>) -> Self {
        Self {
            schema: schema.arrow(),
            fields: Fields::new(&schema.columns),
            unknown: schema.unknown_fields,
            ids,
        }
    }

    /// Reads the events of `body` into further rows. A rejected body leaves the rows as they were
    /// before.
    pub fn decode(&mut self, body: &[u8], format: Format, on_error: OnError, now: Micros) -> Decoded {
        let before = self.fields.rows;
        let kept_max = match on_error {
            OnError::Reject => FAILURES_TOLD_MAX,
            OnError::Collect => FAILURES_COLLECTED_MAX,
        };
        let context = Context {
            ids: &self.ids,
            now,
            unknown: self.unknown,
        };
        let mut body = Body::new(body, &mut self.fields, context, Failures::new(body, kept_max));
        body.stops_when_full = on_error == OnError::Collect;
        body.lines = format != Format::Json;
        match format {
            Format::Json => json::read_json(&mut body),
            Format::NdJson => json::read_lines(&mut body),
            Format::Csv => csv::read(&mut body),
            Format::CombinedLog => access_log::read(&mut body),
        }
        let Failures { list, failed, .. } = body.failures;
        let rejected = match on_error {
            OnError::Reject => failed > 0,
            OnError::Collect => failed > FAILURES_COLLECTED_MAX,
        };
        if rejected {
            self.fields.truncate(before);
        }
        Decoded {
            rows: self.fields.rows - before,
            rejected,
            failures: list,
            failed,
        }
    }

    pub fn rows(&self) -> usize {
        self.fields.rows
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Hands out the rows, and begins the next batch.
    pub fn finish(&mut self) -> RecordBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(self.fields.rows));
        let columns = self.fields.finish();
        #[expect(
            clippy::expect_used,
            reason = "each column was built for its field, and NULLs are checked row by row"
        )]
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).expect("columns fit the schema")
    }

    /// Forgets the rows.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets the rows after the first `rows`.
    pub fn truncate(&mut self, rows: usize) {
        self.fields.truncate(rows);
    }
}

/// Says what of a schema a [`Decoder`] can't work with: a type that no format can bring, or a
/// default that is not a value of its column.
pub fn check(schema: &EventSchema, ids: &Ids) -> Result<(), String> {
    for column in &schema.columns {
        let mut builder = Builder::new(Arc::new(column.field()));
        if !is_supported(&builder.field) {
            return Err(format!(
                "column {}: a column can't have the type {}",
                column.name,
                builder.type_name()
            ));
        }
        let Some(ColumnDefault::Value(value)) = &column.default else {
            continue;
        };
        let context = Context {
            ids,
            now: 0,
            unknown: schema.unknown_fields,
        };
        if let Err(problem) = json::read_alone(value.as_bytes(), &mut builder, &context) {
            let failure = problem.into_failure(0, (0, 0), 0..0);
            return Err(format!(
                "column {}: the default does not fit: {}",
                column.name, failure.message
            ));
        }
    }
    Ok(())
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "json" => Self::Json,
            "ndjson" => Self::NdJson,
            "csv" => Self::Csv,
            "combined_log" => Self::CombinedLog,
            _ => return Err(format!("no format {name}; there are json, ndjson, csv, combined_log")),
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::NdJson => "ndjson",
            Self::Csv => "csv",
            Self::CombinedLog => "combined_log",
        })
    }
}
