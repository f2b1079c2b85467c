//! Rows out of a Parquet file. It is read once, when it is whole, and known by its name and size.

use std::fs;

use arrow::array::RecordBatch;
use headwater_schema::column::EventSchema;
use headwater_schema::encode::json_object;
use headwater_schema::lossless::Fit;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::ParquetMetaData;

use crate::source::{Error, Rejected};
use crate::sources::file::folder::Found;

/// What is decoded at once, roughly.
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_ROWS_MAX: u64 = 8192;

/// A file that is being read.
pub(super) struct Table {
    pub(super) name: String,
    /// All rows of the file.
    pub(super) rows: u64,
    /// The next row to be handed out.
    next: u64,
    reader: ParquetRecordBatchReader,
    /// What was decoded and is yet to be handed out.
    ahead: Option<RecordBatch>,
    fit: Fit,
}

/// Rows that were read together.
pub(super) struct Piece {
    /// Those that fit.
    pub(super) rows: RecordBatch,
    pub(super) rejected: Vec<Rejected>,
    /// How many rows of the file they were.
    pub(super) count: u64,
    /// The next row of the file.
    pub(super) next: u64,
}

impl Table {
    /// From row `from` on.
    pub(super) fn open(file: &Found, schema: &EventSchema, from: u64) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::outside(format!("{}: {error}", file.name));
        let input = fs::File::open(&file.path).map_err(|error| failed(&error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(input).map_err(|error| {
            failed(&format!(
                "{error}. A Parquet file has to be whole when it gets its name: write it under one that ends in .tmp"
            ))
        })?;
        let fit = Fit::new(schema, builder.schema()).map_err(|error| failed(&error))?;
        let columns = ProjectionMask::roots(builder.parquet_schema(), fit.places());
        let rows: u64 = row_groups(builder.metadata()).sum();
        let (groups, skip) = groups_from(builder.metadata(), from);
        let batch_rows = batch_rows(builder.metadata());
        let builder = builder
            .with_projection(columns)
            .with_row_groups(groups)
            .with_offset(skip)
            .with_batch_size(batch_rows);
        Ok(Self {
            name: file.name.clone(),
            rows,
            next: from,
            reader: builder.build().map_err(|error| failed(&error))?,
            ahead: None,
            fit,
        })
    }

    /// The next rows, at most `count_max`; none at the end.
    pub(super) fn next(&mut self, count_max: u64) -> Result<Option<Piece>, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::outside(format!("{}: {error}", self.name));
        let rows = match self.ahead.take() {
            Some(rows) => rows,
            None => match self.reader.next() {
                Some(rows) => rows.map_err(|error| failed(&error))?,
                None => return Ok(None),
            },
        };
        let count = rows.num_rows().min(usize::try_from(count_max).unwrap_or(usize::MAX));
        if count < rows.num_rows() {
            self.ahead = Some(rows.slice(count, rows.num_rows() - count));
        }
        let rows = rows.slice(0, count);
        let (fitting, misfits) = self.fit.apply(&rows).map_err(|error| failed(&error))?;
        let mut rejected = Vec::with_capacity(misfits.len());
        for misfit in misfits {
            let mut payload = Vec::new();
            json_object(&rows, misfit.row, &mut payload).map_err(|error| failed(&error))?;
            rejected.push(Rejected {
                detail: format!(
                    "{}, row {}: {}",
                    self.name,
                    self.next + misfit.row as u64,
                    misfit.detail
                ),
                payload,
            });
        }
        self.next += count as u64;
        Ok(Some(Piece {
            rows: fitting,
            rejected,
            count: count as u64,
            next: self.next,
        }))
    }
}

fn row_groups(file: &ParquetMetaData) -> impl Iterator<Item = u64> + '_ {
    let groups = file.row_groups().iter();
    groups.map(|group| u64::try_from(group.num_rows()).unwrap_or(0))
}

/// The row groups from the one that holds row `from` on, and how many rows of it lie before.
fn groups_from(file: &ParquetMetaData, from: u64) -> (Vec<usize>, usize) {
    let mut before = 0;
    for (group, rows) in row_groups(file).enumerate() {
        if from < before + rows {
            let skip = usize::try_from(from - before).unwrap_or(usize::MAX);
            return ((group..file.num_row_groups()).collect(), skip);
        }
        before += rows;
    }
    (Vec::new(), 0)
}

/// So many rows that they are about [`BATCH_BYTES`].
fn batch_rows(file: &ParquetMetaData) -> usize {
    let bytes = file.row_groups().iter();
    let bytes: u64 = bytes
        .map(|group| u64::try_from(group.total_byte_size()).unwrap_or(0))
        .sum();
    let rows: u64 = row_groups(file).sum();
    let fitting = rows.saturating_mul(BATCH_BYTES) / bytes.max(1);
    fitting.clamp(1, BATCH_ROWS_MAX) as usize
}
