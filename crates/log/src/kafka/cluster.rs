//! Topics as the cluster has them: made, changed, trimmed, deleted.

pub(super) mod bound;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use crate::error::{Error, Result};
use crate::kafka::connection::{ANSWER_TIME_MAX, Connection, Consumer, RECORD_BYTES_MAX};
use crate::kafka::context::Context;
use crate::kafka::getting_in;
use crate::kafka::options::KafkaOptions;
use crate::kafka::rights::on_topic;
use crate::topic::Cleanup;

/// How long it can be seen that a key was removed. Who follows a compacted topic and was away for longer misses it.
const REMOVED_KEYS_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// How often to look whether a topic that was made or deleted is known to be so.
const KNOWN_POLL_TIME: Duration = Duration::from_millis(5);
const KNOWN_POLLS_MAX: usize = 400;

#[derive(Clone)]
pub(super) struct Cluster {
    pub connection: Connection,
    /// For questions.
    pub asking: Arc<Consumer>,
    /// For those about what is not decided yet, too.
    pub asking_for_all: Arc<Consumer>,
    admin: Arc<AdminClient<Context>>,
    replication: i32,
}

impl Cluster {
    /// Blocks until the cluster has answered.
    pub fn open(options: &KafkaOptions) -> Result<Self> {
        let connection = Connection::new(&options.brokers, &options.prefix, &options.security);
        let (asking, admin) = (Arc::new(connection.reach()?), Arc::new(connection.admin()?));
        let asking_for_all = Arc::new(connection.everything()?);
        getting_in::keep(&connection, [&asking, &asking_for_all], &admin)?;
        Ok(Self {
            asking,
            asking_for_all,
            admin,
            connection,
            replication: options.replication.map_or(-1, i32::from),
        })
    }

    /// What it calls itself, if it does.
    pub async fn id(&self) -> Result<Option<String>> {
        let asking = self.asking.clone();
        blocking(move || Ok(asking.client().fetch_cluster_id(ANSWER_TIME_MAX))).await
    }

    /// Makes the topic; false where the cluster has it already.
    pub async fn create_topic(&self, name: &str, partitions: u32, cleanup: &Cleanup) -> Result<bool> {
        let properties = properties(cleanup);
        let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(self.replication));
        for (key, value) in &properties {
            topic = topic.set(key, value);
        }
        let created = self.admin.create_topics([&topic], &answered()).await?;
        match created.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
            Some(Err((name, code))) => Err(on_topic(&name, "Create", code)),
            Some(Ok(_)) | None => {
                // A client that asks for it too early looks again only a second later.
                self.until_known(name, true).await?;
                Ok(true)
            }
        }
    }

    /// Takes over what retention has become.
    pub async fn alter_topic(&self, name: &str, cleanup: &Cleanup) -> Result<()> {
        let properties = properties(cleanup);
        let mut altered = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (key, value) in &properties {
            altered = altered.set(key, value);
        }
        let answers = self.admin.alter_configs([&altered], &answered()).await?;
        match answers.into_iter().next() {
            Some(Err((_, code))) => Err(on_topic(name, "AlterConfigs", code)),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// Deletes the topic and waits until it is gone.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let answers = self.admin.delete_topics(&[name], &answered()).await?;
        match answers.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::UnknownTopicOrPartition))) | Some(Ok(_)) | None => {}
            Some(Err((_, code))) => return Err(on_topic(name, "Delete", code)),
        }
        self.until_known(name, false).await
    }

    /// Waits until the topic is known to be there, or not to be, for a while.
    async fn until_known(&self, name: &str, there: bool) -> Result<()> {
        for _ in 0..KNOWN_POLLS_MAX {
            if self.exists(name).await? == there {
                break;
            }
            pause(KNOWN_POLL_TIME).await;
        }
        Ok(())
    }

    /// Removes the records before this one.
    pub async fn delete_records(&self, topic: &str, partition: u32, before: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition as i32, KafkaOffset::Offset(before))?;
        let answers = self.admin.delete_records(&list, &answered()).await?;
        for element in answers.elements() {
            match element.error() {
                // Somebody has deleted more already.
                Ok(()) | Err(KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetOutOfRange)) => {}
                Err(KafkaError::OffsetFetch(code)) => return Err(on_topic(topic, "Delete", code)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether the cluster has the topic.
    async fn exists(&self, name: &str) -> Result<bool> {
        let (asking, name) = (self.asking.clone(), name.to_owned());
        blocking(move || {
            let metadata = asking.fetch_metadata(Some(&name), ANSWER_TIME_MAX)?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            Ok(topic.is_some_and(|topic| topic.error().is_none()))
        })
        .await
    }
}

fn answered() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWER_TIME_MAX))
        .operation_timeout(Some(ANSWER_TIME_MAX))
}

/// What Kafka calls it. All properties each time: those that are left out of a change go back to the brokers' defaults.
fn properties(cleanup: &Cleanup) -> BTreeMap<&'static str, String> {
    let for_ever = || "-1".to_owned();
    let mut properties = BTreeMap::from([
        ("max.message.bytes", RECORD_BYTES_MAX.to_string()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        // Times are those of our clock, whatever the brokers' says.
        ("message.timestamp.after.max.ms", i64::MAX.to_string()),
        ("message.timestamp.before.max.ms", i64::MAX.to_string()),
    ]);
    match cleanup {
        Cleanup::Delete {
            retention_ms,
            retention_bytes,
        } => {
            let or_for_ever = |limit: &Option<u64>| limit.map_or_else(for_ever, |limit| limit.to_string());
            properties.insert("cleanup.policy", "delete".to_owned());
            properties.insert("retention.ms", or_for_ever(retention_ms));
            properties.insert("retention.bytes", or_for_ever(retention_bytes));
        }
        Cleanup::Compact { .. } => {
            properties.insert("cleanup.policy", "compact".to_owned());
            properties.insert("delete.retention.ms", REMOVED_KEYS_MS.to_string());
        }
    }
    properties
}

/// Runs what blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::Kafka(error.to_string())),
    }
}

/// The cluster goes by real time, whatever our clock says.
#[allow(clippy::disallowed_methods, reason = "see above")]
pub(super) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

impl From<KafkaError> for Error {
    fn from(error: KafkaError) -> Self {
        let unreachable = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::Resolve
            )
        );
        Self::Kafka(match unreachable {
            true => format!("no broker answers ({error}); is the address right, and Kafka running?"),
            false => error.to_string(),
        })
    }
}
