//! Values that requests name, as columns have them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use headwater_problem::Problem;
use headwater_schema::base64;
use headwater_schema::types::field_type_name;

use crate::http::query_string::invalid;

/// A column of the one value.
pub fn parse(field: &Field, text: &str) -> Result<ArrayRef, Problem> {
    let column: ArrayRef = Arc::new(StringArray::from_iter_values([text]));
    match field.data_type() {
        DataType::Utf8 => Ok(column),
        DataType::Binary => {
            let mut decoded = Vec::new();
            if !base64::decode(text.as_bytes(), &mut decoded) {
                return Err(expected(field, text));
            }
            Ok(Arc::new(BinaryArray::from_iter_values([decoded])))
        }
        DataType::Struct(_) | DataType::List(_) => Err(not_comparable(field)),
        data_type => cast(&column, data_type).ok_or_else(|| expected(field, text)),
    }
}

/// A column of the one value, which has a type of its own already: one that the column's holds without a loss.
pub fn fit(field: &Field, value: &ScalarValue) -> Result<ArrayRef, Problem> {
    let wanted = field.data_type();
    if matches!(wanted, DataType::Struct(_) | DataType::List(_)) {
        return Err(not_comparable(field));
    }
    if value.is_null() {
        let problem = invalid(format!(
            "'{}' is compared with NULL, which equals nothing",
            field.name()
        ));
        return Err(problem.hint("ask with SQL: … IS NULL"));
    }
    let fits = match value.data_type() {
        DataType::Int64 | DataType::UInt64 => wanted.is_numeric(),
        DataType::Float64 => wanted.is_floating(),
        DataType::Timestamp(..) => matches!(wanted, DataType::Timestamp(..)),
        other => other == *wanted,
    };
    let column = value.to_array().ok().filter(|_| fits);
    let column = column.and_then(|column| cast(&column, wanted));
    column.ok_or_else(|| expected(field, &value.to_string()))
}

fn cast(column: &ArrayRef, data_type: &DataType) -> Option<ArrayRef> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, data_type, &strict).ok()
}

fn not_comparable(field: &Field) -> Problem {
    invalid(format!(
        "the column '{}' is a {} and can't be compared here; ask with SQL",
        field.name(),
        field_type_name(field)
    ))
}

fn expected(field: &Field, text: &str) -> Problem {
    invalid(format!(
        "'{}' must be a {}, found '{text}'",
        field.name(),
        field_type_name(field)
    ))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int64Type, TimeUnit, TimestampMicrosecondType};

    use super::*;

    #[test]
    fn values_have_the_columns_type() {
        let count = Field::new("count", DataType::Int64, false);
        assert_eq!(parse(&count, "-7").unwrap().as_primitive::<Int64Type>().value(0), -7);
        let time = Field::new("time", DataType::Timestamp(TimeUnit::Microsecond, None), false);
        let parsed = parse(&time, "1970-01-01T00:00:01.5Z").unwrap();
        assert_eq!(parsed.as_primitive::<TimestampMicrosecondType>().value(0), 1_500_000);
    }

    #[test]
    fn what_does_not_fit_is_said_with_the_column() {
        let count = Field::new("count", DataType::Int64, false);
        let problem = parse(&count, "many").unwrap_err();
        assert_eq!(problem.detail, "'count' must be a BIGINT, found 'many'");
    }

    #[test]
    fn typed_values_fit_or_are_refused() {
        let small = Field::new("small", DataType::Int16, false);
        let fitted = fit(&small, &ScalarValue::Int64(Some(7))).unwrap();
        assert_eq!(fitted.data_type(), &DataType::Int16);
        for wrong in [
            ScalarValue::Int64(Some(70_000)),
            ScalarValue::Float64(Some(1.5)),
            ScalarValue::Boolean(Some(true)),
            ScalarValue::Null,
        ] {
            assert!(fit(&small, &wrong).is_err(), "{wrong}");
        }
        let name = Field::new("name", DataType::Utf8, false);
        let problem = fit(&name, &ScalarValue::Int64(Some(7))).unwrap_err();
        assert_eq!(problem.detail, "'name' must be a TEXT, found '7'");
    }
}
