//! The log in one directory of this machine, on the LSM store fjall.
//!
//! Everything is in one database: batches, their index, consumed offsets, claims, state. So an
//! append or a commit is one atomic write of the store, and it is synced before it is answered and
//! before anybody can read it. See `layout` for what lies where, `committer` for how writes are
//! grouped, `read` for how they come back, `sweep` for how they go.
//!
//! # Damage: what is promised
//! * A write that was cut off by a crash or a power cut is gone as a whole, without a word:
//!   it was never acknowledged.
//! * A batch whose bytes have changed on disk is an error that names it and the offset after it,
//!   and so are small batches in the same block of 4 KiB; all others stay readable.
//! * A journal that is damaged before its end, or anywhere if the log had been closed, is an error when the log is
//!   opened, which names the file; nothing is cut off silently (see `journal`).
//! * A table file that is missing is an error when the log is opened, which names the folder of
//!   the tables. The log then doesn't open, and nothing in it is changed.
//!
//! What is not promised:
//! * After a *failed* sync nothing more is written until a restart, and the writes that failed with
//!   it may or may not be there after the restart, each as a whole.
//! * When the store's own compaction meets a damaged block, it stops writing until a restart;
//!   reading goes on.
//! * Damage to the index of a topic or to a state table is an error of kind corrupt, but what is in
//!   the damaged block is lost without a way around it.
//!
//! A log that is **expendable**, because all in it can be made again, promises less and is faster: nothing is synced before it is closed. After a
//! crash of the process it is whole; if it is damaged, or the machine went down, it begins anew.

pub mod options;

mod changes;
mod committer;
mod directory;
mod journal;
mod layout;
mod read;
mod space;
mod state;
mod store;
mod sweep;
mod tail;
mod topics;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use headwater_event::clock::{Clock, Micros};
use headwater_event::offset::{Offset, TopicPartition};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::embedded::committer::{Committer, Encoded, Request, Write};
use crate::embedded::directory::Directory;
use crate::embedded::options::{EmbeddedOptions, QUEUE_REQUESTS_MAX};
use crate::embedded::read::Wanted;
use crate::embedded::space::Space;
use crate::embedded::state::EmbeddedTable;
use crate::embedded::store::Store;
use crate::embedded::tail::TailCache;
use crate::embedded::topics::{OpenTable, OpenTopic, Partition};
use crate::ends::{self, Gone};
use crate::error::{Error, Result};
use crate::topic::{Topic, TopicSpec, check_spec, check_trim};
use crate::{Claim, Commit, Log, LoggedBatch, Produced, StateTable, StateWrite, check_state_keys, encoding, rows};

/// A group of writes ends when it is this large, so that its first writes don't wait for ever longer
/// syncs; earlier where the queue is short.
const GROUP_BYTES_MAX: usize = 16 << 20;

/// See the module. Closes when it is dropped.
#[derive(Debug)]
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    queue: RwLock<Option<mpsc::Sender<Request>>>,
    /// Room in the queue, in bytes.
    room: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the callers, the committer and the sweep share.
#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    options: EmbeddedOptions,
    topics: RwLock<BTreeMap<Arc<str>, Arc<OpenTopic>>>,
    tables: RwLock<HashMap<Arc<str>, Arc<OpenTable>>>,
    tail: TailCache,
    store: Store,
    /// The last field: the directory stays locked until the store is closed.
    directory: Directory,
}

impl EmbeddedLog {
    /// Opens the log of a data directory, creating it where there is none.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process has it open; [`Error::NewerFormat`];
    /// [`Error::DamagedFile`]; [`Error::Io`] with the path that can't be used.
    pub fn open(options: EmbeddedOptions, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        match Self::try_open(options.clone(), clock.clone()) {
            Err(error @ Error::DamagedFile { .. }) if options.expendable => {
                tracing::warn!(%error, "beginning anew: all that was there can be made again");
                Directory::wipe(&options.directory)?;
                Self::try_open(options, clock)
            }
            opened => opened,
        }
    }

    fn try_open(options: EmbeddedOptions, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        let directory = Directory::open(&options.directory)?;
        if options.expendable {
            directory.check_boot()?;
        }
        directory.check_journals()?;
        let store = Store::open(directory.store_folder(), &options)?;
        let space = Space::new(&options, clock.clone());
        let shared = Arc::new(Shared {
            clock,
            topics: RwLock::default(),
            tables: RwLock::default(),
            tail: TailCache::new(options.tail_cache_bytes),
            store,
            directory,
            options,
        });
        let committer = Committer::open(shared.clone(), space)?;
        let queue_bytes = queue_bytes(&shared.options);
        let group_bytes_max = GROUP_BYTES_MAX.min(queue_bytes / 4);
        let (queue, requests) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let (stop, stopped) = watch::channel(false);
        let threads = vec![
            spawn("log-committer", move || {
                committer::run(committer, requests, group_bytes_max)
            })?,
            sweep::spawn(shared.clone(), queue.downgrade(), stopped)?,
        ];
        Ok(Arc::new(Self {
            shared,
            queue: RwLock::new(Some(queue)),
            room: Arc::new(Semaphore::new(queue_bytes)),
            stop,
            threads: Mutex::new(threads),
        }))
    }

    /// Applies retention and compaction now; otherwise it happens every `sweep_every`.
    pub async fn sweep(&self) -> Result<()> {
        sweep::sweep(&self.shared, &self.queue()?).await
    }

    /// The memory of caches and write buffers, without what waits in the queue.
    pub fn memory_used(&self) -> u64 {
        self.shared.store.memory_used() + self.shared.tail.bytes() as u64
    }

    /// Writes what is waiting and closes. Everything fails with [`Error::Closed`] from now on.
    /// Blocks until it is done; dropping the log does the same.
    pub fn close(&self) {
        self.queue.write().take();
        self.stop.send_replace(true);
        let threads: Vec<_> = self.threads.lock().drain(..).collect();
        let was_open = !threads.is_empty();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the log has panicked");
            }
        }
        if was_open {
            self.note_closed();
        }
        for topic in self.shared.topics.read().values() {
            topic.gone(Gone::Closed);
        }
    }

    fn note_closed(&self) {
        if self.shared.options.expendable
            && let Err(error) = self.shared.store.sync()
        {
            tracing::warn!(%error, "the log can't be synced, and counts as not closed");
            return;
        }
        self.shared.directory.note_closed();
    }

    fn queue(&self) -> Result<mpsc::Sender<Request>> {
        self.queue.read().clone().ok_or(Error::Closed)
    }

    /// Runs a change on the committer, between its groups.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Committer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        committer::change(&self.queue()?, change).await
    }

    fn open_topic(&self, name: &str) -> Result<Arc<OpenTopic>> {
        if self.queue.read().is_none() {
            return Err(Error::Closed);
        }
        let topics = self.shared.topics.read();
        topics
            .get(name)
            .cloned()
            .ok_or_else(|| Error::UnknownTopic(name.to_owned()))
    }

    fn open_partition(&self, partition: &TopicPartition) -> Result<(Arc<OpenTopic>, Arc<Partition>)> {
        let topic = self.open_topic(&partition.topic)?;
        let found = topic.partition(partition)?.clone();
        Ok((topic, found))
    }

    async fn open_table(&self, name: &str) -> Result<Arc<OpenTable>> {
        if let Some(table) = self.shared.tables.read().get(name) {
            return Ok(table.clone());
        }
        let name = name.to_owned();
        self.change(move |committer| committer.open_table(&name)).await
    }

    fn encode(&self, mut batch: Produced) -> Result<Encoded> {
        let (topic, partition) = self.open_partition(&batch.partition)?;
        batch.rows = rows::conform(&topic.schema, &batch.partition, &batch.rows)?;
        let value = encoding::encode(&batch.rows, batch.progress, self.shared.options.compression)?;
        Ok(Encoded {
            topic,
            partition,
            batch,
            value: value.into(),
        })
    }

    async fn write(&self, claim: Option<&Claim>, commit: Commit) -> Result<Vec<Offset>> {
        let mut state = Vec::with_capacity(commit.state.len());
        for StateWrite { table, entries } in commit.state {
            check_state_keys(&entries)?;
            state.push((self.open_table(&table).await?, entries));
        }
        let produced = commit
            .produced
            .into_iter()
            .map(|batch| self.encode(batch))
            .collect::<Result<Vec<_>>>()?;
        if claim.is_none() && produced.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = bytes_of(&produced, &state);
        let room = self
            .room
            .clone()
            .acquire_many_owned(bytes.min(queue_bytes(&self.shared.options)) as u32)
            .await;
        let (answer, answered) = oneshot::channel();
        let write = Write {
            claim: claim.map(|claim| (claim.owner.clone(), claim.token)),
            consumed: commit.consumed,
            produced,
            state,
            bytes,
            answer,
            room: Some(room.map_err(|_| Error::Closed)?),
        };
        self.queue()?
            .send(Request::Write(write))
            .await
            .map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn create_topic(&self, spec: TopicSpec) -> Result<Topic> {
        check_spec(&spec)?;
        self.change(move |committer| committer.create_topic(spec)).await
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.change(move |committer| committer.delete_topic(&name)).await
    }

    async fn topic(&self, name: &str) -> Result<Option<Topic>> {
        match self.open_topic(name) {
            Ok(topic) => Ok(Some(topic.describe())),
            Err(Error::UnknownTopic(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn topics(&self) -> Result<Vec<Topic>> {
        self.queue()?;
        Ok(self
            .shared
            .topics
            .read()
            .values()
            .map(|topic| topic.describe())
            .collect())
    }

    async fn offsets(&self, partition: &TopicPartition) -> Result<Range<Offset>> {
        let ends = self.open_partition(partition)?.1.check()?;
        Ok(ends.start..ends.next)
    }

    async fn settled(&self, partition: &TopicPartition) -> Result<Range<Offset>> {
        // A group of commits is in the store, for all to see, before its batches are: the committer is through with both when it gets to this.
        self.change(|_| Ok(())).await?;
        self.offsets(partition).await
    }

    fn known_end(&self, partition: &TopicPartition) -> Offset {
        let known = self.open_partition(partition);
        known.map_or(0, |(_, partition)| partition.ends.borrow().next)
    }

    async fn offset_at(&self, partition: &TopicPartition, time: Micros) -> Result<Offset> {
        let (topic, partition) = self.open_partition(partition)?;
        let shared = self.shared.clone();
        blocking(move || read::offset_at(&shared.store, &topic, &partition, time)).await
    }

    async fn trim(&self, partition: &TopicPartition, before: Offset) -> Result<()> {
        let (topic, partition) = self.open_partition(partition)?;
        check_trim(&topic.spec.read())?;
        sweep::trim(&self.shared, &self.queue()?, &topic, &partition, before).await
    }

    async fn append(&self, batches: Vec<Produced>) -> Result<Vec<Offset>> {
        let commit = Commit {
            produced: batches,
            ..Commit::default()
        };
        self.write(None, commit).await
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        bytes_max: usize,
        columns: Option<&[usize]>,
    ) -> Result<Vec<LoggedBatch>> {
        let (topic, partition) = self.open_partition(partition)?;
        rows::check_columns(&topic.schema, columns)?;
        let ends = partition.check()?;
        let from = from.max(ends.start);
        if from >= ends.next {
            return Ok(Vec::new());
        }
        if let Some(read) = partition.tail.read(from, ends.next, bytes_max, columns)? {
            return Ok(read);
        }
        let shared = self.shared.clone();
        let wanted = Wanted {
            from,
            bytes_max,
            columns: columns.map(<[usize]>::to_vec),
        };
        blocking(move || read::read(&shared.store, &topic, &partition, &wanted)).await
    }

    async fn wait(&self, partition: &TopicPartition, from: Offset) -> Result<()> {
        let receiver = self.open_partition(partition)?.1.ends.subscribe();
        ends::wait(receiver, partition, from).await
    }

    async fn claim(&self, owner: &str) -> Result<Claim> {
        let owner = owner.to_owned();
        self.change(move |committer| committer.claim(&owner)).await
    }

    async fn commit(&self, claim: &Claim, commit: Commit) -> Result<Vec<Offset>> {
        self.write(Some(claim), commit).await
    }

    async fn consumed(&self, owner: &str) -> Result<HashMap<TopicPartition, Offset>> {
        self.queue()?;
        let (shared, owner) = (self.shared.clone(), owner.to_owned());
        blocking(move || shared.store.consumed(&owner)).await
    }

    async fn release(&self, owner: &str) -> Result<()> {
        let owner = owner.to_owned();
        self.change(move |committer| committer.release(&owner)).await
    }

    async fn state(&self, table: &str) -> Result<Arc<dyn StateTable>> {
        Ok(Arc::new(EmbeddedTable {
            table: self.open_table(table).await?,
            shared: self.shared.clone(),
        }))
    }

    async fn delete_state(&self, table: &str) -> Result<()> {
        let name = table.to_owned();
        self.change(move |committer| committer.delete_table(&name)).await
    }

    async fn state_tables(&self) -> Result<Vec<String>> {
        self.queue()?;
        let shared = self.shared.clone();
        blocking(move || shared.store.table_names()).await
    }

    fn bytes_used(&self) -> u64 {
        self.shared.store.disk_used()
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a semaphore can count.
fn queue_bytes(options: &EmbeddedOptions) -> usize {
    options.queue_bytes.clamp(1, u32::MAX as usize)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map_err(|error| Error::Storage(format!("no thread for the log: {error}")))
}

/// Work that may wait for the disk, on a thread that may, where there is a runtime that has some.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await.map_err(|_| Error::Closed)?,
        Err(_) => work(),
    }
}

fn bytes_of(produced: &[Encoded], state: &[(Arc<OpenTable>, committer::Entries)]) -> usize {
    let value_bytes = |value: &Option<bytes::Bytes>| value.as_ref().map_or(0, bytes::Bytes::len);
    let entries = state.iter().flat_map(|(_, entries)| entries.iter());
    let state_bytes: usize = entries.map(|(key, value)| key.len() + value_bytes(value)).sum();
    produced.iter().map(|encoded| encoded.value.len()).sum::<usize>() + state_bytes
}

#[cfg(test)]
mod tests;
