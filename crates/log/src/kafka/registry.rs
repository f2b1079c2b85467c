//! Which topics and state tables there are: the sum of what was ever made and deleted, in the order in which the cluster has it. So two processes
//! that make the same topic differently agree on who was first.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kafka::names::Names;
use crate::topic::{TopicSpec, reconcile, stored};

/// One thing that happened. It is the key of its record, as JSON, and a topic's definition the value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", content = "name", rename_all = "snake_case")]
pub(super) enum Event {
    TopicMade(String),
    TopicDeleted(String),
    TableMade(String),
    TableDeleted(String),
    /// A process begins, and wants to know all that was before.
    Opened(String),
}

#[derive(Debug)]
pub(super) struct Registry {
    names: Names,
    pub topics: BTreeMap<Arc<str>, Arc<KnownTopic>>,
    pub tables: BTreeMap<Arc<str>, Arc<KnownTable>>,
}

#[derive(Debug)]
pub(super) struct KnownTopic {
    /// Where its making stands: no two topics have the same, whatever their names.
    pub id: i64,
    /// Its name on the cluster.
    pub kafka: Arc<str>,
    pub spec: TopicSpec,
}

#[derive(Debug)]
pub(super) struct KnownTable {
    /// Its name on the cluster.
    pub kafka: Arc<str>,
    /// The name of this process's copy. No two tables have the same, whatever their names.
    pub copy: Arc<str>,
}

impl Registry {
    pub fn new(names: Names) -> Self {
        Self {
            names,
            topics: BTreeMap::new(),
            tables: BTreeMap::new(),
        }
    }

    /// Takes in what happened at `offset`. What contradicts an earlier event is left out, here as in every other process.
    /// The answer is the table that is there no longer.
    pub fn apply(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) -> Result<Option<Arc<KnownTable>>> {
        let unreadable =
            |error: serde_json::Error| Error::Kafka(format!("record {offset} of the topics is unreadable: {error}"));
        match serde_json::from_slice(key).map_err(unreadable)? {
            Event::TopicMade(name) => {
                let (_, spec) = stored::decode(&name, value.unwrap_or_default())?;
                let there = self.topics.get(name.as_str());
                let id = there.map_or(offset, |there| there.id);
                let spec = match there {
                    Some(there) => reconcile(&there.spec, spec).unwrap_or_else(|_| there.spec.clone()),
                    None => spec,
                };
                let kafka = self.names.topic(&name).into();
                self.topics
                    .insert(name.into(), Arc::new(KnownTopic { id, kafka, spec }));
            }
            Event::TopicDeleted(name) => {
                self.topics.remove(name.as_str());
            }
            Event::TableMade(name) => {
                self.tables.entry(name.as_str().into()).or_insert_with(|| {
                    let kafka = self.names.table(&name).into();
                    let copy = format!("{name}#{offset}").into();
                    Arc::new(KnownTable { kafka, copy })
                });
            }
            Event::TableDeleted(name) => return Ok(self.tables.remove(name.as_str())),
            Event::Opened(_) => {}
        }
        Ok(None)
    }
}

impl Event {
    pub fn key(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::Kafka(error.to_string()))
    }
}
