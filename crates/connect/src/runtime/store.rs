//! Where a source's events go: into the stream's partitions, in one commit with the position behind
//! them.
//!
//! The state table has an entry for each of the position's, with `p` before its key, and one under `n`:
//! how many events and dead letters were stored so far, two `u64`, big endian.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;
use bytes::Bytes;
use headwater_catalog::definition::{Definition, Stream};
use headwater_event::clock::Micros;
use headwater_event::offset::TopicPartition;
use headwater_event::partition::{partitions_of, split};
use headwater_log::{Claim, Commit, Produced, StateTable, StateWrite};
use headwater_schema::conform::conform;
use headwater_schema::dead_letter::{self, DeadLetter};
use headwater_schema::future::{self, TooFar};
use metrics::{Counter, counter};

use crate::intake;
use crate::runtime::Stored;
use crate::shared::Shared;
use crate::source::{Batch, Error, Position, Rejected};

/// So many are read again at most, where they bring nothing.
const PASSED_MAX: u64 = 1 << 20;

const POSITION: u8 = b'p';
const STORED: &[u8] = b"n";
/// What dead letters say of events that could not be read.
const UNDECODED: &str = "decode";

pub(super) struct Store {
    shared: Arc<Shared>,
    stream: Stream,
    stream_name: String,
    /// As dead letters say it.
    source: String,
    topic: Arc<str>,
    /// The columns whose values decide the partition, by their place.
    partition_by: Vec<usize>,
    /// Where the next batch goes if none does.
    next_partition: u32,
    claim: Claim,
    table: Arc<str>,
    stored: Stored,
    /// Events that left nothing to be stored, since the last commit.
    passed: u64,
    events: Counter,
    undecoded: Counter,
    future: Counter,
}

/// Who commits a source's events.
pub fn owner(source: &Definition) -> String {
    format!("source/{}-{}", source.name, source.id)
}

impl Store {
    /// Takes over the source's work, with the position and the counts that it has come to.
    pub(super) async fn open(
        shared: &Arc<Shared>,
        source: &Definition,
        into: &Definition,
    ) -> Result<(Self, Position, Stored), Error> {
        let no_stream = || Error::outside(format!("{} is no stream", into.name));
        let stream = into.stream().ok_or_else(no_stream)?.clone();
        let schema = stream.schema.arrow();
        let partition_by = stream.partition_by.iter().map(|column| schema.index_of(column));
        let partition_by = partition_by.collect::<Result<_, _>>().map_err(rows_error)?;
        let claim = shared.log.claim(&owner(source)).await?;
        let name: Arc<str> = source.position_table().into();
        let table = shared.log.state(&name).await?;
        let (position, stored) = read(table.as_ref())?;
        let (from, to) = (source.name.clone(), into.name.clone());
        let letters = |reason| counter!("headwater_dead_letters_total", "stream" => to.clone(), "reason" => reason);
        let store = Self {
            shared: Arc::clone(shared),
            stream,
            stream_name: into.name.clone(),
            source: match source.source().and_then(intake::topic) {
                Some(topic) => format!("topic {topic}"),
                None => format!("source {}", source.name),
            },
            passed: 0,
            topic: into.topic().into(),
            partition_by,
            next_partition: 0,
            claim,
            table: name,
            stored,
            events: counter!("headwater_source_events_total", "source" => from),
            undecoded: letters(UNDECODED),
            future: letters(future::REASON),
        };
        Ok((store, position, stored))
    }

    /// Stores a batch; what is stored in all after it.
    pub(super) async fn store(&mut self, batch: Batch, now: Micros) -> Result<Stored, Error> {
        if batch.rows.num_rows() == 0 && batch.rejected.is_empty() {
            // Reading it again would bring nothing again, but takes its time.
            self.passed += batch.events;
            if self.passed < PASSED_MAX {
                return Ok(self.stored);
            }
        }
        let (rows, too_far) = self.in_time(&batch, now)?;
        let (events, undecoded, future) = (rows.num_rows(), batch.rejected.len(), too_far.len());
        let stored = Stored {
            events: self.stored.events + events as u64,
            dead_letters: self.stored.dead_letters + (undecoded + future) as u64,
        };
        let commit = Commit {
            consumed: Vec::new(),
            produced: self.produced(&rows, &batch.rejected, too_far, now)?,
            state: vec![self.write(batch.position, stored)],
        };
        self.shared.log.commit(&self.claim, commit).await?;
        self.stored = stored;
        self.passed = 0;
        self.events.increment(events as u64);
        self.undecoded.increment(undecoded as u64);
        self.future.increment(future as u64);
        Ok(stored)
    }

    /// The batch's rows as the stream has them, without those whose time is too far ahead of the clock; and these.
    fn in_time(&self, batch: &Batch, now: Micros) -> Result<(RecordBatch, Vec<TooFar>), Error> {
        let rows = conform(&self.stream.schema, &batch.rows, &self.shared.ids, now);
        let rows = rows.map_err(|failure| Error::Rows(failure.message))?;
        match self
            .stream
            .horizon()
            .map(|horizon| (horizon.beyond(&rows, now), horizon))
        {
            Some((beyond, horizon)) if !beyond.is_empty() => horizon.part(&rows, &beyond, now).map_err(rows_error),
            _ => Ok((rows, Vec::new())),
        }
    }

    fn produced(
        &mut self,
        rows: &RecordBatch,
        rejected: &[Rejected],
        too_far: Vec<TooFar>,
        now: Micros,
    ) -> Result<Vec<Produced>, Error> {
        let parts = self.by_partition(rows).map_err(rows_error)?;
        let topic = &self.topic;
        let into = |(partition, rows)| Produced {
            partition: TopicPartition::new(Arc::clone(topic), partition),
            rows,
            progress: None,
        };
        let mut produced: Vec<_> = parts.into_iter().map(into).collect();
        let undecoded = rejected.iter();
        let undecoded = undecoded.map(|event| self.letter(UNDECODED, event.detail.clone(), event.payload.clone(), now));
        let future = too_far.into_iter();
        let future = future.map(|row| self.letter(future::REASON, row.failure.message, row.payload, now));
        let letters: Vec<_> = undecoded.chain(future).collect();
        if !letters.is_empty() {
            produced.push(Produced {
                partition: TopicPartition::new(Arc::clone(&self.shared.dead_letters), 0),
                rows: dead_letter::batch(&letters),
                progress: None,
            });
        }
        Ok(produced)
    }

    fn letter(&self, reason: &str, detail: String, payload: Vec<u8>, now: Micros) -> DeadLetter {
        DeadLetter {
            time: now,
            stream: self.stream_name.clone(),
            source: self.source.clone(),
            reason: reason.to_owned(),
            detail,
            payload: Some(payload),
        }
    }

    fn by_partition(&mut self, rows: &RecordBatch) -> Result<Vec<(u32, RecordBatch)>, ArrowError> {
        let partitions = self.stream.partitions.max(1);
        if rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if self.partition_by.is_empty() {
            let partition = self.next_partition % partitions;
            self.next_partition = partition + 1;
            return Ok(vec![(partition, rows.clone())]);
        }
        let keys = self.partition_by.iter().map(|&column| Arc::clone(rows.column(column)));
        let keys: Vec<ArrayRef> = keys.collect();
        let assigned = partitions_of(&keys, rows.num_rows(), partitions)?;
        split(rows, &assigned, partitions)
    }

    fn write(&self, changes: Vec<(Bytes, Option<Bytes>)>, stored: Stored) -> StateWrite {
        let entries = changes.into_iter().map(|(key, value)| (with_prefix(&key), value));
        let mut counts = stored.events.to_be_bytes().to_vec();
        counts.extend(stored.dead_letters.to_be_bytes());
        let counts = (Bytes::from_static(STORED), Some(counts.into()));
        StateWrite {
            table: Arc::clone(&self.table),
            entries: entries.chain(std::iter::once(counts)).collect(),
        }
    }
}

fn read(table: &dyn StateTable) -> Result<(Position, Stored), Error> {
    let mut position = Position::new();
    for entry in table.scan(&[POSITION]) {
        let (key, value) = entry?;
        position.insert(key.slice(1..), value);
    }
    let counts = table.get(STORED)?.unwrap_or_default();
    let count = |at: usize| -> u64 {
        let bytes = counts.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_be_bytes)
    };
    let stored = Stored {
        events: count(0),
        dead_letters: count(8),
    };
    Ok((position, stored))
}

fn with_prefix(key: &[u8]) -> Bytes {
    let mut prefixed = Vec::with_capacity(key.len() + 1);
    prefixed.push(POSITION);
    prefixed.extend(key);
    prefixed.into()
}

fn rows_error(error: ArrowError) -> Error {
    Error::Rows(error.to_string())
}
