//! Batches of partial states of windows as entries of a state table. The key says which slice:
//! `partition u32 BE | slice i64, order-preserving | number u64 BE`; the value is an Arrow IPC
//! stream with one batch.

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use headwater_event::clock::Micros;

use crate::error::{Error, Result};

pub fn encode(batch: &RecordBatch) -> Result<Bytes> {
    let mut bytes = Vec::with_capacity(batch.get_array_memory_size() / 2 + 1024);
    let mut writer = StreamWriter::try_new(&mut bytes, batch.schema_ref())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(bytes.into())
}

pub fn decode(bytes: &[u8], place: &str) -> Result<RecordBatch> {
    let damaged = |what: String| Error::State {
        place: place.to_owned(),
        what,
    };
    let mut reader = StreamReader::try_new(bytes, None).map_err(|error| damaged(error.to_string()))?;
    match reader.next() {
        Some(batch) => batch.map_err(|error| damaged(error.to_string())),
        None => Err(damaged("it has no batch".to_owned())),
    }
}

pub fn key(partition: u32, slice: Micros, number: u64) -> Bytes {
    let mut key = Vec::with_capacity(20);
    key.extend_from_slice(&partition.to_be_bytes());
    // With the sign bit turned over, negative times sort before positive ones.
    key.extend_from_slice(&(slice as u64 ^ (1 << 63)).to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key.into()
}

pub fn parse_key(key: &[u8]) -> Option<(Micros, u64)> {
    let slice = u64::from_be_bytes(key.get(4..12)?.try_into().ok()?);
    let number = u64::from_be_bytes(key.get(12..20)?.try_into().ok()?);
    Some(((slice ^ (1 << 63)) as Micros, number))
}
