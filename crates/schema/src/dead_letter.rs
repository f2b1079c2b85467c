//! The rows of the built-in stream of what could not go on.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use headwater_event::clock::Micros;

/// An event that could not go on, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub time: Micros,
    /// The stream that it was meant for, or that it came from.
    pub stream: String,
    /// The door or the query where it stopped: `http 127.0.0.1:5123`.
    pub source: String,
    /// A word for programs: `decode`, `late`, `null_time`.
    pub reason: String,
    /// A sentence for people, with the place.
    pub detail: String,
    /// The bytes as they came; a row as JSON.
    pub payload: Option<Vec<u8>>,
}

pub fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("time", time, false),
        Field::new("stream", DataType::Utf8, false),
        Field::new("source", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("detail", DataType::Utf8, false),
        Field::new("payload", DataType::Binary, true),
    ]))
}

pub fn batch(letters: &[DeadLetter]) -> RecordBatch {
    let text = |of: fn(&DeadLetter) -> &String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(letters.iter().map(of)))
    };
    let times = letters.iter().map(|letter| letter.time);
    let payloads = letters.iter().map(|letter| letter.payload.as_deref());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(times)),
        text(|letter| &letter.stream),
        text(|letter| &letter.source),
        text(|letter| &letter.reason),
        text(|letter| &letter.detail),
        Arc::new(BinaryArray::from_iter(payloads)),
    ];
    #[expect(
        clippy::expect_used,
        reason = "the columns are those of the schema above, one value a letter"
    )]
    RecordBatch::try_new(schema(), columns).expect("columns fit the schema")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_become_rows() {
        let letter = DeadLetter {
            time: 5,
            stream: "clicks".into(),
            source: "http 127.0.0.1:5123".into(),
            reason: "decode".into(),
            detail: "line 1, column 2: expected BIGINT, found true".into(),
            payload: Some(b"{".to_vec()),
        };
        let rows = batch(&[
            letter.clone(),
            DeadLetter {
                payload: None,
                ..letter
            },
        ]);
        assert_eq!((rows.num_rows(), rows.column(5).null_count()), (2, 1));
        assert_eq!(batch(&[]).num_rows(), 0);
    }
}
