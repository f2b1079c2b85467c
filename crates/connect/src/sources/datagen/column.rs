//! What a column's values are: `column.kind` and its further options, or what fits the type.
//!
//! | kind | for | options |
//! |---|---|---|
//! | `sequence` | numbers, texts | `start` (0), `step` (1) |
//! | `uniform` | numbers, texts, booleans | `min` (0), `max` (999; 1 for REAL and DOUBLE) |
//! | `zipf` | numbers, texts | `keys` (1000), `exponent` (1): 1 comes most often, then 2, … |
//! | `choice` | numbers, texts, booleans | `values`, a text with commas |
//! | `text` | texts | `min`, `max` (8): how many letters |
//! | `time` | times | `start` (2026-01-01), `step` (as the rate has it), `jitter` (none): how much earlier at most |
//!
//! Texts that are made of numbers may have a `prefix`.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use headwater_event::clock::Micros;
use headwater_schema::column::Column;
use headwater_schema::types::type_name;

use crate::options::{About, Options, Refusal};
use crate::sources::datagen::values::Values;

/// 2026-01-01T00:00:00Z
const START: Micros = 1_767_225_600_000_000;
const MAX: i64 = 999;
const KEYS: u32 = 1000;
const KEYS_MAX: u32 = 1_000_000;
const LETTERS: u32 = 8;
const LETTERS_MAX: u32 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sequence,
    Uniform,
    Zipf,
    Choice,
    Text,
    Time,
}

const KINDS: [(&str, Kind); 6] = [
    ("sequence", Kind::Sequence),
    ("uniform", Kind::Uniform),
    ("zipf", Kind::Zipf),
    ("choice", Kind::Choice),
    ("text", Kind::Text),
    ("time", Kind::Time),
];

/// How a column's values are made.
#[derive(Debug)]
pub(super) struct Rule {
    values: Values,
    prefix: String,
}

/// What a type is to the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Whole,
    Real,
    Boolean,
    Text,
    Time,
    Other,
}

/// The rule of a column; `None` if it is left to its default: it has one, or may be NULL and is of
/// a type that can't be made, and has no options.
pub(super) fn rule(column: &Column, rate: NonZeroU32, options: &mut Options<'_>) -> Result<Option<Rule>, Refusal> {
    let name = &column.name;
    let family = family(column);
    let has_options = options.any(&format!("{name}."));
    if !has_options && (column.default.is_some() || (column.nullable && family == Family::Other)) {
        return Ok(None);
    }
    let usual = match family {
        Family::Whole | Family::Real | Family::Boolean => Kind::Uniform,
        Family::Text => Kind::Text,
        Family::Time => Kind::Time,
        Family::Other => {
            let message = format!("datagen can't make the {} of the column {name}", type_of(column));
            return Err(Refusal::new(About::Stream, message).hint("give the column a DEFAULT, or let it be NULL"));
        }
    };
    let kind = options.one_of(&format!("{name}.kind"), &KINDS)?.unwrap_or(usual);
    if !fits(kind, family) {
        let message = format!("{} can't have this kind: it is {}", name, type_of(column));
        return Err(Refusal::new(About::Option(format!("{name}.kind")), message));
    }
    let values = values(kind, family, column, rate, options)?;
    let from_numbers = family == Family::Text && matches!(kind, Kind::Sequence | Kind::Uniform | Kind::Zipf);
    let prefix = match from_numbers {
        true => options.text(&format!("{name}.prefix")).unwrap_or_default().to_owned(),
        false => String::new(),
    };
    let rule = Rule { values, prefix };
    rule.check(column)?;
    Ok(Some(rule))
}

fn values(
    kind: Kind,
    family: Family,
    column: &Column,
    rate: NonZeroU32,
    options: &mut Options<'_>,
) -> Result<Values, Refusal> {
    let option = |name: &str| format!("{}.{name}", column.name);
    let whole = "a whole number";
    Ok(match kind {
        Kind::Sequence => Values::Sequence {
            start: options.number(&option("start"), whole)?.unwrap_or(0),
            step: options.number(&option("step"), whole)?.unwrap_or(1),
        },
        Kind::Uniform if family == Family::Boolean => Values::Whole { min: 0, max: 1 },
        Kind::Uniform if family == Family::Real => {
            let usual = if column.data_type.is_floating() {
                1.0
            } else {
                MAX as f64
            };
            let min: f64 = options.number(&option("min"), "a number")?.unwrap_or(0.0);
            let max = options.number(&option("max"), "a number")?.unwrap_or(usual.max(min));
            ordered(min <= max && (max - min).is_finite(), &option("max"))?;
            Values::Real { min, max }
        }
        Kind::Uniform => {
            let min: i64 = options.number(&option("min"), whole)?.unwrap_or(0);
            let max = options.number(&option("max"), whole)?.unwrap_or(MAX.max(min));
            ordered(min <= max, &option("max"))?;
            Values::Whole { min, max }
        }
        Kind::Zipf => {
            let expected = format!("how many different keys there are, from 1 to {KEYS_MAX}");
            let keys: u32 = options.number(&option("keys"), &expected)?.unwrap_or(KEYS);
            if !(1..=KEYS_MAX).contains(&keys) {
                return Err(Refusal::option(&option("keys"), &expected));
            }
            let expected = "a number from 0 on: the higher, the more often come the first keys";
            let exponent: f64 = options.number(&option("exponent"), expected)?.unwrap_or(1.0);
            if !(0.0..=100.0).contains(&exponent) {
                return Err(Refusal::option(&option("exponent"), expected));
            }
            Values::zipf(keys, exponent)
        }
        Kind::Choice => {
            let name = option("values");
            let text = options.text(&name).filter(|text| !text.trim().is_empty());
            let text =
                text.ok_or_else(|| Refusal::option(&name, "missing: a text of values with commas between them"))?;
            Values::choice(text.split(',').map(str::trim), &column.data_type)
                .map_err(|_| Refusal::option(&name, &format!("a text of {} values", type_of(column))))?
        }
        Kind::Text => {
            let expected = format!("a number of letters up to {LETTERS_MAX}");
            let max: u32 = options.number(&option("max"), &expected)?.unwrap_or(LETTERS);
            let min = options.number(&option("min"), &expected)?.unwrap_or(max);
            ordered(min <= max && max <= LETTERS_MAX, &option("max"))?;
            Values::Text { min, max }
        }
        Kind::Time => Values::Time {
            start: options.time(&option("start"))?.unwrap_or(START),
            step: options
                .span(&option("step"))?
                .unwrap_or(1_000_000 / Micros::from(rate.get())),
            jitter: options.span(&option("jitter"))?.unwrap_or(0),
        },
    })
}

fn ordered(holds: bool, name: &str) -> Result<(), Refusal> {
    match holds {
        true => Ok(()),
        false => Err(Refusal::option(name, "not less than min, and within reason")),
    }
}

fn fits(kind: Kind, family: Family) -> bool {
    match kind {
        Kind::Sequence | Kind::Zipf => matches!(family, Family::Whole | Family::Real | Family::Text),
        Kind::Uniform => !matches!(family, Family::Time | Family::Other),
        Kind::Choice => !matches!(family, Family::Other),
        Kind::Text => family == Family::Text,
        Kind::Time => family == Family::Time,
    }
}

fn family(column: &Column) -> Family {
    match &column.data_type {
        DataType::Boolean => Family::Boolean,
        DataType::Utf8 if !column.json => Family::Text,
        DataType::Timestamp(_, _) | DataType::Date32 => Family::Time,
        DataType::Float32 | DataType::Float64 | DataType::Decimal128(_, _) => Family::Real,
        whole if whole.is_integer() => Family::Whole,
        _ => Family::Other,
    }
}

fn type_of(column: &Column) -> String {
    type_name(&column.data_type, column.json)
}

impl Rule {
    /// The values of these events.
    pub(super) fn column(&self, seed: u64, events: Range<u64>, to: &DataType) -> Result<ArrayRef, ArrowError> {
        let values = self.values.of(seed, events)?;
        let strict = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let values = cast_with_options(&values, to, &strict)?;
        if self.prefix.is_empty() {
            return Ok(values);
        }
        let texts = arrow::array::AsArray::as_string::<i32>(&values).iter();
        let prefixed = texts.map(|text| text.map(|text| format!("{}{text}", self.prefix)));
        Ok(Arc::new(prefixed.collect::<StringArray>()))
    }

    /// Makes the least and the greatest value, to see whether the type has room for them.
    fn check(&self, column: &Column) -> Result<(), Refusal> {
        let strict = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let bounds = self.values.bounds();
        let fits = can_cast_types(bounds.data_type(), &column.data_type)
            && cast_with_options(&bounds, &column.data_type, &strict).is_ok();
        if fits {
            return Ok(());
        }
        let message = format!(
            "the values do not fit the column {}, which is {}",
            column.name,
            type_of(column)
        );
        Err(Refusal::new(About::Stream, message).hint("give it another min and max"))
    }
}
