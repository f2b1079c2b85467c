//! Columns of rows as columns of a table: which type they get there, which types they go into, and their values in the binary form that
//! Postgres sends and receives.
//!
//! A value is cast to the Arrow type of the form that the table wants ([`Form`]), which loses nothing, and then written: its
//! length as four bytes, big endian, and its bytes; −1 for NULL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use arrow::error::ArrowError;
use headwater_schema::encode::JsonRows;
use headwater_schema::types::{field_type_name, is_json};

/// Between 1970 and 2000, where Postgres begins to count.
pub(crate) const EPOCH_DAYS: i32 = 10_957;
pub(crate) const EPOCH_MICROS: i64 = 946_684_800_000_000;
const NULL: i32 = -1;
const JSONB_VERSION: u8 = 1;
/// Of numbers in base 10,000.
pub(crate) const SIGN_MINUS: u16 = 0x4000;

/// How a value of a table's column is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// `numeric` of whole numbers that only `u64` holds.
    Unsigned,
    Text,
    Bytes,
    Date,
    Time,
    Timestamp,
    /// What has parts, as JSON; `jsonb` has a version before the text.
    Json,
    Jsonb,
}

/// A type of Postgres's: a [`Form`], or an array of them with the elements' type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    One(Form),
    Array(Form, u32),
}

/// A type that a column may have in a table: its name in `pg_type`, its number, and how it is written.
type Known = (&'static str, u32, Form);

const BOOL: Known = ("bool", 16, Form::Bool);
const INT2: Known = ("int2", 21, Form::Int2);
const INT4: Known = ("int4", 23, Form::Int4);
const INT8: Known = ("int8", 20, Form::Int8);
const FLOAT4: Known = ("float4", 700, Form::Float4);
const FLOAT8: Known = ("float8", 701, Form::Float8);
const NUMERIC: Known = ("numeric", 1700, Form::Numeric);
const UNSIGNED: Known = ("numeric", 1700, Form::Unsigned);
const TEXT: Known = ("text", 25, Form::Text);
const VARCHAR: Known = ("varchar", 1043, Form::Text);
const BPCHAR: Known = ("bpchar", 1042, Form::Text);
const BYTEA: Known = ("bytea", 17, Form::Bytes);
const DATE: Known = ("date", 1082, Form::Date);
const TIME: Known = ("time", 1083, Form::Time);
const TIMESTAMP: Known = ("timestamp", 1114, Form::Timestamp);
const TIMESTAMPTZ: Known = ("timestamptz", 1184, Form::Timestamp);
const JSON: Known = ("json", 114, Form::Json);
const JSONB: Known = ("jsonb", 3802, Form::Jsonb);
/// JSON that was text all along.
const JSON_TEXT: Known = ("text", 25, Form::Json);

/// What a column of rows goes into.
pub(crate) struct Mapping {
    /// The type of the column in a table that is made, as SQL has it.
    pub(crate) declared: String,
    is_array: bool,
    known: &'static [Known],
}

impl Mapping {
    /// None if there is no type of Postgres's for the field.
    pub(crate) fn of(field: &Field) -> Option<Self> {
        let (declared, known) = match scalar(field) {
            Some(scalar) => scalar,
            None => match field.data_type() {
                DataType::List(item) => match scalar(item).filter(|_| !is_json(item)) {
                    Some((declared, known)) => {
                        return Some(Self {
                            declared: format!("{declared}[]"),
                            is_array: true,
                            known,
                        });
                    }
                    None => ("jsonb".to_owned(), &[JSONB, JSON] as &[Known]),
                },
                DataType::Struct(_) | DataType::Map(_, _) => ("jsonb".to_owned(), &[JSONB, JSON] as &[Known]),
                _ => return None,
            },
        };
        Some(Self {
            declared,
            is_array: false,
            known,
        })
    }

    /// How values are written to a column whose type has this name in `pg_type`, if they can.
    pub(crate) fn type_of(&self, name: &str) -> Option<Type> {
        let element = match self.is_array {
            true => name.strip_prefix('_')?,
            false => name,
        };
        let (_, number, form) = self.known.iter().find(|(known, ..)| *known == element)?;
        Some(match self.is_array {
            true => Type::Array(*form, *number),
            false => Type::One(*form),
        })
    }

    /// The types that a column may have, for people.
    pub(crate) fn accepted(&self) -> String {
        let suffix = if self.is_array { "[]" } else { "" };
        let names: Vec<_> = self.known.iter().map(|(name, ..)| format!("{name}{suffix}")).collect();
        names.join(" or ")
    }
}

fn scalar(field: &Field) -> Option<(String, &'static [Known])> {
    let (declared, known): (&str, &'static [Known]) = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if is_json(field) => {
            ("jsonb", &[JSONB, JSON, JSON_TEXT])
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ("text", &[TEXT, VARCHAR, BPCHAR]),
        DataType::Boolean => ("boolean", &[BOOL]),
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => ("smallint", &[INT2, INT4, INT8]),
        DataType::UInt16 | DataType::Int32 => ("integer", &[INT4, INT8]),
        DataType::UInt32 | DataType::Int64 => ("bigint", &[INT8]),
        DataType::UInt64 => ("numeric(20)", &[UNSIGNED]),
        DataType::Float32 => ("real", &[FLOAT4, FLOAT8]),
        DataType::Float64 => ("double precision", &[FLOAT8]),
        DataType::Decimal128(precision, scale @ 0..) => {
            return Some((format!("numeric({precision}, {scale})"), &[NUMERIC]));
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => ("bytea", &[BYTEA]),
        DataType::Date32 => ("date", &[DATE]),
        DataType::Time64(TimeUnit::Microsecond) => ("time", &[TIME]),
        DataType::Timestamp(TimeUnit::Microsecond, None) => ("timestamp", &[TIMESTAMP, TIMESTAMPTZ]),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => ("timestamptz", &[TIMESTAMPTZ, TIMESTAMP]),
        _ => return None,
    };
    Some((declared.to_owned(), known))
}

/// The columns of a batch, ready to be written.
pub(crate) struct Values {
    columns: Vec<Value>,
    /// For columns that are written as JSON and aren't text.
    json: Option<JsonRows>,
}

struct Value {
    /// In the batch.
    place: usize,
    column: Type,
    array: ArrayRef,
}

impl Values {
    /// `columns` are places in the rows, with how they are written.
    pub(crate) fn new(rows: &RecordBatch, columns: &[(usize, Type)]) -> Result<Self, ArrowError> {
        let value = |(place, column): &(usize, Type)| {
            let array = rows.column(*place);
            let data_type = match column {
                Type::One(form) => form.arrow(array.data_type()),
                Type::Array(form, _) => match array.data_type() {
                    DataType::List(item) => {
                        let item = Field::clone(item).with_data_type(form.arrow(item.data_type()));
                        DataType::List(Arc::new(item))
                    }
                    other => other.clone(),
                },
            };
            Ok(Value {
                place: *place,
                column: column.clone(),
                array: cast(array, &data_type)?,
            })
        };
        let columns: Vec<Value> = columns.iter().map(value).collect::<Result<_, ArrowError>>()?;
        let is_made = |value: &Value| value.is_json() && value.array.as_string_opt::<i32>().is_none();
        let json = columns.iter().any(is_made).then(|| JsonRows::new(rows)).transpose()?;
        Ok(Self { columns, json })
    }

    /// Appends a row, with its number of fields; `flag` is one more, after the others.
    pub(crate) fn write(&self, row: usize, flag: Option<bool>, out: &mut Vec<u8>) {
        let fields = self.columns.len() + usize::from(flag.is_some());
        // A table has 1600 columns at most, which was seen when it was made.
        out.extend((fields as i16).to_be_bytes());
        for value in &self.columns {
            if value.array.is_null(row) {
                out.extend(NULL.to_be_bytes());
                continue;
            }
            with_length(out, |out| match &value.column {
                Type::One(form) => self.one(value, *form, row, out),
                Type::Array(form, number) => {
                    array(value.array.as_list::<i32>().value(row).as_ref(), *form, *number, out)
                }
            });
        }
        if let Some(flag) = flag {
            with_length(out, |out| out.push(u8::from(flag)));
        }
    }

    fn one(&self, value: &Value, form: Form, row: usize, out: &mut Vec<u8>) {
        if form == Form::Jsonb {
            out.push(JSONB_VERSION);
        }
        match &self.json {
            Some(json) if value.is_json() && value.array.as_string_opt::<i32>().is_none() => {
                json.write_value(row, value.place, out);
            }
            _ => form.write(value.array.as_ref(), row, out),
        }
    }
}

impl Value {
    fn is_json(&self) -> bool {
        matches!(self.column, Type::One(Form::Json | Form::Jsonb))
    }
}

impl Form {
    /// The Arrow type that it is written from.
    pub(crate) fn arrow(self, found: &DataType) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 => DataType::Int64,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Unsigned => DataType::UInt64,
            Self::Text => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => match found {
                DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
                _ => DataType::Timestamp(TimeUnit::Microsecond, None),
            },
            Self::Json | Self::Jsonb => match found {
                DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
                other => other.clone(),
            },
            Self::Numeric => found.clone(),
        }
    }

    /// Appends a value that is not NULL, of an array of [`Form::arrow`]'s type.
    fn write(self, array: &dyn Array, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Bool => out.push(u8::from(array.as_boolean().value(row))),
            Self::Int2 => out.extend(array.as_primitive::<Int16Type>().value(row).to_be_bytes()),
            Self::Int4 => out.extend(array.as_primitive::<Int32Type>().value(row).to_be_bytes()),
            Self::Int8 => out.extend(array.as_primitive::<Int64Type>().value(row).to_be_bytes()),
            Self::Float4 => out.extend(array.as_primitive::<Float32Type>().value(row).to_be_bytes()),
            Self::Float8 => out.extend(array.as_primitive::<Float64Type>().value(row).to_be_bytes()),
            Self::Unsigned => numeric(array.as_primitive::<UInt64Type>().value(row).into(), false, 0, out),
            Self::Numeric => {
                let decimals = array.as_primitive::<Decimal128Type>();
                let value = decimals.value(row);
                numeric(value.unsigned_abs(), value < 0, decimals.scale().unsigned_abs(), out);
            }
            Self::Text | Self::Json | Self::Jsonb => out.extend(array.as_string::<i32>().value(row).as_bytes()),
            Self::Bytes => out.extend(array.as_binary::<i32>().value(row)),
            Self::Time => out.extend(array.as_primitive::<Time64MicrosecondType>().value(row).to_be_bytes()),
            Self::Date => {
                let days = array.as_primitive::<Date32Type>().value(row);
                // The least is taken for minus infinity; what is above it is refused.
                let days = days.saturating_sub(EPOCH_DAYS).max(i32::MIN + 1);
                out.extend(days.to_be_bytes());
            }
            Self::Timestamp => {
                let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
                let micros = micros.saturating_sub(EPOCH_MICROS).max(i64::MIN + 1);
                out.extend(micros.to_be_bytes());
            }
        }
    }
}

/// Appends what `write` writes, with its length before it.
fn with_length(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 4]);
    write(out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Dimensions, whether there are NULLs, the elements' type; of the one dimension its length and its first index; the elements.
pub(crate) fn array(elements: &dyn Array, form: Form, number: u32, out: &mut Vec<u8>) {
    let is_empty = elements.is_empty();
    out.extend(i32::from(!is_empty).to_be_bytes());
    out.extend(i32::from(elements.null_count() > 0).to_be_bytes());
    out.extend(number.to_be_bytes());
    if is_empty {
        return;
    }
    out.extend((elements.len() as u32).to_be_bytes());
    out.extend(1_i32.to_be_bytes());
    for element in 0..elements.len() {
        match elements.is_null(element) {
            true => out.extend(NULL.to_be_bytes()),
            false => with_length(out, |out| form.write(elements, element, out)),
        }
    }
}

/// A number as Postgres has it: how many digits in base 10,000, the weight of the first one, the sign, how many decimal places are shown, and
/// the digits.
pub(crate) fn numeric(value: u128, is_negative: bool, scale: u8, out: &mut Vec<u8>) {
    let unit = 10_u128.pow(u32::from(scale));
    let (mut whole, mut fraction) = (value / unit, value % unit);
    let mut digits: Vec<u16> = Vec::with_capacity(20);
    while whole > 0 {
        digits.push((whole % 10_000) as u16);
        whole /= 10_000;
    }
    digits.reverse();
    let mut weight = digits.len() as i16 - 1;
    let mut left = u32::from(scale);
    while left > 0 && fraction > 0 {
        // A digit is four decimal places; the last one may be fewer.
        let places = left.min(4);
        let unit = 10_u128.pow(left - places);
        digits.push((fraction / unit) as u16 * 10_u16.pow(4 - places));
        fraction %= unit;
        left -= places;
    }
    let leading = digits.iter().take_while(|digit| **digit == 0).count();
    digits.drain(..leading);
    weight -= leading as i16;
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let sign = if is_negative { SIGN_MINUS } else { 0 };
    if digits.is_empty() {
        weight = 0;
    }
    out.extend((digits.len() as u16).to_be_bytes());
    out.extend(weight.to_be_bytes());
    out.extend(sign.to_be_bytes());
    out.extend(u16::from(scale).to_be_bytes());
    for digit in digits {
        out.extend(digit.to_be_bytes());
    }
}

/// The types of a table's columns for rows of these fields; or the first field that has none.
pub(crate) fn mappings<'a>(fields: impl Iterator<Item = &'a Field>) -> Result<Vec<Mapping>, String> {
    let mapping = |field: &Field| {
        let unknown = || {
            format!(
                "{} is {}, for which Postgres has no type",
                field.name(),
                field_type_name(field)
            )
        };
        Mapping::of(field).ok_or_else(unknown)
    };
    fields.map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(value: i128, scale: u8) -> Vec<u16> {
        let mut out = Vec::new();
        numeric(value.unsigned_abs(), value < 0, scale, &mut out);
        out.chunks(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .collect()
    }

    #[test]
    fn numbers_are_in_base_ten_thousand() {
        assert_eq!(digits(0, 2), [0, 0, 0, 2]);
        assert_eq!(digits(1_234_567, 2), [3, 1, 0, 2, 1, 2345, 6700]);
        assert_eq!(digits(-150, 2), [2, 0, SIGN_MINUS, 2, 1, 5000]);
        assert_eq!(digits(100_000_000, 0), [1, 2, 0, 0, 1]);
        assert_eq!(digits(1, 9), [1, (-3_i16) as u16, 0, 9, 1000]);
        let greatest = digits(i128::pow(10, 38) - 1, 38);
        assert_eq!((greatest[0], greatest[1] as i16, greatest[13]), (10, -1, 9900));
    }
}
