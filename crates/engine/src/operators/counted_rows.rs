//! Rows of a group under their bytes in [`crate::keyed`], each with how often it is there.
//!
//! A row whose encoding is too long for a key of the store has the rest of it in the value. Such rows
//! are told apart by a hash.

use std::borrow::Cow;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::Rejected;
use crate::error::Result;
use crate::keyed::{Group, Rows};

/// A group's key and a row's share of the key must fit into a key of the store together.
pub const GROUP_BYTES_MAX: usize = 16 * 1024;
const SUFFIX_BYTES_MAX: usize = 48 * 1024 - 16;
const HASH_BYTES: usize = 16;
/// Rows that agree in so many bytes are told apart by a hash.
pub const COMPARED_BYTES_MAX: usize = SUFFIX_BYTES_MAX - HASH_BYTES;
const COUNT_BYTES: usize = 8;

/// Adds a row, given as what [`cut`] makes of it.
pub fn insert(group: &mut Group<'_>, suffix: &[u8], tail: &[u8]) {
    let known = group.rows().get(suffix).map_or(0, |value| count(value));
    group.put(Bytes::copy_from_slice(suffix), counted(known + 1, tail));
}

/// A row that is not there was rejected when it came, or its insertion was.
pub fn remove(group: &mut Group<'_>, suffix: &[u8]) {
    let Some(value) = group.rows().get(suffix).cloned() else {
        return;
    };
    match count(&value) {
        0 | 1 => drop(group.remove(suffix)),
        several => group.put(
            Bytes::copy_from_slice(suffix),
            counted(several - 1, &value[COUNT_BYTES..]),
        ),
    }
}

/// How often a row is there.
pub fn count(value: &[u8]) -> u64 {
    value
        .first_chunk::<COUNT_BYTES>()
        .map_or(0, |count| u64::from_be_bytes(*count))
}

fn counted(count: u64, tail: &[u8]) -> Bytes {
    const ONE: [u8; COUNT_BYTES] = 1u64.to_be_bytes();
    if count == 1 && tail.is_empty() {
        return Bytes::from_static(&ONE);
    }
    [&count.to_be_bytes(), tail].concat().into()
}

/// A row's bytes as a suffix and what has no room there.
pub fn cut(row: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    if row.len() <= SUFFIX_BYTES_MAX {
        return (row.into(), &[]);
    }
    let (head, tail) = row.split_at(COMPARED_BYTES_MAX);
    ([head, &xxh3_128(tail).to_be_bytes()].concat().into(), tail)
}

/// The other way round.
pub fn whole(suffix: &Bytes, value: &[u8]) -> Bytes {
    match value.get(COUNT_BYTES..) {
        None | Some([]) => suffix.clone(),
        Some(tail) => [&suffix[..suffix.len().saturating_sub(HASH_BYTES)], tail]
            .concat()
            .into(),
    }
}

/// All rows of a group, each as often as it is there.
pub fn each(rows: &Rows) -> impl Iterator<Item = Bytes> {
    rows.iter()
        .flat_map(|(suffix, value)| (0..count(value)).map(|_| whole(suffix, value)))
}

/// Rows whose group's key has no room in the store.
pub fn too_long(batch: &RecordBatch, rows: Vec<u32>) -> Result<Option<Rejected>> {
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(Some(Rejected {
        reason: "key_too_long",
        detail: format!("the row's group takes more than {GROUP_BYTES_MAX} bytes"),
        rows: take_record_batch(batch, &UInt32Array::from(rows))?,
    }))
}
