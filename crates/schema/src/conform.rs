//! Rows that are columns already (an `INSERT`'s, a query's) made to fit a stream: columns by name,
//! cast, defaults filled, NOT NULL checked, in the stream's order.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use headwater_event::clock::Micros;
use headwater_event::id::Ids;

use crate::column::{Column, ColumnDefault, EventSchema};
use crate::decode::fields::{Context, Fields};
use crate::decode::json;
use crate::decode::nearest::nearest;
use crate::decode::{Failure, problem::quoted};
use crate::types::type_name;

/// `rows` as `schema` has them. Columns that are not there get their default; a NULL that is there
/// stays NULL. The failure names the first row that does not fit; it has no line and no bytes.
pub fn conform(schema: &EventSchema, rows: &RecordBatch, ids: &Ids, now: Micros) -> Result<RecordBatch, Box<Failure>> {
    for field in rows.schema_ref().fields() {
        if !schema.columns.iter().any(|column| column.name == *field.name()) {
            return Err(unknown(schema, field.name()));
        }
    }
    let columns: Vec<_> = schema
        .columns
        .iter()
        .map(|column| match rows.column_by_name(&column.name) {
            Some(values) => fit(column, values),
            None => fill(schema, column, rows.num_rows(), ids, now),
        })
        .collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(schema.arrow(), columns, &options)
        .map_err(|error| failure(0, None, None, None, format!("the rows do not fit the stream: {error}")))
}

fn fit(column: &Column, values: &ArrayRef) -> Result<ArrayRef, Box<Failure>> {
    let name = Some(&column.name);
    let expected = type_name(&column.data_type, column.json);
    let cast = cast(column, values, &expected)?;
    if !column.nullable
        && let Some(row) = (0..cast.len()).find(|&row| cast.is_null(row))
    {
        let message = format!("{}: the column must not be NULL", column.name);
        return Err(failure(
            row,
            name,
            Some(format!("{expected} NOT NULL")),
            Some("NULL".to_owned()),
            message,
        ));
    }
    if column.json
        && let Some(text) = cast.as_string_opt::<i32>()
        && let Some(row) = first_not_json(text)
    {
        let found = quoted(text.value(row).as_bytes());
        let message = format!("{}: expected JSON, found {found}", column.name);
        return Err(failure(row, name, Some(expected), Some(found), message));
    }
    Ok(cast)
}

fn cast(column: &Column, values: &ArrayRef, expected: &str) -> Result<ArrayRef, Box<Failure>> {
    if *values.data_type() == column.data_type {
        return Ok(Arc::clone(values));
    }
    let source = type_name(values.data_type(), false);
    let wrong = |row: usize, found: String| {
        let message = format!("{}: expected {expected}, found {found}", column.name);
        failure(row, Some(&column.name), Some(expected.to_owned()), Some(found), message)
    };
    if !can_cast_types(values.data_type(), &column.data_type) {
        return Err(wrong(0, format!("a value of type {source}")));
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(values, &column.data_type, &strict).map_err(|error| {
        // Once more, with NULL for what can't be cast, says which row it is.
        let lenient = cast_with_options(values, &column.data_type, &CastOptions::default());
        let row = lenient
            .ok()
            .and_then(|cast| (0..cast.len()).find(|&row| cast.is_null(row) && values.is_valid(row)));
        match row {
            Some(row) => wrong(row, shown(values, row)),
            None => wrong(0, error.to_string()),
        }
    })
}

/// The values of a column that the rows don't have.
fn fill(schema: &EventSchema, column: &Column, rows: usize, ids: &Ids, now: Micros) -> Result<ArrayRef, Box<Failure>> {
    if column.default.is_none() && column.nullable {
        return Ok(new_null_array(&column.data_type, rows));
    }
    if column.default == Some(ColumnDefault::Uuid) && column.data_type == DataType::Utf8 {
        let made = (0..rows).map(|_| ids.uuid().to_string());
        return Ok(Arc::new(StringArray::from_iter_values(made)));
    }
    let context = Context {
        ids,
        now,
        unknown: schema.unknown_fields,
    };
    let mut fields = Fields::new(std::slice::from_ref(column));
    for row in 0..rows {
        if let Err(problem) = fields.fill(0, &context) {
            return Err(Box::new(problem.into_failure(row, (0, 0), 0..0)));
        }
        fields.rows += 1;
    }
    Ok(fields.members[0].builder.finish())
}

fn first_not_json(values: &StringArray) -> Option<usize> {
    (0..values.len()).find(|&row| values.is_valid(row) && json::check(values.value(row).as_bytes()).is_err())
}

fn unknown(schema: &EventSchema, name: &str) -> Box<Failure> {
    let names = schema.columns.iter().map(|column| column.name.as_str());
    let hint = nearest(name.as_bytes(), names).map_or(String::new(), |name| format!("; did you mean \"{name}\"?"));
    let message = format!("there is no column {}{hint}", quoted(name.as_bytes()));
    let expected = Some("a column of the stream".to_owned());
    failure(
        0,
        Some(&name.to_owned()),
        expected,
        Some(format!("the column {}", quoted(name.as_bytes()))),
        message,
    )
}

pub(crate) fn shown(values: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default();
    let text = ArrayFormatter::try_new(values.as_ref(), &options).and_then(|shown| shown.value(row).try_to_string());
    let text = quoted(text.unwrap_or_default().as_bytes());
    match values.data_type().is_numeric() {
        true => text.trim_matches('"').to_owned(),
        false => text,
    }
}

fn failure(
    index: usize,
    field: Option<&String>,
    expected: Option<String>,
    found: Option<String>,
    message: String,
) -> Box<Failure> {
    Box::new(Failure {
        index,
        field: field.cloned(),
        line: 0,
        column: 0,
        expected,
        found,
        message,
        span: 0..0,
    })
}

#[cfg(test)]
#[path = "conform_tests.rs"]
mod tests;
