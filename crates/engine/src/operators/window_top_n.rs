//! Keeps the first rows of every group of a window, and emits them once, when the watermark has passed
//! the window.
//!
//! Windows are told apart by a time column: a row belongs to the window that is complete when the
//! watermark is greater than its value. Open windows are in memory, as bytes that sort in the order of the
//! rows (see [`super::row_order`]). Where rows are only added, those that fall out of the first `limit` are
//! forgotten; where they can be deleted as well, all are kept.
//!
//! The state is what arrived and had a chance when it did: an epoch's rows of a window are one entry (see
//! [`super::parts`]), and to restore is to let them arrive again. Many entries are put together to one with
//! the rows that are left, once those are less than half of what was written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int8Type, SchemaRef};
use bytes::Bytes;
use hashbrown::HashMap;
use headwater_event::clock::Micros;
use headwater_event::op::{Op, is_changelog};

use super::parts;
use super::row_order::RowOrder;
use super::windows::times;
use super::{Operator, Rejected, Saved, StateChanges, batch_of, split_by_time};
use crate::error::{Error, Result};
use crate::holdings::Held;
use crate::plan;

/// A window with fewer entries is not looked at for what could be put together.
const ENTRIES_MAX: u64 = 64;

/// What a row or a group takes besides its bytes, roughly.
const ROW_BYTES: usize = 48;

pub struct WindowTopN {
    plan: plan::TopN,
    closes_by: usize,
    input: SchemaRef,
    is_changelog: bool,
    order: RowOrder,
    /// By the time that the watermark has to pass.
    windows: BTreeMap<Micros, Window>,
    watermark: Option<Micros>,
    /// Entries that the table still has.
    gone: Vec<(Micros, Range<u64>)>,
    late: u64,
    rejected: Vec<Rejected>,
}

#[derive(Default)]
struct Window {
    groups: HashMap<Bytes, Ranking>,
    /// What this epoch brought.
    arrived: Vec<RecordBatch>,
    /// The numbers of its entries in the table.
    entries: Range<u64>,
    rows_stored: usize,
    rows_rewritten: usize,
}

/// The rows of a group in their order, each with how often it is there.
#[derive(Default)]
struct Ranking {
    rows: Vec<(Bytes, u64)>,
    count: u64,
}

impl WindowTopN {
    pub fn new(plan: plan::TopN, closes_by: usize, input: SchemaRef) -> Result<Self> {
        Ok(Self {
            is_changelog: is_changelog(&input),
            order: RowOrder::new(&input, &plan.partition_by, &plan.order_by)?,
            plan,
            closes_by,
            input,
            windows: BTreeMap::new(),
            watermark: None,
            gone: Vec::new(),
            late: 0,
            rejected: Vec::new(),
        })
    }

    fn is_closed(&self, window: Micros) -> bool {
        self.watermark.is_some_and(|watermark| window < watermark)
    }

    /// Rows of one window.
    fn arrive(&mut self, window: Micros, rows: RecordBatch) -> Result<()> {
        let keys = self.order.keys(&rows)?;
        let leads = self.order.leads(&rows)?;
        let known = self.windows.get(&window);
        let limit = self.limit();
        let has_a_chance = |row: &u32| {
            let (key, lead) = (keys.get(*row as usize), leads.get(*row as usize));
            let ranking = known.and_then(|window| window.groups.get(key));
            ranking
                .and_then(|ranking| ranking.threshold(limit))
                .is_none_or(|last| lead <= last)
        };
        let hopeful: Vec<u32> = (0..rows.num_rows() as u32).filter(has_a_chance).collect();
        if hopeful.is_empty() {
            return Ok(());
        }
        let rows = some_rows(rows, &hopeful)?;
        let bytes = self.order.rows(&rows)?;
        let ops = self
            .is_changelog
            .then(|| rows.column(rows.num_columns() - 1).as_primitive::<Int8Type>());
        let window = self.windows.entry(window).or_default();
        for (place, &row) in hopeful.iter().enumerate() {
            let key = keys.get(row as usize);
            let ranking = match window.groups.get_mut(key) {
                Some(ranking) => ranking,
                None => window.groups.entry(Bytes::copy_from_slice(key)).or_default(),
            };
            match ops.is_none_or(|ops| Op::from_i8(ops.value(place)).is_some_and(Op::adds)) {
                true => ranking.insert(bytes.get(place), limit),
                false => ranking.remove(bytes.get(place)),
            }
        }
        window.arrived.push(rows);
        Ok(())
    }

    /// How many rows of a group are enough to keep.
    fn limit(&self) -> u64 {
        match self.is_changelog {
            true => u64::MAX,
            false => self.plan.limit,
        }
    }

    /// The first rows of all groups, by group and in their order, with their numbers.
    fn columns_of(&self, window: &Window, limit: u64) -> Result<(Vec<ArrayRef>, Vec<u64>)> {
        let mut groups: Vec<_> = window.groups.iter().collect();
        groups.sort_unstable_by_key(|(key, _)| *key);
        let mut numbers = Vec::new();
        let mut rows: Vec<(&[u8], &[u8])> = Vec::new();
        for (key, ranking) in groups {
            let each = ranking
                .rows
                .iter()
                .flat_map(|(row, count)| (0..*count).map(move |_| row));
            for (number, row) in (1..=limit).zip(each) {
                numbers.push(number);
                rows.push((key, row));
            }
        }
        Ok((self.order.decode(rows.into_iter())?, numbers))
    }

    fn emit(&self, window: &Window, out: &mut Vec<RecordBatch>) -> Result<()> {
        let (mut columns, numbers) = self.columns_of(window, self.plan.limit)?;
        if numbers.is_empty() {
            return Ok(());
        }
        if self.plan.row_number {
            columns.push(Arc::new(UInt64Array::from(numbers)));
        }
        out.push(batch_of(&self.plan.schema, columns)?);
        Ok(())
    }

    /// What arrived as one batch or, where there are many entries already, one in place of all.
    fn storable(&mut self, time: Micros, window: &mut Window) -> Result<RecordBatch> {
        let arrived = concat_batches(&self.input, &window.arrived)?;
        window.arrived.clear();
        let entries = window.entries.end - window.entries.start;
        if entries < ENTRIES_MAX || window.rows_stored < 2 * window.rows_rewritten {
            return Ok(arrived);
        }
        let (mut columns, numbers) = self.columns_of(window, u64::MAX)?;
        if self.is_changelog {
            columns.push(Arc::new(Int8Array::from_value(Op::Insert as i8, numbers.len())));
        }
        self.gone.push((time, window.entries.clone()));
        window.entries.start = window.entries.end;
        window.rows_stored = 0;
        window.rows_rewritten = numbers.len();
        batch_of(&self.input, columns)
    }
}

impl Operator for WindowTopN {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        let (batch, without_time) = split_by_time(batch, self.closes_by)?;
        let mut rows_of: BTreeMap<Micros, Vec<u32>> = BTreeMap::new();
        for (row, &window) in times(batch.column(self.closes_by))?.values().iter().enumerate() {
            rows_of.entry(window).or_default().push(row as u32);
        }
        self.rejected.extend(without_time.map(Rejected::without_time));
        for (window, rows) in rows_of {
            if self.is_closed(window) {
                self.late += rows.len() as u64;
            } else {
                self.arrive(window, some_rows(batch.clone(), &rows)?)?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, watermark: Micros, out: &mut Vec<RecordBatch>) -> Result<()> {
        while let Some(first) = self.windows.first_entry().filter(|window| *window.key() < watermark) {
            let (time, window) = first.remove_entry();
            self.emit(&window, out)?;
            if !window.entries.is_empty() {
                self.gone.push((time, window.entries));
            }
        }
        self.watermark = self.watermark.max(Some(watermark));
        Ok(())
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        let arrived = self.windows.iter().filter(|(_, window)| !window.arrived.is_empty());
        let arrived: Vec<Micros> = arrived.map(|(&time, _)| time).collect();
        for time in arrived {
            let Some(mut window) = self.windows.remove(&time) else {
                continue;
            };
            let part = self.storable(time, &mut window)?;
            let key = parts::key(changes.partition, time, window.entries.end);
            changes.entries.push((key, Some(parts::encode(&part)?)));
            window.entries.end += 1;
            window.rows_stored += part.num_rows();
            self.windows.insert(time, window);
        }
        for (time, numbers) in self.gone.drain(..) {
            let keys = numbers.map(|number| parts::key(changes.partition, time, number));
            changes.entries.extend(keys.map(|key| (key, None)));
        }
        Ok(())
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.watermark = saved.watermark;
        for entry in saved.table.scan(&saved.partition.to_be_bytes()) {
            let (key, value) = entry?;
            let place = format!("partition {}", saved.partition);
            let (time, number) = parts::parse_key(&key).ok_or_else(|| Error::State {
                place: place.clone(),
                what: format!("a key of {} bytes", key.len()),
            })?;
            let part = parts::decode(&value, &place)?;
            let rows = part.num_rows();
            self.arrive(time, part)?;
            let window = self.windows.entry(time).or_default();
            window.arrived.clear();
            if window.entries.is_empty() {
                window.entries = number..number;
            }
            window.entries.end = number + 1;
            window.rows_stored += rows;
        }
        Ok(())
    }

    fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }

    fn held(&self) -> Held {
        let groups = || self.windows.values().flat_map(|window| &window.groups);
        let rows = groups().flat_map(|(_, ranking)| &ranking.rows);
        let (rows, bytes) = rows.fold((0, 0), |(rows, bytes), (row, _)| {
            (rows + 1, bytes + row.len() + ROW_BYTES)
        });
        let keys: usize = groups().map(|(key, _)| key.len() + ROW_BYTES).sum();
        Held::whole(rows, bytes + keys)
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}

impl Ranking {
    /// What a row must come before to be kept; `None` where there is room.
    fn threshold(&self, limit: u64) -> Option<&[u8]> {
        let (last, _) = self.rows.last()?;
        (self.count >= limit).then_some(last)
    }

    fn insert(&mut self, row: &[u8], limit: u64) {
        if self.threshold(limit).is_some_and(|last| row >= last) {
            return;
        }
        match self.place(row) {
            Ok(place) => self.rows[place].1 += 1,
            Err(place) => self.rows.insert(place, (Bytes::copy_from_slice(row), 1)),
        }
        self.count += 1;
        if self.count > limit {
            self.take_one(self.rows.len() - 1);
        }
    }

    /// A row that is not there was rejected when it came, or its insertion was.
    fn remove(&mut self, row: &[u8]) {
        if let Ok(place) = self.place(row) {
            self.take_one(place);
        }
    }

    fn take_one(&mut self, place: usize) {
        self.count -= 1;
        match &mut self.rows[place].1 {
            0 | 1 => drop(self.rows.remove(place)),
            several => *several -= 1,
        }
    }

    fn place(&self, row: &[u8]) -> Result<usize, usize> {
        self.rows.binary_search_by(|(known, _)| known[..].cmp(row))
    }
}

/// Rows of a batch, in its order, without a copy where these are all.
fn some_rows(batch: RecordBatch, rows: &[u32]) -> Result<RecordBatch> {
    match rows.len() == batch.num_rows() {
        true => Ok(batch),
        false => Ok(take_record_batch(&batch, &UInt32Array::from(rows.to_vec()))?),
    }
}
