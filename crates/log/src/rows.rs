//! Small helpers around record batches that the back ends share.

use arrow::array::{Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use headwater_event::offset::{Offset, TopicPartition};

use crate::LoggedBatch;
use crate::error::{Error, Result};

/// The rows in exactly the topic's schema. Names, types and NOT NULL must fit; metadata is the topic's.
pub(crate) fn conform(schema: &SchemaRef, partition: &TopicPartition, rows: &RecordBatch) -> Result<RecordBatch> {
    if rows.schema_ref() == schema {
        return Ok(rows.clone());
    }
    let found = rows.schema_ref();
    let differs = || Error::SchemaDiffers {
        partition: partition.clone(),
        expected: describe(schema),
        found: describe(found),
    };
    let same_names = schema.fields().len() == found.fields().len()
        && schema
            .fields()
            .iter()
            .zip(found.fields())
            .all(|(ours, theirs)| ours.name() == theirs.name());
    if !same_names {
        return Err(differs());
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), rows.columns().to_vec(), &options).map_err(|_| differs())
}

/// The memory that the rows refer to, without what else lies in the same buffers.
pub(crate) fn memory_bytes(rows: &RecordBatch) -> usize {
    let column_bytes = |column: &arrow::array::ArrayRef| {
        let sliced = column.to_data().get_slice_memory_size();
        sliced.unwrap_or_else(|_| column.get_array_memory_size())
    };
    rows.columns().iter().map(column_bytes).sum()
}

/// The offsets that a batch takes: one for each row, and one for a batch without rows.
pub(crate) fn offsets_of(rows: &RecordBatch) -> u64 {
    (rows.num_rows() as u64).max(1)
}

/// The batch from `from` on and with `columns` alone. Nothing is copied.
pub(crate) fn view(batch: &LoggedBatch, from: Offset, columns: Option<&[usize]>) -> Result<LoggedBatch> {
    let mut seen = batch.clone();
    if let Some(columns) = columns {
        seen.rows = seen.rows.project(columns)?;
    }
    Ok(skip_to(seen, from))
}

/// Leaves out the rows before `from`.
pub(crate) fn skip_to(mut batch: LoggedBatch, from: Offset) -> LoggedBatch {
    let rows = batch.rows.num_rows();
    if batch.base < from && rows > 0 {
        let skipped = usize::try_from(from - batch.base).map_or(rows, |skipped| skipped.min(rows));
        batch.rows = batch.rows.slice(skipped, rows - skipped);
        batch.base = from;
    }
    batch
}

/// Fails where `columns` isn't an ascending selection of the schema's columns.
pub(crate) fn check_columns(schema: &SchemaRef, columns: Option<&[usize]>) -> Result<()> {
    let Some(columns) = columns else {
        return Ok(());
    };
    let ascending = columns.windows(2).all(|pair| pair[0] < pair[1]);
    let known = columns.last().is_none_or(|&last| last < schema.fields().len());
    if ascending && known {
        return Ok(());
    }
    let what = format!(
        "columns {columns:?} are no ascending selection of {}",
        schema.fields().len()
    );
    Err(ArrowError::InvalidArgumentError(what).into())
}

fn describe(schema: &SchemaRef) -> String {
    let field = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        let null = if field.is_nullable() { "" } else { " NOT NULL" };
        format!("{} {}{null}", field.name(), field.data_type())
    };
    schema.fields().iter().map(field).collect::<Vec<_>>().join(", ")
}
