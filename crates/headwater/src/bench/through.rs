//! The log that a benchmark runs on.

use std::sync::Arc;

use clap::ValueEnum;
use headwater_log::Log;
use headwater_log::embedded::EmbeddedLog;
use headwater_log::kafka::KafkaLog;
use headwater_log::memory::MemoryLog;

use crate::bench::{Bench, Failure};
use crate::config::Config;
use crate::storage::{embedded_options, kafka_options};

/// Where events and results are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Through {
    /// On disk
    Log,
    /// In memory, not encoded
    Memory,
    /// On the cluster of --brokers
    Kafka,
}

impl Through {
    /// What is measured where nothing else is said.
    pub const USUAL: [Self; 2] = [Self::Log, Self::Memory];

    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Memory => "memory",
            Self::Kafka => "kafka",
        }
    }

    pub fn open(self, bench: &Bench, config: &Config) -> Result<Arc<dyn Log>, Failure> {
        let clock = Arc::clone(&bench.clock);
        Ok(match self {
            Self::Log => EmbeddedLog::open(embedded_options(config), clock)?,
            Self::Memory => MemoryLog::new(clock),
            Self::Kafka => {
                let mut options = kafka_options(config);
                options.brokers.clone_from(&bench.brokers);
                options.prefix = format!("headwater-bench-{}-{}", std::process::id(), clock.now());
                KafkaLog::open(options, clock)?
            }
        })
    }

    /// Leaves nothing behind on a cluster that others use.
    pub async fn clear(self, log: &dyn Log) -> Result<(), Failure> {
        if self == Self::Kafka {
            for topic in log.topics().await? {
                log.delete_topic(&topic.spec.name).await?;
            }
            for table in log.state_tables().await? {
                log.delete_state(&table).await?;
            }
        }
        Ok(())
    }
}
