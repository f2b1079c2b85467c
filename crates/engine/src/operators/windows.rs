//! The arithmetic of event-time windows and of the slices that they are made of.
//!
//! A slice is as wide as the greatest common divisor of a window's size and slide, so that every
//! window is a whole number of slices and every row lies in exactly one slice.

use arrow::array::{Array, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use datafusion_common::{DataFusionError, exec_datafusion_err};
use headwater_event::clock::Micros;

use crate::error::Result;
use crate::plan::Window;

/// Event times between this and its negative (about 73,000 years around 1970) can be computed with.
pub const TIME_MAX: Micros = Micros::MAX / 4;

impl Window {
    pub fn slice_width(&self) -> Micros {
        greatest_common_divisor(self.size, self.slide)
    }

    /// The start of the slice that holds `time`.
    pub fn slice_of(&self, time: Micros) -> Micros {
        time - (time - self.offset).rem_euclid(self.slice_width())
    }

    /// The start of the last window that begins at `time` or before it.
    pub fn last_start(&self, time: Micros) -> Micros {
        time - (time - self.offset).rem_euclid(self.slide)
    }

    /// The start of the first window that ends after `time`.
    pub fn first_ending_after(&self, time: Micros) -> Micros {
        self.last_start(time - self.size) + self.slide
    }

    pub fn is_tumbling(&self) -> bool {
        self.slide == self.size
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

    const WINDOW: Window = Window {
        size: 10,
        slide: 4,
        offset: 1,
    };

    #[test]
    fn slices_are_aligned_to_the_offset() {
        assert_eq!(WINDOW.slice_width(), 2);
        assert_eq!(WINDOW.slice_of(1), 1);
        assert_eq!(WINDOW.slice_of(0), -1);
        assert_eq!(WINDOW.slice_of(-2), -3);
    }

    #[test]
    fn the_first_window_that_is_open() {
        // Windows begin at …, -11, -7, -3, 1, 5, … and end 10 later.
        assert_eq!(WINDOW.first_ending_after(-1), -7);
        assert_eq!(WINDOW.first_ending_after(-2), -11);
        assert_eq!(WINDOW.last_start(0), -3);
    }
}
