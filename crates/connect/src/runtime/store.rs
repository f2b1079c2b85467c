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
use metrics::{Counter, counter};

use crate::runtime::{Shared, Stored};
use crate::source::{Batch, Error, Position, Rejected};

const POSITION: u8 = b'p';
const STORED: &[u8] = b"n";
/// What dead letters say of events that could not be read.
const REASON: &str = "decode";

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
    events: Counter,
    letters: Counter,
}

/// Who commits a source's events.
pub(super) fn owner(source: &Definition) -> String {
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
        let store = Self {
            shared: Arc::clone(shared),
            stream,
            stream_name: into.name.clone(),
            source: format!("source {}", source.name),
            topic: into.topic().into(),
            partition_by,
            next_partition: 0,
            claim,
            table: name,
            stored,
            events: counter!("headwater_source_events_total", "source" => from),
            letters: counter!("headwater_dead_letters_total", "stream" => to, "reason" => REASON),
        };
        Ok((store, position, stored))
    }

    /// Stores a batch; what is stored in all after it.
    pub(super) async fn store(&mut self, batch: Batch, now: Micros) -> Result<Stored, Error> {
        let (rows, rejected) = (batch.rows.num_rows() as u64, batch.rejected.len() as u64);
        if rows == 0 && rejected == 0 {
            // Reading it again would bring nothing again.
            return Ok(self.stored);
        }
        let stored = Stored {
            events: self.stored.events + rows,
            dead_letters: self.stored.dead_letters + rejected,
        };
        let commit = Commit {
            consumed: Vec::new(),
            produced: self.produced(&batch, now)?,
            state: vec![self.write(batch.position, stored)],
        };
        self.shared.log.commit(&self.claim, commit).await?;
        self.stored = stored;
        self.events.increment(rows);
        self.letters.increment(rejected);
        Ok(stored)
    }

    fn produced(&mut self, batch: &Batch, now: Micros) -> Result<Vec<Produced>, Error> {
        let rows = conform(&self.stream.schema, &batch.rows, &self.shared.ids, now);
        let rows = rows.map_err(|failure| Error::Rows(failure.message))?;
        let parts = self.by_partition(&rows).map_err(rows_error)?;
        let topic = &self.topic;
        let into = |(partition, rows)| Produced {
            partition: TopicPartition::new(Arc::clone(topic), partition),
            rows,
            progress: None,
        };
        let mut produced: Vec<_> = parts.into_iter().map(into).collect();
        if !batch.rejected.is_empty() {
            let letters: Vec<_> = batch
                .rejected
                .iter()
                .map(|rejected| self.letter(rejected, now))
                .collect();
            produced.push(Produced {
                partition: TopicPartition::new(Arc::clone(&self.shared.dead_letters), 0),
                rows: dead_letter::batch(&letters),
                progress: None,
            });
        }
        Ok(produced)
    }

    fn letter(&self, rejected: &Rejected, now: Micros) -> DeadLetter {
        DeadLetter {
            time: now,
            stream: self.stream_name.clone(),
            source: self.source.clone(),
            reason: REASON.to_owned(),
            detail: rejected.detail.clone(),
            payload: Some(rejected.payload.clone()),
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
