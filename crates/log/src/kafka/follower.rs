//! What this process knows of the cluster: a thread that reads the registry, the owners' positions and the state tables that are
//! open here, from their beginnings on, and keeps a copy of them.
//!
//! The copies of state tables are tables of an embedded log, committed together with the position behind them: whatever happens to this
//! process, a copy says truly how far it has come, and the rest is read again. Everybody who writes state waits until it has come back
//! this way, so there is one way only for state to come in, whoever wrote it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use headwater_event::offset::{Offset, TopicPartition};
use parking_lot::{Mutex, RwLock};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::embedded::EmbeddedLog;
use crate::error::{Error, Result};
use crate::kafka::connection::{Connection, Consumer};
use crate::kafka::names::Names;
use crate::kafka::registry::{KnownTable, Registry};
use crate::{Claim, Commit, Log, StateTable, StateWrite};

/// Who commits the copies.
const OWNER: &str = "copies";

/// What the key of a record begins with, in a state table and among the owners.
pub(super) const ENTRY: u8 = b'e';
pub(super) const BARRIER: u8 = b'b';

/// A group of records is applied when it is this large, or when no more are there.
const GROUP_RECORDS_MAX: usize = 16 << 10;
const GROUP_BYTES_MAX: usize = 8 << 20;

const POLL_TIME: Duration = Duration::from_millis(50);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What an owner has consumed of one partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Consumed {
    pub topic: String,
    /// Of which topic of that name.
    pub id: i64,
    pub partition: u32,
    pub offset: Offset,
}

pub(super) struct Follower {
    pub followed: Arc<Followed>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread keeps current.
pub(super) struct Followed {
    pub registry: RwLock<Registry>,
    pub owners: RwLock<HashMap<Vec<u8>, Vec<Consumed>>>,
    /// The record of each owner's last claim.
    pub claims: RwLock<HashMap<Vec<u8>, i64>>,
    /// The copies that are open, by the table's name on the cluster.
    tables: RwLock<HashMap<Arc<str>, Arc<KnownTable>>>,
    /// Where each copy stood when this process began.
    stood: HashMap<TopicPartition, Offset>,
    /// The record after the last one that was applied, by topic on the cluster.
    applied: watch::Sender<HashMap<Arc<str>, i64>>,
    consumer: Consumer,
    copies: Arc<EmbeddedLog>,
    registry_topic: String,
    owners_topic: String,
    stop: AtomicBool,
}

impl Follower {
    /// Begins to follow the registry and the owners.
    pub async fn open(connection: &Connection, names: &Names, copies: Arc<EmbeddedLog>) -> Result<Self> {
        let claim = copies.claim(OWNER).await?;
        let consumer = connection.consumer()?;
        let mut from_the_first = TopicPartitionList::new();
        for topic in [names.registry(), names.owners()] {
            from_the_first.add_partition_offset(&topic, 0, KafkaOffset::Beginning)?;
        }
        consumer.assign(&from_the_first)?;
        let followed = Arc::new(Followed {
            registry: RwLock::new(Registry::new(names.clone())),
            owners: RwLock::default(),
            claims: RwLock::default(),
            tables: RwLock::default(),
            stood: claim.consumed.clone(),
            applied: watch::Sender::default(),
            consumer,
            copies,
            registry_topic: names.registry(),
            owners_topic: names.owners(),
            stop: AtomicBool::new(false),
        });
        let (follows, handle) = (followed.clone(), Handle::current());
        let run = move || follows.run(&claim, &handle);
        let thread = std::thread::Builder::new().name("log-follower".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::Kafka(format!("no thread: {error}")))?;
        Ok(Self {
            followed,
            thread: Mutex::new(Some(thread)),
        })
    }
}

impl Follower {
    pub fn close(&self) {
        self.followed.stop.store(true, Ordering::Relaxed);
        // Those who wait look again.
        self.followed.applied.send_modify(|_| {});
        if let Some(thread) = self.thread.lock().take() {
            // It ends within a poll; what it panicked with was printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.close();
    }
}

impl Followed {
    /// Returns when the record was applied here.
    pub async fn wait(&self, topic: &str, record: i64) -> Result<()> {
        let mut applied = self.applied.subscribe();
        let stopped = || self.stop.load(Ordering::Relaxed);
        let there = |applied: &HashMap<Arc<str>, i64>| applied.get(topic).is_some_and(|&next| next > record);
        let waited = applied.wait_for(|applied| there(applied) || stopped()).await;
        match waited {
            Ok(applied) if there(&applied) => Ok(()),
            Ok(_) | Err(_) => Err(Error::Closed),
        }
    }

    /// Whenever something was applied.
    pub fn changes(&self) -> watch::Receiver<HashMap<Arc<str>, i64>> {
        self.applied.subscribe()
    }

    /// The copy of a table, which is followed from now on.
    pub async fn open_table(&self, table: &Arc<KnownTable>) -> Result<Arc<dyn StateTable>> {
        let copy = self.copies.state(&table.copy).await?;
        let mut tables = self.tables.write();
        if !tables.contains_key(&table.kafka) {
            let stood = self.stood.get(&TopicPartition::new(table.copy.clone(), 0));
            let from = match stood {
                Some(&next) => KafkaOffset::Offset(i64::try_from(next).unwrap_or(i64::MAX)),
                None => KafkaOffset::Beginning,
            };
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&table.kafka, 0, from)?;
            self.consumer.incremental_assign(&list)?;
            tables.insert(table.kafka.clone(), table.clone());
        }
        Ok(copy)
    }

    pub fn is_open(&self, table: &KnownTable) -> bool {
        self.tables.read().contains_key(&table.kafka)
    }

    fn run(&self, claim: &Claim, handle: &Handle) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some(first) = self.consumer.poll(POLL_TIME) else {
                continue;
            };
            let mut group = Group::default();
            self.take(&mut group, first);
            while group.records < GROUP_RECORDS_MAX && group.bytes < GROUP_BYTES_MAX {
                let Some(next) = self.consumer.poll(Duration::ZERO) else {
                    break;
                };
                self.take(&mut group, next);
            }
            if !group.is_empty() && !self.apply(group, claim, handle) {
                return;
            }
        }
    }

    fn take(&self, group: &mut Group, polled: Result<BorrowedMessage<'_>, KafkaError>) {
        let message = match polled {
            Ok(message) => message,
            Err(KafkaError::PartitionEOF(_)) => return,
            Err(error) => {
                tracing::warn!(%error, "following Kafka");
                return;
            }
        };
        group.records += 1;
        group.bytes += message.key_len() + message.payload_len();
        let (topic, key, value) = (message.topic(), message.key().unwrap_or_default(), message.payload());
        if topic == self.registry_topic {
            let applied = self.registry.write().apply(message.offset(), key, value);
            match applied {
                Ok(deleted) => group.deleted.extend(deleted),
                Err(error) => tracing::error!(%error, "a record of Headwater's topics is left out"),
            }
        } else if topic == self.owners_topic {
            self.note_owner(message.offset(), key, value);
        } else if let Some(table) = self.tables.read().get(topic)
            && let Some((&ENTRY, key)) = key.split_first()
        {
            let entry = (Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice));
            group.entries.entry(table.copy.clone()).or_default().push(entry);
        }
        group.next.insert(topic.into(), message.offset() + 1);
    }

    fn note_owner(&self, record: i64, key: &[u8], value: Option<&[u8]>) {
        let owner = match key.split_first() {
            Some((&ENTRY, owner)) => owner,
            Some((&BARRIER, owner)) => {
                self.claims.write().insert(owner.to_vec(), record);
                return;
            }
            _ => return,
        };
        let mut owners = self.owners.write();
        match value.map(serde_json::from_slice::<Vec<Consumed>>) {
            Some(Ok(consumed)) => {
                owners.insert(owner.to_vec(), consumed);
            }
            Some(Err(error)) => tracing::error!(%error, "a record of Headwater's owners is left out"),
            None => {
                owners.remove(owner);
            }
        }
    }

    /// Commits to the copies, and tells those who wait. False when that will never succeed.
    fn apply(&self, group: Group, claim: &Claim, handle: &Handle) -> bool {
        for deleted in &group.deleted {
            self.forget(deleted, handle);
        }
        let tables = self.tables.read();
        let position = |(topic, &next): (&Arc<str>, &i64)| {
            let table = tables.get(topic)?;
            Some((TopicPartition::new(table.copy.clone(), 0), Offset::try_from(next).ok()?))
        };
        let consumed: Vec<_> = group.next.iter().filter_map(position).collect();
        drop(tables);
        if !consumed.is_empty() {
            let state = |(table, entries): (Arc<str>, Vec<_>)| StateWrite {
                table,
                entries: entries.into(),
            };
            let commit = Commit {
                consumed,
                produced: Vec::new(),
                state: group.entries.into_iter().map(state).collect(),
            };
            while let Err(error) = handle.block_on(self.copies.commit(claim, commit.clone())) {
                tracing::error!(%error, "this process's copies of state can't be written, trying again");
                if self.stop.load(Ordering::Relaxed) {
                    return false;
                }
                std::thread::sleep(RETRY_AFTER);
            }
        }
        self.applied.send_modify(|applied| applied.extend(group.next));
        true
    }

    fn forget(&self, table: &KnownTable, handle: &Handle) {
        let was_open = self.tables.write().remove(&table.kafka).is_some();
        if was_open {
            let mut list = TopicPartitionList::new();
            list.add_partition(&table.kafka, 0);
            if let Err(error) = self.consumer.incremental_unassign(&list) {
                tracing::debug!(%error, table = &*table.kafka, "no longer followed");
            }
        }
        if let Err(error) = handle.block_on(self.copies.delete_state(&table.copy)) {
            tracing::warn!(%error, table = &*table.copy, "the copy of a deleted state table stays");
        }
    }
}

/// Records that are applied together.
#[derive(Default)]
struct Group {
    records: usize,
    bytes: usize,
    entries: HashMap<Arc<str>, Vec<(Bytes, Option<Bytes>)>>,
    deleted: Vec<Arc<KnownTable>>,
    next: HashMap<Arc<str>, i64>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.next.is_empty()
    }
}
