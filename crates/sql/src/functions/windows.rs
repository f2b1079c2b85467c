//! The starts of the windows that hold a time, for one-off queries. (The engine has operators for
//! windows; they and this must agree.)

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListBuilder, PrimitiveBuilder, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, TimestampMicrosecondType};
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use headwater_event::clock::Micros;

use headwater_engine::plan::Window;

/// `window_starts(time)`: the start of the tumbling window, or the list of the hopping windows'.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct WindowStarts {
    window: Window3,
    signature: Signature,
}

/// A window's size, slide and offset, in a form that hashes.
type Window3 = (Micros, Micros, Micros);

impl WindowStarts {
    pub fn new(window: Window) -> Self {
        Self {
            window: (window.size, window.slide, window.offset),
            signature: Signature::any(1, Volatility::Immutable),
        }
    }

    fn tumbles(&self) -> bool {
        self.window.0 == self.window.1
    }
}

impl ScalarUDFImpl for WindowStarts {
    fn name(&self) -> &str {
        "window_starts"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let time = arguments.first().cloned().unwrap_or(DataType::Null);
        if self.tumbles() {
            return Ok(time);
        }
        Ok(DataType::List(Arc::new(Field::new_list_field(time, true))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let times = ColumnarValue::values_to_arrays(&args.args)?;
        let times = times[0].as_primitive::<TimestampMicrosecondType>();
        let starts: ArrayRef = if self.tumbles() {
            Arc::new(self.start(times))
        } else {
            Arc::new(self.starts(times))
        };
        Ok(ColumnarValue::Array(starts))
    }
}

impl WindowStarts {
    fn start(&self, times: &TimestampMicrosecondArray) -> TimestampMicrosecondArray {
        let starts: TimestampMicrosecondArray = times.unary(|time| last_start(self.window, time));
        starts.with_data_type(times.data_type().clone())
    }

    fn starts(&self, times: &TimestampMicrosecondArray) -> arrow::array::ListArray {
        let (size, slide, _) = self.window;
        let values = PrimitiveBuilder::<TimestampMicrosecondType>::new().with_data_type(times.data_type().clone());
        let mut lists = ListBuilder::new(values).with_field(Field::new_list_field(times.data_type().clone(), true));
        for row in 0..times.len() {
            if times.is_null(row) {
                lists.append(false);
                continue;
            }
            let time = times.value(row);
            let mut start = last_start(self.window, time);
            while start > time.saturating_sub(size) {
                lists.values().append_value(start);
                start = start.saturating_sub(slide);
            }
            lists.append(true);
        }
        lists.finish()
    }
}

/// The greatest start of a window that is not after `time`.
fn last_start((_, slide, offset): Window3, time: Micros) -> Micros {
    let since = time.wrapping_sub(offset).rem_euclid(slide);
    time.saturating_sub(since)
}
