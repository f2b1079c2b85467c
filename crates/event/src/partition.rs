//! Which partition a row belongs to.
//!
//! The rule is part of what is on disk: rows of one key must meet in one partition for ever, so
//! the hash may not change. It is XXH3-64 over the row encoding (`arrow-row`) of the key columns,
//! modulo the number of partitions. NULL is a key like any other.

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::xxh3_64;

/// The partition of every row, by its key columns. Without key columns every row is in 0.
pub fn partitions_of(keys: &[ArrayRef], rows: usize, partitions: u32) -> Result<Vec<u32>, ArrowError> {
    if keys.is_empty() || partitions <= 1 {
        return Ok(vec![0; rows]);
    }
    let fields = keys.iter().map(|key| SortField::new(key.data_type().clone()));
    let encoded = RowConverter::new(fields.collect())?.convert_columns(keys)?;
    Ok(encoded
        .iter()
        .map(|row| (xxh3_64(row.as_ref()) % u64::from(partitions)) as u32)
        .collect())
}

/// The rows of `batch` by partition, in ascending order of partition, each in its former order.
/// A batch that lies in one partition as a whole is not copied.
pub fn split(batch: &RecordBatch, assigned: &[u32], partitions: u32) -> Result<Vec<(u32, RecordBatch)>, ArrowError> {
    let Some(&first) = assigned.first() else {
        return Ok(Vec::new());
    };
    if assigned.iter().all(|&partition| partition == first) {
        return Ok(vec![(first, batch.clone())]);
    }
    let mut rows_of = vec![Vec::new(); partitions as usize];
    for (row, &partition) in assigned.iter().enumerate() {
        rows_of[partition as usize].push(row as u32);
    }
    (0..partitions)
        .zip(rows_of)
        .filter(|(_, rows)| !rows.is_empty())
        .map(|(partition, rows)| Ok((partition, take_record_batch(batch, &UInt32Array::from(rows))?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    /// What is on disk was partitioned by this rule: the numbers may never change.
    #[test]
    fn the_rule_is_fixed() {
        let users: ArrayRef = Arc::new(StringArray::from(vec![
            Some("u1"),
            Some("u2"),
            None,
            Some(""),
            Some("u3"),
        ]));
        assert_eq!(partitions_of(std::slice::from_ref(&users), 5, 4).unwrap(), GOLDEN_TEXT);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, -1, i64::MAX, 42]));
        assert_eq!(
            partitions_of(std::slice::from_ref(&numbers), 5, 4).unwrap(),
            GOLDEN_NUMBERS
        );
        assert_eq!(partitions_of(&[users, numbers], 5, 4).unwrap(), GOLDEN_BOTH);
    }

    #[test]
    fn splitting_keeps_every_row_in_order() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = RecordBatch::try_new(schema, vec![column]).unwrap();
        let assigned: Vec<u32> = (0..10).map(|row| row % 3).collect();
        let parts = split(&batch, &assigned, 3).unwrap();
        let rows = parts.iter().map(|(partition, part)| {
            let values = part.column(0).as_primitive::<Int64Type>().values().to_vec();
            (*partition, values)
        });
        let expected = vec![(0, vec![0, 3, 6, 9]), (1, vec![1, 4, 7]), (2, vec![2, 5, 8])];
        assert_eq!(rows.collect::<Vec<_>>(), expected);
    }

    const GOLDEN_TEXT: [u32; 5] = [2, 1, 3, 3, 1];
    const GOLDEN_NUMBERS: [u32; 5] = [1, 2, 0, 0, 2];
    const GOLDEN_BOTH: [u32; 5] = [3, 0, 2, 3, 1];
}
