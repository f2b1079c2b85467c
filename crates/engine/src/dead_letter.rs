//! Rows that could not go on, with the reason, as rows of the stream `dead_letters`.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::json::LineDelimitedWriter;
use headwater_event::clock::Micros;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::Produced;

use crate::error::Result;

/// Rows that share a reason.
#[derive(Debug)]
pub struct DeadLetters {
    /// A word for machines: `late`, `null_time`, `time_range`, `evaluate`, `aggregate`.
    pub reason: &'static str,
    /// A sentence for people.
    pub detail: String,
    pub rows: RecordBatch,
    pub place: Place,
}

/// Where rows were read. Their payload has only the columns that the query reads; by their place
/// they can be looked up.
#[derive(Debug)]
pub enum Place {
    /// The offset of each row.
    Each(Vec<Offset>),
    /// Rows that were made of what was read at these offsets.
    Within(Range<Offset>),
}

/// Where dead letters go, and what all of one task have in common.
#[derive(Clone, Debug)]
pub struct DeadLetterOffice {
    pub topic: Arc<str>,
    pub schema: SchemaRef,
    /// The stream that the rows came from.
    pub stream: Arc<str>,
    /// The query that could not use them.
    pub source: Arc<str>,
}

impl DeadLetters {
    /// The detail of each row, with its place in the partition.
    fn details(&self, input: &TopicPartition) -> StringArray {
        let count = self.rows.num_rows();
        match &self.place {
            Place::Each(offsets) => {
                let detail = |offset| format!("{} ({input}, offset {offset})", self.detail);
                offsets.iter().map(|offset| Some(detail(offset))).take(count).collect()
            }
            Place::Within(offsets) => {
                let last = offsets.end.saturating_sub(1).max(offsets.start);
                let detail = format!("{} ({input}, offsets {} to {last})", self.detail, offsets.start);
                StringArray::from(vec![detail; count])
            }
        }
    }
}

impl DeadLetterOffice {
    pub fn produced(&self, letters: &DeadLetters, input: &TopicPartition, now: Micros) -> Result<Produced> {
        let count = letters.rows.num_rows();
        let columns = self.schema.fields().iter().map(|field| {
            let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; count])) };
            let column: ArrayRef = match field.name().as_str() {
                "time" => Arc::new(TimestampMicrosecondArray::from_value(now, count)),
                "stream" => text(&self.stream),
                "source" => text(&self.source),
                "reason" => text(letters.reason),
                "detail" => Arc::new(letters.details(input)),
                "payload" => Arc::new(json_of(&letters.rows)?),
                _ => new_null_array(field.data_type(), count),
            };
            Ok(cast(&column, field.data_type())?)
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(Produced {
            partition: TopicPartition::new(Arc::clone(&self.topic), 0),
            rows: RecordBatch::try_new(self.schema.clone(), columns)?,
            progress: None,
        })
    }
}

/// Each row as a JSON object; NULL where a row can't be one.
fn json_of(rows: &RecordBatch) -> Result<BinaryArray> {
    let mut lines = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut lines);
    let written = writer.write(rows).and_then(|()| writer.finish());
    drop(writer);
    let mut objects: Vec<Option<&[u8]>> = match written {
        Ok(()) => lines
            .split(|&byte| byte == b'\n')
            .map(Some)
            .take(rows.num_rows())
            .collect(),
        Err(_) => Vec::new(),
    };
    objects.resize(rows.num_rows(), None);
    Ok(BinaryArray::from(objects))
}
