//! The table of all keys: name, what it is for, how its text becomes a value.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use headwater_catalog::snapshot::edits;
use headwater_telemetry::logs::Format;

use crate::cluster::roles::Roles;
use crate::config::units::{bytes, duration};
use crate::config::{Backend, Config};

/// Shorter ones would take slow processes for dead ones.
const SESSION_MIN: Duration = Duration::from_secs(1);

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub about: &'static str,
    pub set: fn(&mut Config, &str) -> Result<(), String>,
}

/// Every key there is.
pub const KEYS: &[Key] = &[
    Key {
        name: "data.directory",
        about: "where everything durable is",
        set: |config, text| {
            config.data.directory = directory(text)?;
            Ok(())
        },
    },
    Key {
        name: "http.listen",
        about: "the HTTP door, 'address:port' or 'off'",
        set: |config, text| {
            config.http.listen = listen(text)?;
            Ok(())
        },
    },
    Key {
        name: "http.request_bytes_max",
        about: "the largest body, as it comes and after decompression",
        set: |config, text| {
            config.http.request_bytes_max = at_least(bytes(text)?, 1 << 10, "1 KiB")?;
            Ok(())
        },
    },
    Key {
        name: "http.body_timeout",
        about: "how long a client may take for a body",
        set: |config, text| {
            config.http.body_timeout = duration(text)?;
            Ok(())
        },
    },
    Key {
        name: "postgres.listen",
        about: "the Postgres door, 'address:port' or 'off'",
        set: |config, text| {
            config.postgres.listen = listen(text)?;
            Ok(())
        },
    },
    Key {
        name: "grpc.listen",
        about: "the gRPC door, 'address:port' or 'off'",
        set: |config, text| {
            config.grpc.listen = listen(text)?;
            Ok(())
        },
    },
    Key {
        name: "query.upstream",
        about: "query servers that answer in this one's place: 'grpc://host:port', several with commas, or 'off'",
        set: |config, text| {
            config.query.upstream = upstream(text)?;
            Ok(())
        },
    },
    Key {
        name: "query.upstream_timeout",
        about: "how long they may take until an answer begins",
        set: |config, text| {
            config.query.upstream_timeout = duration(text)?;
            Ok(())
        },
    },
    Key {
        name: "query.min_offset_timeout",
        about: "how long a question waits until what its client has stored is in what it reads",
        set: |config, text| {
            config.query.min_offset_timeout = duration(text)?;
            Ok(())
        },
    },
    Key {
        name: "memory.limit",
        about: "for the whole process; half of the machine's unless given",
        set: |config, text| {
            config.memory.limit = at_least(bytes(text)?, 256 << 20, "256 MiB")?;
            Ok(())
        },
    },
    Key {
        name: "log.disk_free_min",
        about: "appends are refused when less than this is free on the disk",
        set: |config, text| {
            config.log.disk_free_min = bytes(text)?;
            Ok(())
        },
    },
    Key {
        name: "log.retention_sweep",
        about: "how often events past their retention are looked for",
        set: |config, text| {
            config.log.retention_sweep = duration(text)?;
            Ok(())
        },
    },
    Key {
        name: "log.backend",
        about: "'embedded', in the data directory, or 'kafka', on a cluster",
        set: |config, text| {
            config.log.backend = match text {
                "embedded" => Backend::Embedded,
                "kafka" => Backend::Kafka,
                _ => return Err("expected 'embedded' or 'kafka'".to_owned()),
            };
            Ok(())
        },
    },
    Key {
        name: "log.brokers",
        about: "where Kafka is: 'host:port', several with commas",
        set: |config, text| {
            config.log.brokers = brokers(text)?;
            Ok(())
        },
    },
    Key {
        name: "log.prefix",
        about: "what the names of all topics on Kafka begin with; servers with the same one share everything",
        set: |config, text| {
            config.log.prefix = text.to_owned();
            Ok(())
        },
    },
    Key {
        name: "log.replication",
        about: "copies of each partition on Kafka; as many as the brokers say unless given",
        set: |config, text| {
            let copies = text.parse().ok().filter(|copies| *copies > 0);
            config.log.replication = Some(copies.ok_or("expected a number from 1 on")?);
            Ok(())
        },
    },
    Key {
        name: "log.security",
        about: "how Kafka is spoken to: 'plaintext', 'ssl', 'sasl_plaintext' or 'sasl_ssl'",
        set: |config, text| {
            security(
                config,
                "security.protocol",
                text,
                &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"],
            )
        },
    },
    Key {
        name: "log.tls_ca",
        about: "file of the certificates that Kafka's is checked against; the system's unless given",
        set: |config, text| security(config, "ssl.ca.location", text, &[]),
    },
    Key {
        name: "log.tls_certificate",
        about: "file of this server's certificate, where Kafka asks for one",
        set: |config, text| security(config, "ssl.certificate.location", text, &[]),
    },
    Key {
        name: "log.tls_key",
        about: "file of this server's key",
        set: |config, text| security(config, "ssl.key.location", text, &[]),
    },
    Key {
        name: "log.sasl_mechanism",
        about: "'PLAIN', 'SCRAM-SHA-256', 'SCRAM-SHA-512' or 'OAUTHBEARER'",
        set: |config, text| {
            security(
                config,
                "sasl.mechanism",
                text,
                &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"],
            )
        },
    },
    Key {
        name: "log.sasl_user",
        about: "who this server is to Kafka",
        set: |config, text| security(config, "sasl.username", text, &[]),
    },
    Key {
        name: "log.sasl_password",
        about: "its password; better a reference, such as ${env:KAFKA_PASSWORD}",
        set: |config, text| security(config, "sasl.password", text, &[]),
    },
    Key {
        name: "log.sasl_token_file",
        about: "file of its token, for OAUTHBEARER; read again before the token expires",
        set: |config, text| security(config, "sasl.oauthbearer.config", text, &[]),
    },
    Key {
        name: "cluster.roles",
        about: "what this process does, with commas: gateway, processor, query, sinks; all unless given",
        set: |config, text| {
            config.cluster.roles = Roles::parse(text)?;
            Ok(())
        },
    },
    Key {
        name: "cluster.address",
        about: "'host:port' where other processes reach this one's HTTP door; http.listen unless given",
        set: |config, text| {
            match <[String; 1]>::try_from(brokers(text)?) {
                Ok([address]) => config.cluster.address = Some(address),
                Err(_) => return Err("expected one 'host:port'".to_owned()),
            }
            Ok(())
        },
    },
    Key {
        name: "cluster.session",
        about: "a process that the others have not heard of for so long is taken for gone",
        set: |config, text| {
            let session = duration(text)?;
            if session < SESSION_MIN {
                return Err("expected at least 1 second".to_owned());
            }
            config.cluster.session = session;
            Ok(())
        },
    },
    Key {
        name: "files.directory",
        about: "the folder that file sources and sinks may use; any unless given",
        set: |config, text| {
            config.files.directory = Some(directory(text)?);
            Ok(())
        },
    },
    Key {
        name: "engine.threads",
        about: "threads that continuous queries run on; one for each core unless given",
        set: |config, text| {
            config.engine.threads = threads(text)?;
            Ok(())
        },
    },
    Key {
        name: "telemetry.log_format",
        about: "log lines for people ('text') or for programs ('json')",
        set: |config, text| {
            config.telemetry.log_format = log_format(text)?;
            Ok(())
        },
    },
    Key {
        name: "telemetry.log_level",
        about: "error, warn, info, debug or trace, or as in RUST_LOG",
        set: |config, text| {
            config.telemetry.log_level = text.to_owned();
            Ok(())
        },
    },
];

/// Names that a reader of the documentation may try, which this version does not have.
const LATER: &[(&str, &str)] = &[
    ("mqtt", "MQTT is not there yet: leave it out"),
    ("roles", "the key is cluster.roles"),
    ("kafka", "the log's keys are in [log]: log.backend, log.brokers"),
];

/// The key of that name, or why there is none.
pub fn find(name: &str) -> Result<&'static Key, String> {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Ok(key);
    }
    let section = name.split('.').next().unwrap_or(name);
    if let Some((_, why)) = LATER.iter().find(|(later, _)| *later == section) {
        return Err(format!("'{name}': {why}"));
    }
    let hint = match nearest(name) {
        Some(key) => format!("did you mean '{key}'?"),
        None => {
            let names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
            format!("there are {}", names.join(", "))
        }
    };
    Err(format!("unknown key '{name}'; {hint}"))
}

/// The key that `name` is probably a misspelling of.
fn nearest(name: &str) -> Option<&'static str> {
    let candidates = KEYS.iter().map(|key| {
        let tail = key.name.split_once('.').map_or(key.name, |(_, tail)| tail);
        let whole = edits(name, key.name);
        // Somebody may know the key and not its section.
        let tail_alone = edits(name.rsplit('.').next().unwrap_or(name), tail) + 1;
        (whole.min(tail_alone), key.name)
    });
    let (distance, key) = candidates.min()?;
    (distance <= 1 + name.len() / 4).then_some(key)
}

fn listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let found = text.to_socket_addrs().ok().and_then(|mut all| {
        let all: Vec<_> = all.by_ref().collect();
        all.iter().find(|address| address.is_ipv4()).or(all.first()).copied()
    });
    match found {
        Some(address) => Ok(Some(address)),
        None => Err("expected 'address:port', such as '127.0.0.1:8080', or 'off'".to_owned()),
    }
}

fn brokers(text: &str) -> Result<Vec<String>, String> {
    let brokers: Vec<_> = text.split(',').map(|broker| broker.trim().to_owned()).collect();
    match brokers.iter().all(|broker| with_port(broker)) {
        true => Ok(brokers),
        false => Err("expected 'host:port', several with commas".to_owned()),
    }
}

fn with_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn upstream(text: &str) -> Result<Option<Vec<String>>, String> {
    if text == "off" {
        return Ok(None);
    }
    let urls = text.split(',').map(|url| url.trim().strip_prefix("grpc://"));
    let addresses = urls.map(|address| address.filter(|address| with_port(address)).map(str::to_owned));
    let addresses: Option<Vec<String>> = addresses.collect();
    match addresses {
        Some(addresses) => Ok(Some(addresses)),
        None => Err("expected 'grpc://host:port', several with commas, or 'off'".to_owned()),
    }
}

/// Notes a property of librdkafka. `known` has the values that there are, if not any.
fn security(config: &mut Config, property: &str, text: &str, known: &[&str]) -> Result<(), String> {
    if !known.is_empty() && !known.contains(&text) {
        return Err(format!("expected one of {}", known.join(", ")));
    }
    config.log.security.0.insert(property.to_owned(), text.to_owned());
    Ok(())
}

fn directory(text: &str) -> Result<PathBuf, String> {
    match text.is_empty() {
        true => Err("expected a path".to_owned()),
        false => Ok(PathBuf::from(text)),
    }
}

fn threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=1024).contains(threads));
    threads.ok_or_else(|| "expected a number from 1 to 1024".to_owned())
}

fn log_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("expected 'text' or 'json'".to_owned()),
    }
}

fn at_least(value: u64, least: u64, name: &str) -> Result<u64, String> {
    match value >= least {
        true => Ok(value),
        false => Err(format!("expected at least {name}")),
    }
}
