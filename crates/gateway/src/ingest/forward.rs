//! Events whose stream's idempotency keys another gateway has.
//!
//! The keys of a stream are written by one process at a time. The others decode and check what comes to them as always, and
//! hand the rows on to that one, which stores them and says which of them were new. Where it can't be reached its right is taken over: that is
//! slower, since what is known of the keys has to be read anew, and as right.

use std::fmt::Debug;
use std::io::Cursor;
use std::pin::Pin;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use headwater_catalog::definition::Definition;

use crate::ingest::Kept;
use crate::ingest::error::IngestError;

/// What became of the rows; `None` where this process is to store them.
pub type Forwarded<'a> = Pin<Box<dyn Future<Output = Option<Result<Kept, IngestError>>> + Send + 'a>>;

/// The way to the other gateways.
pub trait Forward: Debug + Send + Sync {
    /// Whether the keys of a topic are this process's to write, as far as it knows; `owner` is in whose name that is done.
    fn is_here(&self, owner: &str) -> bool;

    /// Whether somebody who knows this is of the same cluster.
    fn admits(&self, secret: &str) -> bool;

    /// Has the rows stored by the process that has the owner's work.
    fn store<'a>(&'a self, owner: &'a str, stream: &'a Definition, rows: &'a RecordBatch) -> Forwarded<'a>;
}

/// The header in which a gateway says what only those of its cluster know.
pub const SECRET_HEADER: &str = "x-headwater-cluster";

/// Rows on their way.
pub fn encode(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema())?;
    writer.write(rows)?;
    writer.into_inner()
}

/// # Errors
/// If it isn't one batch of rows, as [`encode`] writes it.
pub fn decode(bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
    let mut batches = StreamReader::try_new(Cursor::new(bytes), None)?;
    let rows = batches.next().transpose()?;
    match (rows, batches.next()) {
        (Some(rows), None) => Ok(rows),
        _ => Err(ArrowError::IpcError("expected one batch".to_owned())),
    }
}
