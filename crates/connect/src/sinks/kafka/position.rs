//! The topic `headwater-delivery` on the target's cluster: how far each sink is, under its identity, written in the transaction of its
//! rows. It is compacted, and has one partition.

use bytes::Bytes;
use headwater_log::kafka::connection::{ANSWER_TIME_MAX, Connection};
use headwater_log::kafka::transactions::Record;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::sink::Offsets;
use crate::source::Error;

pub(super) const TOPIC: &str = "headwater-delivery";

pub(super) struct Position {
    identity: String,
}

impl Position {
    pub(super) fn new(identity: &str) -> Self {
        Self {
            identity: identity.to_owned(),
        }
    }

    /// Makes the topic where there is none.
    pub(super) async fn make(&self, connection: &Connection) -> Result<(), Error> {
        // As many copies as the brokers say.
        let topic = NewTopic::new(TOPIC, 1, TopicReplication::Fixed(-1)).set("cleanup.policy", "compact");
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_TIME_MAX));
        let admin = connection.admin().map_err(outside)?;
        let made = admin.create_topics([&topic], &options).await.map_err(outside)?;
        match made.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) | None => Ok(()),
            Some(Err((_, code))) => Err(Error::outside(format!(
                "the topic {TOPIC}, in which sinks keep how far they are, can't be made: {code}"
            ))),
        }
    }

    /// What the last transaction left; nothing where there was none.
    pub(super) fn read(&self, connection: &Connection) -> Result<Offsets, Error> {
        // Other sinks write here too.
        connection.decided(TOPIC, 0).map_err(outside)?;
        let consumer = connection.consumer().map_err(outside)?;
        let mut list = TopicPartitionList::new();
        let added = list.add_partition_offset(TOPIC, 0, Offset::Beginning);
        added.and_then(|()| consumer.assign(&list)).map_err(outside)?;
        let mut position = Offsets::new();
        loop {
            match consumer.poll(ANSWER_TIME_MAX) {
                Some(Ok(record)) if record.key() == Some(self.identity.as_bytes()) => {
                    position = match record.payload() {
                        Some(value) => serde_json::from_slice(value).map_err(outside)?,
                        None => Offsets::new(),
                    };
                }
                Some(Ok(_)) => {}
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(position),
                Some(Err(error)) => return Err(outside(error)),
                None => return Err(Error::outside(format!("Kafka doesn't answer what is in {TOPIC}"))),
            }
        }
    }

    pub(super) fn record(&self, next: &Offsets) -> Result<Record, Error> {
        let value = serde_json::to_vec(next).map_err(outside)?;
        Ok(self.holding(Some(value.into())))
    }

    /// Takes the position out.
    pub(super) fn gone(&self) -> Record {
        self.holding(None)
    }

    fn holding(&self, value: Option<Bytes>) -> Record {
        Record {
            topic: TOPIC.into(),
            partition: Some(0),
            key: Some(self.identity.clone().into()),
            value,
            time: None,
        }
    }
}

fn outside(error: impl std::fmt::Display) -> Error {
    Error::outside(error.to_string())
}
