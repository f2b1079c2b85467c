//! One column, looked at once, so that its values can be written without asking again what it is.

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, OffsetSizeTrait};
use arrow::compute;
use arrow::datatypes::*;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::base64;
use crate::calendar;
use crate::decode::json;
use crate::encode::scalar::{write_decimal, write_float, write_float32, write_integer, write_string};
use crate::types::is_json;

/// Writes values of one column as JSON.
pub(crate) struct Column {
    array: ArrayRef,
    kind: Kind,
}

/// What the array is, as far as writing goes.
enum Kind {
    Null,
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float16,
    Float32,
    Float64,
    Decimal(i8),
    Date32,
    Date64,
    Time32(TimeUnit),
    Time64(TimeUnit),
    /// Units in a second.
    Timestamp(TimeUnit, i64),
    Text,
    LargeText,
    TextView,
    /// Text that holds JSON; cast to `Utf8` before.
    Json,
    /// Cast to `Binary` before.
    Binary,
    /// Names ready to be written, with their values.
    Struct(Vec<(Vec<u8>, Column)>),
    List(Box<Column>),
    LargeList(Box<Column>),
    FixedSizeList(Box<Column>, usize),
    Map(Box<Column>, Box<Column>),
    /// What has no form of its own in JSON is written as the text that Arrow shows.
    Shown,
}

impl Column {
    pub fn new(field: &Field, array: &ArrayRef) -> Result<Self, ArrowError> {
        let mut array = array.clone();
        let kind = match array.data_type().clone() {
            DataType::Null => Kind::Null,
            DataType::Boolean => Kind::Boolean,
            DataType::Int8 => Kind::Int8,
            DataType::Int16 => Kind::Int16,
            DataType::Int32 => Kind::Int32,
            DataType::Int64 => Kind::Int64,
            DataType::UInt8 => Kind::UInt8,
            DataType::UInt16 => Kind::UInt16,
            DataType::UInt32 => Kind::UInt32,
            DataType::UInt64 => Kind::UInt64,
            DataType::Float16 => Kind::Float16,
            DataType::Float32 => Kind::Float32,
            DataType::Float64 => Kind::Float64,
            DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
                array = compute::cast(&array, &DataType::Decimal128(precision, scale))?;
                Kind::Decimal(scale)
            }
            DataType::Decimal128(_, scale) => Kind::Decimal(scale),
            DataType::Date32 => Kind::Date32,
            DataType::Date64 => Kind::Date64,
            DataType::Time32(unit) => Kind::Time32(unit),
            DataType::Time64(unit) => Kind::Time64(unit),
            DataType::Timestamp(unit, _) => Kind::Timestamp(unit, per_second(unit)),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if is_json(field) => {
                array = compute::cast(&array, &DataType::Utf8)?;
                Kind::Json
            }
            DataType::Utf8 => Kind::Text,
            DataType::LargeUtf8 => Kind::LargeText,
            DataType::Utf8View => Kind::TextView,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                array = compute::cast(&array, &DataType::Binary)?;
                Kind::Binary
            }
            DataType::Dictionary(_, values) => {
                array = compute::cast(&array, &values)?;
                return Self::new(&field.clone().with_data_type(*values), &array);
            }
            DataType::RunEndEncoded(_, values) => {
                array = compute::cast(&array, values.data_type())?;
                return Self::new(&values, &array);
            }
            DataType::ListView(item) => {
                array = compute::cast(&array, &DataType::List(item.clone()))?;
                Kind::List(Box::new(Self::new(&item, array.as_list::<i32>().values())?))
            }
            DataType::LargeListView(item) => {
                array = compute::cast(&array, &DataType::LargeList(item.clone()))?;
                Kind::LargeList(Box::new(Self::new(&item, array.as_list::<i64>().values())?))
            }
            data_type => nested_kind(&data_type, &array)?,
        };
        Ok(Self { array, kind })
    }

    pub fn is_null(&self, row: usize) -> bool {
        matches!(self.kind, Kind::Null) || self.array.is_null(row)
    }

    /// Whether the values are JSON that is not a number, a word or a string.
    pub fn is_nested(&self) -> bool {
        use Kind::{FixedSizeList, LargeList, List, Map, Struct};
        matches!(
            self.kind,
            Struct(_) | List(_) | LargeList(_) | FixedSizeList(..) | Map(..) | Kind::Json
        )
    }

    /// The text of the row, if the column is text.
    pub fn text(&self, row: usize) -> Option<&str> {
        Some(match &self.kind {
            Kind::Text | Kind::Json => self.array.as_string::<i32>().value(row),
            Kind::LargeText => self.array.as_string::<i64>().value(row),
            Kind::TextView => self.array.as_string_view().value(row),
            _ => return None,
        })
    }

    /// Appends the row's value, which is not NULL, as text: text as it is, what is else a JSON string without its quotes.
    pub fn write_text(&self, row: usize, out: &mut Vec<u8>) {
        if !self.is_nested()
            && let Some(text) = self.text(row)
        {
            return out.extend_from_slice(text.as_bytes());
        }
        let start = out.len();
        self.write(row, out);
        // Times, base64 and the like hold nothing that is escaped.
        if let [b'"', .., b'"'] = out[start..] {
            out.pop();
            out.remove(start);
        }
    }

    /// Appends the row's value as JSON.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            return out.extend_from_slice(b"null");
        }
        match &self.kind {
            Kind::Null => out.extend_from_slice(b"null"),
            Kind::Boolean => out.extend_from_slice(if self.array.as_boolean().value(row) {
                b"true"
            } else {
                b"false"
            }),
            Kind::Int8 => write_integer(self.value::<Int8Type>(row), out),
            Kind::Int16 => write_integer(self.value::<Int16Type>(row), out),
            Kind::Int32 => write_integer(self.value::<Int32Type>(row), out),
            Kind::Int64 => write_integer(self.value::<Int64Type>(row), out),
            Kind::UInt8 => write_integer(self.value::<UInt8Type>(row), out),
            Kind::UInt16 => write_integer(self.value::<UInt16Type>(row), out),
            Kind::UInt32 => write_integer(self.value::<UInt32Type>(row), out),
            Kind::UInt64 => write_integer(self.value::<UInt64Type>(row), out),
            Kind::Float16 => write_float32(self.value::<Float16Type>(row).to_f32(), out),
            Kind::Float32 => write_float32(self.value::<Float32Type>(row), out),
            Kind::Float64 => write_float(self.value::<Float64Type>(row), out),
            Kind::Decimal(scale) => write_decimal(self.value::<Decimal128Type>(row), *scale, out),
            Kind::Text => write_string(self.array.as_string::<i32>().value(row), out),
            Kind::LargeText => write_string(self.array.as_string::<i64>().value(row), out),
            Kind::TextView => write_string(self.array.as_string_view().value(row), out),
            Kind::Json => write_json(self.array.as_string::<i32>().value(row), out),
            Kind::Binary => in_quotes(out, |out| base64::encode(self.array.as_binary::<i32>().value(row), out)),
            Kind::Date32 | Kind::Date64 | Kind::Time32(_) | Kind::Time64(_) | Kind::Timestamp(..) => {
                in_quotes(out, |out| self.write_time(row, out));
            }
            Kind::Shown => write_string(&self.shown(row), out),
            _ => self.write_nested(row, out),
        }
    }

    #[inline]
    fn value<T: ArrowPrimitiveType>(&self, row: usize) -> T::Native {
        self.array.as_primitive::<T>().value(row)
    }

    fn write_time(&self, row: usize, out: &mut Vec<u8>) {
        match &self.kind {
            Kind::Date32 => calendar::write_date(i64::from(self.value::<Date32Type>(row)), out),
            Kind::Date64 => calendar::write_date(self.value::<Date64Type>(row).div_euclid(86_400_000), out),
            Kind::Time32(TimeUnit::Second) => write_clock(i64::from(self.value::<Time32SecondType>(row)), 1, out),
            Kind::Time32(_) => write_clock(i64::from(self.value::<Time32MillisecondType>(row)), 1000, out),
            Kind::Time64(TimeUnit::Microsecond) => {
                write_clock(self.value::<Time64MicrosecondType>(row), 1_000_000, out);
            }
            Kind::Time64(_) => write_clock(self.value::<Time64NanosecondType>(row), 1_000_000_000, out),
            Kind::Timestamp(unit, per_second) => {
                let value = match unit {
                    TimeUnit::Second => self.value::<TimestampSecondType>(row),
                    TimeUnit::Millisecond => self.value::<TimestampMillisecondType>(row),
                    TimeUnit::Microsecond => self.value::<TimestampMicrosecondType>(row),
                    TimeUnit::Nanosecond => self.value::<TimestampNanosecondType>(row),
                };
                calendar::write_timestamp(value, *per_second, out);
            }
            _ => (),
        }
    }

    fn write_nested(&self, row: usize, out: &mut Vec<u8>) {
        match &self.kind {
            Kind::Struct(fields) => write_object(fields, row, out),
            Kind::List(items) => write_list(items, range_of::<i32>(&self.array, row), out),
            Kind::LargeList(items) => write_list(items, range_of::<i64>(&self.array, row), out),
            Kind::FixedSizeList(items, length) => write_list(items, row * length..(row + 1) * length, out),
            Kind::Map(keys, values) => {
                let offsets = self.array.as_map().value_offsets();
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                out.push(b'{');
                for entry in range.clone() {
                    if entry > range.start {
                        out.push(b',');
                    }
                    keys.write_key(entry, out);
                    out.push(b':');
                    values.write(entry, out);
                }
                out.push(b'}');
            }
            _ => (),
        }
    }

    /// Appends the row's value as the name of a field.
    fn write_key(&self, row: usize, out: &mut Vec<u8>) {
        let start = out.len();
        self.write(row, out);
        if out.get(start) != Some(&b'"') {
            let text = String::from_utf8_lossy(&out[start..]).into_owned();
            out.truncate(start);
            write_string(&text, out);
        }
    }

    fn shown(&self, row: usize) -> String {
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(self.array.as_ref(), &options);
        formatter
            .and_then(|shown| shown.value(row).try_to_string())
            .unwrap_or_default()
    }
}

/// Appends `{"name":value,…}`.
pub(crate) fn write_object(fields: &[(Vec<u8>, Column)], row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for (n, (name, column)) in fields.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
        column.write(row, out);
    }
    out.push(b'}');
}

/// The columns with their names as they stand in JSON: `"name":`.
pub(crate) fn named(fields: &Fields, arrays: &[ArrayRef]) -> Result<Vec<(Vec<u8>, Column)>, ArrowError> {
    let named = fields.iter().zip(arrays).map(|(field, array)| {
        let mut name = Vec::new();
        write_string(field.name(), &mut name);
        name.push(b':');
        Ok((name, Column::new(field, array)?))
    });
    named.collect()
}

fn nested_kind(data_type: &DataType, array: &ArrayRef) -> Result<Kind, ArrowError> {
    Ok(match data_type {
        DataType::Struct(fields) => Kind::Struct(named(fields, array.as_struct().columns())?),
        DataType::List(item) => Kind::List(Box::new(Column::new(item, array.as_list::<i32>().values())?)),
        DataType::LargeList(item) => Kind::LargeList(Box::new(Column::new(item, array.as_list::<i64>().values())?)),
        DataType::FixedSizeList(item, length) => {
            // The values of an array that is a slice are sliced too.
            let items = Column::new(item, array.as_fixed_size_list().values())?;
            Kind::FixedSizeList(Box::new(items), usize::try_from(*length).unwrap_or(0))
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let (keys, values) = map.entries_fields();
            let keys = Column::new(keys, map.keys())?;
            Kind::Map(Box::new(keys), Box::new(Column::new(values, map.values())?))
        }
        _ => Kind::Shown,
    })
}

fn range_of<O: OffsetSizeTrait>(array: &ArrayRef, row: usize) -> std::ops::Range<usize> {
    let offsets = array.as_list::<O>().value_offsets();
    offsets[row].as_usize()..offsets[row + 1].as_usize()
}

fn write_list(items: &Column, range: std::ops::Range<usize>, out: &mut Vec<u8>) {
    out.push(b'[');
    for item in range.clone() {
        if item > range.start {
            out.push(b',');
        }
        items.write(item, out);
    }
    out.push(b']');
}

/// Appends text that holds JSON as it is, on one line; what turns out not to be JSON, as a string.
fn write_json(text: &str, out: &mut Vec<u8>) {
    if json::check(text.as_bytes()).is_err() {
        return write_string(text, out);
    }
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    // Within strings there are no line breaks, so these are mere space.
    for byte in &mut out[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

fn write_clock(value: i64, per_second: i64, out: &mut Vec<u8>) {
    // More than a day is no time of day; it is shown as the time of day it comes to.
    calendar::write_time(
        value.rem_euclid(per_second * 86_400) * (1_000_000_000 / per_second),
        out,
    );
}

fn in_quotes(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}
