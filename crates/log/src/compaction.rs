//! Which rows of a compacted topic stay. Shared by the back ends.
//!
//! 1. Go over the batches in order and note the offset of the last row of each key.
//! 2. Go over them again and leave out every row whose key has a later one; a row that removes
//!    its key goes too, once it is old enough that every reader has had the time to see it.
//! 3. The surviving rows of a batch move to the *end* of the range of offsets that the batch had.
//!    So offsets keep increasing, and a reader in the middle of a batch may see a row again but
//!    never misses one.
//!
//! The last batch of a partition is never touched: it carries what the partition's end is.
//! Keys are told apart by a 128 bit hash (XXH3), so that the memory per key is small and known.

use std::collections::HashMap;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::row::{RowConverter, SortField};
use headwater_event::clock::Micros;
use headwater_event::offset::Offset;
use xxhash_rust::xxh3::xxh3_128;

use crate::LoggedBatch;
use crate::error::{Error, Result};
use crate::rows::offsets_of;

/// The keys that one pass can tell apart; beyond them, the pass ends early and the next goes on.
pub(crate) const KEYS_MAX: usize = 1_000_000;

/// How long a row that removes its key is kept.
pub(crate) const TOMBSTONE_KEPT: Micros = 24 * 3600 * 1_000_000;

/// The last place of each key, and of each producer's progress.
#[derive(Debug, Default)]
pub(crate) struct Latest {
    rows: HashMap<u128, Offset>,
    progress: HashMap<u32, Offset>,
}

/// What becomes of a batch.
#[derive(Debug)]
pub(crate) enum Outcome {
    Keep,
    Remove,
    Replace(LoggedBatch),
}

impl Latest {
    /// Notes the keys of a batch. Batches come in ascending order.
    pub fn note(&mut self, batch: &LoggedBatch, key: &str) -> Result<()> {
        for (row, hash) in hashes(&batch.rows, key)?.into_iter().enumerate() {
            self.rows.insert(hash, batch.base + row as u64);
        }
        if let Some(progress) = batch.progress {
            self.progress.insert(progress.producer, batch.base);
        }
        Ok(())
    }

    pub fn is_full(&self) -> bool {
        self.rows.len() >= KEYS_MAX
    }

    /// Decides about a batch. Rows that remove their key go if they were appended before `old`.
    pub fn decide(&self, batch: &LoggedBatch, key: &str, old: Micros) -> Result<Outcome> {
        let forget_removed = batch.appended < old;
        let kept: Vec<bool> = hashes(&batch.rows, key)?
            .into_iter()
            .enumerate()
            .map(|(row, hash)| {
                let superseded = self.rows.get(&hash).is_some_and(|&last| last > batch.base + row as u64);
                !(superseded || forget_removed && removes_key(&batch.rows, row, key))
            })
            .collect();
        let kept_count = kept.iter().filter(|&&kept| kept).count();
        let rows = batch.rows.num_rows();
        if rows > 0 && kept_count == rows {
            return Ok(Outcome::Keep);
        }
        let progress = batch.progress.filter(|progress| {
            self.progress
                .get(&progress.producer)
                .is_none_or(|&last| last <= batch.base)
        });
        match (kept_count, progress) {
            (0, None) => Ok(Outcome::Remove),
            (0, Some(_)) if rows == 0 => Ok(Outcome::Keep),
            _ => Ok(Outcome::Replace(moved(batch, kept, progress)?)),
        }
    }
}

fn moved(
    batch: &LoggedBatch,
    kept: Vec<bool>,
    progress: Option<headwater_event::watermark::Progress>,
) -> Result<LoggedBatch> {
    let rows = filter_record_batch(&batch.rows, &BooleanArray::from(kept))?;
    Ok(LoggedBatch {
        base: batch.next() - offsets_of(&rows),
        appended: batch.appended,
        progress,
        rows,
    })
}

/// Whether the row says that its key is gone.
pub(crate) fn removes_key(rows: &RecordBatch, row: usize, key: &str) -> bool {
    let mut others = rows
        .schema_ref()
        .fields()
        .iter()
        .zip(rows.columns())
        .filter(|(field, _)| field.name() != key);
    rows.num_columns() > 1 && others.all(|(_, column)| column.is_null(row))
}

fn hashes(rows: &RecordBatch, key: &str) -> Result<Vec<u128>> {
    let column = rows.column_by_name(key).ok_or_else(|| no_key(key))?;
    let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())])?;
    let encoded = converter.convert_columns(std::slice::from_ref(column))?;
    Ok(encoded.iter().map(|row| xxh3_128(row.as_ref())).collect())
}

pub(crate) fn no_key(key: &str) -> Error {
    Error::Invalid(format!(
        "the topic is to be compacted by '{key}', but has no such column"
    ))
}
