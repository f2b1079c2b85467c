//! Row-encoded keys and values: cut from one buffer, so that no row allocates.

use arrow::array::ArrayRef;
use arrow::error::ArrowError;
use arrow::row::RowConverter;
use bytes::Bytes;

/// The rows of `columns`, each behind `prefix`. Without columns, `rows` times the prefix.
pub fn encode_rows(
    converter: &RowConverter,
    columns: &[ArrayRef],
    rows: usize,
    prefix: &[u8],
) -> Result<Vec<Bytes>, ArrowError> {
    if columns.is_empty() {
        return Ok(vec![Bytes::copy_from_slice(prefix); rows]);
    }
    let encoded = converter.convert_columns(columns)?;
    let mut ends = Vec::with_capacity(rows);
    let mut buffer = Vec::with_capacity(rows * prefix.len() + encoded.lengths().sum::<usize>());
    for row in &encoded {
        buffer.extend_from_slice(prefix);
        buffer.extend_from_slice(row.data());
        ends.push(buffer.len());
    }
    let buffer = Bytes::from(buffer);
    let mut start = 0;
    let cut = ends.into_iter().map(|end| {
        let row = buffer.slice(start..end);
        start = end;
        row
    });
    Ok(cut.collect())
}
