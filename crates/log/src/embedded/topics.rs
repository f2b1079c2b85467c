//! The topics that the log has open, and what is known in memory of each partition.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use fjall::{AbstractTree, Keyspace, Readable, Snapshot};
use headwater_event::offset::{Offset, TopicPartition};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::embedded::layout::{self, Entry};
use crate::embedded::store::Store;
use crate::embedded::tail::Tail;
use crate::ends::{Ends, Gone};
use crate::error::{Error, Result};
use crate::topic::{Topic, TopicSpec};

/// A topic that is open.
#[derive(Debug)]
pub(super) struct OpenTopic {
    pub number: u64,
    pub schema: SchemaRef,
    pub spec: RwLock<TopicSpec>,
    pub stored: Stored,
    pub partitions: Vec<Arc<Partition>>,
}

/// The keyspaces of a topic.
#[derive(Clone)]
pub(super) struct Stored {
    pub batches: Keyspace,
    pub index: Keyspace,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub name: TopicPartition,
    pub ends: watch::Sender<Ends>,
    pub tail: Tail,
    /// The last batch that was ever written. Only the committer changes it.
    pub last: Mutex<Entry>,
    /// How far compaction has come. Only the sweep uses it.
    pub compacted: Mutex<Compacted>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Compacted {
    /// Everything below has been looked at.
    pub up_to: Offset,
    /// The partition's `bytes_total` when that was done.
    pub bytes_total: u64,
    /// What was left of it.
    pub clean_bytes: u64,
}

/// A state table that is open.
pub(super) struct OpenTable {
    pub name: Arc<str>,
    pub keyspace: Keyspace,
    pub deleted: AtomicBool,
}

impl OpenTopic {
    /// Opens a topic and finds where its partitions begin and end.
    pub fn open(store: &Store, number: u64, spec: TopicSpec) -> Result<Arc<Self>> {
        let stored = store.topic_keyspaces(number)?;
        let snapshot = store.database.snapshot();
        let name: Arc<str> = spec.name.as_str().into();
        let partition = |partition| {
            let name = TopicPartition::new(name.clone(), partition);
            Partition::open(store, &snapshot, number, name, &stored.index)
        };
        let partitions = (0..spec.partitions).map(partition).collect::<Result<_>>()?;
        Ok(Arc::new(Self {
            number,
            schema: spec.schema.clone(),
            spec: RwLock::new(spec),
            stored,
            partitions,
        }))
    }

    pub fn partition(&self, partition: &TopicPartition) -> Result<&Arc<Partition>> {
        self.partitions
            .get(partition.partition as usize)
            .ok_or_else(|| Error::UnknownPartition {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                partitions: self.partitions.len() as u32,
            })
    }

    pub fn describe(&self) -> Topic {
        let bytes = |keyspace: &Keyspace| keyspace.disk_space() + keyspace.tree.active_memtable().size();
        Topic {
            spec: self.spec.read().clone(),
            bytes: bytes(&self.stored.batches) + bytes(&self.stored.index),
            known_as: None,
        }
    }

    /// Tells those who wait that nothing more will come.
    pub fn gone(&self, why: Gone) {
        for partition in &self.partitions {
            partition.ends.send_modify(|ends| ends.gone = ends.gone.or(Some(why)));
        }
    }
}

impl Partition {
    fn open(
        store: &Store,
        snapshot: &Snapshot,
        topic: u64,
        name: TopicPartition,
        index: &Keyspace,
    ) -> Result<Arc<Self>> {
        let mark = snapshot.get(&store.meta, layout::mark_key(topic, name.partition));
        let mark = mark.map_err(|error| store.error(error))?;
        let mark = mark
            .map(|bytes| Entry::from_bytes(&bytes))
            .transpose()?
            .unwrap_or_default();
        let prefix = name.partition.to_be_bytes();
        let first = snapshot
            .prefix(index, prefix)
            .next()
            .map(|guard| store.index_entry(guard))
            .transpose()?;
        let last = snapshot
            .prefix(index, prefix)
            .next_back()
            .map(|guard| store.index_entry(guard))
            .transpose()?;
        // A sweep may have removed the last batch: then its mark is what is left of it.
        let last = last.map_or(mark, |(_, entry)| if entry.next >= mark.next { entry } else { mark });
        let start = first.map_or(last.next, |(base, _)| base);
        Ok(Arc::new(Self {
            name,
            ends: Ends::new(start, last.next),
            tail: Tail::default(),
            last: Mutex::new(last),
            compacted: Mutex::default(),
        }))
    }

    /// Fails where the topic was deleted or the log closed.
    pub fn check(&self) -> Result<Ends> {
        let ends = *self.ends.borrow();
        ends.check(&self.name)?;
        Ok(ends)
    }
}

impl OpenTable {
    pub fn check(&self) -> Result<()> {
        if self.deleted.load(Ordering::Acquire) {
            return Err(Error::Invalid(format!("the state table '{}' was deleted", self.name)));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.batches.name())
    }
}

impl std::fmt::Debug for OpenTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}
