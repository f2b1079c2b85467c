//! What stands in a topic that a stream is bound to, and is no event of it: it goes to `dead_letters`, once.
//!
//! Those who read the stream pass over such records. This is who looks for them: one for each stream, run by the loop of the sources, as a source
//! that brings no rows. The position behind the records is committed together with their dead letters.
//!
//! Position: for each partition, under its number, the offset of the next record to look at.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use headwater_catalog::definition::{Definition, Object, Source as Described, Stream};
use headwater_event::offset::{Offset, TopicPartition};

use crate::source::{Ask, Batch, Error, Next, Opened, Position, Rejected, Source};

/// No connector that a statement can name.
const CONNECTOR: &str = "$intake";
const TOPIC: &str = "topic";

/// Records are looked at until so many bytes of them have to be kept.
const REJECTED_BYTES_MAX: usize = 4 << 20;

struct Intake {
    partitions: Vec<TopicPartition>,
    next: BTreeMap<u32, Offset>,
    nothing: RecordBatch,
}

/// The source that looks at the stream's topic, if it is bound to one.
pub fn definition(stream: &Definition) -> Option<Definition> {
    let topic = stream.stream()?.topic.clone()?;
    let source = Described {
        stream: stream.name.clone(),
        connector: CONNECTOR.to_owned(),
        options: BTreeMap::from([(TOPIC.to_owned(), topic)]),
        encode: None,
    };
    let mut definition = Definition::new(&stream.name, "", Object::Source(source));
    definition.id = stream.id;
    Some(definition)
}

/// The topic that this is the intake of, if it is one.
pub(crate) fn topic(source: &Described) -> Option<&str> {
    let topic = source.options.get(TOPIC).map(String::as_str);
    topic.filter(|_| source.connector == CONNECTOR)
}

pub(crate) fn open(definition: &Definition, stream: &Stream) -> Opened {
    let topic = definition.topic();
    let partition = |number| TopicPartition::new(topic.as_str(), number);
    Opened {
        source: Box::new(Intake {
            partitions: (0..stream.partitions).map(partition).collect(),
            next: BTreeMap::new(),
            nothing: RecordBatch::new_empty(stream.schema.arrow()),
        }),
        rate: None,
    }
}

#[async_trait]
impl Source for Intake {
    fn resume(&mut self, position: Position) -> Result<(), Error> {
        for (partition, next) in &position {
            let number = |bytes: &Bytes| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
            let entry = number(partition).and_then(|partition| Some((u32::try_from(partition).ok()?, number(next)?)));
            let (partition, next) = entry.ok_or_else(|| Error::outside("its position can't be read"))?;
            self.next.insert(partition, next);
        }
        Ok(())
    }

    async fn next(&mut self, ask: &Ask<'_>) -> Result<Next, Error> {
        let mut batch = Batch {
            rows: self.nothing.clone(),
            events: 0,
            rejected: Vec::new(),
            position: Vec::new(),
        };
        let mut bytes = 0;
        for partition in &self.partitions {
            let number = partition.partition;
            let from = self.next.get(&number).copied().unwrap_or_default();
            let (refused, next) = ask.log.refused(partition, from).await?;
            for record in refused {
                bytes += record.bytes.len();
                batch.rejected.push(Rejected {
                    detail: format!("partition {number}, offset {}: {}", record.offset, record.what),
                    payload: record.bytes.to_vec(),
                });
            }
            if next > from {
                batch.events += next - from;
                let entry = (Bytes::from(number.to_string()), Some(Bytes::from(next.to_string())));
                batch.position.push(entry);
                self.next.insert(number, next);
            }
            if bytes >= REJECTED_BYTES_MAX {
                break;
            }
        }
        match batch.events {
            0 => Ok(Next::Later),
            _ => Ok(Next::Batch(batch)),
        }
    }
}
