//! What an epoch of a task has brought together: rows that came out, and rows that could not go on.

use std::ops::Range;

use arrow::array::RecordBatch;
use headwater_event::offset::Offset;

use crate::chain::Rejection;
use crate::dead_letter::{self, DeadLetters};
use crate::origin::Origin;
use crate::plan::LateRows;
use crate::time::{SetAside, Verdict};
use crate::view::Place;

#[derive(Default)]
pub struct Epoch {
    pub rows_read: u64,
    pub late: u64,
    pub out: Vec<(RecordBatch, Place)>,
    pub letters: Vec<DeadLetters>,
}

impl Epoch {
    /// Adds rows that came out, the first of them at `place`.
    pub fn add(&mut self, mut place: Place, out: Vec<RecordBatch>) {
        for batch in out {
            let rows = batch.num_rows() as u32;
            self.out.push((batch, place));
            place.row += rows;
        }
    }

    pub fn count_late(&mut self, aside: &[SetAside]) {
        let late = aside.iter().filter(|aside| aside.verdict == Verdict::Late);
        self.late += late.map(|late| late.which.len() as u64).sum::<u64>();
    }

    /// Rows that event time has no place for.
    pub fn set_aside(&mut self, aside: Vec<SetAside>, origin: &Origin, policy: &LateRows) {
        for aside in aside {
            let (reason, detail) = match aside.verdict {
                Verdict::InTime => continue,
                Verdict::Late if matches!(policy, LateRows::Drop) => continue,
                Verdict::Late => ("late", "the event came after its window could have closed"),
                Verdict::Null => ("null_time", "the event time is NULL"),
                Verdict::OutOfRange => ("time_range", "the event time is out of range"),
            };
            let offsets = aside.which.iter().map(|&row| origin.offset(row as usize));
            self.letters.push(DeadLetters {
                reason,
                detail: detail.to_owned(),
                rows: aside.rows,
                place: dead_letter::Place::Each(offsets.collect()),
            });
        }
    }

    /// Rows that operators could not use, with their offsets or those of the whole epoch.
    pub fn reject(&mut self, rejections: Vec<Rejection>, offset_of: impl Fn(usize) -> Offset, epoch: Range<Offset>) {
        let letters = rejections.into_iter().map(|Rejection { rejected, row }| DeadLetters {
            reason: rejected.reason,
            detail: rejected.detail,
            rows: rejected.rows,
            place: match row {
                Some(row) => dead_letter::Place::Each(vec![offset_of(row)]),
                None => dead_letter::Place::Within(epoch.clone()),
            },
        });
        self.letters.extend(letters);
    }
}
