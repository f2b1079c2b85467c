//! Changelogs as people read them: what happened to a row, in words.

use std::sync::Arc;

use crate::op::{Op, is_changelog};
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use arrow::error::ArrowError;

/// The column of a live query's rows, and of a sink's, that says what happened to them.
pub const OP: &str = "op";

/// The schema of readable changes: the op column becomes the text column `op`. A schema without an op column stays as
/// it is.
pub fn readable_schema(schema: &SchemaRef) -> SchemaRef {
    if !is_changelog(schema) {
        return Arc::clone(schema);
    }
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.pop();
    fields.push(Arc::new(Field::new(OP, DataType::Utf8, false)));
    Arc::new(Schema::new(fields))
}

/// Changes with [`readable_schema`].
pub fn readable(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    if !is_changelog(rows.schema_ref()) {
        return Ok(rows.clone());
    }
    let mut columns = rows.columns().to_vec();
    if let Some(ops) = columns.pop() {
        columns.push(names(&ops));
    }
    RecordBatch::try_new(readable_schema(rows.schema_ref()), columns)
}

/// The rows without the op column, and what happened to each.
pub fn split(rows: &RecordBatch) -> Result<(RecordBatch, Option<Vec<Op>>), ArrowError> {
    if !is_changelog(rows.schema_ref()) {
        return Ok((rows.clone(), None));
    }
    let data = rows.num_columns() - 1;
    let ops = rows.column(data).as_primitive::<Int8Type>();
    let ops = ops.values().iter().map(|&op| Op::from_i8(op).unwrap_or(Op::Insert));
    let columns: Vec<usize> = (0..data).collect();
    Ok((rows.project(&columns)?, Some(ops.collect())))
}

fn names(ops: &ArrayRef) -> ArrayRef {
    let ops = ops.as_primitive::<Int8Type>();
    let name = |row| Op::from_i8(ops.value(row)).map(Op::name).unwrap_or_default();
    Arc::new((0..ops.len()).map(|row| Some(name(row))).collect::<StringArray>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::changelog_schema;
    use arrow::array::{Int8Array, Int64Array};

    #[test]
    fn ops_become_words() {
        let rows = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![1, 1, 2])),
            Arc::new(Int8Array::from(vec![0, 1, 2])),
        ];
        let changes = RecordBatch::try_new(changelog_schema(&rows), columns).unwrap();
        let readable = readable(&changes).unwrap();
        let words: Vec<_> = readable.column(1).as_string::<i32>().iter().flatten().collect();
        assert_eq!(words, ["insert", "update_before", "update_after"]);
        let (data, ops) = split(&changes).unwrap();
        assert_eq!(data.num_columns(), 1);
        assert_eq!(ops.unwrap()[1], Op::UpdateBefore);
    }
}
