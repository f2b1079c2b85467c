//! A batch as one value. Shared by the back ends that keep bytes.
//!
//! ```text
//!  0  version        u8 = 1
//!  1  flags          u8: 1 progress, 2 idle, 4 watermark
//!  2  reserved       u16 = 0
//!  4  checksum       u32, CRC-32 of everything after it
//!  8  schema         u32, the version of the topic's schema that the rows are in
//! 12  rows           u32
//! 16  watermark      i64
//! 24  producer       u32
//! 28  message length u32
//! 32  message        an Arrow IPC record batch message, without its schema
//!     body           its buffers, each compressed where that pays
//! ```
//! Numbers are little endian. The base offset is in the key and the time of the append in the
//! index, as both are known only when the batch is committed, long after it was encoded.

use std::collections::HashMap;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc;
use arrow::ipc::reader::RecordBatchDecoder;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use headwater_event::watermark::Progress;

use crate::error::{Error, Result};
use crate::rows::memory_bytes;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 32;
const FLAG_PROGRESS: u8 = 1;
const FLAG_IDLE: u8 = 2;
const FLAG_WATERMARK: u8 = 4;

/// How the columns of a batch are compressed on disk. Small batches never are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    None,
    #[default]
    Lz4,
    Zstd,
}

/// Below this, compressing costs more than it saves.
const COMPRESSED_BYTES_MIN: usize = 2048;

/// A value of the store, and so a batch, has a length of 32 bits; and nobody can work with less
/// than a whole batch.
const BATCH_BYTES_MAX: usize = 1 << 30;

/// What a value holds.
pub(crate) struct Decoded {
    pub rows: RecordBatch,
    pub progress: Option<Progress>,
}

pub(crate) fn encode(rows: &RecordBatch, progress: Option<Progress>, compression: Compression) -> Result<Vec<u8>> {
    let bytes = memory_bytes(rows);
    if bytes > BATCH_BYTES_MAX {
        return Err(Error::Invalid(format!(
            "a batch of {bytes} bytes is above the limit of {BATCH_BYTES_MAX}"
        )));
    }
    let compression = if bytes < COMPRESSED_BYTES_MIN {
        Compression::None
    } else {
        compression
    };
    let options = IpcWriteOptions::default().try_with_compression(codec(compression))?;
    let mut dictionaries = DictionaryTracker::new(true);
    let mut context = Default::default();
    let (_, encoded) = IpcDataGenerator::default().encode(rows, &mut dictionaries, &options, &mut context)?;
    let mut value = Vec::with_capacity(HEADER_BYTES + encoded.ipc_message.len() + encoded.arrow_data.len());
    write_header(&mut value, rows.num_rows(), progress, encoded.ipc_message.len());
    value.extend_from_slice(&encoded.ipc_message);
    value.extend_from_slice(&encoded.arrow_data);
    let checksum = crc32fast::hash(&value[8..]);
    value[4..8].copy_from_slice(&checksum.to_le_bytes());
    Ok(value)
}

/// Decodes the selected columns. The error says what is wrong with the value.
pub(crate) fn decode(value: &[u8], schema: &SchemaRef, columns: Option<&[usize]>) -> Result<Decoded, String> {
    let header = Header::read(value)?;
    let end_of_message = HEADER_BYTES + header.message_bytes;
    let message = value
        .get(HEADER_BYTES..end_of_message)
        .ok_or("the message is cut off")?;
    let message = ipc::root_as_message(message).map_err(|error| error.to_string())?;
    let batch = message
        .header_as_record_batch()
        .ok_or("the message is no record batch")?;
    let body = Buffer::from(&value[end_of_message..]);
    let rows = if columns.is_some_and(<[usize]>::is_empty) || schema.fields().is_empty() {
        without_columns(schema, header.rows)
    } else {
        let dictionaries = HashMap::new();
        RecordBatchDecoder::try_new(&body, batch, schema.clone(), &dictionaries, &message.version())
            .and_then(|decoder| decoder.with_projection(columns).read_record_batch())
    };
    let rows = rows.map_err(|error| error.to_string())?;
    if rows.num_rows() != header.rows {
        return Err(format!("{} rows instead of {}", rows.num_rows(), header.rows));
    }
    Ok(Decoded {
        rows,
        progress: header.progress,
    })
}

struct Header {
    rows: usize,
    progress: Option<Progress>,
    message_bytes: usize,
}

impl Header {
    fn read(value: &[u8]) -> Result<Self, String> {
        if value.len() < HEADER_BYTES {
            return Err(format!("{} bytes are too short for a batch", value.len()));
        }
        if value[0] != VERSION {
            return Err(format!("version {} of the encoding is unknown", value[0]));
        }
        if crc32fast::hash(&value[8..]) != u32_at(value, 4) {
            return Err("the checksum doesn't match".to_owned());
        }
        let flags = value[1];
        let progress = Progress {
            producer: u32_at(value, 24),
            watermark: (flags & FLAG_WATERMARK != 0).then(|| i64_at(value, 16)),
            idle: flags & FLAG_IDLE != 0,
        };
        Ok(Self {
            rows: u32_at(value, 12) as usize,
            progress: (flags & FLAG_PROGRESS != 0).then_some(progress),
            message_bytes: u32_at(value, 28) as usize,
        })
    }
}

fn write_header(value: &mut Vec<u8>, rows: usize, progress: Option<Progress>, message_bytes: usize) {
    let mut flags = 0;
    if let Some(progress) = progress {
        flags |= FLAG_PROGRESS;
        flags |= if progress.idle { FLAG_IDLE } else { 0 };
        flags |= if progress.watermark.is_some() {
            FLAG_WATERMARK
        } else {
            0
        };
    }
    let watermark = progress.and_then(|progress| progress.watermark).unwrap_or(0);
    let schema_version: u32 = 1;
    value.extend_from_slice(&[VERSION, flags, 0, 0]);
    value.extend_from_slice(&[0; 4]);
    value.extend_from_slice(&schema_version.to_le_bytes());
    // A batch is below 1 GiB, and so is everything that is counted in it.
    value.extend_from_slice(&(rows as u32).to_le_bytes());
    value.extend_from_slice(&watermark.to_le_bytes());
    value.extend_from_slice(&progress.map_or(0, |progress| progress.producer).to_le_bytes());
    value.extend_from_slice(&(message_bytes as u32).to_le_bytes());
}

fn without_columns(schema: &SchemaRef, rows: usize) -> Result<RecordBatch, arrow::error::ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.project(&[])?.into(), Vec::new(), &options)
}

fn codec(compression: Compression) -> Option<ipc::CompressionType> {
    match compression {
        Compression::None => None,
        Compression::Lz4 => Some(ipc::CompressionType::LZ4_FRAME),
        Compression::Zstd => Some(ipc::CompressionType::ZSTD),
    }
}

fn u32_at(value: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&value[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn i64_at(value: &[u8], at: usize) -> i64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&value[at..at + 8]);
    i64::from_le_bytes(bytes)
}
