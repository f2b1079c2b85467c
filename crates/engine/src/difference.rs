//! What changed between two results of the same groups, as a changelog.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, UInt32Array};
use arrow::compute::{interleave, take};
use arrow::row::{RowConverter, SortField};
use headwater_event::op::Op;

use crate::error::Result;

/// The columns of a changelog: the groups, the results, the op. `before_of` has for every group
/// its row in `before`, if it was there, and `is_gone` whether it is there no more. Groups whose results did not
/// change are left out.
pub fn difference(
    groups: &[ArrayRef],
    before: &[ArrayRef],
    before_of: &[Option<u32>],
    after: &[ArrayRef],
    is_gone: impl Fn(usize) -> bool,
) -> Result<Vec<ArrayRef>> {
    let converter = RowConverter::new(after.iter().map(|c| SortField::new(c.data_type().clone())).collect())?;
    let (old, new) = match after {
        [] => (None, None),
        _ => (
            Some(converter.convert_columns(before)?),
            Some(converter.convert_columns(after)?),
        ),
    };
    let changed = |was: u32, row: usize| match (&old, &new) {
        (Some(old), Some(new)) => old.row(was as usize) != new.row(row),
        _ => false,
    };
    let mut ops = Vec::with_capacity(2 * before_of.len());
    let mut group_of = Vec::with_capacity(2 * before_of.len());
    let mut source_of = Vec::with_capacity(2 * before_of.len());
    for (row, was) in before_of.iter().enumerate() {
        match *was {
            None if is_gone(row) => {}
            Some(was) if is_gone(row) => {
                ops.push(Op::Delete as i8);
                group_of.push(row as u32);
                source_of.push((0, was as usize));
            }
            None => {
                ops.push(Op::Insert as i8);
                group_of.push(row as u32);
                source_of.push((1, row));
            }
            Some(was) if changed(was, row) => {
                ops.extend([Op::UpdateBefore as i8, Op::UpdateAfter as i8]);
                group_of.extend([row as u32, row as u32]);
                source_of.extend([(0, was as usize), (1, row)]);
            }
            Some(_) => {}
        }
    }
    let group_of = UInt32Array::from(group_of);
    let mut columns = Vec::with_capacity(groups.len() + after.len() + 1);
    for group in groups {
        columns.push(take(group, &group_of, None)?);
    }
    for (before, after) in before.iter().zip(after) {
        columns.push(interleave(&[before.as_ref(), after.as_ref()], &source_of)?);
    }
    columns.push(Arc::new(Int8Array::from(ops)));
    Ok(columns)
}
