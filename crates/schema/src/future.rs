//! Rows whose event time lies too far ahead of the server's clock. One wrong clock among a stream's senders would carry
//! the watermark away, and close everybody's windows: such rows are kept out of the stream.
//!
//! That is decided once, where rows come in, and what is in the log was let in: reading it again gives the same.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::error::ArrowError;
use headwater_event::clock::Micros;

use crate::calendar::write_timestamp;
use crate::decode::Failure;
use crate::encode::JsonRows;

/// What dead letters say of such rows.
pub const REASON: &str = "future";

/// How far ahead of the clock the times in a column may lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Horizon {
    pub column: String,
    pub max_future: Micros,
}

/// A row that was kept out.
#[derive(Clone, Debug)]
pub struct TooFar {
    /// Its place among the rows.
    pub row: usize,
    /// What to say of it.
    pub failure: Failure,
    /// The row as JSON.
    pub payload: Vec<u8>,
}

impl Horizon {
    /// The places of the rows beyond the horizon.
    pub fn beyond(&self, rows: &RecordBatch, now: Micros) -> Vec<usize> {
        let latest = now.saturating_add(self.max_future);
        let Some(times) = self.times(rows) else {
            return Vec::new();
        };
        // What stands under a NULL may be anything.
        if !times.values().iter().any(|&time| time > latest) {
            return Vec::new();
        }
        let is_beyond = |row: &usize| times.is_valid(*row) && times.value(*row) > latest;
        (0..rows.num_rows()).filter(is_beyond).collect()
    }

    /// The rows without those at these places, and what there is to say of these.
    ///
    /// # Errors
    /// If the rows can't be taken apart.
    pub fn part(
        &self,
        rows: &RecordBatch,
        beyond: &[usize],
        now: Micros,
    ) -> Result<(RecordBatch, Vec<TooFar>), ArrowError> {
        let objects = JsonRows::new(rows)?;
        let mut too_far = Vec::with_capacity(beyond.len());
        let mut kept = vec![true; rows.num_rows()];
        for &row in beyond {
            let mut payload = Vec::new();
            objects.write(row, &mut payload);
            let failure = self.failure(rows, row, now);
            too_far.push(TooFar { row, failure, payload });
            kept[row] = false;
        }
        Ok((filter_record_batch(rows, &BooleanArray::from(kept))?, too_far))
    }

    /// What to say of a row that is beyond the horizon.
    pub fn failure(&self, rows: &RecordBatch, row: usize, now: Micros) -> Failure {
        let latest = now.saturating_add(self.max_future);
        let found = self.times(rows).map_or(latest, |times| times.value(row));
        let found = shown(found);
        let expected = format!("a time up to {}", shown(latest));
        let message = format!("{}: expected {expected} (max_future), found {found}", self.column);
        Failure {
            index: row,
            field: Some(self.column.clone()),
            line: 0,
            column: 0,
            expected: Some(expected),
            found: Some(found),
            message,
            span: 0..0,
        }
    }

    fn times<'a>(&self, rows: &'a RecordBatch) -> Option<&'a TimestampMicrosecondArray> {
        rows.column_by_name(&self.column)?
            .as_primitive_opt::<TimestampMicrosecondType>()
    }
}

fn shown(time: Micros) -> String {
    let mut text = Vec::new();
    write_timestamp(time, 1_000_000, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn rows(times: Vec<Option<Micros>>) -> RecordBatch {
        let ids: ArrayRef = Arc::new((0..times.len() as i64).collect::<Int64Array>());
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times));
        RecordBatch::try_from_iter([("id", ids), ("at", times)]).unwrap()
    }

    fn horizon(max_future: Micros) -> Horizon {
        Horizon {
            column: "at".to_owned(),
            max_future,
        }
    }

    #[test]
    fn what_lies_beyond_the_horizon_is_kept_out() {
        let times = vec![Some(10), Some(16), None, Some(15), Some(Micros::MAX), Some(Micros::MIN)];
        let rows = rows(times);
        let beyond = horizon(5).beyond(&rows, 10);
        assert_eq!(beyond, [1, 4]);
        let (kept, too_far) = horizon(5).part(&rows, &beyond, 10).unwrap();
        let kept: Vec<_> = kept
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>()
            .values()
            .to_vec();
        assert_eq!(kept, [0, 2, 3, 5]);
        assert_eq!(
            too_far[0].failure.message,
            "at: expected a time up to 1970-01-01T00:00:00.000015Z (max_future), found 1970-01-01T00:00:00.000016Z"
        );
        assert_eq!(too_far[0].payload, br#"{"id":1,"at":"1970-01-01T00:00:00.000016Z"}"#);
    }

    #[test]
    fn a_horizon_without_end_keeps_nothing_out() {
        let times = vec![Some(Micros::MAX), Some(Micros::MIN), None];
        assert!(horizon(Micros::MAX).beyond(&rows(times), 10).is_empty());
    }
}
