//! Topics with a record for each event, as other programs of Kafka expect them.
//!
//! | of a record | is |
//! |---|---|
//! | value | the event: a JSON object, or a line of CSV without names |
//! | key | the columns of `PARTITION BY`: one as text, several as a JSON object; none where the one is NULL |
//! | time stamp | the event's time, if the stream says which column that is. The time of ingest where that lies behind it, or so far back that retention would take the record at once; so brokers take every record, whatever the clocks of senders say |
//! | offset | the event's own |
//!
//! Records that follow each other are read into one batch. In a topic that others write as well a record may be no event: readers pass over
//! it, and [`EventRecords::refused`] says why, for the one who writes dead letters. Where a column has a default that an event doesn't bring,
//! `now()` is the record's time stamp and `uuid()` follows from where the record stands: whoever reads it again, and anywhere, sees the same.
//!
//! Where others write, records lie where Kafka's own producers put them, by murmur2 of their key; else where the writer wants them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use bytes::Bytes;
use headwater_event::clock::Micros;
use headwater_event::id::Ids;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_schema::column::ColumnDefault;
use headwater_schema::decode::{Decoder, Format, OnError};
use headwater_schema::encode::limits::may_not_come_back;
use headwater_schema::encode::{CsvRows, JsonRows, csv_names};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::kafka::connection::RECORD_BYTES_MAX;
use crate::kafka::murmur::partition_of;
use crate::kafka::readers::Record as Fetched;
use crate::kafka::transactions::Record;
use crate::topic::{Cleanup, Encoding, Events, TopicSpec};
use crate::{LoggedBatch, Produced};

/// What is read into one batch at most.
pub(super) const RUN_RECORDS_MAX: usize = 8192;
pub(super) const RUN_BYTES_MAX: usize = 1 << 20;

/// A record of the largest size has this much around it.
const OVERHEAD_BYTES: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct EventRecords {
    events: Events,
    /// The topic's name on the cluster.
    kafka: Arc<str>,
    schema: SchemaRef,
    partitions: u32,
    retention: Option<Micros>,
    /// The columns of the key, and of the time stamp, by their places.
    key: Vec<usize>,
    time: Option<usize>,
    makes_ids: bool,
    /// What the topic takes in one record.
    bytes_max: AtomicUsize,
    /// Decoders that are not in use; they keep their memory.
    decoders: Mutex<Vec<RecordDecoder>>,
}

/// Reads one record after the other into a batch.
#[derive(Debug)]
struct RecordDecoder {
    decoder: Decoder,
    ids: Arc<Ids>,
    /// A line of names, and the record: what CSV is read from.
    body: Vec<u8>,
    names: usize,
}

/// A record that is no event.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub what: String,
}

enum Rows {
    Json(JsonRows),
    Csv(CsvRows),
}

impl EventRecords {
    /// `None` for a topic that holds batches.
    pub fn of(spec: &TopicSpec, kafka: &Arc<str>) -> Option<Self> {
        let events = spec.events.clone()?;
        let column = |name: &String| spec.schema.index_of(name).ok();
        let retention_ms = match spec.cleanup {
            Cleanup::Delete { retention_ms, .. } => retention_ms,
            Cleanup::Compact { .. } => None,
        };
        let defaults = || {
            events
                .columns
                .columns
                .iter()
                .filter_map(|column| column.default.as_ref())
        };
        Some(Self {
            kafka: kafka.clone(),
            schema: spec.schema.clone(),
            partitions: spec.partitions,
            retention: retention_ms.and_then(|ms| Micros::try_from(ms.saturating_mul(1000)).ok()),
            key: events.key.iter().filter_map(column).collect(),
            time: events.time.as_ref().and_then(column),
            makes_ids: defaults().any(|default| *default == ColumnDefault::Uuid),
            bytes_max: AtomicUsize::new(RECORD_BYTES_MAX),
            decoders: Mutex::default(),
            events,
        })
    }

    /// Whether others write to the topic too.
    pub fn is_bound(&self) -> bool {
        self.events.bound.is_some()
    }

    /// Takes over what the topic takes in one record.
    pub fn limit(&self, bytes_max: usize) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// The records of a batch, in the order of its rows.
    pub fn encode(&self, batch: &Produced, now: Micros) -> Result<Vec<Record>> {
        if batch.progress.is_some() || batch.rows.num_rows() == 0 {
            return Err(Error::Invalid(format!(
                "{} holds events, and nothing else: neither progress nor batches without rows",
                batch.partition
            )));
        }
        let values = self.values(&batch.rows)?;
        if may_not_come_back(&batch.rows) {
            self.check(&batch.partition, &batch.rows, &values)?;
        }
        let keys = self.keys(&batch.rows)?;
        let times = self.time.and_then(|column| timestamps(&batch.rows, column));
        let bytes_max = self.bytes_max.load(Ordering::Relaxed);
        let mut records = Vec::with_capacity(values.len());
        for (row, value) in values.into_iter().enumerate() {
            let key = keys.get(row).cloned().flatten();
            let bytes = value.len() + key.as_ref().map_or(0, Bytes::len);
            if bytes + OVERHEAD_BYTES > bytes_max {
                return Err(Error::TooLarge {
                    topic: self.kafka.to_string(),
                    bytes,
                    bytes_max,
                });
            }
            let partition = match &key {
                Some(key) if self.is_bound() => partition_of(key, self.partitions),
                _ => batch.partition.partition,
            };
            let time = times.and_then(|times| times.is_valid(row).then(|| times.value(row)));
            records.push(Record {
                topic: self.kafka.clone(),
                partition: Some(partition),
                key,
                value: Some(value),
                time: Some(self.stamp(time, now)),
            });
        }
        Ok(records)
    }

    /// The values of the rows' records.
    fn values(&self, rows: &RecordBatch) -> Result<Vec<Bytes>> {
        let (count, rows) = (rows.num_rows(), Rows::of(self.events.encoding, rows)?);
        let mut written = Vec::new();
        let mut ends = Vec::with_capacity(count);
        for row in 0..count {
            rows.write(row, &mut written);
            ends.push(written.len());
        }
        Ok(parts(written, &ends))
    }

    /// The keys of the rows' records; empty without keys.
    fn keys(&self, rows: &RecordBatch) -> Result<Vec<Option<Bytes>>> {
        if self.key.is_empty() {
            return Ok(Vec::new());
        }
        let (count, columns) = (rows.num_rows(), JsonRows::new(&rows.project(&self.key)?)?);
        let mut written = Vec::new();
        let mut ends = Vec::with_capacity(count);
        let mut is_there = vec![true; count];
        for (row, is_there) in is_there.iter_mut().enumerate() {
            match self.key.len() {
                1 => *is_there = columns.write_text(row, 0, &mut written),
                _ => columns.write(row, &mut written),
            }
            ends.push(written.len());
        }
        let keys = parts(written, &ends).into_iter().zip(is_there);
        Ok(keys.map(|(key, is_there)| is_there.then_some(key)).collect())
    }

    fn stamp(&self, time: Option<Micros>, now: Micros) -> Micros {
        let earliest = match self.retention {
            Some(retention) => now.saturating_sub(retention).max(0),
            None => 0,
        };
        time.filter(|time| (earliest..=now).contains(time)).unwrap_or(now)
    }

    /// Whether the values say all of the rows.
    fn check(&self, partition: &TopicPartition, rows: &RecordBatch, values: &[Bytes]) -> Result<()> {
        let mut decoder = self.decoder();
        let refused = |row: usize, what: String| Error::Unwritable {
            partition: partition.clone(),
            row,
            what,
        };
        for (row, value) in values.iter().enumerate() {
            let read = decoder.read(self, partition.partition, row as i64, 0, Some(value));
            read.map_err(|refused_by| refused(row, refused_by.what))?;
        }
        let read = decoder.decoder.finish();
        self.decoders.lock().push(decoder);
        for (at, column) in self.events.columns.columns.iter().enumerate() {
            let (ours, theirs) = (rows.column(at), read.column(at));
            // JSON may come back in other words, but comes back.
            if column.json || ours == theirs {
                continue;
            }
            let differs = |row: &usize| ours.slice(*row, 1) != theirs.slice(*row, 1);
            let row = (0..rows.num_rows()).find(differs).unwrap_or(0);
            let what = format!("{}: a value that can't be written as {}", column.name, self.encoding());
            return Err(refused(row, what));
        }
        Ok(())
    }

    fn encoding(&self) -> &'static str {
        match self.events.encoding {
            Encoding::Json => "JSON",
            Encoding::Csv => "CSV",
        }
    }

    /// Takes records that follow each other, and makes a batch of them. Leaves those that begin another one. `None` where none is left.
    ///
    /// # Errors
    /// A record that is no event, where nobody but us should have written.
    pub fn decode(
        &self,
        partition: &TopicPartition,
        fetched: &mut VecDeque<Fetched>,
        columns: Option<&[usize]>,
    ) -> Result<Option<LoggedBatch>> {
        let mut decoder = self.decoder();
        let (mut first, mut latest) = (0, 0);
        while let Some(record) = fetched.pop_front() {
            let rows = decoder.decoder.rows() as i64;
            if rows > 0 && record.record != first + rows {
                fetched.push_front(record);
                break;
            }
            let time = record.time.unwrap_or(0);
            match decoder.read(self, partition.partition, record.record, time, record.value.as_ref()) {
                Ok(()) if rows == 0 => (first, latest) = (record.record, time),
                Ok(()) => latest = latest.max(time),
                Err(_) if self.is_bound() => {}
                Err(_) if rows > 0 => {
                    fetched.push_front(record);
                    break;
                }
                Err(refused) => {
                    self.decoders.lock().push(decoder);
                    return Err(Error::Damaged {
                        partition: partition.clone(),
                        base: offset_of(record.record),
                        next: offset_of(record.record + 1),
                        what: refused.what,
                    });
                }
            }
        }
        let rows = decoder.decoder.finish();
        self.decoders.lock().push(decoder);
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let rows = rows.with_schema(self.schema.clone())?;
        Ok(Some(LoggedBatch {
            base: offset_of(first),
            appended: latest.saturating_mul(1000),
            progress: None,
            rows: match columns {
                Some(columns) => rows.project(columns)?,
                None => rows,
            },
        }))
    }

    /// Why the record is no event, if it isn't.
    pub fn refused(&self, partition: u32, record: &Fetched) -> Option<Refused> {
        let mut decoder = self.decoder();
        let time = record.time.unwrap_or(0);
        let read = decoder.read(self, partition, record.record, time, record.value.as_ref());
        decoder.decoder.clear();
        self.decoders.lock().push(decoder);
        read.err()
    }

    fn decoder(&self) -> RecordDecoder {
        let spare = self.decoders.lock().pop();
        let mut decoder = spare.unwrap_or_else(|| RecordDecoder::new(&self.events, &self.schema));
        decoder.decoder.clear();
        decoder
    }

    /// What `uuid()` follows from.
    fn seed(&self, partition: u32, record: i64) -> u64 {
        let mut place = [0; 20];
        place[..8].copy_from_slice(&xxh3_64(self.kafka.as_bytes()).to_le_bytes());
        place[8..12].copy_from_slice(&partition.to_le_bytes());
        place[12..].copy_from_slice(&record.to_le_bytes());
        xxh3_64(&place)
    }
}

impl RecordDecoder {
    fn new(events: &Events, schema: &SchemaRef) -> Self {
        let ids = Ids::told();
        let mut body = Vec::new();
        if events.encoding == Encoding::Csv {
            csv_names(schema, &mut body);
            body.push(b'\n');
        }
        Self {
            decoder: Decoder::new(&events.columns, ids.clone()),
            ids,
            names: body.len(),
            body,
        }
    }

    /// Reads the record into the next row, or leaves the rows as they were.
    fn read(
        &mut self,
        of: &EventRecords,
        partition: u32,
        record: i64,
        time_ms: i64,
        value: Option<&Bytes>,
    ) -> Result<(), Refused> {
        let refused = |what: &str| Err(Refused { what: what.to_owned() });
        let Some(value) = value else {
            return refused("the record has no value");
        };
        let now = time_ms.saturating_mul(1000);
        if of.makes_ids {
            self.ids.begin(now, of.seed(partition, record));
        }
        let before = self.decoder.rows();
        let decoded = match of.events.encoding {
            // An array would be several events.
            Encoding::Json if value.trim_ascii_start().first() == Some(&b'[') => {
                return refused("expected an object, found an array: a record is one event");
            }
            Encoding::Json => self.decoder.decode(value, Format::Json, OnError::Reject, now),
            Encoding::Csv => {
                self.body.truncate(self.names);
                self.body.extend_from_slice(value);
                self.decoder.decode(&self.body, Format::Csv, OnError::Reject, now)
            }
        };
        match (decoded.failures.first(), decoded.rows) {
            (None, 1) => Ok(()),
            (Some(failure), _) => Err(Refused {
                what: failure.message.clone(),
            }),
            (None, rows) => {
                self.decoder.truncate(before);
                Err(Refused {
                    what: format!("{rows} events: a record is one"),
                })
            }
        }
    }
}

impl Rows {
    fn of(encoding: Encoding, rows: &RecordBatch) -> Result<Self, ArrowError> {
        Ok(match encoding {
            Encoding::Json => Self::Json(JsonRows::new(rows)?),
            Encoding::Csv => Self::Csv(CsvRows::new(rows)?),
        })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Json(rows) => rows.write(row, out),
            Self::Csv(rows) => rows.write(row, out),
        }
    }
}

/// The parts of what was written, which share its memory.
fn parts(written: Vec<u8>, ends: &[usize]) -> Vec<Bytes> {
    let written = Bytes::from(written);
    let starts = std::iter::once(&0).chain(ends);
    starts
        .zip(ends)
        .map(|(&start, &end)| written.slice(start..end))
        .collect()
}

fn timestamps(rows: &RecordBatch, column: usize) -> Option<&TimestampMicrosecondArray> {
    rows.column(column).as_primitive_opt::<TimestampMicrosecondType>()
}

/// Kafka's offsets are never negative.
pub(super) fn offset_of(record: i64) -> Offset {
    record.max(0) as Offset
}
