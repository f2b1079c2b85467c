//! Which topics and state tables there are: the sum of what was ever made and deleted, in the order in which the cluster has it. So two processes
//! that make the same topic differently agree on who was first.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_event::offset::Offset;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kafka::events::{self, EventRecords};
use crate::kafka::names::Names;
use crate::kafka::records;
use crate::topic::{Topic, TopicSpec, reconcile, stored};

/// One thing that happened. It is the key of its record, as JSON, and a topic's definition the value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", content = "name", rename_all = "snake_case")]
pub(super) enum Event {
    TopicMade(String),
    /// The topic was there on the cluster: somebody else has made it.
    TopicBound(String),
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
    /// Whether it was made for us, so that it goes with us.
    pub is_ours: bool,
    /// For a topic with a record for each event.
    pub events: Option<EventRecords>,
}

impl KnownTopic {
    /// The offset of a record's first row.
    pub fn base_of(&self, record: i64) -> Offset {
        match self.events {
            Some(_) => events::offset_of(record),
            None => records::base_of(record),
        }
    }

    pub fn describe(&self) -> Topic {
        Topic {
            spec: self.spec.clone(),
            bytes: 0,
            known_as: self.events.as_ref().map(|_| self.kafka.to_string()),
        }
    }

    /// The record that has the row.
    pub fn record_of(&self, offset: Offset) -> i64 {
        match self.events {
            Some(_) => i64::try_from(offset).unwrap_or(i64::MAX),
            None => records::record_of(offset),
        }
    }

    /// Whether others write to it too.
    pub fn is_bound(&self) -> bool {
        self.events.as_ref().is_some_and(EventRecords::is_bound)
    }
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

    /// All that are this topic on the cluster: more than one where streams are bound to the same.
    pub fn sharing<'a>(&'a self, kafka: &'a str) -> impl Iterator<Item = &'a Arc<KnownTopic>> {
        self.topics.values().filter(move |known| *known.kafka == *kafka)
    }

    /// Takes in what happened at `offset`. What contradicts an earlier event is left out, here as in every other process.
    /// The answer is the table that is there no longer.
    pub fn apply(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) -> Result<Option<Arc<KnownTable>>> {
        let unreadable =
            |error: serde_json::Error| Error::Kafka(format!("record {offset} of the topics is unreadable: {error}"));
        let event = serde_json::from_slice(key).map_err(unreadable)?;
        let is_made = matches!(event, Event::TopicMade(_));
        match event {
            Event::TopicMade(name) | Event::TopicBound(name) => {
                let (_, spec) = stored::decode(&name, value.unwrap_or_default())?;
                let there = self.topics.get(name.as_str());
                let id = there.map_or(offset, |there| there.id);
                let spec = match there {
                    Some(there) => reconcile(&there.spec, spec).unwrap_or_else(|_| there.spec.clone()),
                    None => spec,
                };
                let kafka: Arc<str> = self.names.of(&spec).into();
                // Of two that make it at once one has; of what is bound twice, the first.
                let is_ours = is_made || self.sharing(&kafka).any(|known| known.is_ours);
                let events = EventRecords::of(&spec, &kafka);
                let known = KnownTopic {
                    id,
                    kafka,
                    spec,
                    is_ours,
                    events,
                };
                self.topics.insert(name.into(), Arc::new(known));
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
