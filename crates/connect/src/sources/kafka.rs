//! `connector = 'kafka'`: events from a topic that others write, one in each record.
//!
//! All partitions are read, from the earliest record on or, with `start = 'latest'`, from the end as it is when the source begins; until it has stored an event, it begins anew with every
//! restart. Partitions that
//! are added later are found and read from their first record. What stands in a transaction of Kafka counts once that is committed.
//!
//! Position: for each partition, under its number, the offset of the next record.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_catalog::definition::{Source as Definition, Stream};
use headwater_event::clock::Micros;
use headwater_log::kafka::connection::{ANSWER_TIME_MAX, Consumer};
use headwater_schema::column::EventSchema;
use headwater_schema::decode::{Decoder, Format, OnError};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::cluster::Cluster;
use crate::options::{About, Options, Refusal};
use crate::source::{Ask, Batch, Error, Next, Opened, Position, Rejected, Source};
use crate::within::Within;

/// Records that are decoded together: more failures than this could not all be collected.
const RECORDS_MAX: u64 = 8192;
const BYTES_MAX: usize = 4 << 20;

/// How long to wait for the first record.
const POLL: Duration = Duration::from_millis(100);

/// How often to look for partitions that were added.
const LOOK_EVERY: Micros = 30_000_000;

const EXAMPLE: &str = "WITH (connector = 'kafka', brokers = 'localhost:9092', topic = 'orders')";

const FORMATS: [(&str, Format); 2] = [("json", Format::NdJson), ("combined_log", Format::CombinedLog)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Earliest,
    Latest,
}

struct Kafka {
    cluster: Cluster,
    topic: String,
    start: Start,
    format: Format,
    schema: EventSchema,
    /// The next record of each partition that is read.
    next: BTreeMap<i32, i64>,
    /// Made when it is first needed.
    consumer: Option<Consumer>,
    looked: Micros,
}

pub(super) fn open(source: &Definition, stream: &Stream, options: &mut Options<'_>) -> Result<Opened, Refusal> {
    let cluster = Cluster::read(options, EXAMPLE)?;
    let missing = || Refusal::new(About::Statement, "a source with the connector kafka needs a topic").hint(EXAMPLE);
    let topic = options.text("topic").ok_or_else(missing)?;
    let start = options.one_of("start", &[("earliest", Start::Earliest), ("latest", Start::Latest)])?;
    let rate = options.rate()?;
    let source = Kafka {
        cluster,
        topic: topic.to_owned(),
        start: start.unwrap_or(Start::Earliest),
        format: format(source)?,
        schema: stream.schema.clone(),
        next: BTreeMap::new(),
        consumer: None,
        looked: Micros::MIN,
    };
    Ok(Opened {
        source: Box::new(source),
        rate,
    })
}

fn format(source: &Definition) -> Result<Format, Refusal> {
    let Some(name) = source.encode.as_deref() else {
        return Ok(Format::NdJson);
    };
    let names = FORMATS.map(|(known, _)| known);
    match FORMATS.iter().find(|(known, _)| *known == name) {
        Some((_, format)) => Ok(*format),
        None => Err(
            Refusal::new(About::Format, format!("there is no format {name} for records of Kafka"))
                .hint(format!("there are {}", names.join(", "))),
        ),
    }
}

/// Records one after the other, as lines.
#[derive(Default)]
struct Lines {
    body: Vec<u8>,
    /// Where each is in the body, and in Kafka.
    records: Vec<(Range<usize>, i32, i64)>,
    rejected: Vec<Rejected>,
    count: u64,
}

impl Lines {
    fn push(&mut self, partition: i32, offset: i64, payload: Option<&[u8]>) {
        self.count += 1;
        let Some(payload) = payload.filter(|payload| !payload.trim_ascii().is_empty()) else {
            self.rejected.push(Rejected {
                detail: format!("{}: the record has no value", place(partition, offset)),
                payload: Vec::new(),
            });
            return;
        };
        let start = self.body.len();
        // In JSON a line's end stands between tokens only.
        let without_ends = payload.iter().map(|byte| match byte {
            b'\n' | b'\r' => b' ',
            byte => *byte,
        });
        self.body.extend(without_ends);
        self.records.push((start..self.body.len(), partition, offset));
        self.body.push(b'\n');
    }

    /// The record that has this byte.
    fn record_at(&self, byte: usize) -> Option<&(Range<usize>, i32, i64)> {
        let after = self.records.partition_point(|(range, ..)| range.start <= byte);
        self.records.get(after.checked_sub(1)?)
    }
}

fn place(partition: i32, offset: i64) -> String {
    format!("partition {partition}, offset {offset}")
}

impl Kafka {
    /// The topic's partitions.
    fn partitions(&self, consumer: &Consumer) -> Result<Vec<i32>, Error> {
        let metadata = consumer.fetch_metadata(Some(&self.topic), ANSWER_TIME_MAX);
        let metadata = metadata.map_err(outside)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        let partitions: Vec<_> = topic.into_iter().flat_map(|topic| topic.partitions()).collect();
        if partitions.is_empty() {
            return Err(Error::outside(format!(
                "there is no topic '{}' on the cluster",
                self.topic
            )));
        }
        Ok(partitions.iter().map(|partition| partition.id()).collect())
    }

    /// Reads from all partitions that there are now.
    fn assign(&mut self, consumer: &Consumer) -> Result<(), Error> {
        let first_time = self.next.is_empty();
        let partitions = self.partitions(consumer)?;
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            let next = match self.next.get(&partition) {
                Some(next) => *next,
                None => {
                    let ends = consumer.fetch_watermarks(&self.topic, partition, ANSWER_TIME_MAX);
                    let (low, high) = ends.map_err(outside)?;
                    match first_time && self.start == Start::Latest {
                        true => high,
                        false => low,
                    }
                }
            };
            self.next.insert(partition, next);
            let added = list.add_partition_offset(&self.topic, partition, Offset::Offset(next));
            added.map_err(outside)?;
        }
        consumer.assign(&list).map_err(outside)
    }

    fn poll(&mut self, consumer: &Consumer, events_max: u64) -> Result<Lines, Error> {
        let mut lines = Lines::default();
        let mut wait = POLL;
        while lines.count < events_max.min(RECORDS_MAX) && lines.body.len() < BYTES_MAX {
            match consumer.poll(wait) {
                None => break,
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => return Err(outside(error)),
                Some(Ok(record)) => {
                    let (partition, offset) = (record.partition(), record.offset());
                    lines.push(partition, offset, record.payload());
                    self.next.insert(partition, offset + 1);
                    wait = Duration::ZERO;
                }
            }
        }
        Ok(lines)
    }

    fn decode(&self, mut lines: Lines, ask: &Ask<'_>) -> Result<Batch, Error> {
        let mut decoder = Decoder::new(&self.schema, Arc::clone(ask.ids));
        let decoded = decoder.decode(&lines.body, self.format, OnError::Collect, ask.now);
        if decoded.rejected {
            return Err(Error::outside("its records can't be read: too many of them are wrong"));
        }
        let mut rejected = std::mem::take(&mut lines.rejected);
        for failure in &decoded.failures {
            let record = lines.record_at(failure.span.start);
            let place = record.map_or_else(String::new, |(_, partition, offset)| place(*partition, *offset));
            let bytes = record.map_or(failure.span.clone(), |(range, ..)| range.clone());
            rejected.push(Rejected {
                detail: format!("{place}: {}", failure.message),
                payload: lines.body.get(bytes).unwrap_or_default().to_vec(),
            });
        }
        let entry =
            |(partition, next): (&i32, &i64)| (Bytes::from(partition.to_string()), Some(Bytes::from(next.to_string())));
        Ok(Batch {
            rows: decoder.finish(),
            events: lines.count,
            rejected,
            position: self.next.iter().map(entry).collect(),
        })
    }
}

#[async_trait]
impl Source for Kafka {
    fn look(&self, within: &Within) -> Result<(), Error> {
        let connection = self.cluster.connection(within)?;
        connection.reach().map_err(outside)?;
        let consumer = connection.consumer().map_err(outside)?;
        self.partitions(&consumer).map(|_| ())
    }

    fn resume(&mut self, position: Position) -> Result<(), Error> {
        let number = |bytes: &Bytes| std::str::from_utf8(bytes).ok()?.parse::<i64>().ok();
        for (partition, next) in &position {
            let entry = number(partition).and_then(|partition| Some((i32::try_from(partition).ok()?, number(next)?)));
            let (partition, next) = entry.ok_or_else(|| Error::outside("its position can't be read"))?;
            self.next.insert(partition, next);
        }
        Ok(())
    }

    async fn next(&mut self, ask: &Ask<'_>) -> Result<Next, Error> {
        let consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => {
                let consumer = self.cluster.connection(ask.within)?.consumer().map_err(outside)?;
                self.assign(&consumer)?;
                self.looked = ask.now;
                consumer
            }
        };
        let lines = self.poll(&consumer, ask.events_max)?;
        if lines.count == 0 && ask.now.saturating_sub(self.looked) >= LOOK_EVERY {
            self.looked = ask.now;
            if self.partitions(&consumer)?.len() > self.next.len() {
                self.assign(&consumer)?;
            }
        }
        // After an error it is made anew, at the position.
        self.consumer = Some(consumer);
        match lines.count {
            0 => Ok(Next::Later),
            _ => Ok(Next::Batch(self.decode(lines, ask)?)),
        }
    }
}

fn outside(error: impl std::fmt::Display) -> Error {
    Error::outside(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_found_in_its_record() {
        let mut lines = Lines::default();
        lines.push(0, 5, Some(b"{\"a\":\n1}"));
        lines.push(1, 9, None);
        lines.push(1, 10, Some(b"{}"));
        assert_eq!(lines.body, b"{\"a\": 1}\n{}\n");
        assert_eq!((lines.count, lines.rejected.len()), (3, 1));
        assert!(lines.rejected[0].detail.starts_with("partition 1, offset 9"));
        let at = |byte| {
            lines
                .record_at(byte)
                .map(|(_, partition, offset)| (*partition, *offset))
        };
        assert_eq!(
            (at(0), at(7), at(9), at(10)),
            (Some((0, 5)), Some((0, 5)), Some((1, 10)), Some((1, 10)))
        );
    }
}
