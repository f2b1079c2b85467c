//! The log that the configuration names.

use std::sync::Arc;
use std::time::Duration;

use headwater_event::clock::Clock;
use headwater_log::Log;
use headwater_log::embedded::EmbeddedLog;
use headwater_log::embedded::options::EmbeddedOptions;
use headwater_log::error::Error;
use headwater_log::kafka::KafkaLog;
use headwater_log::kafka::options::KafkaOptions;
use tracing::{info, warn};

use crate::config::{Backend, Config, memory};
use crate::instance::{StartError, as_size};

/// How long to wait before a cluster that can't be reached is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The log, as what it is: closing it is no matter of those who use it.
pub enum Storage {
    Embedded(Arc<EmbeddedLog>),
    Kafka(Arc<KafkaLog>),
}

impl Storage {
    /// Opens the log. A cluster that can't be reached is waited for.
    pub async fn open(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, StartError> {
        match config.log.backend {
            Backend::Embedded => {
                let (options, clock) = (embedded_options(config), Arc::clone(clock));
                opened(move || EmbeddedLog::open(options, clock))
                    .await?
                    .map(Self::Embedded)
                    .map_err(StartError::Log)
            }
            Backend::Kafka => loop {
                info!(brokers = config.log.brokers.join(","), "opening the log on Kafka");
                let (options, for_log) = (kafka_options(config), Arc::clone(clock));
                match opened(move || KafkaLog::open(options, for_log)).await? {
                    Ok(log) => return Ok(Self::Kafka(log)),
                    Err(error @ Error::Kafka(_)) => {
                        warn!(%error, "the log can't be opened, trying again");
                        clock.sleep(RETRY_AFTER).await;
                    }
                    Err(error) => return Err(error.into()),
                }
            },
        }
    }

    pub fn log(&self) -> Arc<dyn Log> {
        match self {
            Self::Embedded(log) => Arc::clone(log) as _,
            Self::Kafka(log) => Arc::clone(log) as _,
        }
    }

    /// What this process is called among those that may share the log; `None` where none can.
    pub fn process(&self) -> Option<&str> {
        match self {
            Self::Embedded(_) => None,
            Self::Kafka(log) => Some(log.process()),
        }
    }

    /// Writes what is waiting and closes. Blocks until it is done.
    pub fn close(&self) {
        match self {
            Self::Embedded(log) => log.close(),
            Self::Kafka(log) => log.close(),
        }
    }
}

/// Where everything is kept, for people.
pub fn place(config: &Config) -> String {
    match config.log.backend {
        Backend::Embedded => format!("in {}", config.data.directory.display()),
        Backend::Kafka => format!(
            "on Kafka ({}, prefix {})",
            config.log.brokers.join(", "),
            config.log.prefix
        ),
    }
}

/// Reading the store after a crash takes its time, on the disk; and so does the network.
async fn opened<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<Result<T, Error>, StartError> {
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|error| StartError::Parts(format!("opening the log: {error}")))
}

/// The embedded log's share of the configuration.
pub fn embedded_options(config: &Config) -> EmbeddedOptions {
    let share = memory::split(config.memory.limit);
    EmbeddedOptions {
        cache_bytes: share.log_cache,
        write_buffer_bytes: share.write_buffers,
        tail_cache_bytes: as_size(share.tail_cache),
        // What waits there is in the room of the ingest queue, or in that of epochs.
        queue_bytes: as_size(share.ingest_queue),
        disk_free_bytes_min: config.log.disk_free_min,
        sweep_every: config.log.retention_sweep,
        ..EmbeddedOptions::new(&config.data.directory)
    }
}

/// Kafka's. The copies are wiped where they are damaged, so they have a folder of their own, in which no log of another back end ever was.
pub fn kafka_options(config: &Config) -> KafkaOptions {
    let copies = EmbeddedOptions {
        directory: config.data.directory.join("copies"),
        ..embedded_options(config)
    };
    KafkaOptions {
        brokers: config.log.brokers.join(","),
        prefix: config.log.prefix.clone(),
        replication: config.log.replication,
        security: config.log.security.clone(),
        copies,
    }
}
