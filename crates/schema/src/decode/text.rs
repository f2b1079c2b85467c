//! A value that came as bare text, in CSV or in a log line, into a column: what JSON has words for
//! is written as there, without the quotes; `JSON`, `STRUCT` and `T[]` are JSON.

use crate::base64;
use crate::calendar;
use crate::decode::builder::{Builder, Values};
use crate::decode::fields::Context;
use crate::decode::json;
use crate::decode::number;
use crate::decode::problem::{Parsed, Problem, quoted};

/// Appends the value of `text`, which begins at byte `at` of the body.
pub(super) fn read(text: &[u8], at: usize, builder: &mut Builder, context: &Context) -> Parsed {
    if let Values::Struct(_) | Values::List(_) | Values::Json(_) = builder.values {
        return json::read_alone(text, builder, context).map_err(|mut problem| {
            problem.at += at;
            problem.malformed = false;
            problem
        });
    }
    if push(text, &mut builder.values).is_some() {
        return Ok(());
    }
    let expected = match (&builder.values, builder.type_name()) {
        (Values::Int16(_), name) => format!("{name} (from {} to {})", i16::MIN, i16::MAX),
        (Values::Int32(_), name) => format!("{name} (from {} to {})", i32::MIN, i32::MAX),
        (Values::Timestamp(_), name) => format!("{name} (like 2026-01-31T12:30:00Z)"),
        (Values::Date(_), name) => format!("{name} (like 2026-01-31)"),
        (Values::Time(_), name) => format!("{name} (like 12:30:00)"),
        (Values::Binary(_), name) => format!("{name} (in base64)"),
        (Values::Unsupported(_), name) => format!("nothing (no value of {name} can be read)"),
        (_, name) => name,
    };
    Err(Problem::wrong(at, expected, quoted(text)))
}

/// Appends what stands for no value.
pub(super) fn read_nothing(at: usize, builder: &mut Builder) -> Parsed {
    if builder.field.is_nullable() {
        builder.push_null();
        return Ok(());
    }
    Err(Problem::wrong(
        at,
        format!("{} NOT NULL", builder.type_name()),
        "nothing",
    ))
}

fn push(text: &[u8], values: &mut Values) -> Option<()> {
    match values {
        Values::Text(values) => return values.push(text).then_some(()),
        Values::Boolean(values) => values.push(boolean(text)?),
        Values::Int16(values) => values.push(i16::try_from(number::integer(text)?).ok()?),
        Values::Int32(values) => values.push(i32::try_from(number::integer(text)?).ok()?),
        Values::Int64(values) => values.push(number::integer(text)?),
        Values::Float32(values) => values.push(lexical_core::parse(text).ok().filter(|value: &f32| value.is_finite())?),
        Values::Float64(values) => values.push(lexical_core::parse(text).ok().filter(|value: &f64| value.is_finite())?),
        Values::Decimal(values, precision, scale) => values.push(number::decimal(text, *precision, *scale)?),
        Values::Date(values) => values.push(calendar::parse_date(text)?),
        Values::Time(values) => values.push(calendar::parse_time(text)?),
        Values::Timestamp(values) => values.push(timestamp(text)?),
        Values::Binary(values) => {
            return (base64::decode(text, &mut values.data) && values.end()).then_some(());
        }
        Values::Struct(_) | Values::List(_) | Values::Json(_) | Values::Unsupported(_) => return None,
    }
    Some(())
}

fn boolean(text: &[u8]) -> Option<bool> {
    let is = |words: [&str; 2]| words.iter().any(|word| text.eq_ignore_ascii_case(word.as_bytes()));
    match () {
        () if is(["true", "t"]) => Some(true),
        () if is(["false", "f"]) => Some(false),
        () => None,
    }
}

fn timestamp(text: &[u8]) -> Option<i64> {
    if let Some(micros) = calendar::parse_timestamp(text) {
        return Some(micros);
    }
    let micros = number::integer(text)?.checked_mul(1000)?;
    (calendar::MICROS_MIN..=calendar::MICROS_MAX)
        .contains(&micros)
        .then_some(micros)
}
