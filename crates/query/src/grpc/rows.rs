//! Rows as a stream of messages, encoded as the client takes them.
//!
//! A message is cut off at [`MESSAGE_BYTES`], far below the 4 MiB that clients take unless told otherwise;
//! a row that is larger is a message of its own. HTTP/2's windows hold a client back that is
//! slow: then nothing here is asked for more, and what computes the rows waits.

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use headwater_grpc::v1::{Encoding, RowBatch};
use headwater_problem::Problem;

use crate::error::QueryError;
use crate::grpc::values;
use crate::http::query_string::invalid;
use crate::http::rows::{Form, Rows, encoded};

/// What a message of rows holds, give or take a row.
const MESSAGE_BYTES: usize = 256 << 10;

/// A part of a result.
pub enum Part {
    Rows(RowBatch),
    Arrow(Bytes),
}

pub type Parts = BoxStream<'static, Result<Part, QueryError>>;

pub fn encoding(number: i32) -> Result<Encoding, Problem> {
    Encoding::try_from(number).map_err(|_| invalid(format!("there is no encoding {number}")))
}

pub fn parts(schema: SchemaRef, rows: Rows, encoding: Encoding) -> Parts {
    let cut = rows.map_ok(|batch| stream::iter(cut(&batch).map(Ok))).try_flatten();
    match encoding {
        Encoding::Arrow => encoded(Form::Arrow, schema, cut.boxed()).map_ok(Part::Arrow).boxed(),
        Encoding::Unspecified | Encoding::Rows => cut
            .map(|batch| {
                let rows = values::rows(&batch?)?;
                Ok(Part::Rows(RowBatch { rows }))
            })
            .boxed(),
    }
}

/// The batch in pieces of the size of a message, as far as its rows are alike.
fn cut(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> + Send + use<> {
    // Buffers may be shared with other batches; a column that can't say what it has counts with those.
    let bytes: usize = batch
        .columns()
        .iter()
        .map(|column| {
            column
                .to_data()
                .get_slice_memory_size()
                .unwrap_or_else(|_| column.get_array_memory_size())
        })
        .sum();
    let rows = batch.num_rows();
    let pieces = bytes.div_ceil(MESSAGE_BYTES).max(1);
    let each = rows.div_ceil(pieces).max(1);
    let batch = batch.clone();
    (0..rows)
        .step_by(each)
        .map(move |start| batch.slice(start, each.min(rows - start)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::StringArray;
    use prost::Message;

    use super::*;

    #[tokio::test]
    async fn messages_are_far_smaller_than_clients_take() {
        let text = "x".repeat(1000);
        let column = StringArray::from_iter_values((0..8192).map(|_| &text));
        let batch = RecordBatch::try_from_iter([("text", Arc::new(column) as _)]).unwrap();
        let rows = stream::iter([Ok(batch.clone())]).boxed();
        let parts: Vec<Part> = parts(batch.schema(), rows, Encoding::Rows).try_collect().await.unwrap();
        let sizes = parts.iter().map(|part| match part {
            Part::Rows(rows) => (rows.rows.len(), rows.encoded_len()),
            Part::Arrow(_) => (0, 0),
        });
        let sizes: Vec<_> = sizes.collect();
        assert_eq!(sizes.iter().map(|(rows, _)| rows).sum::<usize>(), 8192);
        assert!(sizes.iter().all(|&(_, bytes)| bytes < 2 * MESSAGE_BYTES), "{sizes:?}");
        assert!(sizes.len() < 64, "{sizes:?}");
    }
}
