//! The log in memory: for tests, simulation and live queries. Nothing is encoded; readers share
//! the arrays that were appended. It ends with the process, and it holds whatever its topics'
//! cleanup lets it: a sweep runs with the first append of every minute.

mod table;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headwater_event::clock::{Clock, Micros};
use headwater_event::offset::{Offset, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::compaction::{Latest, Outcome, TOMBSTONE_KEPT};
use crate::ends::{self, Ends, Gone};
use crate::error::{Error, Result};
use crate::memory::table::MemoryTable;
use crate::topic::{BoundTopic, Cleanup, Topic, TopicSpec, check_spec, check_trim, reconcile};
use crate::{Claim, Commit, Log, LoggedBatch, Produced, StateTable, check_state_keys, rows};

const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct MemoryLog {
    clock: Arc<dyn Clock>,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    topics: BTreeMap<Arc<str>, MemoryTopic>,
    tables: BTreeMap<Arc<str>, Arc<MemoryTable>>,
    claims: HashMap<Arc<str>, u64>,
    token: u64,
    consumed: HashMap<Arc<str>, HashMap<TopicPartition, Offset>>,
    swept: Duration,
}

#[derive(Debug)]
struct MemoryTopic {
    spec: TopicSpec,
    partitions: Vec<MemoryPartition>,
}

#[derive(Debug)]
struct MemoryPartition {
    name: TopicPartition,
    batches: Vec<Kept>,
    ends: watch::Sender<Ends>,
}

#[derive(Clone, Debug)]
struct Kept {
    batch: LoggedBatch,
    bytes: u64,
}

impl MemoryLog {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            contents: Mutex::default(),
        })
    }

    /// Applies retention and compaction now.
    pub fn sweep(&self) -> Result<()> {
        let mut contents = self.contents.lock();
        contents.swept = self.clock.elapsed();
        let now = self.clock.now();
        contents.topics.values_mut().try_for_each(|topic| topic.sweep(now))
    }

    fn sweep_if_due(&self) -> Result<()> {
        let due = self.clock.elapsed().saturating_sub(self.contents.lock().swept) >= SWEEP_EVERY;
        if due { self.sweep() } else { Ok(()) }
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn create_topic(&self, spec: TopicSpec) -> Result<Topic> {
        check_spec(&spec)?;
        let mut contents = self.contents.lock();
        let name: Arc<str> = spec.name.as_str().into();
        if let Some(there) = contents.topics.get_mut(&name) {
            there.spec = reconcile(&there.spec, spec)?;
            return Ok(there.describe());
        }
        let topic = MemoryTopic::new(&name, spec);
        let described = topic.describe();
        contents.topics.insert(name, topic);
        Ok(described)
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        let mut contents = self.contents.lock();
        if let Some(topic) = contents.topics.remove(name) {
            for partition in &topic.partitions {
                partition.ends.send_modify(|ends| ends.gone = Some(Gone::Deleted));
            }
            for consumed in contents.consumed.values_mut() {
                consumed.retain(|partition, _| &*partition.topic != name);
            }
        }
        Ok(())
    }

    async fn topic(&self, name: &str) -> Result<Option<Topic>> {
        Ok(self.contents.lock().topics.get(name).map(MemoryTopic::describe))
    }

    /// Nobody else has made one: what is checked or tried out in memory finds its topics as it would make them.
    async fn bound_topic(&self, _: &str) -> Result<Option<BoundTopic>> {
        Ok(None)
    }

    async fn topics(&self) -> Result<Vec<Topic>> {
        Ok(self
            .contents
            .lock()
            .topics
            .values()
            .map(MemoryTopic::describe)
            .collect())
    }

    async fn offsets(&self, partition: &TopicPartition) -> Result<Range<Offset>> {
        let contents = self.contents.lock();
        let ends = *contents.partition(partition)?.ends.borrow();
        Ok(ends.start..ends.next)
    }

    fn known_end(&self, partition: &TopicPartition) -> Offset {
        let contents = self.contents.lock();
        let known = contents.partition(partition);
        known.map_or(0, |partition| partition.ends.borrow().next)
    }

    async fn offset_at(&self, partition: &TopicPartition, time: Micros) -> Result<Offset> {
        let contents = self.contents.lock();
        let partition = contents.partition(partition)?;
        let at = partition.batches.partition_point(|kept| kept.batch.appended < time);
        let next = partition.ends.borrow().next;
        Ok(partition.batches.get(at).map_or(next, |kept| kept.batch.base))
    }

    async fn trim(&self, partition: &TopicPartition, before: Offset) -> Result<()> {
        let mut contents = self.contents.lock();
        check_trim(&contents.topic(&partition.topic)?.spec)?;
        contents.partition(partition)?;
        let topic = contents.topics.get_mut(&partition.topic);
        if let Some(found) = topic.and_then(|topic| topic.partitions.get_mut(partition.partition as usize)) {
            let count = found.batches.partition_point(|kept| kept.batch.next() <= before);
            found.batches.drain(..count);
            found.moved();
        }
        Ok(())
    }

    async fn append(&self, batches: Vec<Produced>) -> Result<Vec<Offset>> {
        self.sweep_if_due()?;
        let mut contents = self.contents.lock();
        let produced = contents.check(batches)?;
        Ok(contents.publish(produced, self.clock.now()))
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        bytes_max: usize,
        columns: Option<&[usize]>,
    ) -> Result<Vec<LoggedBatch>> {
        let contents = self.contents.lock();
        let schema = &contents.topic(&partition.topic)?.spec.schema;
        rows::check_columns(schema, columns)?;
        let partition = contents.partition(partition)?;
        let at = partition.batches.partition_point(|kept| kept.batch.next() <= from);
        let mut read = Vec::new();
        let mut bytes = 0;
        for kept in &partition.batches[at..] {
            let batch = rows::view(&kept.batch, from, columns)?;
            bytes += rows::memory_bytes(&batch.rows);
            read.push(batch);
            if bytes > bytes_max {
                break;
            }
        }
        Ok(read)
    }

    async fn wait(&self, partition: &TopicPartition, from: Offset) -> Result<()> {
        let receiver = self.contents.lock().partition(partition)?.ends.subscribe();
        ends::wait(receiver, partition, from).await
    }

    async fn claim(&self, owner: &str) -> Result<Claim> {
        let mut contents = self.contents.lock();
        contents.token += 1;
        let token = contents.token;
        let owner: Arc<str> = owner.into();
        contents.claims.insert(owner.clone(), token);
        let consumed = contents.consumed.get(&owner).cloned().unwrap_or_default();
        Ok(Claim { owner, token, consumed })
    }

    async fn commit(&self, claim: &Claim, commit: Commit) -> Result<Vec<Offset>> {
        self.sweep_if_due()?;
        for write in &commit.state {
            check_state_keys(&write.entries)?;
        }
        let mut contents = self.contents.lock();
        if contents.claims.get(&claim.owner) != Some(&claim.token) {
            return Err(Error::Fenced {
                owner: claim.owner.to_string(),
            });
        }
        let produced = contents.check(commit.produced)?;
        for write in commit.state {
            contents.table(&write.table).apply(&write.entries);
        }
        let consumed = contents.consumed.entry(claim.owner.clone()).or_default();
        consumed.extend(commit.consumed);
        Ok(contents.publish(produced, self.clock.now()))
    }

    async fn consumed(&self, owner: &str) -> Result<HashMap<TopicPartition, Offset>> {
        Ok(self.contents.lock().consumed.get(owner).cloned().unwrap_or_default())
    }

    async fn release(&self, owner: &str) -> Result<()> {
        let mut contents = self.contents.lock();
        contents.claims.remove(owner);
        contents.consumed.remove(owner);
        Ok(())
    }

    async fn state(&self, table: &str) -> Result<Arc<dyn StateTable>> {
        Ok(self.contents.lock().table(table))
    }

    async fn delete_state(&self, table: &str) -> Result<()> {
        self.contents.lock().tables.remove(table);
        Ok(())
    }

    async fn state_tables(&self) -> Result<Vec<String>> {
        Ok(self.contents.lock().tables.keys().map(ToString::to_string).collect())
    }

    fn bytes_used(&self) -> u64 {
        let contents = self.contents.lock();
        let topics: u64 = contents.topics.values().map(|topic| topic.describe().bytes).sum();
        topics + contents.tables.values().map(|table| table.bytes_used()).sum::<u64>()
    }
}

impl Contents {
    fn topic(&self, name: &str) -> Result<&MemoryTopic> {
        self.topics
            .get(name)
            .ok_or_else(|| Error::UnknownTopic(name.to_owned()))
    }

    fn partition(&self, partition: &TopicPartition) -> Result<&MemoryPartition> {
        let topic = self.topic(&partition.topic)?;
        let found = topic.partitions.get(partition.partition as usize);
        found.ok_or_else(|| Error::UnknownPartition {
            topic: topic.spec.name.clone(),
            partition: partition.partition,
            partitions: topic.spec.partitions,
        })
    }

    fn table(&mut self, name: &str) -> Arc<MemoryTable> {
        self.tables.entry(name.into()).or_default().clone()
    }

    /// Everything that can fail, before anything is changed.
    fn check(&self, batches: Vec<Produced>) -> Result<Vec<Produced>> {
        let conform = |mut produced: Produced| {
            self.partition(&produced.partition)?;
            let schema = &self.topic(&produced.partition.topic)?.spec.schema;
            produced.rows = rows::conform(schema, &produced.partition, &produced.rows)?;
            Ok(produced)
        };
        batches.into_iter().map(conform).collect()
    }

    fn publish(&mut self, batches: Vec<Produced>, now: Micros) -> Vec<Offset> {
        let publish = |produced: Produced| {
            // Checked before: topic and partition are there.
            let topic = self.topics.get_mut(&produced.partition.topic)?;
            let partition = topic.partitions.get_mut(produced.partition.partition as usize)?;
            Some(partition.push(produced, now))
        };
        batches.into_iter().filter_map(publish).collect()
    }
}

impl MemoryTopic {
    fn new(name: &Arc<str>, spec: TopicSpec) -> Self {
        let partition = |number| MemoryPartition {
            name: TopicPartition::new(name.clone(), number),
            batches: Vec::new(),
            ends: Ends::new(0, 0),
        };
        Self {
            partitions: (0..spec.partitions).map(partition).collect(),
            spec,
        }
    }

    fn describe(&self) -> Topic {
        let bytes = self
            .partitions
            .iter()
            .flat_map(|partition| &partition.batches)
            .map(|kept| kept.bytes)
            .sum();
        Topic {
            spec: self.spec.clone(),
            bytes,
            known_as: None,
        }
    }

    fn sweep(&mut self, now: Micros) -> Result<()> {
        for partition in &mut self.partitions {
            match &self.spec.cleanup {
                Cleanup::Delete {
                    retention_ms,
                    retention_bytes,
                } => partition.retain(now, *retention_ms, *retention_bytes),
                Cleanup::Compact { key } => partition.compact(now, key)?,
            }
        }
        Ok(())
    }
}

impl MemoryPartition {
    fn push(&mut self, produced: Produced, now: Micros) -> Offset {
        debug_assert_eq!(self.name, produced.partition);
        let base = self.ends.borrow().next;
        let appended = self.batches.last().map_or(now, |last| last.batch.appended.max(now));
        let batch = LoggedBatch {
            base,
            appended,
            progress: produced.progress,
            rows: produced.rows,
        };
        let next = batch.next();
        let bytes = rows::memory_bytes(&batch.rows) as u64;
        self.batches.push(Kept { batch, bytes });
        self.ends.send_modify(|ends| ends.next = next);
        base
    }

    fn retain(&mut self, now: Micros, retention_ms: Option<u64>, retention_bytes: Option<u64>) {
        let mut newer_bytes: u64 = self.batches.iter().map(|kept| kept.bytes).sum();
        let goes = |kept: &Kept| {
            newer_bytes -= kept.bytes;
            let age_ms = u64::try_from(now.saturating_sub(kept.batch.appended) / 1000).unwrap_or(0);
            retention_ms.is_some_and(|max| age_ms > max) || retention_bytes.is_some_and(|max| newer_bytes >= max)
        };
        let count = self.batches.iter().map(goes).take_while(|&goes| goes).count();
        self.batches.drain(..count);
        self.moved();
    }

    fn compact(&mut self, now: Micros, key: &str) -> Result<()> {
        let mut latest = Latest::default();
        for kept in &self.batches {
            latest.note(&kept.batch, key)?;
        }
        let Some(last) = self.batches.pop() else {
            return Ok(());
        };
        let mut remaining = Vec::with_capacity(self.batches.len() + 1);
        for kept in self.batches.drain(..) {
            match latest.decide(&kept.batch, key, now - TOMBSTONE_KEPT)? {
                Outcome::Keep => remaining.push(kept),
                Outcome::Remove => {}
                Outcome::Replace(batch) => {
                    let bytes = rows::memory_bytes(&batch.rows) as u64;
                    remaining.push(Kept { batch, bytes });
                }
            }
        }
        remaining.push(last);
        self.batches = remaining;
        self.moved();
        Ok(())
    }

    fn moved(&self) {
        self.ends
            .send_modify(|ends| ends.start = self.batches.first().map_or(ends.next, |first| first.batch.base));
    }
}

#[cfg(test)]
mod tests {
    use headwater_event::clock::ManualClock;

    use super::*;
    use crate::conformance::{self, Backend};

    struct Memory(Arc<ManualClock>);

    impl Backend for Memory {
        type Log = MemoryLog;

        const DURABLE: bool = false;
        const SWEEPS: bool = true;

        fn clock(&self) -> &ManualClock {
            &self.0
        }

        fn open(&self, _storage: &str) -> Result<Arc<MemoryLog>> {
            Ok(MemoryLog::new(self.0.clone()))
        }

        async fn sweep(log: &MemoryLog) -> Result<()> {
            log.sweep()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn conforms() {
        conformance::run(&Memory(ManualClock::new(1_000))).await.unwrap();
    }
}
