//! The rows that an epoch brought on one side, and what they change: every distinct row once, the retractions
//! first.

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::Int8Type;
use arrow::row::Rows;
use bytes::Bytes;
use hashbrown::HashMap;
use headwater_event::op::{Op, is_changelog};

use super::side::{LEFT, RIGHT, Side};
use crate::error::Result;
use crate::groups::Groups;

pub struct Stretch {
    pub side: usize,
    /// As they came.
    pub input: RecordBatch,
    /// The side's own.
    pub columns: Vec<ArrayRef>,
    pub rows: Rows,
    /// With a reach.
    pub times: ScalarBuffer<i64>,
    /// Each row's key.
    pub key_of: Vec<usize>,
    /// The keys, each behind the number of a side.
    keys: [Vec<Bytes>; 2],
    /// Those that retract come first.
    pub changes: Vec<Change>,
}

/// How many of a row come, or go where it is negative. Never zero.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub row: u32,
    pub copies: i64,
}

impl Stretch {
    pub fn new(number: usize, side: &Side, input: RecordBatch, groups: &mut Groups) -> Result<Self> {
        let columns = side.columns_of(&input);
        let mut key_of = Vec::new();
        groups.clear();
        groups.intern(&side.keys_of(&columns), input.num_rows(), &mut key_of)?;
        let keys = groups.columns()?;
        let rows = side.rows.convert_columns(&columns)?;
        let changes = changes(&input, &rows);
        Ok(Self {
            side: number,
            times: side.times_of(&columns),
            keys: [
                side.encode_keys(&keys, groups.len(), LEFT as u8)?,
                side.encode_keys(&keys, groups.len(), RIGHT as u8)?,
            ],
            input,
            columns,
            rows,
            key_of,
            changes,
        })
    }

    pub fn len(&self) -> usize {
        self.input.num_rows()
    }

    /// The distinct keys, as they are in the state of a side.
    pub fn keys(&self, of: usize) -> &[Bytes] {
        &self.keys[of]
    }

    /// The key of a row, as it is in the state of its own side.
    pub fn key(&self, row: u32) -> &Bytes {
        &self.keys[self.side][self.key_of[row as usize]]
    }

    /// How many of the changes retract.
    pub fn retractions(&self) -> usize {
        self.changes.partition_point(|change| change.copies < 0)
    }

    /// Takes changes out, by their places.
    pub fn leave_out(&mut self, places: impl Iterator<Item = usize>) {
        let mut places: Vec<usize> = places.collect();
        places.sort_unstable();
        let mut place = 0;
        self.changes.retain(|_| {
            place += 1;
            places.binary_search(&(place - 1)).is_err()
        });
    }
}

/// What rows of the input change; `rows` has their encodings.
pub fn changes(input: &RecordBatch, rows: &Rows) -> Vec<Change> {
    let all = 0..input.num_rows();
    let ops = match input.columns().last() {
        Some(ops) if is_changelog(input.schema_ref()) => ops.as_primitive::<Int8Type>().values(),
        _ => {
            let change = |row| Change {
                row: row as u32,
                copies: 1,
            };
            return all.map(change).collect();
        }
    };
    let mut place_of: HashMap<&[u8], usize> = HashMap::with_capacity(all.len());
    let mut changes: Vec<Change> = Vec::with_capacity(all.len());
    for row in all {
        let copies = if Op::from_i8(ops[row]).is_some_and(Op::adds) {
            1
        } else {
            -1
        };
        let place = *place_of.entry(rows.row(row).data()).or_insert(changes.len());
        match changes.get_mut(place) {
            Some(change) => change.copies += copies,
            None => changes.push(Change {
                row: row as u32,
                copies,
            }),
        }
    }
    changes.retain(|change| change.copies != 0);
    changes.sort_by_key(|change| change.copies > 0);
    changes
}
