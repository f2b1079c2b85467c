//! Joins two inputs by equal keys: every row meets what has come on the other side before it.
//!
//! 1. An epoch's rows are held back until its end. Then the left ones come, as one [`Stretch`], and after them the
//!    right ones, so that every pair meets exactly once. Which of the two is first makes no difference to the result.
//! 2. A stretch finds the other side's rows with its keys, and the filter is evaluated for many of the
//!    pairs at once ([`Pairs`]). What an unmatched row is worth ([`Role`]) depends on how many matches it has, so
//!    where that matters both sides' rows keep count.
//! 3. The stretch becomes part of its own side's state. Three kinds of [`Memory`] exist: [`added`] for ever, by key, where
//!    rows only come and need no counts; [`kept`] for ever where they may go, or have counts; and [`near`], within reach in
//!    event time, in memory.
//!
//! Of a stretch the retractions come out first, then what is new. Changes to one row that cancel each other are
//! put together before, so that no retraction belongs to a row of the same stretch.
//!
//! Where left rows meet the right ones as they stand, the right ones come first, meet nothing, and the left ones are not kept.
//!
//! A row for which the filter fails is left out as if it had not come.

mod added;
mod kept;
mod near;
mod pairs;
mod results;
mod side;
mod stretch;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Int8Type, SchemaRef};
use bytes::Bytes;
use headwater_event::clock::Micros;
use headwater_event::op::is_changelog;

use self::added::OnlyAdded;
use self::kept::Kept;
use self::near::Near;
use self::pairs::Pairs;
use self::results::Results;
use self::side::{Role, Side};
use self::stretch::Stretch;
use super::{Operator, Rejected, Saved, StateChanges};
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::holdings::Held;
use crate::plan;
use crate::plan::JoinKind;

/// The rows of both sides that later ones can match.
trait Memory: Send {
    /// Where a row is that was found.
    type Place;

    /// Leaves of the stretch's retractions those whose rows are there.
    fn restrict(&mut self, _own: usize, _stretch: &mut Stretch) -> Result<()> {
        Ok(())
    }

    /// The rows on the other side that have the stretch's keys.
    fn find(&mut self, other: &Side, stretch: &Stretch) -> Result<Found<Self::Place>>;

    /// Takes the stretch in, each row of it with the number of its matches, and what that added to the matches of
    /// those that were found.
    fn settle(
        &mut self,
        own: &Side,
        stretch: &Stretch,
        matches: &[u64],
        other: &Side,
        found: &Found<Self::Place>,
        added: &[i64],
    ) -> Result<()>;

    /// Whether a row is part of the result on its own, without a pair, as long as it has this many matches.
    fn shows(&self, role: Role, matches: u64) -> bool;

    /// What is in memory of it.
    fn held(&self) -> Held;

    /// Forgets what nothing can match any more, and hands back, by side, the rows that are now part of the result.
    fn advance(&mut self, _watermark: Micros) -> Result<[Vec<Bytes>; 2]> {
        Ok([Vec::new(), Vec::new()])
    }

    fn delay(&self) -> Micros {
        0
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()>;

    fn restore(&mut self, sides: &[Side; 2], saved: &Saved) -> Result<()>;

    fn take_late(&mut self) -> u64 {
        0
    }
}

/// Rows of the other side, in the order of the stretch's keys.
struct Found<P> {
    /// Where the rows of each key begin, and at last where they end.
    starts: Vec<usize>,
    columns: Vec<ArrayRef>,
    /// With a reach.
    times: Vec<Micros>,
    /// How many equal rows stand there as one.
    copies: Vec<u64>,
    matches: Vec<u64>,
    places: Vec<P>,
}

pub fn build(plan: plan::Join, input: &SchemaRef) -> Result<Box<dyn Operator>> {
    let shows_unmatched = !matches!(plan.kind, JoinKind::Inner | JoinKind::LeftSemi);
    let has_changes = !plan.current && (is_changelog(input) || (shows_unmatched && plan.reach.is_none()));
    if plan.current && (plan.reach.is_some() || !matches!(plan.kind, JoinKind::Inner | JoinKind::Left)) {
        return Err(Error::Plan(
            "rows meet others as they stand in inner and left joins without a reach alone".to_owned(),
        ));
    }
    if has_changes != is_changelog(&plan.schema) {
        return Err(Error::Plan("a join whose result is a changelog must say so".to_owned()));
    }
    let sides = Side::both(&plan, input)?;
    let (reach, current, is_changelog) = (plan.reach, plan.current, is_changelog(input));
    let has_counts = sides.iter().any(|side| side.role.is_counted());
    let shape = Shape {
        plan,
        input: input.clone(),
        sides,
    };
    Ok(match reach {
        Some(_) if is_changelog => return Err(Error::Plan("a join of changelogs has no reach in time".to_owned())),
        Some(reach) => Box::new(Join::new(shape, Near::new(reach))?),
        None if is_changelog || current || has_counts => Box::new(Join::new(shape, Kept::new(is_changelog, !current))?),
        None => Box::new(Join::new(shape, OnlyAdded::new())?),
    })
}

/// What doesn't change.
struct Shape {
    plan: plan::Join,
    input: SchemaRef,
    sides: [Side; 2],
}

struct Join<M> {
    shape: Arc<Shape>,
    memory: M,
    /// Of the stretch at hand.
    groups: Groups,
    /// The epoch's rows.
    taken: Vec<RecordBatch>,
    rejected: Vec<Rejected>,
}

impl<M: Memory> Join<M> {
    fn new(shape: Shape, memory: M) -> Result<Self> {
        Ok(Self {
            groups: Groups::new(&shape.sides[side::LEFT].key_types())?,
            shape: Arc::new(shape),
            memory,
            taken: Vec::new(),
            rejected: Vec::new(),
        })
    }

    /// The epoch's rows of a side.
    fn rows_of(&self, taken: &[RecordBatch], side: usize) -> Result<RecordBatch> {
        let mut rows = Vec::with_capacity(taken.len());
        for batch in taken {
            let sides = batch.column(0).as_primitive::<Int8Type>().values();
            let ours: BooleanArray = sides.iter().map(|&of| Some(of == side as i8)).collect();
            match ours.true_count() {
                0 => {}
                all if all == batch.num_rows() => rows.push(batch.clone()),
                _ => rows.push(filter_record_batch(batch, &ours)?),
            }
        }
        match rows.as_slice() {
            [only] => Ok(only.clone()),
            rows => Ok(concat_batches(&self.shape.input, rows)?),
        }
    }

    /// A stretch of the side: what it does to the result, and to the state.
    fn arrive(&mut self, own: usize, rows: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        let shape = Arc::clone(&self.shape);
        let mut results = Results::new(&shape);
        let (rows, without_key) = self.shape.sides[own].split(rows)?;
        if let Some(without_key) = without_key
            && self.shape.sides[own].role.shows(0)
        {
            results.unmatched(own, &without_key)?;
        }
        if rows.num_rows() > 0 {
            let mut stretch = Stretch::new(own, &self.shape.sides[own], rows, &mut self.groups)?;
            self.memory.restrict(own, &mut stretch)?;
            self.meet(own, stretch, &mut results)?;
        }
        results.hand_on(out)
    }

    fn meet(&mut self, own: usize, mut stretch: Stretch, results: &mut Results) -> Result<()> {
        let found = self.memory.find(&self.shape.sides[1 - own], &stretch)?;
        let pairs = Pairs::new(&self.shape, own, &stretch, &found)?;
        let mut failed = Vec::new();
        let matched = pairs.matched(&mut failed)?;
        let (mut matches, mut added) = (vec![0; stretch.len()], vec![0; found.copies.len()]);
        for lot in matched {
            for (change, row) in lot.pairs {
                let change = &stretch.changes[change as usize];
                matches[change.row as usize] += found.copies[row as usize];
                added[row as usize] += change.copies;
            }
            results.pairs(lot.columns, lot.retracts)?;
        }
        for (change, error) in &failed {
            let row = stretch.changes[*change].row as usize;
            self.rejected
                .push(Rejected::because(error, stretch.input.slice(row, 1)));
        }
        stretch.leave_out(failed.iter().map(|(change, _)| *change));

        let (role, other) = (self.shape.sides[own].role, self.shape.sides[1 - own].role);
        if role.is_counted() {
            let shown = |row: u32| self.memory.shows(role, matches[row as usize]);
            let shown = stretch.changes.iter().filter(|change| shown(change.row));
            results.alone(own, &stretch.columns, shown.map(|change| (change.row, change.copies)))?;
        }
        if other.is_counted() {
            let shows =
                |row: usize, matches: u64| i64::from(self.memory.shows(other, matches)) * found.copies[row] as i64;
            let turned = added.iter().enumerate().filter(|(_, added)| **added != 0);
            let turned = turned.map(|(row, added)| {
                let before = found.matches[row];
                let after = before.saturating_add_signed(*added);
                (row as u32, shows(row, after) - shows(row, before))
            });
            results.alone(1 - own, &found.columns, turned.filter(|(_, copies)| *copies != 0))?;
        }
        let [left, right] = &self.shape.sides;
        let (own, other) = if own == 0 { (left, right) } else { (right, left) };
        self.memory.settle(own, &stretch, &matches, other, &found, &added)
    }
}

impl<M: Memory> Operator for Join<M> {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        self.taken.push(batch);
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<RecordBatch>) -> Result<()> {
        let taken = std::mem::take(&mut self.taken);
        let order = match self.shape.plan.current {
            true => [side::RIGHT, side::LEFT],
            false => [side::LEFT, side::RIGHT],
        };
        for side in order {
            let rows = self.rows_of(&taken, side)?;
            if rows.num_rows() > 0 {
                self.arrive(side, rows, out)?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, watermark: Micros, out: &mut Vec<RecordBatch>) -> Result<()> {
        let gone = self.memory.advance(watermark)?;
        let mut results = Results::new(&self.shape);
        for (side, rows) in gone.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let columns = self.shape.sides[side].decode(rows.iter().map(|row| &row[..]))?;
            results.alone(side, &columns, (0..rows.len() as u32).map(|row| (row, 1)))?;
        }
        results.hand_on(out)
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        self.memory.changes(changes)
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.memory.restore(&self.shape.sides, saved)
    }

    fn delay(&self) -> Micros {
        self.memory.delay()
    }

    fn take_late(&mut self) -> u64 {
        self.memory.take_late()
    }

    fn held(&self) -> Held {
        self.memory.held()
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}
