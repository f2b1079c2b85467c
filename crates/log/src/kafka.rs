//! The log on a Kafka cluster, for many processes on many machines. Redpanda speaks the same protocol.
//!
//! A topic is a topic there, with a batch in each record (see `records`; `names` for what it is called). An append is a
//! transaction, and so is a commit: batches, the entries of state tables and the owner's position become visible together. Everybody
//! reads what is committed, and no more.
//!
//! An owner's work belongs to whoever has claimed it last (`owners`). What an earlier one writes after that Kafka refuses, from whichever machine
//! it comes.
//!
//! State tables are compacted topics, of which each process that opens one keeps a copy in its own directory (`copies`, `follower`). The copy is
//! a cache: a process that begins with an empty directory reads all of it again. What a process commits is in its copies at once.
//!
//! # What is different from the log in one directory
//! * Retention and compaction are the brokers', by their clock.
//! * Offsets have gaps: after each transaction, and between the records of one.
//! * A batch's time is kept to the millisecond.
//! * The bytes that a topic takes are not known here.

pub mod connection;
pub mod options;
pub mod transactions;

mod binding;
mod cluster;
mod context;
mod copies;
mod events;
mod follower;
mod getting_in;
mod identity;
mod murmur;
mod names;
mod owners;
mod partitions;
mod readers;
mod records;
mod registry;
mod rights;
mod writer;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_event::clock::{Clock, Micros};
use headwater_event::offset::{Offset, TopicPartition};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::embedded::EmbeddedLog;
use crate::error::{Error, Result};
use crate::kafka::cluster::Cluster;
use crate::kafka::connection::Connection;
use crate::kafka::copies::{Copies, placed_state};
use crate::kafka::follower::{BARRIER, Consumed, ENTRY, Followed, Follower, offsets_of};
use crate::kafka::names::Names;
use crate::kafka::options::KafkaOptions;
use crate::kafka::owners::{Held, Owners, Turn};
use crate::kafka::partitions::{Partitions, Written};
use crate::kafka::readers::Place;
use crate::kafka::records::prefixed;
use crate::kafka::registry::{Event, KnownTable, KnownTopic};
use crate::kafka::transactions::{Failure, Record, Transactions};
use crate::kafka::writer::{Open, Writer};
use crate::topic::{BoundTopic, Cleanup, Topic, TopicSpec, check_spec, check_trim, reconcile, stored};
use crate::{Claim, Commit, Log, LoggedBatch, Produced, RefusedRecord, StateTable, check_state_keys, rows};

/// How long a topic on the cluster may wait for its entry in the registry, before it is a remainder of one that was deleted.
const MADE_TIME_MAX: Duration = Duration::from_secs(3);

/// See the module.
pub struct KafkaLog {
    process: String,
    clock: Arc<dyn Clock>,
    names: Names,
    cluster: Cluster,
    partitions: Arc<Partitions>,
    appender: Arc<Writer>,
    owners: Owners,
    follower: Follower,
    copies: Arc<EmbeddedLog>,
}

impl std::fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaLog")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// Opens the log, making it where there is none. Blocks; has to be called in a runtime of tokio.
    ///
    /// # Errors
    /// [`Error::Kafka`] where the cluster can't be reached or refuses something; those of [`EmbeddedLog::open`] for the copies.
    pub fn open(options: KafkaOptions, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        let names = Names::new(&options.prefix)?;
        let cluster = Cluster::open(&options)?;
        let mut copies = options.copies;
        // They come back from the cluster.
        copies.expendable = true;
        // The copies have no topics, so this is for what is fetched from the cluster's.
        let ahead_bytes = std::mem::take(&mut copies.tail_cache_bytes);
        let copies = EmbeddedLog::open(copies, clock.clone())?;
        let handle = Handle::current();
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| handle.block_on(Self::open_on(names, cluster, copies, ahead_bytes, clock)));
            opening
                .join()
                .map_err(|_| Error::Kafka("opening the log panicked".to_owned()))?
        })
    }

    async fn open_on(
        names: Names,
        cluster: Cluster,
        copies: Arc<EmbeddedLog>,
        ahead_bytes: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>> {
        let for_ever = Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        };
        let newest = Cleanup::Compact { key: String::new() };
        cluster.create_topic(&names.registry(), 1, &for_ever).await?;
        cluster.create_topic(&names.owners(), 1, &newest).await?;
        // Who follows it would wait for ever.
        cluster.check_read(&names.registry()).await?;
        identity::check_cluster(&copies, cluster.id().await?).await?;
        let process = identity::process_id(&copies, &*clock).await?;
        let held = Held::new(names.owners());
        let copied = Copies::open(copies.clone()).await?;
        let follower = Follower::open(&cluster.connection, &names, copied, held.clone())?;
        let appender = Arc::new(open_appender(&names, &cluster.connection, &process)?);
        let open = session(&names, &cluster.connection, &process, &appender);
        let owners = Owners::start(&names, &cluster.connection, &follower.followed, held, open)?;
        let log = Arc::new(Self {
            process: process.clone(),
            partitions: Arc::new(Partitions::new(
                &cluster.connection,
                cluster.asking.clone(),
                cluster.asking_for_all.clone(),
                clock.clone(),
                ahead_bytes,
            )),
            clock,
            names,
            cluster,
            appender,
            owners,
            follower,
            copies,
        });
        log.register(&Event::Opened(process), None).await?;
        log.barrier(&log.names.owners()).await?;
        log.drop_old_copies().await?;
        Ok(log)
    }

    /// What the process of this directory is called: the same after a restart, and another one for each directory.
    pub fn process(&self) -> &str {
        &self.process
    }

    /// Ends what this process writes and follows, and closes its copies. Everything fails with [`Error::Closed`] from now on.
    /// Blocks until it is done.
    pub fn close(&self) {
        self.owners.close();
        self.appender.close();
        self.follower.close();
        self.copies.close();
    }

    fn followed(&self) -> &Arc<Followed> {
        &self.follower.followed
    }

    fn known(&self, name: &str) -> Result<Arc<KnownTopic>> {
        let registry = self.followed().registry.read();
        let topic = registry.topics.get(name).cloned();
        topic.ok_or_else(|| Error::UnknownTopic(name.to_owned()))
    }

    fn known_partition(&self, partition: &TopicPartition) -> Result<Arc<KnownTopic>> {
        let topic = self.known(&partition.topic)?;
        if partition.partition >= topic.spec.partitions {
            return Err(Error::UnknownPartition {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                partitions: topic.spec.partitions,
            });
        }
        Ok(topic)
    }

    /// Writes what happened, and returns when this process knows it.
    async fn register(&self, event: &Event, definition: Option<Bytes>) -> Result<()> {
        let topic = self.names.registry();
        let record = self.record(&topic, event.key()?.into(), definition.or(Some(Bytes::new())));
        let placed = self.appender.append(vec![record]).await?;
        self.followed().wait(&topic, placed[0]).await
    }

    /// Returns when this process has applied all that was committed to a followed topic before.
    async fn barrier(&self, topic: &str) -> Result<()> {
        let record = self.record(topic, Bytes::from_static(&[BARRIER]), Some(Bytes::new()));
        let placed = self.appender.append(vec![record]).await?;
        self.followed().wait(topic, placed[0]).await
    }

    fn record(&self, topic: &str, key: Bytes, value: Option<Bytes>) -> Record {
        Record {
            topic: topic.into(),
            partition: Some(0),
            key: Some(key),
            value,
            time: Some(self.clock.now()),
        }
    }

    /// Copies of tables that were deleted while this process wasn't there.
    async fn drop_old_copies(&self) -> Result<()> {
        let known: Vec<_> = {
            let registry = self.followed().registry.read();
            registry.tables.values().map(|table| table.copy.clone()).collect()
        };
        for copy in self.copies.state_tables().await? {
            if copy != identity::TABLE && !known.iter().any(|known| **known == *copy) {
                self.copies.delete_state(&copy).await?;
            }
        }
        Ok(())
    }

    /// The table, made where there is none.
    async fn table(&self, name: &str) -> Result<Arc<KnownTable>> {
        let known = || self.followed().registry.read().tables.get(name).cloned();
        if let Some(table) = known() {
            return Ok(table);
        }
        let newest = Cleanup::Compact { key: String::new() };
        self.cluster.create_topic(&self.names.table(name), 1, &newest).await?;
        self.register(&Event::TableMade(name.into()), None).await?;
        known().ok_or_else(|| Error::Kafka(format!("the state table '{name}' was deleted when it was made")))
    }

    /// Batches as records, and where to look for their places.
    fn records(&self, batches: &[Produced], records: &mut Vec<Record>) -> Result<Vec<Written>> {
        let time = self.clock.now();
        let mut written = Vec::with_capacity(batches.len());
        for batch in batches {
            let topic = self.known_partition(&batch.partition)?;
            let mut batch = batch.clone();
            batch.rows = rows::conform(&topic.spec.schema, &batch.partition, &batch.rows)?;
            let first = records.len();
            if let Some(events) = &topic.events {
                let encoded = events.encode(&batch, time)?;
                written.append(&mut written_events(&topic, &batch.partition, &encoded, first));
                records.extend(encoded);
                continue;
            }
            records.append(&mut records::encode(&topic.kafka, &topic.spec, &batch, time)?);
            let rows = match topic.spec.cleanup {
                Cleanup::Delete { .. } => batch.rows.num_rows(),
                Cleanup::Compact { .. } => 1,
            };
            written.push(Written {
                topic,
                partition: batch.partition,
                first,
                last: records.len().max(first + 1) - 1,
                rows,
                begins_batch: true,
            });
        }
        Ok(written)
    }
}

/// Appends are in the name of the process, which is the same after a restart.
fn open_appender(names: &Names, connection: &Connection, process: &str) -> Result<Writer> {
    let (connection, ids, topic) = (connection.clone(), names.appends(process), names.registry());
    let name: Arc<str> = process.into();
    let open = move || Ok((name.clone(), Transactions::open_all(&connection, &ids, &topic)?));
    Writer::start("log-appender", Held::new(names.owners()), Box::new(open))
}

/// Commits are in that of a session, which is called after a record that there is once.
fn session(names: &Names, connection: &Connection, process: &str, appender: &Arc<Writer>) -> Open {
    let (names, connection, process) = (names.clone(), connection.clone(), process.to_owned());
    let (appender, handle) = (appender.clone(), Handle::current());
    Box::new(move || {
        let topic = names.registry();
        let opened = Record {
            topic: topic.as_str().into(),
            partition: Some(0),
            key: Some(Event::Opened(process.clone()).key()?.into()),
            value: Some(Bytes::new()),
            time: None,
        };
        let placed = handle.block_on(appender.append(vec![opened]))?;
        let session = format!("{process}.{}", placed[0]);
        let transactions = Transactions::open_all(&connection, &names.session(&session), &topic)?;
        Ok((session.into(), transactions))
    })
}

/// Where to look for the places of a batch's events, which may lie in several partitions. `before` records come before them.
fn written_events(topic: &Arc<KnownTopic>, of: &TopicPartition, records: &[Record], before: usize) -> Vec<Written> {
    let mut written: Vec<Written> = Vec::new();
    for (number, record) in (before..).zip(records) {
        let partition = record.partition.unwrap_or(of.partition);
        let known = written.iter_mut().find(|known| known.partition.partition == partition);
        match known {
            Some(known) => known.last = number,
            None => written.push(Written {
                topic: topic.clone(),
                partition: TopicPartition::new(of.topic.clone(), partition),
                first: number,
                last: number,
                rows: 1,
                begins_batch: written.is_empty(),
            }),
        }
    }
    written
}

#[async_trait]
impl Log for KafkaLog {
    async fn create_topic(&self, spec: TopicSpec) -> Result<Topic> {
        check_spec(&spec)?;
        let name: Arc<str> = spec.name.as_str().into();
        let kafka = self.names.of(&spec);
        let mut made = Event::TopicMade(name.to_string());
        match self.known(&name) {
            Ok(there) => {
                let wanted = reconcile(&there.spec, spec.clone())?;
                self.look_at(&there).await?;
                if wanted == there.spec {
                    return Ok(there.describe());
                }
                match there.is_ours {
                    true => self.cluster.alter_topic(&kafka, &wanted.cleanup).await?,
                    false => made = Event::TopicBound(name.to_string()),
                }
            }
            Err(_) if spec.events.as_ref().is_some_and(|events| events.bound.is_some()) => {
                made = self.bind(&spec, &kafka).await?;
            }
            Err(_) => {
                if !self
                    .cluster
                    .create_topic(&kafka, spec.partitions, &spec.cleanup)
                    .await?
                {
                    // Somebody else is making it, or had not finished deleting it.
                    let mut changes = self.followed().changes();
                    let made = changes.wait_for(|_| self.known(&name).is_ok());
                    if tokio::time::timeout(MADE_TIME_MAX, made).await.is_err() {
                        self.cluster.delete_topic(&kafka).await?;
                        self.cluster
                            .create_topic(&kafka, spec.partitions, &spec.cleanup)
                            .await?;
                    }
                }
            }
        }
        let definition = stored::encode(&spec, 0)?;
        self.register(&made, Some(definition.into())).await?;
        let made = self.known(&name)?;
        self.look_at(&made).await?;
        reconcile(&made.spec, spec)?;
        Ok(made.describe())
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        let Ok(topic) = self.known(name) else {
            return Ok(());
        };
        self.register(&Event::TopicDeleted(name.into()), None).await?;
        self.partitions.forget(topic.id);
        self.delete_unless_shared(&topic).await
    }

    async fn topic(&self, name: &str) -> Result<Option<Topic>> {
        Ok(self.known(name).ok().map(|topic| topic.describe()))
    }

    async fn topics(&self) -> Result<Vec<Topic>> {
        let registry = self.followed().registry.read();
        Ok(registry.topics.values().map(|topic| topic.describe()).collect())
    }

    async fn bound_topic(&self, name: &str) -> Result<Option<BoundTopic>> {
        self.find_bound(name).await
    }

    async fn refused(&self, partition: &TopicPartition, from: Offset) -> Result<(Vec<RefusedRecord>, Offset)> {
        let topic = self.known_partition(partition)?;
        if !topic.is_bound() {
            return Ok((Vec::new(), from));
        }
        let place = Place {
            topic: &topic,
            partition,
        };
        self.partitions.refused(place, from).await
    }

    async fn offsets(&self, partition: &TopicPartition) -> Result<Range<Offset>> {
        let topic = self.known_partition(partition)?;
        let place = Place {
            topic: &topic,
            partition,
        };
        let (low, high) = self.partitions.bounds(place).await?;
        Ok(topic.base_of(low)..self.partitions.end(place, low, high).await?)
    }

    async fn settled(&self, partition: &TopicPartition) -> Result<Range<Offset>> {
        let topic = self.known_partition(partition)?;
        let place = Place {
            topic: &topic,
            partition,
        };
        let decided = self.partitions.decided(place).await?;
        Ok(topic.base_of(decided.low)..self.partitions.settled_end(place, decided).await?)
    }

    fn known_end(&self, partition: &TopicPartition) -> Offset {
        let known = self.known_partition(partition);
        known.map_or(0, |topic| {
            self.partitions.known_end(Place {
                topic: &topic,
                partition,
            })
        })
    }

    async fn offset_at(&self, partition: &TopicPartition, time: Micros) -> Result<Offset> {
        let topic = self.known_partition(partition)?;
        let place = Place {
            topic: &topic,
            partition,
        };
        match self.partitions.first_at(place, time).await? {
            Some(base) => Ok(base),
            None => Ok(self.offsets(partition).await?.end),
        }
    }

    async fn trim(&self, partition: &TopicPartition, before: Offset) -> Result<()> {
        let topic = self.known_partition(partition)?;
        check_trim(&topic.spec)?;
        let place = Place {
            topic: &topic,
            partition,
        };
        let (low, high) = self.partitions.bounds(place).await?;
        let mut record = topic.record_of(before).min(high);
        if record < high && topic.base_of(record) < before {
            // Whether the batch lies before the offset as a whole.
            let first = topic.base_of(record);
            let batches = self.partitions.read(place, first, 0, Some(&[])).await?;
            let whole = batches
                .first()
                .is_some_and(|batch| topic.record_of(batch.base) > record || batch.next() <= before);
            record += i64::from(whole);
        }
        if record <= low {
            return Ok(());
        }
        let partition = partition.partition;
        self.cluster.delete_records(&topic.kafka, partition, record).await
    }

    async fn append(&self, batches: Vec<Produced>) -> Result<Vec<Offset>> {
        let mut records = Vec::with_capacity(batches.len());
        let written = self.records(&batches, &mut records)?;
        let placed = self.appender.append(records).await?;
        Ok(self.partitions.note(&written, &placed))
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        bytes_max: usize,
        columns: Option<&[usize]>,
    ) -> Result<Vec<LoggedBatch>> {
        let topic = self.known_partition(partition)?;
        rows::check_columns(&topic.spec.schema, columns)?;
        let place = Place {
            topic: &topic,
            partition,
        };
        self.partitions.read(place, from, bytes_max, columns).await
    }

    async fn wait(&self, partition: &TopicPartition, from: Offset) -> Result<()> {
        let topic = self.known_partition(partition)?;
        let place = Place {
            topic: &topic,
            partition,
        };
        let mut lease = self.partitions.reader(place, from)?;
        loop {
            if lease.is_ahead(place)? {
                return Ok(());
            }
            if self.known_partition(partition)?.id != topic.id {
                return Err(Error::UnknownTopic(partition.topic.to_string()));
            }
            lease.more().await;
        }
    }

    async fn claim(&self, owner: &str) -> Result<Claim> {
        self.owners.claim(owner).await
    }

    async fn commit(&self, claim: &Claim, commit: Commit) -> Result<Vec<Offset>> {
        let turn = self.owners.turn(claim).await?;
        let mut records = Vec::new();
        let written = self.records(&commit.produced, &mut records)?;
        let mut state = Vec::with_capacity(commit.state.len());
        for write in commit.state {
            check_state_keys(&write.entries)?;
            let table = self.table(&write.table).await?;
            let first = records.len();
            for (key, value) in write.entries.iter() {
                records.push(self.record(&table.kafka, prefixed(ENTRY, key), value.clone()));
            }
            state.push((table, write.entries, first));
        }
        let mut consumed = turn.consumed();
        for (partition, offset) in &commit.consumed {
            let entry = Consumed {
                topic: partition.topic.to_string(),
                id: self.known(&partition.topic).map_or(-1, |topic| topic.id),
                partition: partition.partition,
                offset: *offset,
            };
            consumed.insert(partition.clone(), entry);
        }
        if !commit.consumed.is_empty() {
            let all: Vec<_> = consumed.values().collect();
            let value = serde_json::to_vec(&all).map_err(|error| Error::Kafka(error.to_string()))?;
            let key = prefixed(ENTRY, claim.owner.as_bytes());
            records.push(self.record(&self.names.owners(), key, Some(value.into())));
        }
        let (partitions, followed) = (self.partitions.clone(), self.followed().clone());
        let (answer, answered) = oneshot::channel();
        // All of this also where nobody waits for it any more.
        let done = move |turn: Turn, placed: Result<Vec<i64>, Failure>| {
            let committed = placed.map(|placed| {
                turn.has_consumed(consumed);
                let offsets = partitions.note(&written, &placed);
                (offsets, followed.copies.lead(&placed_state(state, &placed)))
            });
            drop(answer.send(committed));
        };
        self.owners.write(turn, records, done).await?;
        let (offsets, led) = match answered.await {
            Ok(Ok(done)) => done,
            Ok(Err(Failure::Aborted(error))) => return Err(error),
            Ok(Err(Failure::Broken(error))) => {
                self.barrier(&self.names.owners()).await?;
                return Err(self.owners.why_broken(claim, &error));
            }
            Err(_) => return Err(Error::Closed),
        };
        for (table, last) in led {
            self.followed().wait(&table, last).await?;
        }
        Ok(offsets)
    }

    async fn consumed(&self, owner: &str) -> Result<HashMap<TopicPartition, Offset>> {
        // This process's own commits come back a little later.
        let ours = self.owners.consumed(owner);
        Ok(ours.unwrap_or_else(|| offsets_of(&self.followed().consumed_by(owner))))
    }

    async fn release(&self, owner: &str) -> Result<()> {
        let nothing = self.record(&self.names.owners(), prefixed(ENTRY, owner.as_bytes()), None);
        self.owners.release(owner, nothing).await
    }

    fn left(&self, process: &str) {
        self.owners.left(process);
    }

    async fn state(&self, table: &str) -> Result<Arc<dyn StateTable>> {
        let table = self.table(table).await?;
        let copy = self.followed().open_table(&table).await?;
        self.barrier(&table.kafka).await?;
        Ok(copy)
    }

    async fn delete_state(&self, table: &str) -> Result<()> {
        let known = self.followed().registry.read().tables.get(table).cloned();
        let Some(known) = known else {
            return Ok(());
        };
        self.register(&Event::TableDeleted(table.into()), None).await?;
        self.cluster.delete_topic(&known.kafka).await
    }

    async fn state_tables(&self) -> Result<Vec<String>> {
        let registry = self.followed().registry.read();
        Ok(registry.tables.keys().map(|name| name.to_string()).collect())
    }

    fn bytes_used(&self) -> u64 {
        self.copies.bytes_used()
    }
}
