//! Values of a table's columns as columns of rows, and keys as arrays for a statement. The forms are those of
//! [`crate::postgres::columns`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, TimeUnit};
use arrow::error::ArrowError;
use headwater_schema::types::is_json;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::postgres::columns::{EPOCH_DAYS, EPOCH_MICROS, Form, SIGN_MINUS, array};

const DAY_MICROS: i64 = 86_400_000_000;
const UUID: u32 = 2950;
/// Of a UUID as text.
const UUID_LENGTH: usize = 36;
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// How a column is asked for.
pub(super) struct Readable {
    /// What stands behind its name in SQL.
    pub(super) cast: &'static str,
}

impl Readable {
    /// The types, by their names in `pg_type`, whose values are all values of the field; none if there is no such type. (A
    /// decimal and a time may be too large all the same.)
    pub(super) fn types(field: &Field) -> Option<&'static [&'static str]> {
        Some(match field.data_type() {
            DataType::Utf8 if is_json(field) => &["jsonb", "json"],
            DataType::Utf8 => &["text", "varchar", "bpchar", "uuid", "citext"],
            DataType::Boolean => &["bool"],
            DataType::Int16 => &["int2"],
            DataType::Int32 => &["int4", "int2"],
            DataType::Int64 => &["int8", "int4", "int2"],
            DataType::Float32 => &["float4"],
            DataType::Float64 => &["float8", "float4"],
            DataType::Decimal128(_, 0..) => &["numeric"],
            DataType::Binary => &["bytea"],
            DataType::Date32 => &["date"],
            DataType::Time64(TimeUnit::Microsecond) => &["time"],
            DataType::Timestamp(TimeUnit::Microsecond, _) => &["timestamp", "timestamptz"],
            _ => return None,
        })
    }

    pub(super) fn of(field: &Field, type_name: &str) -> Option<Self> {
        let known = Self::types(field)?.contains(&type_name);
        let is_text = matches!(type_name, "text" | "varchar") || *field.data_type() != DataType::Utf8;
        known.then_some(Self {
            cast: if is_text { "" } else { "::text" },
        })
    }
}

/// How a column of the key is written.
pub(super) struct Key {
    /// The type of the array's elements, in SQL.
    pub(super) name: &'static str,
    form: KeyForm,
}

enum KeyForm {
    Plain(Form, u32),
    /// From texts; what is no UUID is none's.
    Uuid,
}

impl Key {
    pub(super) fn is_possible(field: &Field) -> bool {
        let names = Readable::types(field).unwrap_or_default();
        names.iter().any(|name| Self::of(field, name).is_some())
    }

    /// For a column of this type.
    pub(super) fn of(field: &Field, type_name: &str) -> Option<Self> {
        let plain = |name, form, number| Self {
            name,
            form: KeyForm::Plain(form, number),
        };
        Some(match (field.data_type(), type_name) {
            (DataType::Utf8, _) if is_json(field) => return None,
            (DataType::Utf8, "uuid") => Self {
                name: "uuid",
                form: KeyForm::Uuid,
            },
            (DataType::Utf8, "text" | "varchar") => plain("text", Form::Text, 25),
            (DataType::Boolean, _) => plain("bool", Form::Bool, 16),
            (DataType::Int16, _) => plain("int2", Form::Int2, 21),
            (DataType::Int32, _) => plain("int4", Form::Int4, 23),
            (DataType::Int64, _) => plain("int8", Form::Int8, 20),
            (DataType::Decimal128(..), _) => plain("numeric", Form::Numeric, 1700),
            (DataType::Binary, _) => plain("bytea", Form::Bytes, 17),
            (DataType::Date32, _) => plain("date", Form::Date, 1082),
            (DataType::Time64(_), _) => plain("time", Form::Time, 1083),
            (DataType::Timestamp(..), "timestamp") => plain("timestamp", Form::Timestamp, 1114),
            (DataType::Timestamp(..), "timestamptz") => plain("timestamptz", Form::Timestamp, 1184),
            _ => return None,
        })
    }

    /// The array of these, as a parameter.
    pub(super) fn encoded(&self, values: &ArrayRef) -> Result<Vec<u8>, ArrowError> {
        let mut out = Vec::new();
        match self.form {
            KeyForm::Plain(form, number) => {
                let values = cast(values, &form.arrow(values.data_type()))?;
                array(&values, form, number, &mut out);
            }
            KeyForm::Uuid => {
                let uuids: BinaryArray = values.as_string::<i32>().iter().map(|text| uuid(text?)).collect();
                array(&uuids, Form::Bytes, UUID, &mut out);
            }
        }
        Ok(out)
    }
}

/// The bytes of a UUID as Postgres writes it: in lower case, with hyphens. Other texts equal none.
fn uuid(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if text.len() != UUID_LENGTH || HYPHENS.iter().any(|&at| text[at] != b'-') {
        return None;
    }
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits = text.iter().enumerate().filter(|(at, _)| !HYPHENS.contains(at));
    let digits: Vec<u8> = digits.map(|(_, byte)| digit(byte)).collect::<Option<_>>()?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// The columns behind the first one. Rows with a value that doesn't fit are added to `bad`, with the reason.
pub(super) fn columns(
    fields: &[Field],
    rows: &[Row],
    bad: &mut BTreeMap<usize, String>,
) -> Result<Vec<ArrayRef>, tokio_postgres::Error> {
    let column = |(at, field): (usize, &Field)| {
        let values = rows
            .iter()
            .map(|row| Ok(row.try_get::<_, Option<Raw<'_>>>(at + 1)?.map(|raw| raw.0)));
        let values: Vec<Option<&[u8]>> = values.collect::<Result<_, tokio_postgres::Error>>()?;
        Ok(read(field, &values, bad))
    };
    fields.iter().enumerate().map(column).collect()
}

struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn read(field: &Field, values: &[Option<&[u8]>], bad: &mut BTreeMap<usize, String>) -> ArrayRef {
    let mut values = Values { field, values, bad };
    match field.data_type() {
        DataType::Boolean => Arc::new(BooleanArray::from(values.each(|bytes| Some(*bytes.first()? != 0)))),
        DataType::Int16 => Arc::new(Int16Array::from(values.each(|bytes| i16::try_from(whole(bytes)?).ok()))),
        DataType::Int32 => Arc::new(Int32Array::from(values.each(|bytes| i32::try_from(whole(bytes)?).ok()))),
        DataType::Int64 => Arc::new(Int64Array::from(values.each(whole))),
        DataType::Float32 => Arc::new(Float32Array::from(
            values.each(|bytes| Some(f32::from_be_bytes(bytes.try_into().ok()?))),
        )),
        DataType::Float64 => Arc::new(Float64Array::from(values.each(float))),
        DataType::Decimal128(precision, scale) => {
            let (precision, scale) = (*precision, *scale);
            let decimals = values.each(|bytes| decimal(bytes, precision, scale.unsigned_abs()));
            let decimals = Decimal128Array::from(decimals);
            // The type is that of a column that was declared, and the values were checked.
            Arc::new(decimals.with_data_type(DataType::Decimal128(precision, scale)))
        }
        DataType::Binary => Arc::new(BinaryArray::from(values.each(Some))),
        DataType::Date32 => Arc::new(Date32Array::from(values.each(date))),
        DataType::Time64(_) => {
            Arc::new(Time64MicrosecondArray::from(values.each(|bytes| {
                whole(bytes).filter(|micros| (0..DAY_MICROS).contains(micros))
            })))
        }
        DataType::Timestamp(_, zone) => {
            let times = TimestampMicrosecondArray::from(values.each(timestamp));
            Arc::new(times.with_timezone_opt(zone.clone()))
        }
        // All others are texts.
        _ => Arc::new(StringArray::from(values.each(|bytes| std::str::from_utf8(bytes).ok()))),
    }
}

struct Values<'a, 'b> {
    field: &'a Field,
    values: &'a [Option<&'a [u8]>],
    bad: &'b mut BTreeMap<usize, String>,
}

impl<'a> Values<'a, '_> {
    fn each<T>(&mut self, read: impl Fn(&'a [u8]) -> Option<T>) -> Vec<Option<T>> {
        let name = self.field.name();
        let mut read_all = Vec::with_capacity(self.values.len());
        for (row, value) in self.values.iter().enumerate() {
            let read = value.and_then(&read);
            if read.is_none() && (value.is_some() || !self.field.is_nullable()) {
                let why = match value {
                    Some(_) => format!("the value of {name} is none of its type here"),
                    None => format!("{name} is NULL"),
                };
                self.bad.entry(row).or_insert(why);
            }
            read_all.push(read);
        }
        read_all
    }
}

fn whole(bytes: &[u8]) -> Option<i64> {
    Some(match bytes.len() {
        2 => i16::from_be_bytes(bytes.try_into().ok()?).into(),
        4 => i32::from_be_bytes(bytes.try_into().ok()?).into(),
        _ => i64::from_be_bytes(bytes.try_into().ok()?),
    })
}

fn float(bytes: &[u8]) -> Option<f64> {
    Some(match bytes.len() {
        4 => f32::from_be_bytes(bytes.try_into().ok()?).into(),
        _ => f64::from_be_bytes(bytes.try_into().ok()?),
    })
}

/// Infinity is none.
fn date(bytes: &[u8]) -> Option<i32> {
    let days = i32::from_be_bytes(bytes.try_into().ok()?);
    let is_finite = days != i32::MAX && days != i32::MIN;
    is_finite.then(|| days.checked_add(EPOCH_DAYS))?
}

fn timestamp(bytes: &[u8]) -> Option<i64> {
    let micros = whole(bytes)?;
    let is_finite = micros != i64::MAX && micros != i64::MIN;
    is_finite.then(|| micros.checked_add(EPOCH_MICROS))?
}

/// A number in base 10,000 as one with so many decimal places, if it is one; NaN and infinity are none.
fn decimal(bytes: &[u8], precision: u8, scale: u8) -> Option<i128> {
    let mut words = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (count, weight, sign) = (words.next()?, words.next()? as i16, words.next()?);
    words.next()?;
    if sign != 0 && sign != SIGN_MINUS {
        return None;
    }
    let mut value: i128 = 0;
    for (place, digit) in words.take(count.into()).enumerate() {
        let power = 4 * (i32::from(weight) - place as i32) + i32::from(scale);
        let digit = i128::from(digit);
        let part = match u32::try_from(power) {
            Ok(power) => digit.checked_mul(10_i128.checked_pow(power)?)?,
            Err(_) => {
                let unit = 10_i128.checked_pow(power.unsigned_abs())?;
                (digit % unit == 0).then_some(digit / unit)?
            }
        };
        value = value.checked_add(part)?;
    }
    let is_short = value < 10_i128.checked_pow(precision.into()).unwrap_or(i128::MAX);
    is_short.then_some(if sign == 0 { value } else { -value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::columns::numeric;

    #[test]
    fn decimals_come_back_as_they_went() {
        for scale in [0, 1, 3, 4, 7, 38] {
            for value in [0, 1, 9, 10_000, 123_456_789, 10_i128.pow(38) - 1] {
                for value in [value, -value] {
                    let mut bytes = Vec::new();
                    numeric(value.unsigned_abs(), value < 0, scale, &mut bytes);
                    assert_eq!(decimal(&bytes, 38, scale), Some(value), "{value} {scale}");
                }
            }
        }
        let mut bytes = Vec::new();
        numeric(12_345, false, 3, &mut bytes);
        assert_eq!(decimal(&bytes, 5, 4), None, "12.3450 has six digits");
        assert_eq!(decimal(&bytes, 6, 4), Some(123_450));
        assert_eq!(decimal(&bytes, 6, 2), None, "12.345 is not rounded");
        let not_a_number = [0, 0, 0, 0, 0xC0, 0, 0, 0];
        assert_eq!(decimal(&not_a_number, 38, 2), None);
    }

    #[test]
    fn only_what_postgres_writes_is_a_uuid() {
        let bytes = uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!((bytes[1], bytes[15], bytes.len()), (0x11, 0xff, 16));
        for other in [
            "",
            "00112233-4455-6677-8899-AABBCCDDEEFF",
            "00112233445566778899aabbccddeeff0000",
            "ö0112233-4455-6677-8899-aabbccddeef",
        ] {
            assert_eq!(uuid(other), None, "{other}");
        }
    }
}
