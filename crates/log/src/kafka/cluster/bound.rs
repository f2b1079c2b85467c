//! Topics of others, as they are on the cluster: whether events can be kept there, and what this user may do.

use std::time::Duration;

use rdkafka::admin::ResourceSpecifier;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use crate::error::{Error, Result};
use crate::kafka::cluster::{Cluster, answered, blocking};
use crate::kafka::connection::{ANSWER_TIME_MAX, Connection};
use crate::kafka::rights::on_topic;

/// The client puts small records together up to 1 MB, which is also what brokers take unless they are told otherwise.
const RECORD_BYTES_MIN: usize = 1_000_012;

const POLL_TIME: Duration = Duration::from_millis(100);

/// A topic that is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub partitions: u32,
    pub record_bytes_max: usize,
}

impl Cluster {
    /// The topic of this name, if there is one.
    ///
    /// # Errors
    /// Where events can't be kept in it, or this user can't read it: what it is, and what to do.
    pub async fn find(&self, name: &str) -> Result<Option<Found>> {
        let (connection, topic) = (self.connection.clone(), name.to_owned());
        let Some(partitions) = blocking(move || partitions(&connection, &topic)).await? else {
            return Ok(None);
        };
        let resources = [ResourceSpecifier::Topic(name)];
        let described = self.admin.describe_configs(&resources, &answered()).await?;
        let config = match described.into_iter().next() {
            // Who may not know gets none, and no word of why.
            Some(Ok(config)) if config.entries.is_empty() => {
                return Err(on_topic(
                    name,
                    "DescribeConfigs",
                    RDKafkaErrorCode::TopicAuthorizationFailed,
                ));
            }
            Some(Ok(config)) => config,
            Some(Err(code)) => return Err(on_topic(name, "DescribeConfigs", code)),
            None => return Err(Error::Kafka(format!("the cluster doesn't describe topic '{name}'"))),
        };
        let value = |key: &str| {
            config
                .get(key)
                .and_then(|entry| entry.value.clone())
                .unwrap_or_default()
        };
        let cleanup = value("cleanup.policy");
        if cleanup != "delete" {
            return Err(Error::Invalid(format!(
                "Kafka's topic '{name}' has cleanup.policy={cleanup}, which removes events: a stream needs cleanup.policy=delete"
            )));
        }
        let record_bytes_max = value("max.message.bytes").parse().unwrap_or(RECORD_BYTES_MIN);
        if record_bytes_max < RECORD_BYTES_MIN {
            return Err(Error::Invalid(format!(
                "Kafka's topic '{name}' has max.message.bytes={record_bytes_max}, a stream needs at least {RECORD_BYTES_MIN}"
            )));
        }
        self.check_read(name).await?;
        Ok(Some(Found {
            partitions,
            record_bytes_max,
        }))
    }

    /// Fails where this user may not read the topic.
    pub async fn check_read(&self, name: &str) -> Result<()> {
        let (connection, topic) = (self.connection.clone(), name.to_owned());
        blocking(move || may_read(&connection, &topic)).await
    }
}

fn partitions(connection: &Connection, name: &str) -> Result<Option<u32>> {
    let metadata = connection.consumer()?.fetch_metadata(Some(name), ANSWER_TIME_MAX)?;
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
        return Ok(None);
    };
    match topic.error().map(RDKafkaErrorCode::from) {
        None => Ok(u32::try_from(topic.partitions().len()).ok()),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        Some(code) => Err(on_topic(name, "Describe", code)),
    }
}

/// Whether this user may read the topic. Returns as soon as the cluster has said so; without an answer, somebody else will say why.
fn may_read(connection: &Connection, name: &str) -> Result<()> {
    let consumer = connection.consumer()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(name, 0, KafkaOffset::End)?;
    consumer.assign(&list)?;
    let polls = ANSWER_TIME_MAX.as_millis() / POLL_TIME.as_millis();
    for _ in 0..polls {
        match consumer.poll(POLL_TIME) {
            None => {}
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(code @ RDKafkaErrorCode::TopicAuthorizationFailed) => return Err(on_topic(name, "Read", code)),
                _ => tracing::debug!(%error, topic = name, "looking whether it can be read"),
            },
        }
    }
    Ok(())
}
