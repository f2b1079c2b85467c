//! The definition of a topic as bytes. Shared by the back ends that keep it.

use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::topic::{Cleanup, Events, TopicSpec};

/// The part of it that is JSON; the schema follows as an Arrow IPC stream.
#[derive(Debug, Serialize, Deserialize)]
struct TopicRecord {
    number: u64,
    partitions: u32,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    compact_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    events: Option<Events>,
}

/// `number` is what the back end calls the topic by.
pub(crate) fn encode(spec: &TopicSpec, number: u64) -> Result<Vec<u8>> {
    let (retention_ms, retention_bytes, compact_key) = match &spec.cleanup {
        Cleanup::Delete {
            retention_ms,
            retention_bytes,
        } => (*retention_ms, *retention_bytes, None),
        Cleanup::Compact { key } => (None, None, Some(key.clone())),
    };
    let record = TopicRecord {
        number,
        partitions: spec.partitions,
        retention_ms,
        retention_bytes,
        compact_key,
        events: spec.events.clone(),
    };
    let json = serde_json::to_vec(&record).map_err(|error| Error::Storage(error.to_string()))?;
    let mut bytes = (json.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&json);
    StreamWriter::try_new(&mut bytes, &spec.schema)?.finish()?;
    Ok(bytes)
}

pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<(u64, TopicSpec)> {
    let unreadable = |what: &str| Error::Storage(format!("the definition of topic '{name}' is unreadable: {what}"));
    let (length, rest) = bytes.split_at_checked(4).ok_or_else(|| unreadable("too short"))?;
    let json_bytes = u32::from_be_bytes(length.try_into().map_err(|_| unreadable("too short"))?) as usize;
    let (json, schema) = rest
        .split_at_checked(json_bytes)
        .ok_or_else(|| unreadable("too short"))?;
    let record: TopicRecord = serde_json::from_slice(json).map_err(|error| unreadable(&error.to_string()))?;
    let schema: SchemaRef = StreamReader::try_new(schema, None)?.schema();
    let cleanup = match record.compact_key {
        Some(key) => Cleanup::Compact { key },
        None => Cleanup::Delete {
            retention_ms: record.retention_ms,
            retention_bytes: record.retention_bytes,
        },
    };
    let spec = TopicSpec {
        name: name.to_owned(),
        schema,
        partitions: record.partitions,
        cleanup,
        events: record.events,
    };
    Ok((record.number, spec))
}
