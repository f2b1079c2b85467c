//! Keeps the first rows of every group in an order, for ever, and emits what changed of them at the end
//! of each epoch.
//!
//! State: the rows by group (see [`super::counted_rows`]) in their order (see [`super::row_order`]). Where rows are only added, those that fell out of the first `limit` can't come back,
//! and are forgotten: a group has at most `limit` rows then. Where rows can be deleted as well, all are
//! kept, because a deletion lets the next one in.
//!
//! 1. A row that is only added, and whose order columns put it behind the last of a full group, is lost:
//!    one look-up and a comparison of bytes. Only the others are encoded as a whole.
//! 2. Before a group changes for the first time in an epoch, its first rows are noted.
//! 3. At the epoch's end those are compared with the first rows as they are then.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int8Type, SchemaRef};
use bytes::Bytes;
use hashbrown::HashSet;
use headwater_event::op::{Op, is_changelog};

use super::counted_rows::{COMPARED_BYTES_MAX, GROUP_BYTES_MAX, count, cut, insert, remove, too_long, whole};
use super::row_order::RowOrder;
use super::{Operator, Rejected, Saved, StateChanges, batch_of};
use crate::error::Result;
use crate::holdings::Held;
use crate::keyed::{Group, Keyed, Rows};
use crate::plan;

pub struct TopN {
    plan: plan::TopN,
    is_changelog: bool,
    order: RowOrder,
    keyed: Keyed,
    /// The groups that changed in this epoch, with their first rows from before.
    touched: Vec<(Bytes, Vec<Ranked>)>,
    is_touched: HashSet<Bytes>,
    rejected: Vec<Rejected>,
}

/// Equal rows of a group that are among its first.
#[derive(Clone)]
struct Ranked {
    suffix: Bytes,
    value: Bytes,
    count: u64,
}

/// A row of the output.
struct Change<'a> {
    key: &'a [u8],
    row: Bytes,
    number: u64,
    op: Op,
}

impl TopN {
    pub fn new(plan: plan::TopN, input: &SchemaRef) -> Result<Self> {
        Ok(Self {
            is_changelog: is_changelog(input),
            order: RowOrder::new(input, &plan.partition_by, &plan.order_by)?,
            plan,
            keyed: Keyed::new(),
            touched: Vec::new(),
            is_touched: HashSet::new(),
            rejected: Vec::new(),
        })
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys = self.order.keys(batch)?;
        let leads = self.order.leads(batch)?;
        let mut hopeful = Vec::new();
        let mut unfit = Vec::new();
        for row in 0..batch.num_rows() {
            let key = keys.get(row);
            if key.len() > GROUP_BYTES_MAX {
                unfit.push(row as u32);
                continue;
            }
            let group = self.keyed.group(key)?;
            let lead = leads.get(row);
            let lead = &lead[..lead.len().min(COMPARED_BYTES_MAX)];
            if threshold(group.rows(), self.plan.limit).is_none_or(|last| lead <= last) {
                hopeful.push(row as u32);
            }
        }
        self.rejected.extend(too_long(batch, unfit)?);
        if hopeful.is_empty() {
            return Ok(());
        }
        let all = hopeful.len() == batch.num_rows();
        let rows = match all {
            true => self.order.rows(batch)?,
            false => self
                .order
                .rows(&take_record_batch(batch, &UInt32Array::from(hopeful.clone()))?)?,
        };
        for (place, &row) in hopeful.iter().enumerate() {
            let key = keys.get(row as usize);
            let (suffix, tail) = cut(rows.get(place));
            let mut group = self.keyed.group(key)?;
            if threshold(group.rows(), self.plan.limit).is_some_and(|last| &*suffix >= last) {
                continue;
            }
            note(
                &mut self.touched,
                &mut self.is_touched,
                key,
                group.rows(),
                self.plan.limit,
            );
            insert(&mut group, &suffix, tail);
            drop_last(&mut group, self.plan.limit);
        }
        Ok(())
    }

    fn change(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys = self.order.keys(batch)?;
        let rows = self.order.rows(batch)?;
        let ops = batch.column(batch.num_columns() - 1).as_primitive::<Int8Type>();
        let mut unfit = Vec::new();
        for (row, &op) in ops.values().iter().enumerate() {
            let key = keys.get(row);
            if key.len() > GROUP_BYTES_MAX {
                unfit.push(row as u32);
                continue;
            }
            let (suffix, tail) = cut(rows.get(row));
            let mut group = self.keyed.group(key)?;
            note(
                &mut self.touched,
                &mut self.is_touched,
                key,
                group.rows(),
                self.plan.limit,
            );
            match Op::from_i8(op).is_some_and(Op::adds) {
                true => insert(&mut group, &suffix, tail),
                false => remove(&mut group, &suffix),
            }
        }
        self.rejected.extend(too_long(batch, unfit)?);
        Ok(())
    }

    fn batch(&self, changes: &[Change<'_>]) -> Result<RecordBatch> {
        let mut columns = self
            .order
            .decode(changes.iter().map(|change| (change.key, &*change.row)))?;
        if self.plan.row_number {
            let numbers: UInt64Array = changes.iter().map(|change| change.number).collect::<Vec<_>>().into();
            columns.push(Arc::new(numbers) as ArrayRef);
        }
        let ops: Int8Array = changes.iter().map(|change| change.op as i8).collect::<Vec<_>>().into();
        columns.push(Arc::new(ops));
        batch_of(&self.plan.schema, columns)
    }
}

impl Operator for TopN {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        match self.is_changelog {
            true => self.change(&batch),
            false => self.add(&batch),
        }
    }

    fn flush(&mut self, out: &mut Vec<RecordBatch>) -> Result<()> {
        self.is_touched.clear();
        let touched = std::mem::take(&mut self.touched);
        let mut changes = Vec::new();
        for (key, before) in &touched {
            let after = first(self.keyed.group(key)?.rows(), self.plan.limit);
            let is_single = self.plan.limit == 1;
            match self.plan.row_number {
                true => numbered(key, before, &after, is_single, &mut changes),
                false => unnumbered(key, before, &after, is_single, &mut changes),
            }
        }
        if !changes.is_empty() {
            out.push(self.batch(&changes)?);
        }
        Ok(())
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        self.keyed.take_changes(changes);
        Ok(())
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.keyed.restore(saved)
    }

    fn held(&self) -> Held {
        self.keyed.held()
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}

/// What a row must come before to be among the first; `None` where there is room.
fn threshold(rows: &Rows, limit: u64) -> Option<&[u8]> {
    let (last, _) = rows.iter().next_back()?;
    // Every entry stands for a row at least.
    let is_full = rows.len() as u64 >= limit || rows.iter().map(|(_, value)| count(value)).sum::<u64>() >= limit;
    is_full.then_some(last)
}

/// Notes the first rows of a group that is about to change.
fn note(touched: &mut Vec<(Bytes, Vec<Ranked>)>, known: &mut HashSet<Bytes>, key: &[u8], rows: &Rows, limit: u64) {
    if !known.contains(key) {
        let key = Bytes::copy_from_slice(key);
        known.insert(key.clone());
        touched.push((key, first(rows, limit)));
    }
}

fn first(rows: &Rows, limit: u64) -> Vec<Ranked> {
    let mut room = limit;
    let mut first = Vec::with_capacity(rows.len().min(limit as usize));
    for (suffix, value) in rows.iter() {
        if room == 0 {
            break;
        }
        let count = count(value).min(room);
        room -= count;
        first.push(Ranked {
            suffix: suffix.clone(),
            value: value.clone(),
            count,
        });
    }
    first
}

/// Lets the last row go if there are more than `limit`.
fn drop_last(group: &mut Group<'_>, limit: u64) {
    let rows = group.rows();
    if (rows.len() as u64) <= limit && rows.iter().map(|(_, value)| count(value)).sum::<u64>() <= limit {
        return;
    }
    let last = rows.iter().next_back().map(|(suffix, _)| suffix.clone());
    if let Some(last) = last {
        remove(group, &last);
    }
}

/// What changed between two rankings, whatever number a row has.
fn unnumbered<'a>(key: &'a [u8], before: &[Ranked], after: &[Ranked], is_single: bool, changes: &mut Vec<Change<'a>>) {
    let mut gone = Vec::new();
    let mut come = Vec::new();
    let (mut was, mut is) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (was.peek(), is.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => was.suffix.cmp(&is.suffix),
        };
        let old = was.next_if(|_| order.is_le());
        let new = is.next_if(|_| order.is_ge());
        let count = |ranked: Option<&Ranked>| ranked.map_or(0, |ranked| ranked.count);
        let Some(ranked) = old.or(new) else { break };
        let surplus = |of: u64, over: u64| (0..of.saturating_sub(over)).map(|_| whole(&ranked.suffix, &ranked.value));
        gone.extend(surplus(count(old), count(new)));
        come.extend(surplus(count(new), count(old)));
    }
    let (out, into) = match (is_single, &*gone, &*come) {
        (true, [_], [_]) => (Op::UpdateBefore, Op::UpdateAfter),
        _ => (Op::Delete, Op::Insert),
    };
    let change = |op: Op| {
        move |row: Bytes| Change {
            key,
            row,
            number: 0,
            op,
        }
    };
    changes.extend(gone.into_iter().map(change(out)));
    changes.extend(come.into_iter().map(change(into)));
}

/// What changed between two rankings, where a row with another number is another row.
fn numbered<'a>(key: &'a [u8], before: &[Ranked], after: &[Ranked], is_single: bool, changes: &mut Vec<Change<'a>>) {
    let (before, after) = (each(before), each(after));
    let differs = |number: &usize| before.get(*number) != after.get(*number);
    let differing: Vec<usize> = (0..before.len().max(after.len())).filter(differs).collect();
    let (out, into) = match is_single && before.len() == after.len() {
        true => (Op::UpdateBefore, Op::UpdateAfter),
        false => (Op::Delete, Op::Insert),
    };
    // All that goes goes first: in a view the number may be the key.
    for (rows, op) in [(&before, out), (&after, into)] {
        let changed = differing.iter().filter_map(|&place| Some((place, rows.get(place)?)));
        changes.extend(changed.map(|(place, row)| Change {
            key,
            row: row.clone(),
            number: place as u64 + 1,
            op,
        }));
    }
}

/// The rows of a ranking, each as often as it is there.
fn each(ranking: &[Ranked]) -> Vec<Bytes> {
    let each = ranking
        .iter()
        .flat_map(|ranked| (0..ranked.count).map(|_| whole(&ranked.suffix, &ranked.value)));
    each.collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::compute::SortOptions;
    use arrow::datatypes::{DataType, Field, Schema};
    use headwater_event::op::changelog_schema;

    use super::*;

    /// The last row of every `k` by `v`, with a text.
    fn last() -> TopN {
        let input = input();
        let plan = plan::TopN {
            partition_by: vec![0],
            order_by: vec![(1, SortOptions::default().desc())],
            limit: 1,
            row_number: false,
            closes_by: None,
            only_added: true,
            kept_in_view: None,
            schema: changelog_schema(&input),
        };
        TopN::new(plan, &input).unwrap()
    }

    fn input() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("k", DataType::Utf8, true),
            Field::new("v", DataType::Int64, true),
            Field::new("text", DataType::Utf8, true),
        ]))
    }

    fn rows(rows: &[(&str, i64, &str)]) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| Some(row.2)).collect::<StringArray>()),
        ];
        RecordBatch::try_new(input(), columns).unwrap()
    }

    /// Of an epoch with these batches.
    fn changes(top: &mut TopN, batches: &[RecordBatch]) -> Vec<(String, i64, String, i8)> {
        let mut out = Vec::new();
        for batch in batches {
            top.process(batch.clone(), &mut out).unwrap();
        }
        top.flush(&mut out).unwrap();
        let rows = out.iter().flat_map(|batch| {
            let text = |column: usize, row: usize| batch.column(column).as_string::<i32>().value(row).to_owned();
            let value = |row| batch.column(1).as_primitive::<arrow::datatypes::Int64Type>().value(row);
            let op = |row| batch.column(3).as_primitive::<Int8Type>().value(row);
            (0..batch.num_rows()).map(move |row| (text(0, row), value(row), text(2, row), op(row)))
        });
        rows.collect()
    }

    fn change(key: &str, value: i64, text: &str, op: Op) -> (String, i64, String, i8) {
        (key.to_owned(), value, text.to_owned(), op as i8)
    }

    #[test]
    fn an_epoch_shows_what_is_left_of_it() {
        let mut top = last();
        let found = changes(
            &mut top,
            &[
                rows(&[("a", 1, "x")]),
                rows(&[("a", 3, "y"), ("b", 0, "z"), ("a", 2, "w")]),
            ],
        );
        assert_eq!(
            found,
            [change("a", 3, "y", Op::Insert), change("b", 0, "z", Op::Insert)]
        );
        assert_eq!(changes(&mut top, &[rows(&[("a", 2, "late")])]), []);
        let found = changes(&mut top, &[rows(&[("a", 4, "")]), rows(&[("a", 5, "v")])]);
        assert_eq!(
            found,
            [
                change("a", 3, "y", Op::UpdateBefore),
                change("a", 5, "v", Op::UpdateAfter)
            ]
        );
    }

    #[test]
    fn a_row_may_be_longer_than_a_key_of_the_store() {
        let mut top = last();
        let long = |end: &str| "long ".repeat(20_000) + end;
        let (first, second) = (long("a"), long("b"));
        let found = changes(&mut top, &[rows(&[("a", 1, &first)])]);
        assert_eq!(found, [change("a", 1, &first, Op::Insert)]);
        let found = changes(&mut top, &[rows(&[("a", 2, &second)])]);
        assert_eq!(
            found,
            [
                change("a", 1, &first, Op::UpdateBefore),
                change("a", 2, &second, Op::UpdateAfter)
            ]
        );
        let mut written = StateChanges {
            partition: 0,
            entries: Vec::new(),
        };
        top.changes(&mut written).unwrap();
        assert!(written.entries.iter().all(|(key, _)| key.len() < 65_000));
    }

    #[test]
    fn a_group_that_is_too_long_is_left_out() {
        let mut top = last();
        let long = "k".repeat(GROUP_BYTES_MAX);
        let found = changes(&mut top, &[rows(&[(&long, 1, "x"), ("a", 1, "y")])]);
        assert_eq!(found, [change("a", 1, "y", Op::Insert)]);
        assert_eq!(top.take_rejected()[0].rows, rows(&[(&long, 1, "x")]));
    }
}
