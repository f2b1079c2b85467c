//! Values by number: the value of event `n` of a seed is the same in every run.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use headwater_event::clock::Micros;
use rand::Rng;

use crate::random::Random;

#[derive(Debug)]
pub(super) enum Values {
    Sequence {
        start: i64,
        step: i64,
    },
    Whole {
        min: i64,
        max: i64,
    },
    Real {
        min: f64,
        max: f64,
    },
    /// How likely the keys up to each are, of 1 in all.
    Zipf(Vec<f64>),
    /// What to choose from, in the column's type.
    Choice(ArrayRef),
    Text {
        min: u32,
        max: u32,
    },
    Time {
        start: Micros,
        step: Micros,
        jitter: Micros,
    },
}

impl Values {
    /// Key `k` is as likely as `1 / k ^ exponent`.
    pub(super) fn zipf(keys: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut up_to = Vec::with_capacity(keys as usize);
        for key in 1..=keys {
            sum += f64::from(key).powf(-exponent);
            up_to.push(sum);
        }
        up_to.iter_mut().for_each(|likely| *likely /= sum);
        Self::Zipf(up_to)
    }

    pub(super) fn choice<'a>(texts: impl Iterator<Item = &'a str>, to: &DataType) -> Result<Self, ArrowError> {
        let texts: ArrayRef = Arc::new(StringArray::from(texts.collect::<Vec<_>>()));
        let strict = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        cast_with_options(&texts, to, &strict).map(Self::Choice)
    }

    pub(super) fn of(&self, seed: u64, events: Range<u64>) -> Result<ArrayRef, ArrowError> {
        let with_random = |event| (event, Random::of(seed, event));
        Ok(match self {
            &Self::Sequence { start, step } => {
                let value = |event: u64| start.wrapping_add(step.wrapping_mul(event as i64));
                Arc::new(Int64Array::from_iter_values(events.map(value)))
            }
            &Self::Whole { min, max } => {
                let values = events.map(|event| Random::of(seed, event).random_range(min..=max));
                Arc::new(Int64Array::from_iter_values(values))
            }
            &Self::Real { min, max } => {
                let values = events.map(|event| Random::of(seed, event).random_range(min..=max));
                Arc::new(Float64Array::from_iter_values(values))
            }
            Self::Zipf(up_to) => {
                let values = events.map(|event| {
                    let chosen: f64 = Random::of(seed, event).random();
                    let before = up_to.partition_point(|&likely| likely < chosen);
                    before.min(up_to.len() - 1) as i64 + 1
                });
                Arc::new(Int64Array::from_iter_values(values))
            }
            Self::Choice(values) => {
                let chosen = events.map(|event| Random::of(seed, event).random_range(0..values.len() as u64));
                take(values, &UInt64Array::from_iter_values(chosen), None)?
            }
            &Self::Text { min, max } => {
                let texts = events.map(with_random).map(|(_, mut random)| {
                    let letters = random.random_range(min..=max);
                    let letters = (0..letters).map(|_| char::from(random.random_range(b'a'..=b'z')));
                    letters.collect::<String>()
                });
                Arc::new(StringArray::from_iter_values(texts))
            }
            &Self::Time { start, step, jitter } => {
                let times = events.map(with_random).map(|(event, mut random)| {
                    let passed = step.saturating_mul(Micros::try_from(event).unwrap_or(Micros::MAX));
                    start.saturating_add(passed) - random.random_range(0..=jitter)
                });
                Arc::new(TimestampMicrosecondArray::from_iter_values(times))
            }
        })
    }

    /// The least and the greatest value.
    pub(super) fn bounds(&self) -> ArrayRef {
        match self {
            &Self::Sequence { start, .. } => Arc::new(Int64Array::from(vec![start])),
            &Self::Whole { min, max } => Arc::new(Int64Array::from(vec![min, max])),
            &Self::Real { min, max } => Arc::new(Float64Array::from(vec![min, max])),
            Self::Zipf(up_to) => Arc::new(Int64Array::from(vec![1, up_to.len() as i64])),
            Self::Choice(values) => Arc::clone(values),
            Self::Text { .. } => Arc::new(StringArray::from(vec![""])),
            &Self::Time { start, jitter, .. } => Arc::new(TimestampMicrosecondArray::from(vec![start - jitter, start])),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn the_first_keys_come_most_often() {
        let keys = Values::zipf(100, 1.0).of(3, 0..10_000).unwrap();
        let keys = keys.as_primitive::<Int64Type>().values();
        let count = |key| keys.iter().filter(|&&found| found == key).count();
        assert!(keys.iter().all(|key| (1..=100).contains(key)));
        assert!(
            count(1) > 2 * count(4) && count(4) > 2 * count(16),
            "{} {} {}",
            count(1),
            count(4),
            count(16)
        );
    }

    #[test]
    fn values_are_the_same_however_they_are_cut() {
        let all = [
            Values::Whole { min: -5, max: 5 },
            Values::Real { min: 0.0, max: 1.0 },
            Values::zipf(10, 0.5),
            Values::Text { min: 0, max: 9 },
            Values::choice(["a", "b"].into_iter(), &DataType::Utf8).unwrap(),
            Values::Time {
                start: 0,
                step: 1000,
                jitter: 5000,
            },
        ];
        for values in all {
            let whole = values.of(1, 0..100).unwrap();
            assert_eq!(&values.of(1, 40..60).unwrap(), &whole.slice(40, 20), "{values:?}");
            assert_ne!(&values.of(2, 0..100).unwrap(), &whole, "{values:?}");
        }
    }
}
