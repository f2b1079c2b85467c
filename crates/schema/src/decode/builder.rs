//! Columns under construction: vectors of our own that take values one by one and can be cut back
//! to a number of rows, so that an event that turns out to be bad leaves no trace.
//!
//! A column that has one row more than the rows begun so far already holds the current event's
//! value: that is how a repeated and a missing field are noticed, without any other book-keeping.

use std::mem;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, ListArray, PrimitiveArray, StringArray, new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, FieldRef, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};

use crate::decode::fields::Fields;
use crate::types::{is_json, type_name};

#[derive(Debug)]
pub(crate) struct Builder {
    pub values: Values,
    pub field: FieldRef,
    /// The rows that are NULL, ascending. Their place among the values holds anything.
    pub nulls: Vec<u32>,
}

#[derive(Debug)]
pub(crate) enum Values {
    Boolean(Vec<bool>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Vec<i128>, u8, i8),
    Date(Vec<i32>),
    Time(Vec<i64>),
    Timestamp(Vec<i64>),
    Text(Bytes),
    Json(Bytes),
    Binary(Bytes),
    Struct(Fields),
    List(Items),
    /// A type that no format can bring; it takes NULL alone. Counts its rows.
    Unsupported(usize),
}

/// Strings of bytes, one after the other.
#[derive(Debug)]
pub(crate) struct Bytes {
    /// Where each begins, and, at the end, where the next will.
    offsets: Vec<i32>,
    pub data: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Items {
    offsets: Vec<i32>,
    pub items: Box<Builder>,
}

impl Builder {
    pub fn new(field: FieldRef) -> Self {
        let values = match field.data_type() {
            DataType::Boolean => Values::Boolean(Vec::new()),
            DataType::Int16 => Values::Int16(Vec::new()),
            DataType::Int32 => Values::Int32(Vec::new()),
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            &DataType::Decimal128(precision, scale) => Values::Decimal(Vec::new(), precision, scale),
            DataType::Date32 => Values::Date(Vec::new()),
            DataType::Time64(TimeUnit::Microsecond) => Values::Time(Vec::new()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Values::Timestamp(Vec::new()),
            DataType::Utf8 if is_json(&field) => Values::Json(Bytes::new()),
            DataType::Utf8 => Values::Text(Bytes::new()),
            DataType::Binary => Values::Binary(Bytes::new()),
            DataType::Struct(fields) => Values::Struct(Fields::nested(fields)),
            DataType::List(item) => Values::List(Items {
                offsets: vec![0],
                items: Box::new(Self::new(Arc::clone(item))),
            }),
            _ => Values::Unsupported(0),
        };
        Self {
            values,
            field,
            nulls: Vec::new(),
        }
    }

    pub fn type_name(&self) -> String {
        type_name(self.field.data_type(), is_json(&self.field))
    }

    #[inline]
    pub fn len(&self) -> usize {
        match &self.values {
            Values::Boolean(values) => values.len(),
            Values::Int16(values) => values.len(),
            Values::Int32(values) | Values::Date(values) => values.len(),
            Values::Int64(values) | Values::Time(values) | Values::Timestamp(values) => values.len(),
            Values::Float32(values) => values.len(),
            Values::Float64(values) => values.len(),
            Values::Decimal(values, ..) => values.len(),
            Values::Text(values) | Values::Json(values) | Values::Binary(values) => values.len(),
            Values::Struct(fields) => fields.rows,
            Values::List(items) => items.offsets.len() - 1,
            Values::Unsupported(rows) => *rows,
        }
    }

    /// Appends a NULL, whether or not the column may hold one: the caller has looked.
    pub fn push_null(&mut self) {
        // Rows are fewer than bytes of text held, which are at most `i32::MAX`, or than NULLs
        // that memory has room for; a batch never comes near `u32::MAX` rows.
        self.nulls.push(self.len() as u32);
        match &mut self.values {
            Values::Boolean(values) => values.push(false),
            Values::Int16(values) => values.push(0),
            Values::Int32(values) | Values::Date(values) => values.push(0),
            Values::Int64(values) | Values::Time(values) | Values::Timestamp(values) => values.push(0),
            Values::Float32(values) => values.push(0.0),
            Values::Float64(values) => values.push(0.0),
            Values::Decimal(values, ..) => values.push(0),
            Values::Text(values) | Values::Json(values) | Values::Binary(values) => values.offsets.push(values.last()),
            Values::Struct(fields) => fields.push_null(),
            Values::List(items) => items.offsets.push(items.last()),
            Values::Unsupported(rows) => *rows += 1,
        }
    }

    /// Cuts the column back to its first `rows` rows, and forgets a value half written.
    pub fn truncate(&mut self, rows: usize) {
        while self.nulls.last().is_some_and(|&last| last as usize >= rows) {
            self.nulls.pop();
        }
        match &mut self.values {
            Values::Boolean(values) => values.truncate(rows),
            Values::Int16(values) => values.truncate(rows),
            Values::Int32(values) | Values::Date(values) => values.truncate(rows),
            Values::Int64(values) | Values::Time(values) | Values::Timestamp(values) => values.truncate(rows),
            Values::Float32(values) => values.truncate(rows),
            Values::Float64(values) => values.truncate(rows),
            Values::Decimal(values, ..) => values.truncate(rows),
            Values::Text(values) | Values::Json(values) | Values::Binary(values) => {
                values.offsets.truncate(rows + 1);
                values.data.truncate(values.last() as usize);
            }
            Values::Struct(fields) => fields.truncate(rows),
            Values::List(items) => {
                items.offsets.truncate(rows + 1);
                items.items.truncate(items.last() as usize);
            }
            Values::Unsupported(count) => *count = rows.min(*count),
        }
    }

    /// Hands out the column and begins the next, with room for as much.
    pub fn finish(&mut self) -> ArrayRef {
        let rows = self.len();
        let nulls = null_buffer(&mut self.nulls, rows);
        let data_type = self.field.data_type();
        match &mut self.values {
            Values::Boolean(values) => {
                let bits = BooleanBuffer::from(values.as_slice());
                values.clear();
                Arc::new(BooleanArray::new(bits, nulls))
            }
            Values::Int16(values) => primitive::<Int16Type>(values, nulls, data_type),
            Values::Int32(values) => primitive::<Int32Type>(values, nulls, data_type),
            Values::Int64(values) => primitive::<Int64Type>(values, nulls, data_type),
            Values::Float32(values) => primitive::<Float32Type>(values, nulls, data_type),
            Values::Float64(values) => primitive::<Float64Type>(values, nulls, data_type),
            Values::Decimal(values, ..) => primitive::<Decimal128Type>(values, nulls, data_type),
            Values::Date(values) => primitive::<Date32Type>(values, nulls, data_type),
            Values::Time(values) => primitive::<Time64MicrosecondType>(values, nulls, data_type),
            Values::Timestamp(values) => primitive::<TimestampMicrosecondType>(values, nulls, data_type),
            Values::Text(values) | Values::Json(values) => {
                let (offsets, data) = values.finish();
                Arc::new(StringArray::new(offsets, data, nulls))
            }
            Values::Binary(values) => {
                let (offsets, data) = values.finish();
                Arc::new(BinaryArray::new(offsets, data, nulls))
            }
            Values::Struct(fields) => fields.finish_nested(nulls),
            Values::List(list) => {
                let items = list.items.finish();
                let offsets = take_offsets(&mut list.offsets);
                Arc::new(ListArray::new(Arc::clone(&list.items.field), offsets, items, nulls))
            }
            Values::Unsupported(rows) => new_null_array(data_type, mem::take(rows)),
        }
    }
}

impl Bytes {
    fn new() -> Self {
        Self {
            offsets: vec![0],
            data: Vec::new(),
        }
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn last(&self) -> i32 {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Ends the value whose bytes have been appended to `data`. False if there is no more room:
    /// a column of a batch holds at most 2 GiB.
    #[inline]
    pub fn end(&mut self) -> bool {
        let Ok(end) = i32::try_from(self.data.len()) else {
            return false;
        };
        self.offsets.push(end);
        true
    }

    #[inline]
    pub fn push(&mut self, value: &[u8]) -> bool {
        self.data.extend_from_slice(value);
        self.end()
    }

    fn finish(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        (take_offsets(&mut self.offsets), Buffer::from_vec(take(&mut self.data)))
    }
}

impl Items {
    fn last(&self) -> i32 {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Ends the list whose items have been appended to `items`.
    pub fn end(&mut self) -> bool {
        let Ok(end) = i32::try_from(self.items.len()) else {
            return false;
        };
        self.offsets.push(end);
        true
    }
}

/// Whether a column of this type can be read from text.
pub(crate) fn is_supported(field: &Field) -> bool {
    match field.data_type() {
        DataType::Struct(fields) => fields.iter().all(|field| is_supported(field)),
        DataType::List(item) => is_supported(item),
        _ => !matches!(Builder::new(Arc::new(field.clone())).values, Values::Unsupported(_)),
    }
}

/// The vector's content, leaving an empty one with room for as much.
fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let next = Vec::with_capacity(values.len());
    mem::replace(values, next)
}

fn take_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let mut next = Vec::with_capacity(offsets.len());
    next.push(0);
    OffsetBuffer::new(ScalarBuffer::from(mem::replace(offsets, next)))
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
    data_type: &DataType,
) -> ArrayRef {
    let array = PrimitiveArray::<T>::new(ScalarBuffer::from(take(values)), nulls);
    Arc::new(array.with_data_type(data_type.clone()))
}

fn null_buffer(nulls: &mut Vec<u32>, rows: usize) -> Option<NullBuffer> {
    if nulls.is_empty() {
        return None;
    }
    let mut bits = vec![0xff_u8; rows.div_ceil(8)];
    for &row in nulls.iter() {
        bits[row as usize / 8] &= !(1 << (row % 8));
    }
    nulls.clear();
    Some(NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(bits), 0, rows)))
}
