//! What the log on Kafka is given: the cluster, the names of its topics there, and this process's own directory.

use crate::embedded::options::EmbeddedOptions;
use crate::kafka::connection::Security;

/// Where the cluster is, and what may be used of this machine.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// `host:port`, several with commas.
    pub brokers: String,
    /// What the names of all topics, groups and transactional ids begin with: 1 to 60 of `a-z A-Z 0-9 . -`.
    /// Logs with different prefixes on one cluster know nothing of each other.
    pub prefix: String,
    /// Copies of each partition; `None` is the brokers' own default.
    pub replication: Option<u16>,
    /// How to get in.
    pub security: Security,
    /// The copies that this process has of state tables. Everything in it comes from Kafka and can be made again, and is where it is
    /// damaged. What would be the tail cache is for what readers fetch ahead.
    pub copies: EmbeddedOptions,
}

impl KafkaOptions {
    /// Without security.
    pub fn new(brokers: impl Into<String>, prefix: impl Into<String>, copies: EmbeddedOptions) -> Self {
        Self {
            brokers: brokers.into(),
            prefix: prefix.into(),
            replication: None,
            security: Security::default(),
            copies,
        }
    }
}
