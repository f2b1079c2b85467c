//! What this process knows of the cluster: a thread that reads the registry, the owners' positions and the state tables that are
//! open here, from their beginnings on, and keeps a copy of them.
//!
//! The copies of state tables (`copies`) are tables of an embedded log, committed together with the position behind them: whatever happens to
//! this process, a copy says truly how far it has come, and the rest is read again.

use std::collections::{BTreeMap, HashMap};
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
use tokio::sync::watch;

use crate::StateTable;
use crate::error::{Error, Result};
use crate::kafka::cluster::blocking;
use crate::kafka::connection::{ANSWER_TIME_MAX, Connection, Consumer};
use crate::kafka::copies::{Copies, Entry};
use crate::kafka::names::Names;
use crate::kafka::owners::{CLAIM, ClaimKey, Claims, Held};
use crate::kafka::registry::{KnownTable, Registry};
use crate::kafka::rights::is_about_group;

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

pub(super) fn offsets_of(consumed: &HashMap<TopicPartition, Consumed>) -> HashMap<TopicPartition, Offset> {
    let offset = |(partition, consumed): (&TopicPartition, &Consumed)| (partition.clone(), consumed.offset);
    consumed.iter().map(offset).collect()
}

pub(super) struct Follower {
    pub followed: Arc<Followed>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread keeps current.
pub(super) struct Followed {
    pub registry: RwLock<Registry>,
    owners: RwLock<HashMap<Vec<u8>, Vec<Consumed>>>,
    pub claims: RwLock<Claims>,
    held: Arc<Held>,
    pub copies: Copies,
    /// The record after the last one that was applied, by topic on the cluster.
    applied: watch::Sender<HashMap<Arc<str>, i64>>,
    consumer: Consumer,
    registry_topic: String,
    owners_topic: String,
    stop: AtomicBool,
}

impl Follower {
    /// Begins to follow the registry and the owners. `held` hears of what others claim.
    pub fn open(connection: &Connection, names: &Names, copies: Copies, held: Arc<Held>) -> Result<Self> {
        let consumer = connection.follower()?;
        let mut from_the_first = TopicPartitionList::new();
        for topic in [names.registry(), names.owners()] {
            from_the_first.add_partition_offset(&topic, 0, KafkaOffset::Offset(0))?;
        }
        consumer.assign(&from_the_first)?;
        let followed = Arc::new(Followed {
            registry: RwLock::new(Registry::new(names.clone())),
            owners: RwLock::default(),
            claims: RwLock::default(),
            held,
            copies,
            applied: watch::Sender::default(),
            consumer,
            registry_topic: names.registry(),
            owners_topic: names.owners(),
            stop: AtomicBool::new(false),
        });
        let follows = followed.clone();
        let run = move || follows.run();
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

    /// What the owner has consumed of topics that are still there.
    pub fn consumed_by(&self, owner: &str) -> HashMap<TopicPartition, Consumed> {
        let (owners, registry) = (self.owners.read(), self.registry.read());
        let is_there = |consumed: &&Consumed| {
            let topic = registry.topics.get(consumed.topic.as_str());
            topic.is_some_and(|topic| topic.id == consumed.id)
        };
        let consumed = owners.get(owner.as_bytes()).into_iter().flatten().filter(is_there);
        let by_partition = consumed.map(|consumed| {
            let partition = TopicPartition::new(consumed.topic.as_str(), consumed.partition);
            (partition, consumed.clone())
        });
        by_partition.collect()
    }

    /// Whenever something was applied.
    pub fn changes(&self) -> watch::Receiver<HashMap<Arc<str>, i64>> {
        self.applied.subscribe()
    }

    /// The copy of a table, which is followed from now on.
    pub async fn open_table(self: &Arc<Self>, table: &Arc<KnownTable>) -> Result<Arc<dyn StateTable>> {
        let (copy, from) = self.copies.table(table).await?;
        if let Some(from) = from {
            let (followed, kafka) = (self.clone(), table.kafka.clone());
            blocking(move || {
                // A consumer that doesn't know where a topic is looks for it only a second later.
                followed.consumer.fetch_metadata(Some(&kafka), ANSWER_TIME_MAX)?;
                let mut list = TopicPartitionList::new();
                list.add_partition_offset(&kafka, 0, KafkaOffset::Offset(from))?;
                Ok(followed.consumer.incremental_assign(&list)?)
            })
            .await?;
        }
        Ok(copy)
    }

    fn run(&self) {
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
            if !group.is_empty() && !self.apply(group) {
                return;
            }
        }
    }

    fn take(&self, group: &mut Group, polled: Result<BorrowedMessage<'_>, KafkaError>) {
        let message = match polled {
            Ok(message) => message,
            Err(KafkaError::PartitionEOF(_)) => return,
            Err(error) if is_about_group(&error) => return,
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
        } else {
            let (entries, next) = group.came.entry(topic.into()).or_default();
            *next = message.offset() + 1;
            if let Some((&ENTRY, key)) = key.split_first() {
                entries.push(Entry {
                    key: Bytes::copy_from_slice(key),
                    value: value.map(Bytes::copy_from_slice),
                    record: message.offset(),
                });
            }
        }
        group.next.insert(topic.into(), message.offset() + 1);
    }

    fn note_owner(&self, record: i64, key: &[u8], value: Option<&[u8]>) {
        match key.split_first() {
            Some((&ENTRY, owner)) => self.note_consumed(owner, value),
            Some((&CLAIM, claim)) => match (ClaimKey::decode(claim), value) {
                (Some(claim), Some(_)) => {
                    let mut claims = self.claims.write();
                    self.held.claimed_elsewhere(&claim, &claims);
                    claims.made(claim, record);
                }
                (Some(claim), None) => self.claims.write().given_up(&claim),
                (None, _) => tracing::error!(record, "a claim among Headwater's owners is left out: it is unreadable"),
            },
            _ => {}
        }
    }

    fn note_consumed(&self, owner: &[u8], value: Option<&[u8]>) {
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
    fn apply(&self, group: Group) -> bool {
        for deleted in &group.deleted {
            self.forget(deleted);
        }
        while let Err(error) = self.copies.follow(&group.came) {
            tracing::error!(%error, "this process's copies of state can't be written, trying again");
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(RETRY_AFTER);
        }
        self.applied.send_modify(|applied| applied.extend(group.next));
        true
    }

    fn forget(&self, table: &KnownTable) {
        if self.copies.forget(table) {
            let mut list = TopicPartitionList::new();
            list.add_partition(&table.kafka, 0);
            if let Err(error) = self.consumer.incremental_unassign(&list) {
                tracing::debug!(%error, table = &*table.kafka, "no longer followed");
            }
        }
    }
}

/// Records that are applied together.
#[derive(Default)]
struct Group {
    records: usize,
    bytes: usize,
    /// Entries of state tables and the record after them, by the topic.
    came: BTreeMap<Arc<str>, (Vec<Entry>, i64)>,
    deleted: Vec<Arc<KnownTable>>,
    next: HashMap<Arc<str>, i64>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.next.is_empty()
    }
}
