//! Batches as records of Kafka, and back.
//!
//! A record is a batch. Its rows have the offsets `record << 16 .. (record << 16) + rows`, so an offset says which record to read, and
//! nothing has to be looked up; a batch has at most 65,536 rows. In a compacted topic a record is a row under its key, since
//! Kafka compacts by record.

use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use headwater_event::clock::Micros;
use headwater_event::offset::Offset;

use crate::compaction::{no_key, removes_key};
use crate::encoding::{self, Compression};
use crate::error::{Error, Result};
use crate::kafka::transactions::Record;
use crate::topic::{Cleanup, TopicSpec};
use crate::{LoggedBatch, Produced};

const ROW_BITS: u32 = 16;
pub(super) const ROWS_MAX: usize = 1 << ROW_BITS;

/// What the key of a record in a compacted topic begins with.
const KEY_OF_ROW: u8 = b'k';
const KEY_OF_PROGRESS: u8 = b'p';

/// The offset of a record's first row.
pub(super) fn base_of(record: i64) -> Offset {
    // Kafka's offsets are never negative.
    (record.max(0) as Offset) << ROW_BITS
}

/// The record that has the row.
pub(super) fn record_of(offset: Offset) -> i64 {
    (offset >> ROW_BITS) as i64
}

/// The records of a batch, at least one.
pub(super) fn encode(topic: &Arc<str>, spec: &TopicSpec, batch: &Produced, time: Micros) -> Result<Vec<Record>> {
    let record = |key, value| Record {
        topic: topic.clone(),
        partition: Some(batch.partition.partition),
        key,
        value,
        time: Some(time),
    };
    let rows = batch.rows.num_rows();
    match &spec.cleanup {
        Cleanup::Delete { .. } => {
            if rows > ROWS_MAX {
                return Err(Error::Invalid(format!(
                    "a batch of {rows} rows is above the limit of {ROWS_MAX}"
                )));
            }
            let value = encoding::encode(&batch.rows, batch.progress, Compression::Lz4)?;
            Ok(vec![record(None, Some(value.into()))])
        }
        Cleanup::Compact { key } => {
            let column = batch.rows.column_by_name(key).ok_or_else(|| no_key(key))?;
            let keys = converter(column.data_type())?.convert_columns(std::slice::from_ref(column))?;
            let mut records = Vec::with_capacity(rows + 1);
            for row in 0..rows {
                let key_bytes = prefixed(KEY_OF_ROW, keys.row(row).as_ref());
                let value = match removes_key(&batch.rows, row, key) {
                    true => None,
                    false => Some(encoding::encode(&batch.rows.slice(row, 1), None, Compression::None)?.into()),
                };
                records.push(record(Some(key_bytes), value));
            }
            if let Some(progress) = batch.progress {
                let nothing = batch.rows.slice(0, 0);
                let value = encoding::encode(&nothing, Some(progress), Compression::None)?;
                let key = prefixed(KEY_OF_PROGRESS, &progress.producer.to_be_bytes());
                records.push(record(Some(key), Some(value.into())));
            }
            Ok(records)
        }
    }
}

/// The batch of a record. The error says what is wrong with it.
pub(super) fn decode(
    spec: &TopicSpec,
    record: i64,
    time_ms: Option<i64>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    columns: Option<&[usize]>,
) -> Result<LoggedBatch, String> {
    let (rows, progress) = match value {
        Some(value) => {
            let decoded = encoding::decode(value, &spec.schema, columns)?;
            (decoded.rows, decoded.progress)
        }
        None => (removed(spec, key, columns)?, None),
    };
    Ok(LoggedBatch {
        base: base_of(record),
        appended: time_ms.unwrap_or(0).saturating_mul(1000),
        progress,
        rows,
    })
}

/// The row that removes a key: all other columns are NULL.
fn removed(spec: &TopicSpec, key: Option<&[u8]>, columns: Option<&[usize]>) -> Result<RecordBatch, String> {
    let (Cleanup::Compact { key: column }, Some([KEY_OF_ROW, key @ ..])) = (&spec.cleanup, key) else {
        return Err("it has no value".to_owned());
    };
    let row = || {
        let column = spec.schema.index_of(column)?;
        let converter = converter(spec.schema.field(column).data_type())?;
        let keys = converter.convert_rows([converter.parser().parse(key)])?;
        let column_of = |(index, field): (usize, &FieldRef)| match index == column {
            true => keys[0].clone(),
            false => new_null_array(field.data_type(), 1),
        };
        let arrays = spec.schema.fields().iter().enumerate().map(column_of).collect();
        let rows = RecordBatch::try_new(spec.schema.clone(), arrays)?;
        columns.map_or(Ok(rows.clone()), |columns| rows.project(columns))
    };
    row().map_err(|error: ArrowError| error.to_string())
}

fn converter(data_type: &DataType) -> Result<RowConverter, ArrowError> {
    RowConverter::new(vec![SortField::new(data_type.clone())])
}

/// A key with its kind before it.
pub(super) fn prefixed(first: u8, rest: &[u8]) -> Bytes {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(first);
    key.extend_from_slice(rest);
    key.into()
}
