//! Merges fragments into sessions, and emits a session's row when the watermark reaches its end.
//!
//! 1. What an epoch brought is put together at its end: fragments that touch one another or an open
//!    session (see [`super::sessions`]) become one session. Its states, merged, are a row of the epoch's
//!    part; the rows of the sessions that it absorbed are dead.
//! 2. A part is columns in memory and an entry of the state table, as it is: an epoch writes the
//!    sessions that it touched, once. Key: `partition u32 BE | number u64 BE`.
//! 3. When the watermark reaches a session's end its result is computed from its row, which is dead
//!    then, or when lateness is over.
//! 4. A part goes, with its entry, when all its rows are dead. Where there are many parts with about
//!    as many live rows each, these are rewritten as one part: entries are few, and a row is
//!    rewritten a number of times that grows with the logarithm of all.
//!
//! With `lateness` a session's row stays for so long after its end. What touches it then makes a new session of it: its
//! result is computed again and taken back, and the new session's is emitted when that ends, which it may have done already.
//!
//! Where the latest sessions are what is given ([`plan::SessionRows::Latest`]), an epoch compares the results of those that it
//! touched with what they were, and a group's row goes when its latest session ends.
//!
//! A restart reads the parts, the last one first: a row that touches a later one was absorbed by it,
//! and one whose end the watermark has reached was emitted.
//!
//! Fragments that begin before the watermark, or further before it than lateness is allowed for, are dropped and
//! counted, so nothing ever touches a session that is gone. A group whose states can't be put together, because a sum overflows for
//! instance, keeps what it had, and what came for it in the epoch is handed back as rejected; so is a
//! session that has no result.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int8Array, Int64Array, RecordBatch, UInt32Array, new_empty_array,
};
use arrow::compute::{concat_batches, filter_record_batch, interleave, take_arrays};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use bytes::Bytes;
use headwater_event::clock::Micros;
use headwater_event::op::Op;

use super::accumulation::Accumulators;
use super::salvage::{ByGroup, by_rows};
use super::sessions::{Fragment, NONE, Place, Session, Sessions, Union};
use super::windows::time_column;
use super::{Operator, Rejected, Saved, StateChanges, batch_of, parts};
use crate::difference::difference;
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::holdings::{Held, bytes_of};
use crate::plan;
use crate::plan::{Aggregate, SessionRows};

/// So many parts with about as many live rows each are rewritten as one.
const ALIKE_MAX: usize = 8;
/// The numbers of live rows with as many times this many bits are about the same.
const ALIKE_BITS: u32 = 3;
/// Groups without an open session are forgotten when there are more of them than this, and than of the others.
const GROUPS_IDLE_MAX: usize = 1024;

pub struct SessionAggregate {
    plan: plan::SessionAggregate,
    aggregates: Arc<[Aggregate]>,
    /// `start`, `last`, the groups, the states: of fragments and of parts.
    input: SchemaRef,
    group_types: Vec<DataType>,
    groups: Groups,
    sessions: Sessions,
    parts: Vec<Option<Part>>,
    arrived: Vec<RecordBatch>,
    /// Sessions that had ended were changed since the watermark was looked at.
    has_changed: bool,
    /// Sessions that end here or before are closed.
    closed: Option<Micros>,
    /// Entries of parts that have gone.
    gone: Vec<u64>,
    next_number: u64,
    late: u64,
    rejected: Vec<Rejected>,
}

/// Rows with the states of sessions.
struct Part {
    rows: RecordBatch,
    /// Whose row it is, or was.
    sessions: Vec<u32>,
    live: usize,
    /// Of its entry in the state table, once it has one.
    number: Option<u64>,
}

/// The results of groups as they were given, and which row is whose.
struct Shown {
    rows: HashMap<u32, u32>,
    results: Vec<ArrayRef>,
}

/// What fragments do to sessions.
struct Settled {
    /// A row for each of the unions.
    rows: RecordBatch,
    unions: Vec<Union>,
    absorbed: Vec<u32>,
    /// Their results, where these are given before a session ends.
    results: Vec<ArrayRef>,
}

impl SessionAggregate {
    pub fn new(plan: plan::SessionAggregate, input: SchemaRef) -> Result<Self> {
        let groups = input.fields().iter().skip(2).take(plan.groups);
        let group_types: Vec<DataType> = groups.map(|field| field.data_type().clone()).collect();
        Ok(Self {
            aggregates: plan.aggregates.as_slice().into(),
            groups: Groups::new(&group_types)?,
            group_types,
            sessions: Sessions::new(plan.gap, plan.lateness),
            parts: Vec::new(),
            arrived: Vec::new(),
            has_changed: false,
            closed: None,
            gone: Vec::new(),
            next_number: 0,
            late: 0,
            rejected: Vec::new(),
            input,
            plan,
        })
    }

    fn group_columns(&self) -> Range<usize> {
        2..2 + self.plan.groups
    }

    /// What the fragments that have arrived do to the open sessions. Changes none of them.
    fn settle(&mut self, arrived: &RecordBatch) -> Result<Settled> {
        let (starts, lasts) = bounds(arrived);
        let groups = &arrived.columns()[self.group_columns()];
        let mut indices = Vec::new();
        self.groups.intern(groups, arrived.num_rows(), &mut indices)?;
        let fragments = indices.iter().enumerate().map(|(row, &group)| Fragment {
            group: group as u32,
            start: starts[row],
            last: lasts[row],
            row: row as u32,
        });
        let mut fragments: Vec<Fragment> = fragments.collect();
        fragments.sort_unstable_by_key(|fragment| (fragment.group, fragment.start));
        let (mut unions, mut absorbed) = (Vec::new(), Vec::new());
        let mut first = 0;
        for of_group in fragments.chunk_by(|a, b| a.group == b.group) {
            let range = first..first + of_group.len();
            first = range.end;
            self.sessions.unite(&fragments, range, &mut unions, &mut absorbed);
        }
        // Accumulators want every group that they are told of to come with a row. So those that
        // bring former states along take the first places.
        unions.sort_by_key(|union| union.absorbed.is_empty());
        let rows = self.united(arrived, &fragments, &unions, &absorbed)?;
        let results = match self.plan.gives {
            SessionRows::Ended => Vec::new(),
            SessionRows::Latest => self.aggregated(&rows)?,
        };
        Ok(Settled {
            rows,
            unions,
            absorbed,
            results,
        })
    }

    /// The bounds, groups and merged states of unions.
    fn united(
        &self,
        arrived: &RecordBatch,
        fragments: &[Fragment],
        unions: &[Union],
        absorbed: &[u32],
    ) -> Result<RecordBatch> {
        let states = self.group_columns().end..self.input.fields().len();
        let mut whole = Accumulators::new(&self.aggregates)?;
        let known = unions.partition_point(|union| !union.absorbed.is_empty());
        if known > 0 {
            let mut places = Vec::with_capacity(absorbed.len());
            let mut indices = Vec::with_capacity(absorbed.len());
            for (index, union) in unions[..known].iter().enumerate() {
                for &session in &absorbed[union.absorbed.clone()] {
                    places.push(self.sessions.place(session));
                    indices.push(index);
                }
            }
            whole.merge(&indices, known, &self.gathered(&places, states.clone())?)?;
        }
        let mut indices = vec![0; arrived.num_rows()];
        for (index, union) in unions.iter().enumerate() {
            for fragment in &fragments[union.fragments.clone()] {
                indices[fragment.row as usize] = index;
            }
        }
        whole.merge(&indices, unions.len(), &arrived.columns()[states])?;
        let firsts = unions.iter().map(|union| fragments[union.fragments.start].row);
        let firsts: UInt32Array = firsts.collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(unions.iter().map(|union| union.start).collect::<Int64Array>()),
            Arc::new(unions.iter().map(|union| union.last).collect::<Int64Array>()),
        ];
        columns.extend(take_arrays(&arrived.columns()[self.group_columns()], &firsts, None)?);
        columns.extend(whole.take_states()?);
        batch_of(&self.input, columns)
    }

    fn apply(&mut self, settled: Settled, out: &mut Vec<RecordBatch>) -> Result<()> {
        let ended = settled
            .absorbed
            .iter()
            .filter(|&&session| self.sessions.has_ended(session));
        let ended: Vec<Place> = ended.map(|&session| self.sessions.place(session)).collect();
        if !ended.is_empty() {
            // What has no result was rejected when the session ended.
            self.emit(&ended, Op::Delete, &mut Vec::new(), out)?;
        }
        // An end that was reached before is not looked for unless the watermark moves.
        self.has_changed |= self.plan.lateness > 0;
        let shown = match self.plan.gives {
            SessionRows::Ended => None,
            SessionRows::Latest => Some(self.shown(&settled.unions)?),
        };
        let part = self.vacancy();
        let mut sessions = Vec::with_capacity(settled.unions.len());
        for (row, union) in settled.unions.iter().enumerate() {
            let absorbed = &settled.absorbed[union.absorbed.clone()];
            for &session in absorbed {
                self.bury(self.sessions.place(session));
            }
            let place = Place::new(part, row);
            sessions.push(self.sessions.settle(union, absorbed, place));
        }
        if let Some(shown) = shown {
            self.show(&settled, part, &shown, out)?;
        }
        self.parts[part] = Some(Part {
            live: sessions.len(),
            rows: settled.rows,
            sessions,
            number: None,
        });
        Ok(())
    }

    /// What is given of the groups of these unions at present.
    fn shown(&self, unions: &[Union]) -> Result<Shown> {
        let (mut rows, mut places) = (HashMap::new(), Vec::new());
        for group in unions.iter().map(|union| union.group) {
            if let (Some(place), Entry::Vacant(row)) = (self.sessions.latest(group), rows.entry(group)) {
                row.insert(places.len() as u32);
                places.push(place);
            }
        }
        let results = match places.is_empty() {
            true => Vec::new(),
            false => self.aggregated(&self.gathered_rows(&places)?)?,
        };
        Ok(Shown { rows, results })
    }

    /// What the groups' latest sessions have become that are in the new part.
    fn show(&self, settled: &Settled, part: usize, shown: &Shown, out: &mut Vec<RecordBatch>) -> Result<()> {
        let is_latest = |row: &u32| {
            let union = &settled.unions[*row as usize];
            self.sessions.latest(union.group) == Some(Place::new(part, *row as usize))
        };
        let latest: Vec<u32> = (0..settled.unions.len() as u32).filter(is_latest).collect();
        if latest.is_empty() {
            return Ok(());
        }
        let before_of = latest.iter().map(|&row| {
            let union = &settled.unions[row as usize];
            shown.rows.get(&union.group).copied()
        });
        let before_of: Vec<Option<u32>> = before_of.collect();
        let latest = UInt32Array::from(latest);
        let groups = take_arrays(&settled.rows.columns()[self.group_columns()], &latest, None)?;
        let after = take_arrays(&settled.results, &latest, None)?;
        let before = match shown.results.as_slice() {
            [] => after.iter().map(|column| new_empty_array(column.data_type())).collect(),
            results => results.to_vec(),
        };
        let changes = batch_of(
            &self.plan.schema,
            difference(&groups, &before, &before_of, &after, |_| false)?,
        )?;
        if changes.num_rows() > 0 {
            out.push(changes);
        }
        Ok(())
    }

    /// The results of the sessions in these rows, of which there is at least one, as a change of the result.
    fn emit(&self, places: &[Place], op: Op, rejected: &mut Vec<Rejected>, out: &mut Vec<RecordBatch>) -> Result<()> {
        by_rows(self.gathered_rows(places)?, rejected, |rows| {
            out.push(self.results(rows, op)?);
            Ok(())
        })
    }

    /// Where a part can be put.
    fn vacancy(&mut self) -> usize {
        let vacant = self.parts.iter().position(Option::is_none);
        vacant.unwrap_or_else(|| {
            self.parts.push(None);
            self.parts.len() - 1
        })
    }

    /// A row that is of no use any more. The part goes with its last one.
    fn bury(&mut self, place: Place) {
        let vacated = &mut self.parts[place.part as usize];
        if let Some(part) = vacated {
            part.live -= 1;
            if part.live == 0 {
                self.gone.extend(part.number);
                *vacated = None;
            }
        }
    }

    /// Columns of the rows at places, of which there is at least one.
    fn gathered(&self, places: &[Place], columns: Range<usize>) -> Result<Vec<ArrayRef>> {
        let mut number_of = vec![0; self.parts.len()];
        let mut parts = Vec::new();
        for (position, part) in self.parts.iter().enumerate() {
            number_of[position] = parts.len();
            parts.extend(part);
        }
        let rows = places
            .iter()
            .map(|place| (number_of[place.part as usize], place.row as usize));
        let rows: Vec<(usize, usize)> = rows.collect();
        let gathered = columns.map(|column| {
            let each: Vec<&dyn Array> = parts.iter().map(|part| part.rows.column(column).as_ref()).collect();
            Ok(interleave(&each, &rows)?)
        });
        gathered.collect()
    }

    fn gathered_rows(&self, places: &[Place]) -> Result<RecordBatch> {
        let columns = self.gathered(places, 0..self.input.fields().len())?;
        Ok(RecordBatch::try_new(self.input.clone(), columns)?)
    }

    /// What sessions that have ended come to.
    fn results(&self, rows: &RecordBatch, op: Op) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.plan.schema.fields().len());
        if self.plan.gives == SessionRows::Ended {
            let (starts, lasts) = bounds(rows);
            let ends = lasts.iter().map(|&last| self.sessions.end(last)).collect();
            for (times, field) in [starts.to_vec(), ends].into_iter().zip(self.plan.schema.fields()) {
                columns.push(Arc::new(time_column(times, field.data_type())));
            }
        }
        columns.extend_from_slice(&rows.columns()[self.group_columns()]);
        columns.extend(self.aggregated(rows)?);
        if self.plan.lateness > 0 || self.plan.gives == SessionRows::Latest {
            columns.push(Arc::new(Int8Array::from_value(op as i8, rows.num_rows())));
        }
        batch_of(&self.plan.schema, columns)
    }

    /// The aggregates' results for these rows.
    fn aggregated(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let indices: Vec<usize> = (0..rows.num_rows()).collect();
        let mut whole = Accumulators::new(&self.aggregates)?;
        whole.merge(&indices, rows.num_rows(), &rows.columns()[self.group_columns().end..])?;
        whole.take_results()
    }

    /// Sessions that end here or before are gone.
    fn gone_at(&self, closed: Micros) -> Micros {
        closed.saturating_sub(self.plan.lateness)
    }

    /// Rewrites parts as one, where there are too many that are alike.
    fn rewrite(&mut self) -> Result<()> {
        for size in 0..=u32::BITS / ALIKE_BITS {
            let is_alike = |part: &Part| part.live.ilog2() / ALIKE_BITS == size;
            let alike = self.parts.iter().enumerate();
            let alike = alike.filter(|(_, part)| part.as_ref().is_some_and(is_alike));
            let alike: Vec<usize> = alike.map(|(position, _)| position).collect();
            if alike.len() >= ALIKE_MAX {
                self.rewrite_as_one(&alike)?;
            }
        }
        Ok(())
    }

    fn rewrite_as_one(&mut self, positions: &[usize]) -> Result<()> {
        let mut places = Vec::new();
        let mut sessions = Vec::new();
        for &position in positions {
            for (session, place) in self.live(position) {
                sessions.push(session);
                places.push(place);
            }
        }
        let rows = self.gathered_rows(&places)?;
        for &position in positions {
            let former = self.parts[position].take();
            self.gone.extend(former.and_then(|part| part.number));
        }
        let part = self.vacancy();
        for (row, &session) in sessions.iter().enumerate() {
            let place = Place::new(part, row);
            self.sessions.moved(session, place);
        }
        self.parts[part] = Some(Part {
            live: sessions.len(),
            rows,
            sessions,
            number: None,
        });
        Ok(())
    }

    /// The sessions whose rows are in the part, and where.
    fn live(&self, position: usize) -> impl Iterator<Item = (u32, Place)> {
        let sessions = self.parts[position].as_ref().map(|part| part.sessions.as_slice());
        let places = sessions
            .unwrap_or_default()
            .iter()
            .enumerate()
            .map(move |(row, &session)| {
                let place = Place::new(position, row);
                (session, place)
            });
        places.filter(|&(session, place)| session != NONE && self.sessions.place(session) == place)
    }

    /// Forgets the groups without an open session, if they are many.
    fn forget_groups(&mut self) -> Result<()> {
        let open = self.sessions.groups_open();
        if self.groups.len() - open <= open.max(GROUPS_IDLE_MAX) {
            return Ok(());
        }
        let mut groups = Groups::new(&self.group_types)?;
        let mut indices = Vec::new();
        let mut renumbered = Vec::new();
        for position in 0..self.parts.len() {
            let Some(part) = &self.parts[position] else { continue };
            let (sessions, rows): (Vec<u32>, Vec<u32>) =
                self.live(position).map(|(session, place)| (session, place.row)).unzip();
            let columns = take_arrays(
                &part.rows.columns()[self.group_columns()],
                &UInt32Array::from(rows),
                None,
            )?;
            groups.intern(&columns, sessions.len(), &mut indices)?;
            renumbered.extend(sessions.into_iter().zip(indices.iter().map(|&group| group as u32)));
        }
        self.sessions.renumber(&renumbered, groups.len());
        self.groups = groups;
        Ok(())
    }

    /// Takes a part back from the state table, of which all later ones are known.
    fn recover(&mut self, rows: RecordBatch, number: u64) -> Result<()> {
        let (starts, lasts) = bounds(&rows);
        let mut indices = Vec::new();
        let groups = &rows.columns()[self.group_columns()];
        self.groups.intern(groups, rows.num_rows(), &mut indices)?;
        let part = self.vacancy();
        let mut sessions = Vec::with_capacity(rows.num_rows());
        let mut live = 0;
        for (row, &group) in indices.iter().enumerate() {
            let (group, start, last) = (group as u32, starts[row], lasts[row]);
            let end = self.sessions.end(last);
            let is_gone = self.closed.is_some_and(|closed| end <= self.gone_at(closed));
            if is_gone || self.sessions.touches(group, start, last) {
                sessions.push(NONE);
                continue;
            }
            let place = Place::new(part, row);
            let session = self.sessions.add(group, start, last, place);
            if let Some(closed) = self.closed {
                self.sessions.recall(session, closed);
            }
            sessions.push(session);
            live += 1;
        }
        if live == 0 {
            self.gone.push(number);
            return Ok(());
        }
        self.parts[part] = Some(Part {
            rows,
            sessions,
            live,
            number: Some(number),
        });
        Ok(())
    }
}

impl Operator for SessionAggregate {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        let Some(closed) = self.closed else {
            self.arrived.push(batch);
            return Ok(());
        };
        let (starts, _) = bounds(&batch);
        let earliest = self.gone_at(closed);
        let in_time: BooleanArray = starts.iter().map(|&start| Some(start >= earliest)).collect();
        let late = batch.num_rows() - in_time.true_count();
        self.late += late as u64;
        self.arrived.push(match late {
            0 => batch,
            _ => filter_record_batch(&batch, &in_time)?,
        });
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<RecordBatch>) -> Result<()> {
        let arrived = concat_batches(&self.input, &std::mem::take(&mut self.arrived))?;
        if arrived.num_rows() == 0 {
            return Ok(());
        }
        match self.settle(&arrived) {
            Ok(settled) => return self.apply(settled, out),
            Err(error) if error.is_of_data() => {}
            Err(error) => return Err(error),
        }
        let types = self.group_types.clone();
        let arrived = [arrived];
        let by_group = ByGroup {
            types: &types,
            columns: self.group_columns(),
            parts: &arrived,
            blamed: &arrived,
        };
        let mut rejected = Vec::new();
        let settled = by_group.each(&mut rejected, |parts| {
            let arrived = concat_batches(&self.input, parts)?;
            self.settle(&arrived)
        })?;
        self.rejected.append(&mut rejected);
        settled.into_iter().try_for_each(|settled| self.apply(settled, out))
    }

    fn advance(&mut self, watermark: Micros, out: &mut Vec<RecordBatch>) -> Result<()> {
        let has_changed = std::mem::take(&mut self.has_changed);
        if !has_changed && self.closed.is_some_and(|closed| watermark <= closed) {
            return Ok(());
        }
        let watermark = self.closed.map_or(watermark, |closed| closed.max(watermark));
        self.closed = Some(watermark);
        let closed = self.sessions.close(watermark);
        let places = |sessions: &[Session]| sessions.iter().map(|session| session.place).collect();
        let (ended, op): (Vec<Place>, _) = match self.plan.gives {
            SessionRows::Ended => (places(&closed.ended), Op::Insert),
            SessionRows::Latest => (places(&self.sessions.last_ones(&closed.ended)), Op::Delete),
        };
        if !ended.is_empty() {
            let mut rejected = Vec::new();
            self.emit(&ended, op, &mut rejected, out)?;
            self.rejected.append(&mut rejected);
        }
        closed.gone.iter().for_each(|session| self.bury(session.place));
        Ok(())
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        self.rewrite()?;
        for part in self.parts.iter_mut().flatten().filter(|part| part.number.is_none()) {
            let key = key(changes.partition, self.next_number);
            changes.entries.push((key, Some(parts::encode(&part.rows)?)));
            part.number = Some(self.next_number);
            self.next_number += 1;
        }
        let gone = self.gone.drain(..).map(|number| (key(changes.partition, number), None));
        changes.entries.extend(gone);
        self.forget_groups()
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.closed = saved.watermark;
        let place = format!("sessions in partition {}", saved.partition);
        let mut known = Vec::new();
        for entry in saved.table.scan(&saved.partition.to_be_bytes()) {
            let (key, value) = entry?;
            let number = key.get(4..12).and_then(|number| number.try_into().ok());
            let number = number.map(u64::from_be_bytes).ok_or_else(|| Error::State {
                place: place.clone(),
                what: format!("a key of {} bytes", key.len()),
            })?;
            known.push((number, parts::decode(&value, &place)?));
            self.next_number = number + 1;
        }
        while let Some((number, rows)) = known.pop() {
            self.recover(rows, number)?;
        }
        Ok(())
    }

    fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }

    fn held(&self) -> Held {
        let parts = self.parts.iter().flatten();
        let open = parts.clone().map(|part| part.live).sum();
        let rows = parts.map(|part| &part.rows).chain(&self.arrived);
        Held::whole(open, self.groups.bytes() + bytes_of(rows))
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}

/// The columns `start` and `last`.
fn bounds(rows: &RecordBatch) -> (&[Micros], &[Micros]) {
    let times = |column: usize| &rows.column(column).as_primitive::<Int64Type>().values()[..];
    (times(0), times(1))
}

fn key(partition: u32, number: u64) -> Bytes {
    [&partition.to_be_bytes()[..], &number.to_be_bytes()[..]]
        .concat()
        .into()
}
