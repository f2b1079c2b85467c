//! Partitions as the cluster has them: what stands where, and where they end.
//!
//! Kafka answers a commit when it can't be undone any more, and a little before it can be read. Whoever asks a process sees all that it
//! has committed, so a process remembers where that stands ([`Partitions::note`]), and waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_event::clock::{Clock, Micros};
use headwater_event::offset::{Offset, TopicPartition};
use parking_lot::Mutex;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use crate::LoggedBatch;
use crate::error::{Error, Result};
use crate::kafka::cluster::{blocking, pause};
use crate::kafka::connection::{ANSWER_TIME_MAX, Connection, Consumer};
use crate::kafka::readers::{Lease, Place, Readers};
use crate::kafka::registry::KnownTopic;

/// How often to look whether what was committed can be read.
const DECIDED_POLL_TIME: Duration = Duration::from_millis(2);

/// How often to look again for what a reader is fetching. What was decided comes within the time of a fetch, mostly.
const ON_ITS_WAY_POLLS: usize = 5;

/// See the module.
pub(super) struct Partitions {
    readers: Readers,
    /// For what is refused: they have seen what the others have passed over, and the other way round.
    pub(super) looking: Readers,
    /// For questions about partitions.
    asking: Arc<Consumer>,
    asking_for_all: Arc<Consumer>,
    asked: Mutex<HashMap<(i64, TopicPartition), Arc<Asked>>>,
    /// Where partitions end, as far as this process knows.
    ends: Mutex<HashMap<(i64, TopicPartition), End>>,
}

/// The end of a partition: the last batch and the offset after it.
#[derive(Clone, Copy, Debug)]
struct End {
    last: i64,
    next: Offset,
    /// Up to here there was nothing after it when a reader last said so, which may have been before there was.
    looked: i64,
    /// Up to here there is nothing after it.
    sure: i64,
}

/// What is decided of a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decided {
    pub low: i64,
    /// The record after the last one that is decided.
    pub high: i64,
    /// Whoever has seen all records before this one has seen all that was there when this was asked for.
    until: i64,
}

/// Whoever asks while somebody else does shares the next answer with all who wait for it.
#[derive(Default)]
struct Asked {
    begun: AtomicU64,
    /// Which question was answered last, and how.
    last: tokio::sync::Mutex<(u64, (i64, i64))>,
}

/// A topic's partition and the rows of a batch that was written there, by its place among the records of a transaction.
pub(super) struct Written {
    pub topic: Arc<KnownTopic>,
    pub partition: TopicPartition,
    pub first: usize,
    pub last: usize,
    /// Of the last record.
    pub rows: usize,
    /// False for the other partitions of a batch that lies in several.
    pub begins_batch: bool,
}

impl Partitions {
    pub fn new(
        connection: &Connection,
        asking: Arc<Consumer>,
        asking_for_all: Arc<Consumer>,
        clock: Arc<dyn Clock>,
        ahead_bytes: usize,
    ) -> Self {
        Self {
            readers: Readers::new(connection.clone(), clock.clone(), ahead_bytes),
            looking: Readers::new(connection.clone(), clock, ahead_bytes),
            asking,
            asking_for_all,
            asked: Mutex::default(),
            ends: Mutex::default(),
        }
    }

    /// A reader that stands at `from`.
    pub fn reader(&self, place: Place<'_>, from: Offset) -> Result<Lease<'_>> {
        self.readers.at(place, from)
    }

    /// Lets go of all that reads a topic.
    pub fn forget(&self, topic: i64) {
        self.readers.forget(topic);
        self.asked.lock().retain(|(id, _), _| *id != topic);
        self.looking.forget(topic);
    }

    /// The partition's first record and the one after the last that is decided, all that this process has committed among them.
    pub async fn bounds(&self, place: Place<'_>) -> Result<(i64, i64)> {
        let ours = self.last_of_ours(place);
        loop {
            let (low, high) = self.ask_bounds(place).await?;
            if high > ours {
                return Ok((low, high));
            }
            pause(DECIDED_POLL_TIME).await;
        }
    }

    /// The same when all is decided that stands in the partition by now. A transaction of another's that is still open hides what
    /// stands behind it, also where that is committed.
    pub async fn decided(&self, place: Place<'_>) -> Result<Decided> {
        let (_, end) = Self::watermarks(&self.asking_for_all, place).await?;
        loop {
            let (low, high) = self.bounds(place).await?;
            if high >= end {
                let (_, by_now) = Self::watermarks(&self.asking_for_all, place).await?;
                // With nothing open the last record is the mark of a transaction; else it may be a record of one, whose mark comes later.
                let ends_with_mark = by_now == high && !place.topic.is_bound();
                return Ok(Decided {
                    low,
                    high,
                    until: if ends_with_mark { high - 1 } else { end },
                });
            }
            pause(DECIDED_POLL_TIME).await;
        }
    }

    /// The offset after the last batch that this process knows of.
    pub fn known_end(&self, place: Place<'_>) -> Offset {
        let ends = self.ends.lock();
        ends.get(&key_of(place)).map_or(0, |end| end.next)
    }

    async fn ask_bounds(&self, place: Place<'_>) -> Result<(i64, i64)> {
        let asked = self.asked.lock().entry(key_of(place)).or_default().clone();
        let before = asked.begun.load(Ordering::Relaxed);
        let mut last = asked.last.lock().await;
        let (begun, bounds) = *last;
        if begun > before {
            return Ok(bounds);
        }
        let now = asked.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let bounds = Self::watermarks(&self.asking, place).await?;
        *last = (now, bounds);
        Ok(bounds)
    }

    async fn watermarks(asking: &Arc<Consumer>, place: Place<'_>) -> Result<(i64, i64)> {
        let (asking, topic) = (asking.clone(), place.topic.kafka.clone());
        let partition = i32::try_from(place.partition.partition).unwrap_or(i32::MAX);
        blocking(move || {
            // A topic that was made just now isn't known to every broker yet.
            for _ in 0..50 {
                match asking.fetch_watermarks(&topic, partition, ANSWER_TIME_MAX) {
                    Err(KafkaError::MetadataFetch(
                        RDKafkaErrorCode::UnknownTopicOrPartition
                        | RDKafkaErrorCode::UnknownPartition
                        | RDKafkaErrorCode::UnknownTopic
                        | RDKafkaErrorCode::LeaderNotAvailable
                        | RDKafkaErrorCode::NotLeaderForPartition,
                    )) => std::thread::sleep(Duration::from_millis(100)),
                    answer => return Ok(answer?),
                }
            }
            Err(Error::Kafka(format!("topic '{topic}' isn't there")))
        })
        .await
    }

    /// As [`crate::Log::read`] has it: what is fetched already is handed out, with all that this process had committed when it was called.
    /// The cluster is asked only where that is nothing.
    pub async fn read(
        &self,
        place: Place<'_>,
        from: Offset,
        bytes_max: usize,
        columns: Option<&[usize]>,
    ) -> Result<Vec<LoggedBatch>> {
        let ours = self.last_of_ours(place);
        let mut lease = self.readers.at(place, from)?;
        let mut batches: Vec<LoggedBatch> = Vec::new();
        let mut bytes = 0;
        let mut asked = None;
        loop {
            while batches.is_empty() || bytes < bytes_max {
                let Some(batch) = lease.next(place, columns)? else {
                    break;
                };
                bytes += batch.memory_bytes();
                batches.push(batch);
            }
            let has_some = !batches.is_empty();
            if has_some && bytes >= bytes_max {
                return Ok(batches);
            }
            let Some((next, at_end)) = lease.seen() else {
                continue;
            };
            if next > ours && (has_some || at_end) {
                return Ok(batches);
            }
            let end = match asked {
                Some(end) => end,
                None => *asked.insert(self.bounds(place).await?.1),
            };
            // A record of ours is followed by the mark of its transaction, so the last one before the end isn't a record, unless another transaction
            // is open there; of others it may be.
            let may_be_left = batches.is_empty() && place.topic.is_bound() && !self.is_known_end(place, next, end);
            if next >= end || next > ours && next + 1 >= end && !may_be_left {
                return Ok(batches);
            }
            lease.more().await;
        }
    }

    /// Whether this process has looked at what stands before the end.
    fn is_known_end(&self, place: Place<'_>, next: i64, end: i64) -> bool {
        let ends = self.ends.lock();
        let known = ends.get(&key_of(place));
        known.is_some_and(|known| known.last < next && end <= known.looked)
    }

    /// The last record that this process knows to have written.
    fn last_of_ours(&self, place: Place<'_>) -> i64 {
        let ends = self.ends.lock();
        ends.get(&key_of(place)).map_or(-1, |end| end.last)
    }

    /// The offset after the last batch that is there, as far as the readers have been told: between what is decided and what they know is the time
    /// of a fetch.
    pub async fn end(&self, place: Place<'_>, low: i64, high: i64) -> Result<Offset> {
        let known = self.ends.lock().get(&key_of(place)).copied();
        let start = place.topic.base_of(low);
        if let Some(end) = known
            && high <= end.looked
        {
            return Ok(end.next.max(start));
        }
        let Some((last, next)) = self.last_before(place, low, high, high, false).await? else {
            return Ok(start);
        };
        // Behind the last record stands the mark of its transaction. If there is more, that may be other marks, or records that were not
        // fetched when the reader said that it stood at the end: so it is looked at again.
        let looked = match high - (last + 1) {
            ..=1 => high.max(last + 1),
            _ => last + 2,
        };
        let sure = last + 1;
        self.note_end(
            key_of(place),
            End {
                last,
                next,
                looked,
                sure,
            },
        );
        Ok(next)
    }

    /// The offset after the last batch that was there when this was asked for.
    pub async fn settled_end(&self, place: Place<'_>, decided: Decided) -> Result<Offset> {
        let Decided { low, high, until } = decided;
        let known = self.ends.lock().get(&key_of(place)).copied();
        let start = place.topic.base_of(low);
        if let Some(end) = known
            && until <= end.sure
        {
            return Ok(end.next.max(start));
        }
        let Some((last, next)) = self.last_before(place, low, high, until, true).await? else {
            return Ok(start);
        };
        let sure = until.max(last + 1);
        self.note_end(
            key_of(place),
            End {
                last,
                next,
                looked: sure,
                sure,
            },
        );
        Ok(next)
    }

    /// The last record, looked for no further once all before `until` were seen, and the offset after its batch. Where readers find nothing more, what they
    /// know may be old: to be `sure`, one is asked anew.
    async fn last_before(
        &self,
        place: Place<'_>,
        low: i64,
        high: i64,
        until: i64,
        sure: bool,
    ) -> Result<Option<(i64, Offset)>> {
        // On from the last end that is known; else back from this one.
        let known = self.ends.lock().get(&key_of(place)).copied();
        let known = known.filter(|end| end.next >= place.topic.base_of(low));
        let mut end = known.map(|end| (end.last, end.next));
        let mut back = 2;
        loop {
            let from = low.max(high - back);
            let mut at = end.map_or(place.topic.base_of(from), |(_, next)| next);
            while end.map_or(from, |(last, _)| last + 1) < until {
                let mut batches = self.read(place, at, usize::MAX, Some(&[])).await?;
                if batches.is_empty() && sure {
                    batches = self.read_anew(place, at).await?;
                }
                let Some(batch) = batches.last() else {
                    break;
                };
                at = batch.next();
                end = Some((place.topic.record_of(at - 1), at));
            }
            if end.is_some() || from == low {
                return Ok(end);
            }
            back *= 16;
        }
    }

    /// What a reader said before that it stands at the end may not be true any more. What is on its way to it is waited for; else a new reader is asked.
    async fn read_anew(&self, place: Place<'_>, from: Offset) -> Result<Vec<LoggedBatch>> {
        for _ in 0..ON_ITS_WAY_POLLS {
            pause(DECIDED_POLL_TIME).await;
            let batches = self.read(place, from, usize::MAX, Some(&[])).await?;
            if !batches.is_empty() {
                return Ok(batches);
            }
        }
        let mut lease = self.readers.new_at(place, from)?;
        loop {
            if let Some(batch) = lease.next(place, Some(&[]))? {
                return Ok(vec![batch]);
            }
            if let Some((_, true)) = lease.seen() {
                return Ok(Vec::new());
            }
            lease.more().await;
        }
    }

    /// Takes it in, if it says more than what is known.
    fn note_end(&self, key: (i64, TopicPartition), end: End) {
        let mut ends = self.ends.lock();
        let known = ends.entry(key).or_insert(end);
        if known.last < end.last {
            *known = end;
        } else if known.last == end.last {
            known.looked = known.looked.max(end.looked);
            known.sure = known.sure.max(end.sure);
        }
    }

    /// The first batch of this time or later, and none where there is none.
    pub async fn first_at(&self, place: Place<'_>, time: Micros) -> Result<Option<Offset>> {
        let mut list = TopicPartitionList::new();
        let number = i32::try_from(place.partition.partition).unwrap_or(i32::MAX);
        list.add_partition_offset(
            &place.topic.kafka,
            number,
            KafkaOffset::Offset(time.div_euclid(1000).max(0)),
        )?;
        let asking = self.asking.clone();
        let found = blocking(move || Ok(asking.offsets_for_times(list, ANSWER_TIME_MAX)?)).await?;
        let found = found.elements().first().map(|element| element.offset());
        let Some(KafkaOffset::Offset(record)) = found else {
            return Ok(None);
        };
        // It may be the mark of a transaction, which has the broker's time.
        let mut at = place.topic.base_of(record);
        while let Some(batch) = self.read(place, at, 0, Some(&[])).await?.first() {
            if batch.appended.div_euclid(1000) >= time.div_euclid(1000) {
                return Ok(Some(batch.base));
            }
            at = batch.next();
        }
        Ok(None)
    }

    /// Notes where batches have come to stand, and answers their first offsets.
    pub fn note(&self, written: &[Written], placed: &[i64]) -> Vec<Offset> {
        let mut ends = self.ends.lock();
        let mut note = |written: &Written| {
            let last = placed[written.last];
            let end = End {
                last,
                next: written.topic.base_of(last) + written.rows.max(1) as u64,
                // Its transaction's mark.
                looked: last + 2,
                sure: last + 1,
            };
            let known = ends.entry((written.topic.id, written.partition.clone())).or_insert(end);
            if known.last < last {
                *known = end;
            }
            written.topic.base_of(placed[written.first])
        };
        let placed = written.iter().map(|written| (written.begins_batch, note(written)));
        let begins = placed.filter(|(begins_batch, _)| *begins_batch);
        begins.map(|(_, offset)| offset).collect()
    }
}

fn key_of(place: Place<'_>) -> (i64, TopicPartition) {
    (place.topic.id, place.partition.clone())
}
