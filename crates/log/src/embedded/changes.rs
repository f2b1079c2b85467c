//! What the committer does beside writing: topics and state tables come and go, owners claim and
//! release. Each is one small atomic batch, written and synced for itself.
//!
//! Keyspaces come and go outside of the store's batches. So one is made before `meta` speaks of
//! it, and deleted after `meta` has forgotten it; one that a crash left over is deleted at the
//! next start.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fjall::{Keyspace, Readable};
use headwater_event::offset::{Offset, TopicPartition};

use crate::Claim;
use crate::embedded::Shared;
use crate::embedded::committer::Committer;
use crate::embedded::layout::{self, LAST_NUMBER, LAST_TOKEN, OWNER_BYTES_MAX};
use crate::embedded::space::Space;
use crate::embedded::store::Store;
use crate::embedded::topics::{OpenTable, OpenTopic};
use crate::ends::Gone;
use crate::error::{Error, Result};
use crate::topic::{Topic, TopicSpec, reconcile, stored};

impl Committer {
    /// Opens every topic and state table that `meta` speaks of.
    pub fn open(shared: Arc<Shared>, space: Space) -> Result<Self> {
        let store = &shared.store;
        let mut numbers = HashSet::new();
        for (key, value) in store.meta_entries(b"t")? {
            let (number, spec) = stored::decode(&text(&key[1..])?, &value)?;
            numbers.insert(number);
            let topic = OpenTopic::open(store, number, spec)?;
            shared
                .topics
                .write()
                .insert(topic.spec.read().name.as_str().into(), topic.clone());
        }
        for (key, value) in store.meta_entries(b"s")? {
            let number = layout::number(&value);
            numbers.insert(number);
            let table = OpenTable::open(store, &text(&key[1..])?, number)?;
            shared.tables.write().insert(table.name.clone(), table);
        }
        delete_leftovers(store, &numbers)?;
        let mut claims = HashMap::new();
        for (key, value) in store.meta_entries(b"k")? {
            claims.insert(Arc::from(text(&key[1..])?), layout::number(&value));
        }
        Ok(Self {
            claims,
            last_token: store.meta_number(LAST_TOKEN)?,
            last_number: store.meta_number(LAST_NUMBER)?,
            space,
            shared: shared.clone(),
        })
    }

    pub fn create_topic(&mut self, spec: TopicSpec) -> Result<Topic> {
        let store = &self.shared.store;
        let there = self.shared.topics.read().get(spec.name.as_str()).cloned();
        if let Some(there) = there {
            let reconciled = reconcile(&there.spec.read(), spec)?;
            if *there.spec.read() != reconciled {
                let mut batch = store.batch();
                let record = stored::encode(&reconciled, there.number)?;
                batch.insert(&store.meta, layout::topic_key(&reconciled.name), record);
                store.commit(batch)?;
                *there.spec.write() = reconciled;
            }
            return Ok(there.describe());
        }
        self.space.take(0)?;
        let number = self.last_number + 1;
        let record = stored::encode(&spec, number)?;
        let name: Arc<str> = spec.name.as_str().into();
        let topic = OpenTopic::open(store, number, spec)?;
        let mut batch = store.batch();
        batch.insert(&store.meta, LAST_NUMBER, number.to_be_bytes());
        batch.insert(&store.meta, layout::topic_key(&name), record);
        store.commit(batch)?;
        self.last_number = number;
        let described = topic.describe();
        self.shared.topics.write().insert(name, topic);
        Ok(described)
    }

    pub fn delete_topic(&mut self, name: &str) -> Result<()> {
        let store = &self.shared.store;
        let Some(topic) = self.shared.topics.read().get(name).cloned() else {
            return Ok(());
        };
        let mut batch = store.batch();
        batch.remove(&store.meta, layout::topic_key(name));
        for partition in &topic.partitions {
            batch.remove(&store.meta, layout::mark_key(topic.number, partition.name.partition));
        }
        for (key, _) in store.meta_entries(b"c")? {
            if layout::consumed_partition(&key).is_some_and(|partition| &*partition.topic == name) {
                batch.remove(&store.meta, key);
            }
        }
        store.commit(batch)?;
        self.shared.topics.write().remove(name);
        topic.gone(Gone::Deleted);
        for partition in &topic.partitions {
            partition.tail.clear();
        }
        store.delete_keyspace(topic.stored.batches.clone())?;
        store.delete_keyspace(topic.stored.index.clone())
    }

    pub fn open_table(&mut self, name: &str) -> Result<Arc<OpenTable>> {
        if let Some(table) = self.shared.tables.read().get(name) {
            return Ok(table.clone());
        }
        self.space.take(0)?;
        let store = &self.shared.store;
        let number = self.last_number + 1;
        let table = OpenTable::open(store, name, number)?;
        let mut batch = store.batch();
        batch.insert(&store.meta, LAST_NUMBER, number.to_be_bytes());
        batch.insert(&store.meta, layout::state_table_key(name), number.to_be_bytes());
        store.commit(batch)?;
        self.last_number = number;
        self.shared.tables.write().insert(table.name.clone(), table.clone());
        Ok(table)
    }

    pub fn delete_table(&mut self, name: &str) -> Result<()> {
        let store = &self.shared.store;
        let Some(table) = self.shared.tables.read().get(name).cloned() else {
            return Ok(());
        };
        let mut batch = store.batch();
        batch.remove(&store.meta, layout::state_table_key(name));
        store.commit(batch)?;
        self.shared.tables.write().remove(name);
        table.deleted.store(true, Ordering::Release);
        store.delete_keyspace(table.keyspace.clone())
    }

    pub fn claim(&mut self, owner: &str) -> Result<Claim> {
        if owner.len() > OWNER_BYTES_MAX {
            return Err(Error::Invalid(format!(
                "the name of an owner has at most {OWNER_BYTES_MAX} bytes"
            )));
        }
        let store = &self.shared.store;
        let token = self.last_token + 1;
        let mut batch = store.batch();
        batch.insert(&store.meta, LAST_TOKEN, token.to_be_bytes());
        batch.insert(&store.meta, layout::claim_key(owner), token.to_be_bytes());
        store.commit(batch)?;
        self.last_token = token;
        let owner: Arc<str> = owner.into();
        self.claims.insert(owner.clone(), token);
        let consumed = store.consumed(&owner)?;
        Ok(Claim { owner, token, consumed })
    }

    pub fn release(&mut self, owner: &str) -> Result<()> {
        let store = &self.shared.store;
        let mut batch = store.batch();
        batch.remove(&store.meta, layout::claim_key(owner));
        for (key, _) in store.meta_entries(&layout::consumed_prefix(owner))? {
            batch.remove(&store.meta, key);
        }
        store.commit(batch)?;
        self.claims.remove(owner);
        Ok(())
    }
}

impl OpenTable {
    fn open(store: &Store, name: &str, number: u64) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            name: name.into(),
            keyspace: store.table_keyspace(number)?,
            deleted: AtomicBool::new(false),
        }))
    }
}

impl Store {
    /// The entries of `meta` whose key begins with `prefix`.
    /// What the owner has consumed.
    pub fn consumed(&self, owner: &str) -> Result<HashMap<TopicPartition, Offset>> {
        let entries = self.meta_entries(&layout::consumed_prefix(owner))?.into_iter();
        let offset =
            |(key, value): (Vec<u8>, Vec<u8>)| Some((layout::consumed_partition(&key)?, layout::number(&value)));
        Ok(entries.filter_map(offset).collect())
    }

    pub fn meta_entries(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let entries = self.database.snapshot().prefix(&self.meta, prefix).map(|guard| {
            let (key, value) = guard.into_inner().map_err(|error| self.error(error))?;
            Ok((key.to_vec(), value.to_vec()))
        });
        entries.collect()
    }

    fn meta_number(&self, key: &[u8]) -> Result<u64> {
        let value = self.meta.get(key).map_err(|error| self.error(error))?;
        Ok(value.map_or(0, |value| layout::number(&value)))
    }
}

/// A crash between a keyspace and its mention in `meta`, or the other way round, left them over.
fn delete_leftovers(store: &Store, numbers: &HashSet<u64>) -> Result<()> {
    for name in store.database.list_keyspace_names() {
        let known = name
            .get(1..)
            .and_then(|number| number.parse().ok())
            .is_some_and(|number| numbers.contains(&number));
        if &*name != layout::META && !known {
            let keyspace = store.database.keyspace(&name, Default::default);
            let keyspace: Keyspace = keyspace.map_err(|error| store.error(error))?;
            store.delete_keyspace(keyspace)?;
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::Storage("a name in the log's meta data is no text".to_owned()))
}
