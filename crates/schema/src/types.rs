//! The names of types as people write them in SQL, for errors and for `DESCRIBE`.

use arrow::datatypes::{DataType, Field};

use crate::column::{TYPE_JSON, TYPE_KEY};

/// `BIGINT`, `STRUCT<a INT, b TEXT>`, `TEXT[]`. `json` says that text holds JSON. A type that has
/// no name in our SQL gets Arrow's.
pub fn type_name(data_type: &DataType, json: bool) -> String {
    if let Some(name) = plain_name(data_type, json) {
        return name.to_owned();
    }
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|field| format!("{} {}", field.name(), field_type_name(field)))
                .collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            format!("{}[]", field_type_name(field))
        }
        DataType::Dictionary(_, values) => type_name(values, json),
        other => other.to_string(),
    }
}

/// The name of a field's type; the field's metadata says whether its text is JSON.
pub fn field_type_name(field: &Field) -> String {
    type_name(field.data_type(), is_json(field))
}

/// Whether the field's text is JSON.
pub fn is_json(field: &Field) -> bool {
    field.metadata().get(TYPE_KEY).is_some_and(|kind| kind == TYPE_JSON)
}

fn plain_name(data_type: &DataType, json: bool) -> Option<&'static str> {
    Some(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if json => "JSON",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "TEXT",
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INT UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Timestamp(_, None) => "TIMESTAMP",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMPTZ",
        DataType::Interval(_) => "INTERVAL",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "BYTEA",
        DataType::Null => "NULL",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn names_are_those_of_sql() {
        let item = Field::new("item", DataType::Utf8, true);
        let fields = vec![
            Field::new("a", DataType::Int32, true),
            Field::new("b", DataType::List(item.into()), true),
        ];
        let cases = [
            (DataType::Int64, "BIGINT"),
            (DataType::Decimal128(10, 2), "DECIMAL(10, 2)"),
            (DataType::Timestamp(TimeUnit::Microsecond, None), "TIMESTAMP"),
            (
                DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
                "TIMESTAMPTZ",
            ),
            (DataType::Struct(fields.into()), "STRUCT<a INT, b TEXT[]>"),
        ];
        for (data_type, name) in cases {
            assert_eq!(type_name(&data_type, false), name);
        }
        assert_eq!(type_name(&DataType::Utf8, true), "JSON");
    }
}
