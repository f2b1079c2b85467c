//! Rows within reach in event time, in memory, until the watermark has passed all that could match them.
//!
//! The rows that an epoch brings on a side are a part, and become one entry of the state table. A part goes when
//! its last row has; until then its other rows may be found, and are too far away to match. Where it makes a difference
//! whether a row has had a match, the part's bits say so, in an entry that is written anew whenever one is set.
//!
//! Keys of the table: `partition u32 BE | what i64 | number u64 BE` (see [`super::super::parts::key`]), where `what` is 0 for a left
//! part, 1 for a right one, and 2 or 3 for their bits. A part: for each row its length as `u32 BE` and the encoded row.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use headwater_event::clock::Micros;

use super::pairs::within;
use super::side::{LEFT, RIGHT, Role, Side};
use super::stretch::Stretch;
use super::{Found, Memory};
use crate::error::{Error, Result};
use crate::holdings::Held;
use crate::operators::{Saved, StateChanges, parts};
use crate::plan::Reach;

/// What a row or a key takes besides its bytes, roughly.
const ROW_BYTES: usize = 96;

pub struct Near {
    reach: Reach,
    sides: [Rows; 2],
    /// The next part's.
    next: u64,
    watermark: Option<Micros>,
    late: u64,
    written: Vec<(Entry, Option<Bytes>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    what: i64,
    number: u64,
}

/// Those of a side.
#[derive(Default)]
struct Rows {
    by_key: HashMap<Bytes, Vec<Place>>,
    parts: HashMap<u64, Part>,
    /// When parts go.
    ends: BinaryHeap<Reverse<(Micros, u64)>>,
    /// When rows become part of the result, if they have no match until then.
    waiting: BinaryHeap<Reverse<(Micros, u64, u32)>>,
    /// Parts in which a row had its first match in this epoch.
    touched: HashSet<u64>,
}

/// Where a row is.
#[derive(Clone, Copy)]
pub struct Place {
    part: u64,
    row: u32,
    time: Micros,
}

#[derive(Default)]
struct Part {
    rows: Vec<Row>,
    has_match: Vec<bool>,
}

struct Row {
    key: Bytes,
    encoded: Bytes,
}

impl Near {
    pub fn new(reach: Reach) -> Self {
        Self {
            reach,
            sides: [Rows::default(), Rows::default()],
            next: 0,
            watermark: None,
            late: 0,
            written: Vec::new(),
        }
    }

    /// The last time on the other side that a row can match; with a watermark beyond it, it can go.
    fn end_of(&self, side: usize, time: Micros) -> Micros {
        *within(self.reach, side, (time, time)).end()
    }

    /// Whether nothing to come can match a row that ends there.
    fn is_over(&self, end: Micros) -> bool {
        self.watermark.is_some_and(|watermark| end < watermark)
    }

    /// Rows with their times, as a part; `matched` says which of them have a match.
    fn add(&mut self, side: &Side, number: usize, part: u64, rows: Vec<(Row, Micros)>, has_match: Vec<bool>) {
        let Some(last) = rows.iter().map(|(_, time)| self.end_of(number, *time)).max() else {
            return;
        };
        for (row, ((_, time), has_match)) in rows.iter().zip(&has_match).enumerate() {
            if side.role == Role::Unmatched && !has_match {
                let end = self.end_of(number, *time);
                self.sides[number].waiting.push(Reverse((end, part, row as u32)));
            }
        }
        let known = &mut self.sides[number];
        let mut kept = Vec::with_capacity(rows.len());
        for (place, (row, time)) in rows.into_iter().enumerate() {
            let place = Place {
                part,
                row: place as u32,
                time,
            };
            known.by_key.entry(row.key.clone()).or_default().push(place);
            kept.push(row);
        }
        known.parts.insert(part, Part { rows: kept, has_match });
        known.ends.push(Reverse((last, part)));
    }

    /// What becomes part of the result since nothing can match it any more.
    fn unmatched(&mut self, side: usize, watermark: Micros) -> Vec<Bytes> {
        let Rows { waiting, parts, .. } = &mut self.sides[side];
        let mut rows = Vec::new();
        while let Some(Reverse((end, part, row))) = waiting.peek().copied()
            && end < watermark
        {
            waiting.pop();
            if let Some(part) = parts.get(&part).filter(|part| !part.has_match[row as usize]) {
                rows.push(part.rows[row as usize].encoded.clone());
            }
        }
        rows
    }

    fn drop_parts(&mut self, side: usize, watermark: Micros) {
        let Rows {
            by_key,
            parts,
            ends,
            touched,
            ..
        } = &mut self.sides[side];
        let mut keys = HashSet::new();
        while let Some(Reverse((end, number))) = ends.peek().copied()
            && end < watermark
        {
            ends.pop();
            touched.remove(&number);
            let rows = parts.remove(&number).into_iter().flat_map(|part| part.rows);
            keys.extend(rows.map(|row| row.key));
            self.written.push((Entry::rows(side, number), None));
            self.written.push((Entry::bits(side, number), None));
        }
        // Each key once, however many of its rows go.
        for key in keys {
            if let Some(places) = by_key.get_mut(&key) {
                places.retain(|place| parts.contains_key(&place.part));
                if places.is_empty() {
                    by_key.remove(&key);
                }
            }
        }
    }

    fn restore_part(&mut self, side: &Side, number: usize, part: u64, value: &[u8]) -> Result<()> {
        let encoded = decode(value).ok_or_else(damaged)?;
        let columns = side.decode(encoded.iter().map(|row| &row[..]))?;
        let keys = side.encode_keys(&side.keys_of(&columns), encoded.len(), number as u8)?;
        let times = side.times_of(&columns);
        let rows = keys.into_iter().zip(encoded).map(|(key, encoded)| Row { key, encoded });
        let rows = rows.zip(times.iter().copied()).collect::<Vec<_>>();
        let has_match = vec![false; rows.len()];
        self.add(side, number, part, rows, has_match);
        Ok(())
    }

    /// Those that are over have become part of the result before the last commit.
    fn forget_what_came_out(&mut self) {
        if let Some(watermark) = self.watermark {
            for side in [LEFT, RIGHT] {
                self.unmatched(side, watermark);
            }
        }
    }
}

impl Memory for Near {
    type Place = Place;

    fn find(&mut self, other: &Side, stretch: &Stretch) -> Result<Found<Place>> {
        let keys = stretch.keys(1 - stretch.side);
        let known = &self.sides[1 - stretch.side];
        // The times that the rows of each key reach, so that a key with many rows gives up few.
        let mut bounds = vec![(Micros::MAX, Micros::MIN); keys.len()];
        for (&key, &time) in stretch.key_of.iter().zip(stretch.times.iter()) {
            bounds[key] = (bounds[key].0.min(time), bounds[key].1.max(time));
        }
        let mut starts = Vec::with_capacity(keys.len() + 1);
        let mut places: Vec<Place> = Vec::new();
        for (key, bounds) in keys.iter().zip(bounds) {
            starts.push(places.len());
            let times = within(self.reach, stretch.side, bounds);
            let rows = known.by_key.get(key).into_iter().flatten();
            let is_here = |time| times.contains(&time) && !self.is_over(self.end_of(1 - stretch.side, time));
            places.extend(rows.filter(|place| is_here(place.time)));
        }
        starts.push(places.len());
        let parts: Vec<(&Part, usize)> = places
            .iter()
            .map(|place| (&known.parts[&place.part], place.row as usize))
            .collect();
        Ok(Found {
            columns: other.decode(parts.iter().map(|(part, row)| &part.rows[*row].encoded[..]))?,
            times: places.iter().map(|place| place.time).collect(),
            copies: vec![1; places.len()],
            matches: parts
                .iter()
                .map(|(part, row)| u64::from(part.has_match[*row]))
                .collect(),
            starts,
            places,
        })
    }

    fn settle(
        &mut self,
        own: &Side,
        stretch: &Stretch,
        matches: &[u64],
        other: &Side,
        found: &Found<Place>,
        added: &[i64],
    ) -> Result<()> {
        let known = &mut self.sides[1 - stretch.side];
        if other.role.is_counted() {
            for (place, _) in found.places.iter().zip(added).filter(|(_, added)| **added > 0) {
                if let Some(part) = known.parts.get_mut(&place.part)
                    && !std::mem::replace(&mut part.has_match[place.row as usize], true)
                {
                    known.touched.insert(place.part);
                }
            }
        }
        let mut rows = Vec::with_capacity(stretch.changes.len());
        let mut has_match = Vec::with_capacity(stretch.changes.len());
        let mut value = Vec::with_capacity(stretch.rows.size());
        let mut ends = Vec::with_capacity(stretch.changes.len());
        for change in &stretch.changes {
            let row = change.row as usize;
            let is_over = self.is_over(self.end_of(stretch.side, stretch.times[row]));
            self.late += u64::from(is_over);
            let is_done = own.role == Role::Matched && matches[row] > 0;
            if is_done || (is_over && own.role != Role::Unmatched) {
                continue;
            }
            let encoded = stretch.rows.row(row).data();
            value.extend_from_slice(&(encoded.len() as u32).to_be_bytes());
            value.extend_from_slice(encoded);
            ends.push(value.len());
            rows.push(row);
            has_match.push(own.role.is_counted() && matches[row] > 0);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let value = Bytes::from(value);
        let part = self.next;
        self.next += 1;
        self.written
            .push((Entry::rows(stretch.side, part), Some(value.clone())));
        if has_match.contains(&true) {
            self.sides[stretch.side].touched.insert(part);
        }
        let rows = rows.into_iter().zip(ends).map(|(row, end)| {
            let key = stretch.key(row as u32).clone();
            let length = stretch.rows.row(row).data().len();
            let encoded = value.slice(end - length..end);
            (Row { key, encoded }, stretch.times[row])
        });
        let rows = rows.collect();
        self.add(own, stretch.side, part, rows, has_match);
        Ok(())
    }

    /// An unmatched row has to wait until it can't have a match any more.
    fn shows(&self, role: Role, matches: u64) -> bool {
        role == Role::Matched && matches > 0
    }

    fn advance(&mut self, watermark: Micros) -> Result<[Vec<Bytes>; 2]> {
        self.watermark = Some(self.watermark.map_or(watermark, |known| known.max(watermark)));
        let unmatched = [LEFT, RIGHT].map(|side| self.unmatched(side, watermark));
        for side in [LEFT, RIGHT] {
            self.drop_parts(side, watermark);
        }
        Ok(unmatched)
    }

    fn delay(&self) -> Micros {
        self.reach.upper.max(self.reach.lower.saturating_neg()).max(0)
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        for side in [LEFT, RIGHT] {
            let known = &mut self.sides[side];
            for number in known.touched.drain() {
                if let Some(part) = known.parts.get(&number) {
                    let bits = part.has_match.chunks(8).map(byte).collect::<Vec<u8>>();
                    self.written.push((Entry::bits(side, number), Some(bits.into())));
                }
            }
        }
        let written = self.written.drain(..);
        let written = written.map(|(entry, value)| (parts::key(changes.partition, entry.what, entry.number), value));
        changes.entries.extend(written);
        Ok(())
    }

    fn restore(&mut self, sides: &[Side; 2], saved: &Saved) -> Result<()> {
        self.watermark = saved.watermark;
        for entry in saved.table.scan(&saved.partition.to_be_bytes()) {
            let (key, value) = entry?;
            let (what, number) = parts::parse_key(&key).ok_or_else(damaged)?;
            let side = (what & 1) as usize;
            match what {
                0 | 1 => self.restore_part(&sides[side], side, number, &value)?,
                // All parts come before all bits.
                _ => {
                    let part = self.sides[side].parts.get_mut(&number).ok_or_else(damaged)?;
                    for (row, has_match) in part.has_match.iter_mut().enumerate() {
                        *has_match = value.get(row / 8).ok_or_else(damaged)? >> (row % 8) & 1 == 1;
                    }
                }
            }
            self.next = self.next.max(number + 1);
        }
        self.forget_what_came_out();
        Ok(())
    }

    fn held(&self) -> Held {
        let parts = self.sides.iter().flat_map(|side| side.parts.values());
        let rows = parts.flat_map(|part| &part.rows);
        let (rows, bytes) = rows.fold((0, 0), |(rows, bytes), row| {
            (rows + 1, bytes + row.encoded.len() + ROW_BYTES)
        });
        let keys = self.sides.iter().flat_map(|side| side.by_key.keys());
        Held::whole(rows, bytes + keys.map(|key| key.len() + ROW_BYTES).sum::<usize>())
    }

    fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }
}

impl Entry {
    fn rows(side: usize, number: u64) -> Self {
        Self {
            what: side as i64,
            number,
        }
    }

    fn bits(side: usize, number: u64) -> Self {
        Self {
            what: side as i64 + 2,
            number,
        }
    }
}

fn byte(bits: &[bool]) -> u8 {
    let bits = bits.iter().enumerate();
    bits.fold(0, |byte, (place, bit)| byte | u8::from(*bit) << place)
}

/// The rows of a part.
fn decode(mut value: &[u8]) -> Option<Vec<Bytes>> {
    let whole = Bytes::copy_from_slice(value);
    let mut rows = Vec::new();
    while !value.is_empty() {
        let (length, rest) = value.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let start = whole.len() - rest.len();
        value = rest.get(length..)?;
        rows.push(whole.slice(start..start + length));
    }
    Some(rows)
}

fn damaged() -> Error {
    Error::State {
        place: "a join".to_owned(),
        what: "an entry is not of the form it was written in".to_owned(),
    }
}
