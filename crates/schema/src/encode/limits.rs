//! What JSON and CSV have no form for: numbers that are none (NaN, infinity), and times that can't be read back.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Field, Float32Type, Float64Type, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};

use crate::calendar::{MICROS_MAX, MICROS_MIN};
use crate::types::is_json;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// JSON with fewer brackets than this is never nested too deeply.
const BRACKETS_MIN: usize = 16;

/// Whether there may be values among the rows that are not the same, or nothing at all, once they were written and read again. Looks at
/// values below NULLs too, so it may be wrong about that; never about the other.
pub fn may_not_come_back(rows: &RecordBatch) -> bool {
    let fields = rows.schema_ref().fields().iter();
    fields.zip(rows.columns()).any(|(field, column)| may_not(field, column))
}

fn may_not(field: &Field, column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>().values();
            values.iter().any(|value| !value.is_finite())
        }
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>().values();
            values.iter().any(|value| !value.is_finite())
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let values = column.as_primitive::<TimestampMicrosecondType>().values();
            values.iter().any(|value| !(MICROS_MIN..=MICROS_MAX).contains(value))
        }
        DataType::Date32 => {
            let days = MICROS_MIN.div_euclid(MICROS_PER_DAY)..=MICROS_MAX.div_euclid(MICROS_PER_DAY);
            let values = column.as_primitive::<Date32Type>().values();
            values.iter().any(|value| !days.contains(&i64::from(*value)))
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            let values = column.as_primitive::<Time64MicrosecondType>().values();
            values.iter().any(|value| !(0..MICROS_PER_DAY).contains(value))
        }
        DataType::Utf8 if is_json(field) => column.as_string::<i32>().iter().flatten().any(is_odd_json),
        DataType::Struct(fields) => {
            let members = fields.iter().zip(column.as_struct().columns());
            members.into_iter().any(|(field, member)| may_not(field, member))
        }
        DataType::List(item) => may_not(item, column.as_list::<i32>().values()),
        _ => false,
    }
}

/// JSON that comes back as NULL, or may be nested too deeply within an event.
fn is_odd_json(text: &str) -> bool {
    let brackets = memchr::memchr2_iter(b'{', b'[', text.as_bytes()).take(BRACKETS_MIN);
    text.trim() == "null" || brackets.count() == BRACKETS_MIN
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, ListArray, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn what_has_no_form_is_found_also_in_lists() {
        let of = |column: ArrayRef| may_not_come_back(&RecordBatch::try_from_iter([("a", column)]).unwrap());
        assert!(!of(Arc::new(Float64Array::from(vec![Some(1.5), None]))));
        assert!(of(Arc::new(Float64Array::from(vec![1.5, f64::NAN]))));
        assert!(!of(Arc::new(TimestampMicrosecondArray::from(vec![0, MICROS_MAX]))));
        assert!(of(Arc::new(TimestampMicrosecondArray::from(vec![0, MICROS_MAX + 1]))));
        let list = |number| ListArray::from_iter_primitive::<Float64Type, _, _>([Some([Some(0.0), Some(number)])]);
        assert!(!of(Arc::new(list(1.0))));
        assert!(of(Arc::new(list(f64::INFINITY))));
        assert!(is_odd_json(" null") && !is_odd_json("\"null\"") && is_odd_json(&"[".repeat(40)));
    }
}
