//! The arithmetic of event-time windows and of the slices that they are made of.
//!
//! A slice is as wide as the greatest common divisor of a window's size, slide and step, so that every
//! window is a whole number of slices and every row lies in exactly one slice.

use arrow::array::{Array, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use datafusion_common::{DataFusionError, exec_datafusion_err};
use headwater_event::clock::Micros;

use crate::error::Result;
use crate::plan::Window;

/// Event times between this and its negative (about 73,000 years around 1970) can be computed with.
pub const TIME_MAX: Micros = Micros::MAX / 4;

/// One window: `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub end: Micros,
    pub start: Micros,
}

impl Window {
    /// Windows of `size` that begin every `slide`. Tumbling ones if that is the same.
    pub const fn hopping(size: Micros, slide: Micros, offset: Micros) -> Self {
        Self {
            size,
            slide,
            step: size,
            offset,
        }
    }

    /// Windows that grow by `step` until they have their `size`, and begin anew then.
    pub const fn cumulating(size: Micros, step: Micros, offset: Micros) -> Self {
        Self {
            size,
            slide: size,
            step,
            offset,
        }
    }

    pub fn slice_width(&self) -> Micros {
        greatest_common_divisor(greatest_common_divisor(self.size, self.slide), self.step)
    }

    /// The start of the slice that holds `time`.
    pub fn slice_of(&self, time: Micros) -> Micros {
        time - (time - self.offset).rem_euclid(self.slice_width())
    }

    /// Where the last window that holds `time` ends.
    pub fn last_end(&self, time: Micros) -> Micros {
        self.last_start(time) + self.size
    }

    /// The first window that ends after `time`.
    pub fn first_ending_after(&self, time: Micros) -> Span {
        let start = self.last_start(time - self.size) + self.slide;
        let passed = (time - start).div_euclid(self.step).max(0);
        Span {
            end: start + (passed + 1) * self.step,
            start,
        }
    }

    /// The window that ends next.
    pub fn next(&self, Span { end, start }: Span) -> Span {
        if end < start + self.size {
            return Span {
                end: end + self.step,
                start,
            };
        }
        let start = start + self.slide;
        Span {
            end: start + self.step,
            start,
        }
    }

    /// The windows that hold `time` and end after `after`, in the order of their ends.
    pub fn holding(&self, time: Micros, after: Micros) -> impl Iterator<Item = Span> {
        let first = self.first_ending_after(time.max(after));
        std::iter::successors(Some(first), |&span| Some(self.next(span))).take_while(move |span| span.start <= time)
    }

    /// Whether every row is in one window.
    pub fn is_tumbling(&self) -> bool {
        self.slide == self.size && self.step == self.size
    }

    /// The start of the last window that begins at `time` or before it.
    fn last_start(&self, time: Micros) -> Micros {
        time - (time - self.offset).rem_euclid(self.slide)
    }
}

/// The times of an event-time column, all within `TIME_MAX` where they are not NULL.
pub fn times(column: &dyn Array) -> Result<&TimestampMicrosecondArray> {
    let times = column
        .as_primitive_opt::<TimestampMicrosecondType>()
        .ok_or_else(|| exec_datafusion_err!("the event time is a {}, not a time stamp", column.data_type()))?;
    let outside = |time: &Micros| !(-TIME_MAX..=TIME_MAX).contains(time);
    // What stands under a NULL may be anything.
    if times.values().iter().any(outside) && times.iter().flatten().any(|time| outside(&time)) {
        return Err(out_of_range().into());
    }
    Ok(times)
}

fn out_of_range() -> DataFusionError {
    exec_datafusion_err!("the event time is out of range")
}

/// Times as a column of type `data_type`, a time stamp in microseconds.
pub fn time_column(times: Vec<Micros>, data_type: &DataType) -> TimestampMicrosecondArray {
    let zone = match data_type {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    TimestampMicrosecondArray::from(times).with_timezone_opt(zone)
}

fn greatest_common_divisor(mut a: Micros, mut b: Micros) -> Micros {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOPPING: Window = Window::hopping(10, 4, 1);
    const CUMULATING: Window = Window::cumulating(9, 3, 1);

    fn spans(window: Window, time: Micros, after: Micros) -> Vec<(Micros, Micros)> {
        window.holding(time, after).map(|span| (span.start, span.end)).collect()
    }

    #[test]
    fn slices_are_aligned_to_the_offset() {
        assert_eq!(HOPPING.slice_width(), 2);
        assert_eq!(HOPPING.slice_of(1), 1);
        assert_eq!(HOPPING.slice_of(0), -1);
        assert_eq!(HOPPING.slice_of(-2), -3);
        assert_eq!(CUMULATING.slice_width(), 3);
        assert_eq!(CUMULATING.slice_of(-3), -5);
    }

    #[test]
    fn the_windows_that_hold_a_time() {
        // Windows begin at …, -11, -7, -3, 1, 5, … and end 10 later.
        assert_eq!(spans(HOPPING, -1, Micros::MIN / 2), [(-7, 3), (-3, 7)]);
        assert_eq!(spans(HOPPING, -2, -2), [(-11, -1), (-7, 3), (-3, 7)]);
        assert_eq!(spans(HOPPING, -2, 2), [(-7, 3), (-3, 7)]);
        assert_eq!(HOPPING.last_end(0), 7);
        // They begin at …, -8, 1, 10, … and end 3, 6 and 9 later.
        assert_eq!(spans(CUMULATING, 0, -2), [(-8, 1)]);
        assert_eq!(spans(CUMULATING, 1, -2), [(1, 4), (1, 7), (1, 10)]);
        assert_eq!(spans(CUMULATING, 4, 5), [(1, 7), (1, 10)]);
        assert_eq!(spans(CUMULATING, 4, 7), [(1, 10)]);
        assert_eq!(CUMULATING.last_end(4), 10);
    }

    #[test]
    fn windows_in_the_order_of_their_ends() {
        let mut span = CUMULATING.first_ending_after(3);
        let ends = std::iter::repeat_with(|| {
            let now = span;
            span = CUMULATING.next(span);
            (now.start, now.end)
        });
        let ends: Vec<_> = ends.take(5).collect();
        assert_eq!(ends, [(1, 4), (1, 7), (1, 10), (10, 13), (10, 16)]);
    }
}
