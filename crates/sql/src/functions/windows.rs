//! The ends of the windows that hold a time, for one-off queries. (The engine has operators for
//! windows; they and this must agree.)

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, ListBuilder, PrimitiveBuilder, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, TimestampMicrosecondType};
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use headwater_engine::plan::Window;
use headwater_event::clock::Micros;

/// `window_ends(time)`: the end of the tumbling window, or the list of the other windows' ends.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct WindowEnds {
    window: Window,
    signature: Signature,
}

impl WindowEnds {
    pub fn new(window: Window) -> Self {
        Self {
            window,
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for WindowEnds {
    fn name(&self) -> &str {
        "window_ends"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let time = arguments.first().cloned().unwrap_or(DataType::Null);
        if self.window.is_tumbling() {
            return Ok(time);
        }
        Ok(DataType::List(Arc::new(Field::new_list_field(time, true))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let times = ColumnarValue::values_to_arrays(&args.args)?;
        let times = times[0].as_primitive::<TimestampMicrosecondType>();
        let ends: ArrayRef = if self.window.is_tumbling() {
            Arc::new(self.end(times))
        } else {
            Arc::new(self.ends(times))
        };
        Ok(ColumnarValue::Array(ends))
    }
}

impl WindowEnds {
    fn end(&self, times: &TimestampMicrosecondArray) -> TimestampMicrosecondArray {
        let ends: TimestampMicrosecondArray =
            times.unary(|time| last_start(self.window, time).saturating_add(self.window.size));
        ends.with_data_type(times.data_type().clone())
    }

    fn ends(&self, times: &TimestampMicrosecondArray) -> ListArray {
        let Window { size, slide, step, .. } = self.window;
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
                let mut end = start.saturating_add(size);
                while end > time {
                    lists.values().append_value(end);
                    end = end.saturating_sub(step);
                }
                start = start.saturating_sub(slide);
            }
            lists.append(true);
        }
        lists.finish()
    }
}

/// The greatest start of a window that is not after `time`.
fn last_start(window: Window, time: Micros) -> Micros {
    let since = time.wrapping_sub(window.offset).rem_euclid(window.slide);
    time.saturating_sub(since)
}
