//! Rows of a file that has columns and types of its own made to fit a stream: columns by name, casts that lose nothing, and the
//! rows told apart that don't fit.
//!
//! Whether a type can become another one is decided once for a file. A cast that loses nothing for some values alone (`BIGINT` to
//! `INT`, nanoseconds to microseconds) is checked row by row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array, make_array, new_null_array};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{cast, concat, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;

use crate::column::{Column, EventSchema, UnknownFields};
use crate::conform::shown;
use crate::decode::json;
use crate::decode::nearest::nearest;
use crate::types::{field_type_name, type_name};

/// How rows of one file become a stream's.
#[derive(Debug)]
pub struct Fit {
    columns: Vec<Part>,
}

/// A row that doesn't fit, with a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub row: usize,
    pub detail: String,
}

/// A column of the stream that is in the file.
#[derive(Debug)]
struct Part {
    column: Column,
    /// Its place in the file.
    from: usize,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Every value can be cast.
    Cast,
    /// What can't be cast, or can't be cast back, doesn't fit.
    Checked,
}

impl Fit {
    /// # Errors
    /// A column that is missing, that the stream doesn't have, or whose type can't become the stream's.
    pub fn new(schema: &EventSchema, file: &Schema) -> Result<Self, String> {
        if schema.unknown_fields == UnknownFields::Reject {
            for field in file.fields() {
                if !schema.columns.iter().any(|column| column.name == *field.name()) {
                    return Err(unknown(schema, field.name()));
                }
            }
        }
        let mut columns = Vec::new();
        for column in &schema.columns {
            let expected = type_name(&column.data_type, column.json);
            match file.fields().find(&column.name) {
                Some((from, field)) => {
                    let found = field_type_name(field);
                    let way = way(field.data_type(), &column.data_type).ok_or_else(|| {
                        format!(
                            "the column {} is {found}, and {expected} is expected: no cast keeps every value",
                            column.name
                        )
                    })?;
                    let column = column.clone();
                    columns.push(Part { column, from, way });
                }
                None if column.nullable || column.default.is_some() => {}
                None => {
                    let names: Vec<_> = file.fields().iter().map(|field| field.name().as_str()).collect();
                    return Err(format!(
                        "there is no column {}, which is {expected} NOT NULL; there are {}",
                        column.name,
                        names.join(", ")
                    ));
                }
            }
        }
        Ok(Self { columns })
    }

    /// The places of the columns that are read, in ascending order.
    pub fn places(&self) -> Vec<usize> {
        let mut places: Vec<_> = self.columns.iter().map(|part| part.from).collect();
        places.sort_unstable();
        places
    }

    /// The rows that fit, in the stream's types, without the columns that the file doesn't have; and those that don't fit.
    /// Columns are found by their names.
    pub fn apply(&self, rows: &RecordBatch) -> Result<(RecordBatch, Vec<Misfit>), ArrowError> {
        let mut misfits: Vec<Option<String>> = vec![None; rows.num_rows()];
        let mut fields = Vec::with_capacity(self.columns.len());
        let mut columns = Vec::with_capacity(self.columns.len());
        for part in &self.columns {
            let values = rows.column_by_name(&part.column.name);
            let values = values.ok_or_else(|| ArrowError::SchemaError(format!("no column {}", part.column.name)))?;
            columns.push(part.fit(values, &mut misfits)?);
            fields.push(Field::new(&part.column.name, part.column.data_type.clone(), true));
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let fitted = RecordBatch::try_new_with_options(schema, columns, &options)?;
        if misfits.iter().all(Option::is_none) {
            return Ok((fitted, Vec::new()));
        }
        let fits: BooleanArray = misfits.iter().map(|misfit| Some(misfit.is_none())).collect();
        let told = misfits.into_iter().enumerate();
        let told = told.filter_map(|(row, detail)| Some(Misfit { row, detail: detail? }));
        Ok((filter_record_batch(&fitted, &fits)?, told.collect()))
    }
}

impl Part {
    fn fit(&self, values: &ArrayRef, misfits: &mut [Option<String>]) -> Result<ArrayRef, ArrowError> {
        let column = &self.column;
        let to = &column.data_type;
        let cast = match try_cast(values, to) {
            Ok(cast) => cast,
            // Some row can't be cast at all: a NULL within a list that has none.
            Err(_) => one_by_one(values, to)?,
        };
        let changed = match self.way {
            Way::Cast => None,
            Way::Checked => Some(distinct(&try_cast(&cast, values.data_type())?, values)?),
        };
        let expected = type_name(to, column.json);
        let not_null = if column.nullable { "" } else { " NOT NULL" };
        for (row, misfit) in misfits.iter_mut().enumerate().filter(|(_, misfit)| misfit.is_none()) {
            let is_lost = values.is_valid(row) && cast.is_null(row);
            let is_changed = changed.as_ref().is_some_and(|changed| changed.value(row));
            let is_null = !column.nullable && values.is_null(row);
            if is_lost || is_changed || is_null || (column.json && !is_json_text(&cast, row)) {
                let found = match is_null {
                    true => "NULL".to_owned(),
                    false => shown(values, row),
                };
                *misfit = Some(format!("{}: expected {expected}{not_null}, found {found}", column.name));
            }
        }
        Ok(cast)
    }
}

/// How values of a type become values of another; none if they don't.
fn way(from: &DataType, to: &DataType) -> Option<Way> {
    use DataType::*;
    let is_binary = |data_type: &DataType| matches!(data_type, Binary | LargeBinary | BinaryView | FixedSizeBinary(_));
    Some(match (from, to) {
        (from, to) if from == to => Way::Cast,
        (Null, _) => Way::Cast,
        (Dictionary(_, values), to) => return way(values, to),
        (from, to) if from.is_integer() && (to.is_integer() || to.is_floating()) => Way::Checked,
        (from, Decimal128(_, _)) if from.is_integer() || from.is_decimal() => Way::Checked,
        (Float16, Float32 | Float64) | (Float32, Float64) => Way::Cast,
        (LargeUtf8 | Utf8View, Utf8) => Way::Cast,
        (from, Binary) if is_binary(from) => Way::Cast,
        (Timestamp(from, _), Timestamp(to, _)) if from == to => Way::Cast,
        (Timestamp(_, _) | Date32, Timestamp(_, _)) | (Date64, Date32) | (Time32(_) | Time64(_), Time64(_)) => {
            Way::Checked
        }
        (List(from) | LargeList(from) | ListView(from) | FixedSizeList(from, _), List(to)) => return within(from, to),
        (Struct(from), Struct(to)) if from.len() == to.len() => {
            let same = from
                .iter()
                .zip(to)
                .all(|(from, to)| from.name() == to.name() && within(from, to).is_some());
            return same.then_some(Way::Cast);
        }
        _ => return None,
    })
}

/// Within lists and structs nothing is checked row by row, and instants keep the zone that they are told in.
fn within(from: &Field, to: &Field) -> Option<Way> {
    match (from.data_type(), to.data_type()) {
        (DataType::Timestamp(_, from), DataType::Timestamp(_, to)) if from != to => None,
        (DataType::Int8 | DataType::Int16 | DataType::UInt8, DataType::Int32 | DataType::Int64)
        | (DataType::Int32 | DataType::UInt16 | DataType::UInt32, DataType::Int64)
        | (DataType::Int8 | DataType::UInt8, DataType::Int16)
        | (DataType::UInt16, DataType::Int32) => Some(Way::Cast),
        (from, to) => way(from, to).filter(|way| *way == Way::Cast),
    }
}

/// A cast that makes NULL of what can't be cast. Times are instants: a zone changes nothing.
fn try_cast(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if values.data_type() == to {
        return Ok(Arc::clone(values));
    }
    match (values.data_type(), to) {
        (DataType::Timestamp(unit, zone), DataType::Timestamp(_, wanted)) if zone != wanted => {
            let data_type = DataType::Timestamp(*unit, wanted.clone());
            let data = values.to_data().into_builder().data_type(data_type).build()?;
            cast(&make_array(data), to)
        }
        (DataType::Date32, DataType::Timestamp(_, wanted)) => {
            let midnight = cast(values, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let data_type = DataType::Timestamp(TimeUnit::Microsecond, wanted.clone());
            Ok(make_array(
                midnight.to_data().into_builder().data_type(data_type).build()?,
            ))
        }
        _ => cast(values, to),
    }
}

fn one_by_one(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    // Taken and not sliced: a slice of lists has the elements of all of them.
    let one = |row: usize| {
        let alone = take(values, &UInt64Array::from_value(row as u64, 1), None)?;
        Ok(try_cast(&alone, to).unwrap_or_else(|_| new_null_array(to, 1)))
    };
    let rows = (0..values.len()).map(one).collect::<Result<Vec<_>, ArrowError>>()?;
    let rows: Vec<&dyn Array> = rows.iter().map(AsRef::as_ref).collect();
    concat(&rows)
}

fn is_json_text(values: &ArrayRef, row: usize) -> bool {
    let text = values.as_string_opt::<i32>().filter(|text| text.is_valid(row));
    text.is_none_or(|text| json::check(text.value(row).as_bytes()).is_ok())
}

fn unknown(schema: &EventSchema, name: &str) -> String {
    let names = schema.columns.iter().map(|column| column.name.as_str());
    let near = nearest(name.as_bytes(), names).map_or(String::new(), |name| format!("; did you mean {name}?"));
    format!("the stream has no column for {name}{near} (WITH (unknown_fields = 'drop') leaves such columns out)")
}

#[cfg(test)]
#[path = "lossless_tests.rs"]
mod tests;
