//! Values of parameters as columns have them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field};
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
        DataType::Struct(_) | DataType::List(_) => Err(invalid(format!(
            "the column '{}' is a {} and can't be compared here; ask with SQL",
            field.name(),
            field_type_name(field)
        ))),
        data_type => {
            let strict = CastOptions {
                safe: false,
                ..CastOptions::default()
            };
            cast_with_options(&column, data_type, &strict).map_err(|_| expected(field, text))
        }
    }
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
}
