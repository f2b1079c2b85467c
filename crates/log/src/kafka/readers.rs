//! Reading: whoever reads on where somebody stopped gets the reader that has already fetched what comes next.

mod runs;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use headwater_event::clock::Clock;
use headwater_event::offset::{Offset, TopicPartition};
use parking_lot::{Condvar, Mutex};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tokio::sync::Notify;

use crate::LoggedBatch;
use crate::error::{Error, Result};
use crate::kafka::connection::{Connection, Consumer};
use crate::kafka::records::{base_of, decode};
use crate::kafka::registry::KnownTopic;
use crate::kafka::rights::{self, is_about_group};
use crate::rows::skip_to;

/// What one reader may have fetched that nobody has asked for, beyond what the client itself holds.
const AHEAD_BYTES_MAX: usize = 4 << 20;
const AHEAD_BYTES_MIN: usize = 64 << 10;

/// Readers that nobody uses.
const IDLE_PER_PARTITION_MAX: usize = 4;
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

const POLL_TIME: Duration = Duration::from_millis(100);

pub(super) struct Readers {
    connection: Connection,
    clock: Arc<dyn Clock>,
    room: Arc<Room>,
    idle: Mutex<HashMap<(i64, TopicPartition), Vec<Reader>>>,
}

/// What all readers may have fetched ahead, which they share.
struct Room {
    bytes: usize,
    readers: AtomicUsize,
}

impl Room {
    fn of_each(&self) -> usize {
        let readers = self.readers.load(Ordering::Relaxed).max(1);
        (self.bytes / readers).clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX)
    }
}

/// A partition of a topic that is there.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub topic: &'a KnownTopic,
    pub partition: &'a TopicPartition,
}

impl Readers {
    /// They fetch `ahead_bytes` ahead, all together; but each of them a little in any case.
    pub fn new(connection: Connection, clock: Arc<dyn Clock>, ahead_bytes: usize) -> Self {
        Self {
            connection,
            clock,
            room: Arc::new(Room {
                bytes: ahead_bytes,
                readers: AtomicUsize::new(0),
            }),
            idle: Mutex::default(),
        }
    }

    /// A reader that stands at `from`. It comes back when it is dropped.
    pub fn at(&self, place: Place<'_>, from: Offset) -> Result<Lease<'_>> {
        let key = (place.topic.id, place.partition.clone());
        let mut idle = self.idle.lock();
        let now = self.clock.elapsed();
        idle.retain(|_, readers| {
            readers.retain(|reader| now.saturating_sub(reader.used) < IDLE_TIME_MAX);
            !readers.is_empty()
        });
        let standing = idle.get_mut(&key).and_then(|readers| {
            let at = readers.iter().position(|reader| reader.position == from)?;
            Some(readers.swap_remove(at))
        });
        drop(idle);
        match standing {
            Some(reader) => Ok(Lease {
                readers: self,
                key,
                reader: Some(reader),
            }),
            None => self.new_at(place, from),
        }
    }

    /// A new reader that stands at `from`: it knows of the cluster only what that says from now on.
    pub fn new_at(&self, place: Place<'_>, from: Offset) -> Result<Lease<'_>> {
        Ok(Lease {
            readers: self,
            key: (place.topic.id, place.partition.clone()),
            reader: Some(Reader::open(&self.connection, &self.room, place, from)?),
        })
    }

    /// Lets go of all that read a topic.
    pub fn forget(&self, topic: i64) {
        self.idle.lock().retain(|(id, _), _| *id != topic);
    }
}

/// A reader, for as long as it is used.
pub(super) struct Lease<'a> {
    readers: &'a Readers,
    key: (i64, TopicPartition),
    reader: Option<Reader>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            reader.used = self.readers.clock.elapsed();
            let mut idle = self.readers.idle.lock();
            let readers = idle.entry(self.key.clone()).or_default();
            if readers.len() >= IDLE_PER_PARTITION_MAX {
                // The one that was used longest ago is the first.
                readers.sort_by_key(|reader| reader.used);
                readers.remove(0);
            }
            readers.push(reader);
        }
    }
}

impl Lease<'_> {
    fn reader(&mut self) -> &mut Reader {
        // It is taken only when the lease is dropped.
        #[allow(clippy::expect_used, reason = "taken in drop alone")]
        self.reader.as_mut().expect("a lease has its reader")
    }

    /// The next batch that was fetched already.
    pub fn next(&mut self, place: Place<'_>, columns: Option<&[usize]>) -> Result<Option<LoggedBatch>> {
        let reader = self.reader();
        if let Some(code) = reader.ahead.fetched.lock().refused.take() {
            return Err(rights::on_topic(&place.topic.kafka, "Read", code));
        }
        if let Some(events) = &place.topic.events {
            return reader.next_events(events, place, columns);
        }
        loop {
            let Some(fetched) = reader.ahead.pop() else {
                return Ok(None);
            };
            let batch = fetched.decode(place, columns)?;
            if batch.next() <= reader.position {
                continue;
            }
            reader.position = batch.next();
            return Ok(Some(skip_to(batch, reader.start)));
        }
    }

    /// The record that comes next, and whether the cluster has said that there was none when it was last asked. Nothing where there is something
    /// to hand out, which was fetched since there wasn't.
    pub fn seen(&mut self) -> Option<(i64, bool)> {
        let fetched = self.reader().ahead.fetched.lock();
        fetched.records.is_empty().then_some((fetched.next, fetched.at_end))
    }

    /// Returns when something was fetched, or may have been.
    pub async fn more(&mut self) {
        let ahead = self.reader().ahead.clone();
        let _ = tokio::time::timeout(POLL_TIME, ahead.more.notified()).await;
    }

    /// Whether there is a batch that was fetched already, or why there can be none.
    pub fn is_ahead(&mut self, place: Place<'_>) -> Result<bool> {
        let reader = self.reader();
        if reader.ahead.fetched.lock().refused.is_some() {
            return Ok(true);
        }
        if let Some(events) = &place.topic.events {
            return Ok(reader.is_event_ahead(events, place));
        }
        loop {
            let fetched = reader.ahead.fetched.lock();
            let Some(record) = fetched.records.front() else {
                return Ok(false);
            };
            if base_of(record.record) >= reader.position {
                return Ok(true);
            }
            let batch = record.decode(place, None)?;
            drop(fetched);
            if batch.next() > reader.position {
                return Ok(true);
            }
            reader.ahead.pop();
        }
    }
}

/// One place in a partition, and a thread that fetches what comes after it.
struct Reader {
    /// Rows before it aren't wanted.
    start: Offset,
    /// What is handed out next.
    position: Offset,
    used: Duration,
    ahead: Arc<Ahead>,
    room: Arc<Room>,
}

#[derive(Default)]
struct Ahead {
    fetched: Mutex<Fetched>,
    /// Something was fetched.
    more: Notify,
    /// Something was taken.
    room: Condvar,
}

#[derive(Default)]
struct Fetched {
    records: VecDeque<Record>,
    bytes: usize,
    /// The record after the last one that was fetched.
    next: i64,
    at_end: bool,
    /// The cluster has refused to let this process read the topic, which nobody has been told.
    refused: Option<RDKafkaErrorCode>,
    stop: bool,
}

/// A record as it came.
pub(super) struct Record {
    pub record: i64,
    /// In milliseconds.
    pub time: Option<i64>,
    key: Option<Bytes>,
    pub value: Option<Bytes>,
}

impl Record {
    fn decode(&self, place: Place<'_>, columns: Option<&[usize]>) -> Result<LoggedBatch> {
        let (key, value) = (self.key.as_deref(), self.value.as_deref());
        let batch = decode(&place.topic.spec, self.record, self.time, key, value, columns);
        batch.map_err(|what| Error::Damaged {
            partition: place.partition.clone(),
            base: base_of(self.record),
            next: base_of(self.record + 1),
            what,
        })
    }

    fn bytes(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len) + 64
    }
}

impl Reader {
    fn open(connection: &Connection, room: &Arc<Room>, place: Place<'_>, from: Offset) -> Result<Self> {
        let consumer = connection.consumer()?;
        let first = place.topic.record_of(from);
        let mut list = TopicPartitionList::new();
        let partition = i32::try_from(place.partition.partition).unwrap_or(i32::MAX);
        list.add_partition_offset(&place.topic.kafka, partition, KafkaOffset::Offset(first))?;
        consumer.assign(&list)?;
        let ahead = Arc::new(Ahead::default());
        ahead.fetched.lock().next = first;
        let (fetches, shared) = (ahead.clone(), room.clone());
        let thread = std::thread::Builder::new().name("log-reader".to_owned());
        let spawned = thread.spawn(move || fetches.run(&consumer, &shared));
        spawned.map_err(|error| Error::Kafka(format!("no thread: {error}")))?;
        room.readers.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            start: from,
            position: from,
            used: Duration::ZERO,
            ahead,
            room: room.clone(),
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.room.readers.fetch_sub(1, Ordering::Relaxed);
        self.ahead.fetched.lock().stop = true;
        self.ahead.room.notify_all();
    }
}

impl Ahead {
    /// Fetches until the reader is dropped. The thread isn't waited for: closing a consumer takes its time.
    fn run(&self, consumer: &Consumer, room: &Room) {
        loop {
            let polled = consumer.poll(POLL_TIME);
            let mut fetched = self.fetched.lock();
            match polled {
                None => {}
                Some(Ok(message)) => {
                    let record = Record {
                        record: message.offset(),
                        time: message.timestamp().to_millis(),
                        key: message.key().map(Bytes::copy_from_slice),
                        value: message.payload().map(Bytes::copy_from_slice),
                    };
                    fetched.next = record.record + 1;
                    fetched.bytes += record.bytes();
                    fetched.at_end = false;
                    fetched.records.push_back(record);
                    self.more.notify_one();
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    fetched.at_end = true;
                    self.more.notify_one();
                }
                Some(Err(KafkaError::MessageConsumption(code @ RDKafkaErrorCode::TopicAuthorizationFailed))) => {
                    fetched.refused = Some(code);
                    self.more.notify_one();
                }
                Some(Err(error)) => {
                    let gone = error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition);
                    if !gone && !is_about_group(&error) {
                        tracing::warn!(%error, "reading from Kafka");
                    }
                }
            }
            while fetched.bytes >= room.of_each() && !fetched.stop {
                self.room.wait(&mut fetched);
            }
            if fetched.stop {
                return;
            }
        }
    }

    fn pop(&self) -> Option<Record> {
        let mut fetched = self.fetched.lock();
        let record = fetched.records.pop_front();
        if let Some(record) = &record {
            fetched.bytes -= record.bytes();
            self.room.notify_all();
        }
        record
    }
}
