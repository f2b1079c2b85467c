//! Rows that wait until the watermark has passed their time, and then come out in its order.
//!
//! In memory, and for a restart as entries of the operator's table: `partition u32 BE | 0 | number
//! u64 BE`, each the rows of one epoch that were still waiting at its end, as an Arrow IPC stream. An entry
//! goes when the last of its rows has come out; until then, a restart leaves out those that have.

use std::collections::BTreeMap;

use arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, not, take_record_batch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use headwater_event::clock::Micros;

use super::windows::times;
use super::{Saved, StateChanges, parts};
use crate::error::{Error, Result};
use crate::holdings::bytes_of;

/// What the operator's own keys begin with must be something else.
const PREFIX: u8 = 0;

pub struct Pending {
    schema: SchemaRef,
    time_column: usize,
    /// In the order of arrival: what is in the table, then what this epoch brought.
    held: Vec<Held>,
    arrived: Vec<Held>,
    /// The entries of the table, each with the time of its last row.
    entries: BTreeMap<u64, Micros>,
    gone: Vec<u64>,
}

struct Held {
    rows: RecordBatch,
    earliest: Micros,
    latest: Micros,
}

impl Pending {
    pub fn new(schema: SchemaRef, time_column: usize) -> Self {
        Self {
            schema,
            time_column,
            held: Vec::new(),
            arrived: Vec::new(),
            entries: BTreeMap::new(),
            gone: Vec::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let all = self.held.iter().chain(&self.arrived);
        all.map(|held| held.rows.num_rows()).sum()
    }

    /// The memory that they take.
    pub fn bytes(&self) -> usize {
        bytes_of(self.held.iter().chain(&self.arrived).map(|held| &held.rows))
    }

    /// Takes those of the rows, which all have a time, that are not below the watermark, and says how many are.
    pub fn add(&mut self, mut rows: RecordBatch, watermark: Option<Micros>) -> Result<u64> {
        let times = times(rows.column(self.time_column))?;
        let is_late = |watermark: &Micros| times.values().iter().any(|time| time < watermark);
        let mut late_rows = 0;
        if let Some(watermark) = watermark.filter(is_late) {
            let late = BooleanArray::from_unary(times, |time| time < watermark);
            late_rows = late.true_count() as u64;
            rows = filter_record_batch(&rows, &not(&late)?)?;
        }
        self.arrived.extend(held(rows, self.time_column)?);
        Ok(late_rows)
    }

    /// The rows below the watermark, by time and then in the order of arrival.
    pub fn take_ready(&mut self, watermark: Micros) -> Result<Option<RecordBatch>> {
        let mut ready = Vec::new();
        for waiting in [&mut self.held, &mut self.arrived] {
            let mut left = Vec::with_capacity(waiting.len());
            for batch in std::mem::take(waiting) {
                if batch.earliest >= watermark {
                    left.push(batch);
                } else if batch.latest < watermark {
                    ready.push(batch.rows);
                } else {
                    let times = times(batch.rows.column(self.time_column))?;
                    let passed = BooleanArray::from_unary(times, |time| time < watermark);
                    ready.push(filter_record_batch(&batch.rows, &passed)?);
                    left.extend(held(
                        filter_record_batch(&batch.rows, &not(&passed)?)?,
                        self.time_column,
                    )?);
                }
            }
            *waiting = left;
        }
        let passed = self.entries.extract_if(.., |_, latest| *latest < watermark);
        self.gone.extend(passed.map(|(number, _)| number));
        if ready.is_empty() {
            return Ok(None);
        }
        let ready = concat_batches(&self.schema, &ready)?;
        let times = times(ready.column(self.time_column))?.values();
        if times.is_sorted() {
            return Ok(Some(ready));
        }
        let mut order: Vec<u32> = (0..times.len() as u32).collect();
        order.sort_by_key(|&row| times[row as usize]);
        Ok(Some(take_record_batch(&ready, &UInt32Array::from(order))?))
    }

    pub fn take_changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        if !self.arrived.is_empty() {
            let rows = concat_batches(&self.schema, self.arrived.iter().map(|held| &held.rows))?;
            let number = self.entries.last_key_value().map_or(0, |(last, _)| last + 1);
            changes
                .entries
                .push((key(changes.partition, number), Some(parts::encode(&rows)?)));
            let latest = self.arrived.iter().map(|held| held.latest).max();
            self.entries.extend(latest.map(|latest| (number, latest)));
            self.held.append(&mut self.arrived);
        }
        let gone = self.gone.drain(..).map(|number| (key(changes.partition, number), None));
        // Before what is written: a number may be used again.
        changes.entries.splice(0..0, gone);
        Ok(())
    }

    pub fn restore(&mut self, saved: &Saved) -> Result<()> {
        let prefix = &key(saved.partition, 0)[..5];
        for entry in saved.table.scan(prefix) {
            let (key, value) = entry?;
            let place = format!("partition {}", saved.partition);
            let number = key[prefix.len()..].try_into().map_err(|_| Error::State {
                place: place.clone(),
                what: format!("a key of {} bytes", key.len()),
            })?;
            let Some(part) = held(parts::decode(&value, &place)?, self.time_column)? else {
                continue;
            };
            self.entries.insert(u64::from_be_bytes(number), part.latest);
            self.held.push(part);
        }
        if let Some(watermark) = saved.watermark {
            // They came out before.
            self.take_ready(watermark)?;
        }
        Ok(())
    }
}

fn held(rows: RecordBatch, time_column: usize) -> Result<Option<Held>> {
    let times = times(rows.column(time_column))?.values();
    let bounds = times.iter().min().copied().zip(times.iter().max().copied());
    Ok(bounds.map(|(earliest, latest)| Held { rows, earliest, latest }))
}

fn key(partition: u32, number: u64) -> Bytes {
    [&partition.to_be_bytes()[..], &[PREFIX], &number.to_be_bytes()]
        .concat()
        .into()
}
