//! One JSON value into one column.
//!
//! | column | takes |
//! |---|---|
//! | `SMALLINT`, `INT`, `BIGINT` | a number without fraction and exponent, in range |
//! | `REAL`, `DOUBLE` | a number, in range |
//! | `DECIMAL` | a number, or a string that holds one; rounded to the column's scale |
//! | `BOOLEAN` | `true`, `false` |
//! | `TEXT` | a string |
//! | `TIMESTAMP`, `TIMESTAMPTZ` | a string as [`crate::calendar`] reads it, or an integer: milliseconds since 1970 |
//! | `DATE`, `TIME` | a string `YYYY-MM-DD`; `HH:MM[:SS[.ffffff]]` |
//! | `BYTEA` | a string in base64 |
//! | `JSON` | anything, kept as it was written; `null` is NULL |
//! | `STRUCT`, `T[]` | an object with fields of these names; an array |
//!
//! `null` is NULL for each of them.

use crate::base64;
use crate::calendar;
use crate::decode::builder::{Builder, Items, Values};
use crate::decode::fields::Context;
use crate::decode::json::cursor::{Cursor, LEVELS_MAX, word};
use crate::decode::json::object;
use crate::decode::number;
use crate::decode::problem::{Parsed, Problem, quoted};

const FULL: &str = "the batch holds too much already: 2 GiB in one column";

/// Reads the value here into the next row of `builder`.
#[inline]
pub(crate) fn read(cursor: &mut Cursor, builder: &mut Builder, context: &Context) -> Parsed {
    let start = cursor.at;
    let first = cursor.peek();
    if first == b'n' {
        return read_null(cursor, builder);
    }
    let done = match &mut builder.values {
        Values::Text(values) => first == b'"' && cursor.string_into(&mut values.data) && values.end(),
        Values::Int64(values) => integer(cursor).map(|value| values.push(value)).is_some(),
        Values::Timestamp(values) => timestamp(cursor, first).map(|value| values.push(value)).is_some(),
        Values::Float64(values) => float(cursor).map(|value| values.push(value)).is_some(),
        Values::Struct(fields) if first == b'{' => return object::read(cursor, fields, context),
        Values::List(items) if first == b'[' => return read_list(cursor, items, context),
        Values::Json(values) => {
            cursor.skip_value()?;
            values.push(&cursor.body[start..cursor.at])
        }
        values => read_other(cursor, values).is_some(),
    };
    if done {
        return Ok(());
    }
    cursor.at = start;
    Err(diagnose(cursor, builder))
}

/// The kinds of values that come less often.
fn read_other(cursor: &mut Cursor, values: &mut Values) -> Option<()> {
    match values {
        Values::Boolean(values) => values.push(boolean(cursor)?),
        Values::Int16(values) => values.push(i16::try_from(integer(cursor)?).ok()?),
        Values::Int32(values) => values.push(i32::try_from(integer(cursor)?).ok()?),
        Values::Float32(values) => values.push(float32(cursor)?),
        Values::Decimal(values, precision, scale) => values.push(decimal(cursor, *precision, *scale)?),
        Values::Date(values) => values.push(calendar::parse_date(&cursor.string()?)?),
        Values::Time(values) => values.push(calendar::parse_time(&cursor.string()?)?),
        Values::Binary(values) => {
            let text = cursor.string()?;
            return (base64::decode(&text, &mut values.data) && values.end()).then_some(());
        }
        _ => return None,
    }
    Some(())
}

#[inline]
fn integer(cursor: &mut Cursor) -> Option<i64> {
    let (value, length) = number::integer_prefix(cursor.rest())?;
    cursor.at += length;
    (!matches!(cursor.peek(), b'.' | b'e' | b'E')).then_some(value)
}

#[inline]
fn timestamp(cursor: &mut Cursor, first: u8) -> Option<i64> {
    if first == b'"' {
        return calendar::parse_timestamp(&cursor.string()?);
    }
    let micros = integer(cursor)?.checked_mul(1000)?;
    (calendar::MICROS_MIN..=calendar::MICROS_MAX)
        .contains(&micros)
        .then_some(micros)
}

#[inline]
fn float(cursor: &mut Cursor) -> Option<f64> {
    let value: f64 = lexical_core::parse(number_text(cursor)?).ok()?;
    value.is_finite().then_some(value)
}

fn float32(cursor: &mut Cursor) -> Option<f32> {
    let value: f32 = lexical_core::parse(number_text(cursor)?).ok()?;
    value.is_finite().then_some(value)
}

fn decimal(cursor: &mut Cursor, precision: u8, scale: i8) -> Option<i128> {
    if cursor.peek() != b'"' {
        return number::decimal(number_text(cursor)?, precision, scale);
    }
    number::decimal(&cursor.string()?, precision, scale)
}

#[inline]
fn number_text<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let start = cursor.at;
    cursor.number().then(|| &cursor.body[start..cursor.at])
}

fn boolean(cursor: &mut Cursor) -> Option<bool> {
    if cursor.take(b"true") {
        return Some(true);
    }
    cursor.take(b"false").then_some(false)
}

fn read_null(cursor: &mut Cursor, builder: &mut Builder) -> Parsed {
    let start = cursor.at;
    if !cursor.take(b"null") {
        return Err(cursor.unexpected("a value"));
    }
    if !builder.field.is_nullable() {
        return Err(Problem::wrong(
            start,
            format!("{} NOT NULL", builder.type_name()),
            "null",
        ));
    }
    builder.push_null();
    Ok(())
}

fn read_list(cursor: &mut Cursor, list: &mut Items, context: &Context) -> Parsed {
    let start = cursor.at;
    let first = list.items.len();
    cursor.enter()?;
    cursor.whitespace();
    if cursor.peek() == b']' {
        cursor.leave();
    } else {
        loop {
            cursor.whitespace();
            let item = list.items.len() - first;
            read(cursor, &mut list.items, context).map_err(|problem| problem.in_item(item))?;
            cursor.whitespace();
            match cursor.peek() {
                b',' => cursor.at += 1,
                b']' => {
                    cursor.leave();
                    break;
                }
                _ => return Err(cursor.unexpected("`,` or `]`")),
            }
        }
    }
    if list.end() {
        return Ok(());
    }
    Err(Problem::wrong(start, "less", "more").note(FULL))
}

impl Cursor<'_> {
    /// Goes past an opening bracket.
    #[inline]
    pub fn enter(&mut self) -> Parsed {
        if self.level >= LEVELS_MAX {
            let expected = format!("at most {LEVELS_MAX} levels of nesting");
            return Err(Problem::malformed(self.at, expected, "one more"));
        }
        self.level += 1;
        self.at += 1;
        Ok(())
    }

    /// Goes past a closing bracket.
    #[inline]
    pub fn leave(&mut self) {
        self.level -= 1;
        self.at += 1;
    }
}

/// Says why the value here, where the cursor stands, was not taken.
#[cold]
fn diagnose(cursor: &mut Cursor, builder: &Builder) -> Box<Problem> {
    let start = cursor.at;
    if let Err(problem) = cursor.skip_value() {
        return problem;
    }
    let text = &cursor.body[start..cursor.at];
    cursor.at = start;
    let found = describe(cursor, text);
    let is_text = text.first() == Some(&b'"');
    let expected = builder.type_name();
    let digits = text.last().is_some_and(u8::is_ascii_digit) && text.iter().skip(1).all(u8::is_ascii_digit);
    let expected = match &builder.values {
        Values::Int16(_) if digits => format!("{expected} (from {} to {})", i16::MIN, i16::MAX),
        Values::Int32(_) if digits => format!("{expected} (from {} to {})", i32::MIN, i32::MAX),
        Values::Int64(_) if digits => format!("{expected} (from {} to {})", i64::MIN, i64::MAX),
        Values::Timestamp(_) if is_text => format!("{expected} (like 2026-01-31T12:30:00Z)"),
        Values::Timestamp(_) if digits => format!("{expected} (milliseconds, in the years 1 to 9999)"),
        Values::Date(_) if is_text => format!("{expected} (like 2026-01-31)"),
        Values::Time(_) if is_text => format!("{expected} (like 12:30:00)"),
        Values::Binary(_) if is_text => format!("{expected} (in base64)"),
        Values::Unsupported(_) => format!("NULL (no value of {expected} can be read)"),
        Values::Text(_) if is_text => return Problem::wrong(start, expected, found).note(FULL),
        Values::Json(_) => return Problem::wrong(start, expected, found).note(FULL),
        _ => expected,
    };
    Problem::wrong(start, expected, found)
}

fn describe(cursor: &Cursor, text: &[u8]) -> String {
    let mut copy = *cursor;
    match text.first() {
        Some(b'"') => format!("the string {}", quoted(&copy.string().unwrap_or_default())),
        Some(b'{') => "an object".to_owned(),
        Some(b'[') => "an array".to_owned(),
        Some(b'-' | b'0'..=b'9') => format!("the number {}", quoted(word(text)).trim_matches('"')),
        _ => String::from_utf8_lossy(text).into_owned(),
    }
}

/// Says what stands here instead of an event.
pub(crate) fn not_an_object(cursor: &mut Cursor) -> Box<Problem> {
    let start = cursor.at;
    if let Err(problem) = cursor.skip_value() {
        return problem;
    }
    let found = describe(&Cursor { at: start, ..*cursor }, &cursor.body[start..cursor.at]);
    Problem::wrong(start, "an object", found)
}
