//! The one thread that writes. It takes all that is waiting, as one group:
//!
//! 1. Each write of the group is checked; one that fails is answered and left out.
//! 2. Offsets are given, and everything is put into one atomic batch of the store.
//! 3. The batch is written and synced, once for the whole group.
//! 4. Ends of partitions and the tail cache are moved on, readers are woken, writers answered.
//!
//! Changes of topics, tables and claims are closures that run between groups, in the order in
//! which they came. Encoding and compression have happened before, with the callers.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use fjall::{Keyspace, OwnedWriteBatch, Slice};
use headwater_event::clock::Micros;
use headwater_event::offset::{Offset, TopicPartition};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::embedded::Shared;
use crate::embedded::layout::{Entry, batch_key, consumed_key, state_key};
use crate::embedded::space::Space;
use crate::embedded::topics::{OpenTable, OpenTopic, Partition};
use crate::error::{Error, Result};
use crate::rows::offsets_of;
use crate::{LoggedBatch, Produced};

const GROUP_WRITES_MAX: usize = 1024;

pub(super) enum Request {
    Write(Write),
    Change(Box<dyn FnOnce(&mut Committer) + Send>),
}

/// An append or a commit, ready to be written.
pub(super) struct Write {
    /// Who commits, with which token. None for an append.
    pub claim: Option<(Arc<str>, u64)>,
    pub consumed: Vec<(TopicPartition, Offset)>,
    pub produced: Vec<Encoded>,
    pub state: Vec<(Arc<OpenTable>, Entries)>,
    pub bytes: usize,
    pub answer: oneshot::Sender<Result<Vec<Offset>>>,
    /// The room in the queue that this takes, free when it is dropped.
    pub room: Option<OwnedSemaphorePermit>,
}

pub(super) type Entries = Arc<[(Bytes, Option<Bytes>)]>;

pub(super) struct Encoded {
    pub topic: Arc<OpenTopic>,
    pub partition: Arc<Partition>,
    pub batch: Produced,
    pub value: Slice,
}

type Answers = Vec<(oneshot::Sender<Result<Vec<Offset>>>, Vec<Offset>)>;

pub(super) struct Committer {
    pub shared: Arc<Shared>,
    /// The token of each owner's last claim.
    pub claims: HashMap<Arc<str>, u64>,
    pub last_token: u64,
    pub last_number: u64,
    pub space: Space,
}

/// What a group has put together so far.
struct Group {
    batch: OwnedWriteBatch,
    now: Micros,
    /// Where the partitions of the group will stand.
    last: HashMap<(u64, u32), Entry>,
    /// New values, in the order in which they came.
    values: Vec<NewValue>,
    published: Vec<(Arc<Partition>, Entry, LoggedBatch)>,
    answers: Answers,
    room: Vec<OwnedSemaphorePermit>,
    bytes: usize,
}

/// Works until the queue is closed and empty.
pub(super) fn run(mut committer: Committer, mut queue: mpsc::Receiver<Request>, group_bytes_max: usize) {
    while let Some(mut request) = queue.blocking_recv() {
        let mut writes = Vec::new();
        let mut bytes = 0;
        let change = loop {
            match request {
                Request::Write(write) => {
                    bytes += write.bytes;
                    writes.push(write);
                }
                Request::Change(change) => break Some(change),
            }
            if bytes >= group_bytes_max || writes.len() >= GROUP_WRITES_MAX {
                break None;
            }
            match queue.try_recv() {
                Ok(next) => request = next,
                Err(_) => break None,
            }
        };
        if !writes.is_empty() {
            committer.write(writes);
        }
        if let Some(change) = change {
            change(&mut committer);
        }
    }
}

struct NewValue {
    keyspace: Keyspace,
    key: Slice,
    value: Option<Slice>,
}

impl Committer {
    fn write(&mut self, writes: Vec<Write>) {
        let started = self.shared.clock.elapsed();
        let mut group = Group::new(&self.shared);
        for write in writes {
            match self.check(&write) {
                Ok(()) => group.add(&self.shared, write),
                Err(error) => answer(write.answer, Err(error)),
            }
        }
        if group.answers.is_empty() {
            return;
        }
        group.finish();
        metrics::histogram!("headwater_log_commit_group_size").record(group.answers.len() as f64);
        metrics::counter!("headwater_log_append_bytes_total").increment(group.bytes as u64);
        match self.shared.store.commit(group.batch) {
            Ok(()) => publish(&self.shared, group.published, group.answers),
            Err(error) => {
                tracing::error!(%error, "the log could not be written");
                metrics::counter!("headwater_log_commit_failures_total").increment(1);
                fail(&error, group.answers);
            }
        }
        drop(group.room);
        let took = self.shared.clock.elapsed().saturating_sub(started);
        metrics::histogram!("headwater_log_commit_seconds").record(took.as_secs_f64());
        if let Err(error) = self.shared.store.bound_memory() {
            tracing::error!(%error, "the log's write buffer could not be written out");
        }
    }

    /// Everything that can fail by itself, without harm to the rest of the group.
    fn check(&mut self, write: &Write) -> Result<()> {
        if let Some((owner, token)) = &write.claim
            && self.claims.get(owner) != Some(token)
        {
            return Err(Error::Fenced {
                owner: owner.to_string(),
            });
        }
        for encoded in &write.produced {
            encoded.partition.check()?;
        }
        for (table, _) in &write.state {
            table.check()?;
        }
        self.space.take(write.bytes as u64)
    }
}

impl Group {
    fn new(shared: &Shared) -> Self {
        Self {
            batch: shared.store.batch(),
            now: shared.clock.now(),
            last: HashMap::new(),
            values: Vec::new(),
            published: Vec::new(),
            answers: Vec::new(),
            room: Vec::new(),
            bytes: 0,
        }
    }

    fn add(&mut self, shared: &Shared, write: Write) {
        let offsets = write
            .produced
            .into_iter()
            .map(|encoded| self.produce(encoded))
            .collect();
        if let Some((owner, _)) = &write.claim {
            for (partition, offset) in write.consumed {
                let offset = Slice::from(offset.to_be_bytes());
                self.put(&shared.store.meta, consumed_key(owner, &partition), Some(offset));
            }
        }
        for (table, entries) in write.state {
            for (key, value) in entries.iter() {
                let value = value.as_ref().map(|value| Slice::from(value.as_ref()));
                self.put(&table.keyspace, state_key(key), value);
            }
        }
        self.bytes += write.bytes;
        self.room.extend(write.room);
        self.answers.push((write.answer, offsets));
    }

    fn put(&mut self, keyspace: &Keyspace, key: impl Into<Slice>, value: Option<Slice>) {
        self.values.push(NewValue {
            keyspace: keyspace.clone(),
            key: key.into(),
            value,
        });
    }

    /// A batch of the store must not have a key twice: the last value wins. In the order of the keys, because the
    /// memtable takes neighbours faster.
    fn finish(&mut self) {
        let mut values = std::mem::take(&mut self.values);
        values.sort_by(|a, b| (a.keyspace.id(), &a.key).cmp(&(b.keyspace.id(), &b.key)));
        let mut values = values.into_iter().peekable();
        while let Some(new) = values.next() {
            let again = values
                .peek()
                .is_some_and(|next| next.key == new.key && next.keyspace.id() == new.keyspace.id());
            match new.value {
                _ if again => {}
                Some(value) => self.batch.insert(&new.keyspace, new.key, value),
                None => self.batch.remove(&new.keyspace, new.key),
            }
        }
    }

    /// Gives the batch its place.
    fn produce(&mut self, encoded: Encoded) -> Offset {
        let Encoded {
            topic,
            partition,
            batch,
            value,
        } = encoded;
        let number = partition.name.partition;
        let last = self
            .last
            .entry((topic.number, number))
            .or_insert_with(|| *partition.last.lock());
        let base = last.next;
        let entry = Entry {
            next: base + offsets_of(&batch.rows),
            appended: last.appended.max(self.now),
            bytes_total: last.bytes_total + value.len() as u64,
        };
        *last = entry;
        self.batch.insert(&topic.stored.batches, batch_key(number, base), value);
        self.batch
            .insert(&topic.stored.index, batch_key(number, base), entry.to_bytes());
        let logged = LoggedBatch {
            base,
            appended: entry.appended,
            progress: batch.progress,
            rows: batch.rows,
        };
        self.published.push((partition, entry, logged));
        base
    }
}

fn publish(shared: &Shared, published: Vec<(Arc<Partition>, Entry, LoggedBatch)>, answers: Answers) {
    let mut ends: HashMap<*const Partition, (Arc<Partition>, Offset)> = HashMap::new();
    for (partition, entry, batch) in published {
        *partition.last.lock() = entry;
        shared.tail.push(&partition, batch);
        ends.insert(Arc::as_ptr(&partition), (partition, entry.next));
    }
    for (partition, next) in ends.into_values() {
        partition.ends.send_modify(|ends| ends.next = next);
    }
    for (sender, offsets) in answers {
        answer(sender, Ok(offsets));
    }
}

/// The same error for everybody.
fn fail(error: &Error, answers: Answers) {
    for (sender, _) in answers {
        let error = match error {
            Error::Io { path, source } => Error::Io {
                path: path.clone(),
                source: std::io::Error::new(source.kind(), source.to_string()),
            },
            error => Error::Storage(error.to_string()),
        };
        answer(sender, Err(error));
    }
}

fn answer<T>(sender: oneshot::Sender<T>, answer: T) {
    // Nobody waits any more: the write was cancelled, and stands or falls as a whole.
    let _ = sender.send(answer);
}

/// Runs a change on the committer, between its groups, and waits for its answer.
pub(super) async fn change<T: Send + 'static>(
    queue: &mpsc::Sender<Request>,
    change: impl FnOnce(&mut Committer) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, answered) = oneshot::channel();
    let run = move |committer: &mut Committer| answer(sender, change(committer));
    queue
        .send(Request::Change(Box::new(run)))
        .await
        .map_err(|_| Error::Closed)?;
    answered.await.map_err(|_| Error::Closed)?
}
