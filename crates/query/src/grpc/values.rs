//! Values as the messages have them: out of columns, and into parameters.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Float64Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt64Type,
};
use arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use headwater_grpc::v1::value::Kind;
use headwater_grpc::v1::{Column, ListValue, Row, StructValue, Value};
use headwater_problem::Problem;
use headwater_schema::encode::JsonRows;
use headwater_schema::types::field_type_name;
use prost_types::Timestamp;

use crate::http::query_string::invalid;
use crate::question::Given;

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z: the times that the message for them may have.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// The rows of a batch.
pub fn rows(batch: &RecordBatch) -> Result<Vec<Row>, ArrowError> {
    let mut columns = columns_of(batch)?;
    let row = |_| Row {
        values: columns.iter_mut().filter_map(Iterator::next).collect(),
    };
    Ok((0..batch.num_rows()).map(row).collect())
}

/// The first row of a batch, by the names of its columns.
pub fn named(batch: &RecordBatch) -> Result<HashMap<String, Value>, ArrowError> {
    let names = batch.schema_ref().fields().iter().map(|field| field.name().clone());
    let values = columns_of(batch)?.into_iter().filter_map(|mut column| column.next());
    Ok(names.zip(values).collect())
}

pub fn columns(schema: &Schema) -> Vec<Column> {
    let fields = schema.fields().iter();
    fields
        .map(|field| Column {
            name: field.name().clone(),
            r#type: field_type_name(field),
        })
        .collect()
}

fn columns_of(batch: &RecordBatch) -> Result<Vec<std::vec::IntoIter<Value>>, ArrowError> {
    let fields = batch.schema_ref().fields().iter();
    let columns = fields.zip(batch.columns());
    columns
        .map(|(field, array)| Ok(column(field, array)?.into_iter()))
        .collect()
}

/// The values of a column.
fn column(field: &Field, array: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    Ok(match array.data_type() {
        DataType::Null => vec![Value::default(); array.len()],
        DataType::Boolean => each(array.as_boolean(), Kind::Boolean),
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32 => each(
            cast(array, &DataType::Int64)?.as_primitive::<Int64Type>(),
            Kind::Integer,
        ),
        DataType::UInt64 => each(array.as_primitive::<UInt64Type>(), |number| {
            i64::try_from(number).map_or(Kind::Unsigned(number), Kind::Integer)
        }),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => each(
            cast(array, &DataType::Float64)?.as_primitive::<Float64Type>(),
            Kind::Number,
        ),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            each(cast(array, &DataType::Utf8)?.as_string::<i32>(), |text| {
                Kind::Text(text.to_owned())
            })
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            each(cast(array, &DataType::Binary)?.as_binary::<i32>(), |bytes| {
                Kind::Bytes(bytes.to_owned())
            })
        }
        DataType::Timestamp(unit, _) => times(field, array, *unit)?,
        DataType::List(item) => lists(item, array)?,
        DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => lists(item, &cast(array, &DataType::List(item.clone()))?)?,
        DataType::Struct(fields) => structs(fields, array)?,
        DataType::Dictionary(_, values) => column(field, &cast(array, values)?)?,
        DataType::RunEndEncoded(_, values) => column(field, &cast(array, values.data_type())?)?,
        _ => texts(field, array)?,
    })
}

fn each<T>(values: impl IntoIterator<Item = Option<T>>, kind: impl Fn(T) -> Kind) -> Vec<Value> {
    let values = values.into_iter();
    values.map(|value| Value { kind: value.map(&kind) }).collect()
}

fn times(field: &Field, array: &ArrayRef, unit: TimeUnit) -> Result<Vec<Value>, ArrowError> {
    let (times, per_second): (Vec<Option<i64>>, i64) = match unit {
        TimeUnit::Second => (array.as_primitive::<TimestampSecondType>().iter().collect(), 1),
        TimeUnit::Millisecond => (array.as_primitive::<TimestampMillisecondType>().iter().collect(), 1000),
        TimeUnit::Microsecond => (
            array.as_primitive::<TimestampMicrosecondType>().iter().collect(),
            1_000_000,
        ),
        TimeUnit::Nanosecond => (
            array.as_primitive::<TimestampNanosecondType>().iter().collect(),
            1_000_000_000,
        ),
    };
    let seconds = |time: i64| time.div_euclid(per_second);
    let fits = times
        .iter()
        .flatten()
        .all(|&time| TIMESTAMP_SECONDS.contains(&seconds(time)));
    if !fits {
        return texts(field, array);
    }
    Ok(each(times, |time| {
        let nanos = time.rem_euclid(per_second) * (1_000_000_000 / per_second);
        Kind::Timestamp(Timestamp {
            seconds: seconds(time),
            // Less than 10^9.
            nanos: i32::try_from(nanos).unwrap_or_default(),
        })
    }))
}

fn lists(item: &Field, array: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    let list = |items: Option<ArrayRef>| {
        let values = items.map(|items| column(item, &items)).transpose()?;
        Ok(Value {
            kind: values.map(|values| Kind::List(ListValue { values })),
        })
    };
    array.as_list::<i32>().iter().map(list).collect()
}

fn structs(fields: &arrow::datatypes::Fields, array: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    let array = array.as_struct();
    let columns = fields.iter().zip(array.columns());
    let columns = columns.map(|(field, values)| Ok((field.name(), column(field, values)?.into_iter())));
    let mut columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    let of_row = |row| {
        let fields = columns.iter_mut();
        let fields = fields.filter_map(|(name, values)| Some((name.to_owned(), values.next()?)));
        // The fields of a row that is NULL have values too, which don't count.
        let fields: HashMap<String, Value> = fields.collect();
        Value {
            kind: array.is_valid(row).then_some(Kind::Struct(StructValue { fields })),
        }
    };
    Ok((0..array.len()).map(of_row).collect())
}

/// What has no kind of its own: the texts and numbers of JSON answers.
fn texts(field: &Field, array: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    let schema = Schema::new(vec![
        field
            .clone()
            .with_data_type(array.data_type().clone())
            .with_nullable(true),
    ]);
    let batch = RecordBatch::try_new(schema.into(), vec![array.clone()])?;
    let rows = JsonRows::new(&batch)?;
    let text = |row| {
        let mut json = Vec::new();
        rows.write_value(row, 0, &mut json);
        let text = match json.first() {
            Some(b'"') => serde_json::from_slice(&json).unwrap_or_default(),
            _ => String::from_utf8_lossy(&json).into_owned(),
        };
        array.is_valid(row).then_some(text)
    };
    Ok(each((0..array.len()).map(text), Kind::Text))
}

/// A value that a column must have.
pub fn given(value: Value) -> Result<Given<'static>, Problem> {
    match value.kind {
        Some(Kind::Text(text)) => Ok(Given::Text(text.into())),
        kind => parameter(Value { kind }).map(Given::Value),
    }
}

/// The value of a parameter.
pub fn parameter(value: Value) -> Result<ScalarValue, Problem> {
    Ok(match value.kind {
        None => ScalarValue::Null,
        Some(Kind::Boolean(value)) => ScalarValue::Boolean(Some(value)),
        Some(Kind::Integer(value)) => ScalarValue::Int64(Some(value)),
        Some(Kind::Unsigned(value)) => ScalarValue::UInt64(Some(value)),
        Some(Kind::Number(value)) => ScalarValue::Float64(Some(value)),
        Some(Kind::Text(value)) => ScalarValue::Utf8(Some(value)),
        Some(Kind::Bytes(value)) => ScalarValue::Binary(Some(value)),
        Some(Kind::Timestamp(time)) => {
            let micros = time.seconds.checked_mul(1_000_000);
            let micros = micros.and_then(|micros| micros.checked_add(i64::from(time.nanos / 1000)));
            let in_micros = time.nanos % 1000 == 0 && (0..1_000_000_000).contains(&time.nanos);
            let micros = micros.filter(|_| in_micros).ok_or_else(|| {
                invalid(format!(
                    "a timestamp has seconds and, in microseconds, the part of a second, found {} s and {} ns",
                    time.seconds, time.nanos
                ))
            })?;
            ScalarValue::TimestampMicrosecond(Some(micros), None)
        }
        Some(Kind::List(_) | Kind::Struct(_)) => {
            return Err(invalid("a value here can't be a list or a struct"));
        }
    })
}

/// The value as a message, for a server that is asked in our place.
pub fn message(value: ScalarValue) -> Result<Value, Problem> {
    let array = value.to_array();
    let field = Field::new("value", value.data_type(), true);
    let values = array.map_err(|error| error.to_string()).and_then(|array| {
        let values = column(&field, &array);
        values.map_err(|error| error.to_string())
    });
    let mut values = values.map_err(invalid)?;
    Ok(values.pop().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Int16Array, ListArray, StringArray,
        StructArray, TimestampMicrosecondArray, UInt64Array,
    };
    use arrow::datatypes::Int32Type;

    use super::*;

    fn kinds(array: impl Array + 'static) -> Vec<Option<Kind>> {
        let array: ArrayRef = Arc::new(array);
        let field = Field::new("c", array.data_type().clone(), true);
        let values = column(&field, &array).unwrap();
        values.into_iter().map(|value| value.kind).collect()
    }

    fn text(text: &str) -> Option<Kind> {
        Some(Kind::Text(text.to_owned()))
    }

    #[test]
    fn columns_become_values_of_their_kind() {
        assert_eq!(
            kinds(Int16Array::from(vec![Some(-7), None])),
            [Some(Kind::Integer(-7)), None]
        );
        assert_eq!(
            kinds(UInt64Array::from(vec![7, u64::MAX])),
            [Some(Kind::Integer(7)), Some(Kind::Unsigned(u64::MAX))]
        );
        assert_eq!(kinds(Float32Array::from(vec![1.5])), [Some(Kind::Number(1.5))]);
        assert_eq!(kinds(BooleanArray::from(vec![true])), [Some(Kind::Boolean(true))]);
        assert_eq!(kinds(StringArray::from(vec!["a\"b"])), [text("a\"b")]);
        assert_eq!(
            kinds(BinaryArray::from(vec![&b"\xff"[..]])),
            [Some(Kind::Bytes(vec![0xff]))]
        );
        let decimals = Decimal128Array::from(vec![Some(-150), None]).with_precision_and_scale(10, 2);
        assert_eq!(kinds(decimals.unwrap()), [text("-1.50"), None]);
        assert_eq!(kinds(Date32Array::from(vec![0])), [text("1970-01-01")]);
    }

    #[test]
    fn times_before_1970_and_beyond_the_message_are_exact() {
        let before = kinds(TimestampMicrosecondArray::from(vec![-1]));
        let timestamp = Timestamp {
            seconds: -1,
            nanos: 999_999_000,
        };
        assert_eq!(before, [Some(Kind::Timestamp(timestamp))]);
        let beyond = kinds(TimestampMicrosecondArray::from(vec![i64::MAX]));
        assert!(
            matches!(&beyond[0], Some(Kind::Text(text)) if text.contains("294247")),
            "{beyond:?}"
        );
    }

    #[test]
    fn nested_values_keep_their_nulls() {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let kinds_of = kinds(lists);
        let Some(Kind::List(first)) = &kinds_of[0] else {
            panic!("{kinds_of:?}")
        };
        assert_eq!(first.values[0].kind, Some(Kind::Integer(1)));
        assert_eq!((first.values[1].kind.as_ref(), &kinds_of[1]), (None, &None));

        let fields = vec![Field::new("n", DataType::Int16, true)];
        let columns: Vec<ArrayRef> = vec![Arc::new(Int16Array::from(vec![1, 2]))];
        let structs = kinds(StructArray::new(fields.into(), columns, Some(vec![false, true].into())));
        let Some(Kind::Struct(second)) = &structs[1] else {
            panic!("{structs:?}")
        };
        assert_eq!(
            (&structs[0], &second.fields["n"].kind),
            (&None, &Some(Kind::Integer(2)))
        );
    }

    #[test]
    fn parameters_survive_the_way_through_a_message() {
        for value in [
            ScalarValue::Null,
            ScalarValue::Boolean(Some(true)),
            ScalarValue::Int64(Some(-1)),
            ScalarValue::UInt64(Some(u64::MAX)),
            ScalarValue::Float64(Some(0.1)),
            ScalarValue::Utf8(Some("a".to_owned())),
            ScalarValue::TimestampMicrosecond(Some(-1), None),
        ] {
            assert_eq!(parameter(message(value.clone()).unwrap()).unwrap(), value);
        }
    }
}
