//! SQL's types and Arrow's, both ways.

use std::sync::Arc;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Fields, TimeUnit};
use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, TimezoneInfo};
use headwater_catalog::snapshot::nearest;

use crate::error::{Kind, SqlError};
use crate::parse::normalize;

/// The type that `TIMESTAMPTZ` has as its zone.
const UTC: &str = "+00:00";

const NAMES: [&str; 14] = [
    "TEXT",
    "BOOLEAN",
    "SMALLINT",
    "INT",
    "BIGINT",
    "REAL",
    "DOUBLE",
    "DECIMAL",
    "DATE",
    "TIME",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "BYTEA",
    "JSON",
];

/// What a column of this SQL type is in Arrow, and whether its text is JSON.
pub fn arrow_type(sql: &SqlType) -> Result<(DataType, bool), SqlError> {
    let arrow = match sql {
        SqlType::JSON | SqlType::JSONB => return Ok((DataType::Utf8, true)),
        SqlType::Text
        | SqlType::String(_)
        | SqlType::Varchar(_)
        | SqlType::CharacterVarying(_)
        | SqlType::CharVarying(_)
        | SqlType::Char(_)
        | SqlType::Character(_)
        | SqlType::Uuid
        | SqlType::Nvarchar(_) => DataType::Utf8,
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::TinyInt(None) | SqlType::SmallInt(_) | SqlType::Int2(_) | SqlType::Int16 => DataType::Int16,
        SqlType::Int(_) | SqlType::Integer(_) | SqlType::Int4(_) | SqlType::Int32 => DataType::Int32,
        SqlType::BigInt(_) | SqlType::Int8(_) | SqlType::Int64 => DataType::Int64,
        SqlType::Real | SqlType::Float4 | SqlType::Float32 => DataType::Float32,
        SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Float8 | SqlType::Float64 => DataType::Float64,
        SqlType::Float(ExactNumberInfo::Precision(bits)) if *bits <= 24 => DataType::Float32,
        SqlType::Float(_) => DataType::Float64,
        SqlType::Decimal(info) | SqlType::Numeric(info) | SqlType::Dec(info) => decimal(*info)?,
        SqlType::Date | SqlType::Date32 => DataType::Date32,
        SqlType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => DataType::Time64(TimeUnit::Microsecond),
        SqlType::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone)
        | SqlType::TimestampNtz(_)
        | SqlType::Datetime(_) => DataType::Timestamp(TimeUnit::Microsecond, None),
        SqlType::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
        }
        SqlType::Bytea | SqlType::Bytes(_) | SqlType::Blob(_) | SqlType::Binary(_) | SqlType::Varbinary(_) => {
            DataType::Binary
        }
        SqlType::Array(
            ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::SquareBracket(item, _)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => DataType::List(field("item", item)?.into()),
        SqlType::Struct(fields, _) => structure(fields)?,
        other => return Err(unknown(other)),
    };
    Ok((arrow, false))
}

/// The type that a stream or view keeps values of `data_type` as; `None` where there is none.
pub fn stored_type(data_type: &DataType) -> Option<DataType> {
    let stored = match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Boolean | DataType::Int16 | DataType::Int32 | DataType::Int64 => data_type.clone(),
        DataType::Float32 | DataType::Float64 | DataType::Date32 | DataType::Decimal128(..) => data_type.clone(),
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Date64 | DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Dictionary(_, values) => stored_type(values)?,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            DataType::List(stored_field(item)?.into())
        }
        DataType::Struct(fields) => {
            let fields: Option<Vec<Field>> = fields.iter().map(|field| stored_field(field)).collect();
            DataType::Struct(fields?.into())
        }
        _ => return None,
    };
    Some(stored)
}

/// Whether a time column for windows and watermarks can be of this type.
pub fn is_event_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _))
}

fn stored_field(field: &Field) -> Option<Field> {
    let data_type = stored_type(field.data_type())?;
    Some(field.clone().with_data_type(data_type))
}

fn decimal(info: ExactNumberInfo) -> Result<DataType, SqlError> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => (38, 10),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=DECIMAL128_MAX_PRECISION), Ok(scale @ 0..)) if scale as u8 <= precision => {
            Ok(DataType::Decimal128(precision, scale))
        }
        _ => Err(
            SqlError::new(Kind::Type, format!("DECIMAL({precision}, {scale}) is out of range")).hint(format!(
                "the precision is 1 to {DECIMAL128_MAX_PRECISION}, the scale 0 to the precision"
            )),
        ),
    }
}

fn structure(fields: &[datafusion::sql::sqlparser::ast::StructField]) -> Result<DataType, SqlError> {
    let mut arrow = Vec::new();
    for struct_field in fields {
        let Some(name) = &struct_field.field_name else {
            return Err(
                SqlError::new(Kind::Type, "a field of a STRUCT needs a name").hint("write STRUCT<name TYPE, …>")
            );
        };
        let name = normalize(name);
        if arrow.iter().any(|other: &Arc<Field>| *other.name() == name) {
            return Err(SqlError::new(
                Kind::Type,
                format!("the field {name} is in the STRUCT twice"),
            ));
        }
        arrow.push(Arc::new(field(&name, &struct_field.field_type)?));
    }
    Ok(DataType::Struct(Fields::from(arrow)))
}

fn field(name: &str, sql: &SqlType) -> Result<Field, SqlError> {
    use headwater_schema::column::{TYPE_JSON, TYPE_KEY};
    let (data_type, json) = arrow_type(sql)?;
    let field = Field::new(name, data_type, true);
    if json {
        return Ok(field.with_metadata([(TYPE_KEY.to_owned(), TYPE_JSON.to_owned())].into()));
    }
    Ok(field)
}

fn unknown(sql: &SqlType) -> SqlError {
    let name = sql.to_string();
    let error = SqlError::new(Kind::Type, format!("there is no type {name}"))
        .did_you_mean(nearest(&name.to_uppercase(), NAMES.into_iter()));
    error.hint(format!(
        "the types are {}, STRUCT<…> and arrays (T[])",
        NAMES.join(", ")
    ))
}
