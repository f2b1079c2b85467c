//! The configuration: every number of the server that somebody may want to change, and its default.
//!
//! A value comes from the last of these that names it: the default here, the file
//! (`headwater.toml`), the environment (`HEADWATER_SECTION__KEY`), `--set section.key=value`. A key
//! that nobody knows is an error with its place and the key that was probably meant. A string may
//! refer to `${env:NAME}` or `${file:/path}`; messages show the reference, never what it stands for.
//!
//! [`Config`] is what it comes to, [`keys`] the table of all keys, [`layers`] where values come
//! from, [`memory`] how the memory limit is shared out, [`units`] how sizes and times are written.

pub mod keys;
pub mod layers;
pub mod memory;
pub mod units;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use headwater_connect::reference;
use headwater_log::kafka::connection::Security;
use headwater_telemetry::logs::Format;

use crate::cluster::roles::Roles;
use crate::config::layers::Layers;

/// What the server is told. Checked: whatever stands here can be used as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub data: DataConfig,
    pub http: HttpConfig,
    pub postgres: PostgresConfig,
    pub grpc: GrpcConfig,
    pub query: QueryConfig,
    pub memory: MemoryConfig,
    pub log: LogConfig,
    pub cluster: ClusterConfig,
    pub files: FilesConfig,
    pub engine: EngineConfig,
    pub telemetry: TelemetryConfig,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DataConfig {
    /// Where everything durable is. Made when it isn't there.
    pub directory: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpConfig {
    /// `None` is `"off"`.
    pub listen: Option<SocketAddr>,
    /// The largest body, as it comes and after decompression.
    pub request_bytes_max: u64,
    /// How long a client may take for a body.
    pub body_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PostgresConfig {
    /// `None` is `"off"`.
    pub listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GrpcConfig {
    /// `None` is `"off"`.
    pub listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct QueryConfig {
    /// Where the query servers are that answer in this one's place, each `host:port`; `None` is this one.
    pub upstream: Option<Vec<String>>,
    /// How long they may take until an answer begins.
    pub upstream_timeout: Duration,
    /// How long a question waits until what its client has stored is in what it reads.
    pub min_offset_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MemoryConfig {
    /// For the whole process; [`memory::split`] says who gets how much of it.
    pub limit: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// Appends are refused when less than this is free on the disk.
    pub disk_free_min: u64,
    /// How often events that are past their retention are looked for.
    pub retention_sweep: Duration,
    pub backend: Backend,
    /// Each `host:port`.
    pub brokers: Vec<String>,
    /// What the names of all topics on Kafka begin with.
    pub prefix: String,
    /// Copies of each partition on Kafka; `None` is as many as the brokers say.
    pub replication: Option<u16>,
    pub security: Security,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// What this process does of what there is to do.
    pub roles: Roles,
    /// Where other processes reach its HTTP door, as a host and a port; `None` is where it listens.
    pub address: Option<String>,
    /// A process that the others have not heard of for so long is taken for gone.
    pub session: Duration,
}

/// Where the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In the data directory.
    Embedded,
    Kafka,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FilesConfig {
    /// The one folder that file sources and sinks may read and write; `None` is any.
    pub directory: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Threads that continuous queries run on.
    pub threads: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryConfig {
    pub log_format: Format,
    /// As in `RUST_LOG`: `info`, or `warn,headwater_engine=debug`.
    pub log_level: String,
}

/// What is wrong with the configuration, on one line: where, what, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub place: String,
    pub message: String,
}

impl Config {
    /// The defaults with all layers applied, in their order.
    pub fn load(layers: &Layers) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for setting in layers.settings()? {
            let variable = |name: &str| {
                let found = layers.environment.iter().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone())
            };
            let resolved = reference::resolve(&setting.text, variable);
            let set = resolved.and_then(|text| (setting.key.set)(&mut config, &text));
            set.map_err(|message| ConfigError {
                place: setting.place,
                message: format!("{} = '{}': {message}", setting.key.name, setting.text),
            })?;
        }
        config.check()?;
        Ok(config)
    }

    /// What no key can tell by itself.
    fn check(&self) -> Result<(), ConfigError> {
        if self.log.backend == Backend::Embedded && self.cluster.roles != Roles::all() {
            return Err(ConfigError {
                place: "cluster.roles".to_owned(),
                message: format!(
                    "a process that is {} alone shares its log with others: set log.backend = \"kafka\"",
                    self.cluster.roles
                ),
            });
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: DataConfig {
                directory: PathBuf::from("data"),
            },
            http: HttpConfig {
                listen: Some(loopback(8080)),
                request_bytes_max: 16 << 20,
                body_timeout: Duration::from_secs(30),
            },
            postgres: PostgresConfig {
                listen: Some(loopback(5433)),
            },
            grpc: GrpcConfig {
                listen: Some(loopback(50051)),
            },
            query: QueryConfig {
                upstream: None,
                upstream_timeout: Duration::from_secs(10),
                min_offset_timeout: Duration::from_secs(5),
            },
            memory: MemoryConfig {
                limit: memory::of_machine() / 2,
            },
            log: LogConfig {
                disk_free_min: 256 << 20,
                retention_sweep: Duration::from_secs(60),
                backend: Backend::Embedded,
                brokers: vec!["localhost:9092".to_owned()],
                prefix: "headwater".to_owned(),
                replication: None,
                security: Security::default(),
            },
            cluster: ClusterConfig {
                roles: Roles::all(),
                address: None,
                session: Duration::from_secs(10),
            },
            files: FilesConfig { directory: None },
            engine: EngineConfig {
                threads: std::thread::available_parallelism().map_or(1, usize::from),
            },
            telemetry: TelemetryConfig {
                log_format: Format::Text,
                log_level: "info".to_owned(),
            },
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Doors are shut to other machines unless somebody opens them.
fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests;
