//! Tests of fitting rows to a stream.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::TimeUnit;

use super::*;
use crate::decode::tests::{column, ids, schema};

fn stream() -> EventSchema {
    let default = |default, column: Column| Column {
        default: Some(default),
        ..column
    };
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let mut columns = vec![
        default(ColumnDefault::Uuid, column("id", DataType::Utf8)),
        column("n", DataType::Int32),
        default(ColumnDefault::Now, column("at", timestamp)),
        column("data", DataType::Utf8),
    ];
    columns[1].nullable = false;
    columns[3].json = true;
    schema(columns)
}

fn fitted(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, (usize, String)> {
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    conform(&stream(), &rows, &ids(), 42).map_err(|failure| (failure.index, failure.to_string()))
}

#[test]
fn rows_are_cast_filled_and_ordered() {
    let data: ArrayRef = Arc::new(StringViewArray::from(vec![Some("[1]"), None]));
    let rows = fitted(vec![("data", data), ("n", Arc::new(Int64Array::from(vec![1, 2])))]).unwrap();
    assert_eq!(rows.schema(), stream().arrow());
    assert_eq!(rows.column(0).as_string::<i32>().value(1).len(), 36);
    assert!(rows.column(3).is_null(1));
    let at = rows
        .column(2)
        .as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    assert_eq!(at.values().as_ref(), [42, 42]);
}

#[test]
fn what_does_not_fit_is_named() {
    let numbers = |values: Vec<Option<i64>>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    let texts = |values: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let cases = [
        (vec![("m", numbers(vec![Some(1)]))], (0, "there is no column \"m\"")),
        (
            vec![("n", numbers(vec![Some(1), None]))],
            (1, "n: the column must not be NULL"),
        ),
        (
            vec![("n", numbers(vec![Some(1), Some(1 << 40)]))],
            (1, "n: expected INT, found 1099511627776"),
        ),
        (vec![("n", texts(vec!["1", "x"]))], (1, "n: expected INT, found \"x\"")),
        (
            vec![("n", texts(vec!["1", "2"])), ("data", texts(vec!["{}", "{"]))],
            (1, "data: expected JSON, found \"{\""),
        ),
        (
            vec![("id", texts(vec!["a"]))],
            (0, "n: expected INT, but the field is missing and must not be NULL"),
        ),
    ];
    for (columns, (index, message)) in cases {
        assert_eq!(fitted(columns).unwrap_err(), (index, message.to_owned()));
    }
}
