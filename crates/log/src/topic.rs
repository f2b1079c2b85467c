//! What a topic is made of.

pub(crate) mod stored;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use headwater_schema::column::EventSchema;
use serde::{Deserialize, Serialize};

use crate::compaction::no_key;
use crate::error::{Error, Result};

pub const TOPIC_NAME_BYTES_MAX: usize = 1024;

/// What to create.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicSpec {
    pub name: String,
    pub schema: SchemaRef,
    /// At least 1.
    pub partitions: u32,
    pub cleanup: Cleanup,
    /// A record for each event, where other programs read along; without it, and on other back ends, rows are kept as the back end likes.
    pub events: Option<Events>,
}

/// The form of a topic that other programs read, and may write: a record for each event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Events {
    pub encoding: Encoding,
    /// What events must look like that others write.
    pub columns: EventSchema,
    /// The columns that are the record's key.
    pub key: Vec<String>,
    /// The column that is the record's time stamp.
    pub time: Option<String>,
    /// The topic is called so there, and others write to it too. Without it nobody else does.
    pub bound: Option<String>,
}

/// What the value of a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// An object.
    #[default]
    Json,
    /// A line, without names.
    Csv,
}

/// A topic that others have made, or may make, as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundTopic {
    pub partitions: u32,
}

/// When rows go away.
#[derive(Clone, Debug, PartialEq)]
pub enum Cleanup {
    /// A batch goes when it is older than `retention_ms`, or when newer batches of its partition
    /// hold `retention_bytes` already. `None` keeps for ever.
    Delete {
        retention_ms: Option<u64>,
        retention_bytes: Option<u64>,
    },
    /// The last row of each value of the key column stays. A row whose other columns are all NULL
    /// removes the key.
    Compact { key: String },
}

/// A topic as it is.
#[derive(Clone, Debug)]
pub struct Topic {
    pub spec: TopicSpec,
    pub bytes: u64,
    /// What other programs know it by, if they can read it.
    pub known_as: Option<String>,
}

/// Fails where no topic can be made of it.
pub(crate) fn check_spec(spec: &TopicSpec) -> Result<()> {
    if spec.name.is_empty() || spec.name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(Error::Invalid(format!(
            "the name of a topic has 1 to {TOPIC_NAME_BYTES_MAX} bytes, '{}' has {}",
            spec.name,
            spec.name.len()
        )));
    }
    if spec.partitions == 0 {
        return Err(Error::Invalid(format!(
            "topic '{}' needs at least one partition",
            spec.name
        )));
    }
    if let Cleanup::Compact { key } = &spec.cleanup
        && spec.schema.index_of(key).is_err()
    {
        return Err(no_key(key));
    }
    if let Some(field) = spec
        .schema
        .flattened_fields()
        .into_iter()
        .find(|field| is_dictionary(field.data_type()))
    {
        return Err(Error::Invalid(format!(
            "topic '{}': the column '{}' is dictionary encoded, which the log doesn't keep",
            spec.name,
            field.name()
        )));
    }
    Ok(())
}

/// Fails where the cleanup alone decides what goes.
pub(crate) fn check_trim(spec: &TopicSpec) -> Result<()> {
    match spec.cleanup {
        Cleanup::Delete { .. } => Ok(()),
        Cleanup::Compact { .. } => Err(Error::Invalid(format!(
            "topic '{}' is compacted, so it can't be trimmed",
            spec.name
        ))),
    }
}

/// What becomes of an existing topic when `wanted` is to be created: retention is taken over, the form of its records stays,
/// anything else that differs is a conflict.
pub(crate) fn reconcile(there: &TopicSpec, mut wanted: TopicSpec) -> Result<TopicSpec> {
    wanted.events.clone_from(&there.events);
    let differs = |what: String| Error::TopicDiffers {
        topic: there.name.clone(),
        what,
    };
    if there.schema.fields() != wanted.schema.fields() {
        return Err(differs(format!("the columns {:?}", column_names(&there.schema))));
    }
    if there.partitions != wanted.partitions {
        return Err(differs(format!("{} partitions", there.partitions)));
    }
    match (&there.cleanup, &wanted.cleanup) {
        (Cleanup::Delete { .. }, Cleanup::Delete { .. }) => Ok(wanted),
        (Cleanup::Compact { key }, Cleanup::Compact { key: wanted_key }) if key == wanted_key => Ok(wanted),
        (Cleanup::Delete { .. }, _) => Err(differs("retention by age and size".to_owned())),
        (Cleanup::Compact { key }, _) => Err(differs(format!("compaction by '{key}'"))),
    }
}

fn is_dictionary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Dictionary(..))
}

fn column_names(schema: &SchemaRef) -> Vec<String> {
    let describe = |field: &Arc<Field>| format!("{} {}", field.name(), field.data_type());
    schema.fields().iter().map(describe).collect()
}
