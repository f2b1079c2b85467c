//! Topics of partitions of batches: the one durable thing of Headwater.
//!
//! [`Log`] is the contract; [`embedded`] keeps it in one directory of this machine, [`kafka`] on a
//! Kafka cluster, [`memory`] in memory for tests, simulation and live queries. [`conformance`] is the suite that every back
//! end must pass. The log knows offsets, retention and atomic commits, and nothing of SQL.

pub mod conformance;
pub mod cursor;
pub mod embedded;
pub mod error;
pub mod kafka;
pub mod memory;
pub mod topic;
pub mod work;

mod compaction;
mod encoding;
mod ends;
mod rows;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use async_trait::async_trait;
use bytes::Bytes;
use headwater_event::clock::Micros;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_event::watermark::Progress;

use crate::error::{Error, Result};
use crate::topic::{BoundTopic, Topic, TopicSpec};

/// A batch as it stands in the log. The rows have the offsets `base .. base + rows`; a batch
/// without rows (progress alone) takes one offset.
#[derive(Clone, Debug)]
pub struct LoggedBatch {
    pub base: Offset,
    /// When it was appended. Does not decrease within a partition; but in a topic of events (see [`topic::Events`]) it is what the time stamps of
    /// its records say, at the latest.
    pub appended: Micros,
    pub progress: Option<Progress>,
    /// In the topic's schema, or the projection of it that was asked for.
    pub rows: RecordBatch,
}

impl LoggedBatch {
    /// Where to go on reading after this batch.
    pub fn next(&self) -> Offset {
        self.base + (self.rows.num_rows() as u64).max(1)
    }

    /// The memory that the rows refer to, without what else lies in the same buffers.
    pub fn memory_bytes(&self) -> usize {
        rows::memory_bytes(&self.rows)
    }
}

/// Batches of more are appended as several, where they can be this large: see [`Produced::in_batches`].
const BATCH_BYTES_MAX: usize = 2 << 20;
const BATCH_ROWS_MAX: usize = 64 << 10;

/// A batch to be appended to one partition. Rows are in the topic's schema.
#[derive(Clone, Debug)]
pub struct Produced {
    pub partition: TopicPartition,
    pub rows: RecordBatch,
    pub progress: Option<Progress>,
}

impl Produced {
    /// The same as several, if it is larger than a batch should be: whoever reads a batch has all of it in memory.
    /// Progress goes with the last of them.
    pub fn in_batches(self) -> Result<Vec<Self>> {
        let (rows, bytes) = (self.rows.num_rows(), rows::memory_bytes(&self.rows));
        let count = bytes
            .div_ceil(BATCH_BYTES_MAX)
            .max(rows.div_ceil(BATCH_ROWS_MAX))
            .min(rows);
        if count <= 1 {
            return Ok(vec![self]);
        }
        let each = rows.div_ceil(count);
        let batch = |first: usize| {
            let last = rows.min(first + each);
            // Copied: a slice would keep all the rows in memory as long as it is there itself.
            let which = UInt32Array::from_iter_values(first as u32..last as u32);
            Ok(Self {
                partition: self.partition.clone(),
                rows: take_record_batch(&self.rows, &which)?,
                progress: self.progress.filter(|_| last == rows),
            })
        };
        (0..rows).step_by(each).map(batch).collect()
    }
}

/// What every back end has room for.
const STATE_KEY_BYTES_MAX: usize = 65_534;

/// New values under keys of a state table, of 65,534 bytes at most; `None` removes the key. The last entry of a key wins.
#[derive(Clone, Debug)]
pub struct StateWrite {
    pub table: Arc<str>,
    pub entries: Arc<[(Bytes, Option<Bytes>)]>,
}

fn check_state_keys(entries: &[(Bytes, Option<Bytes>)]) -> Result<()> {
    match entries.iter().map(|(key, _)| key.len()).max() {
        Some(bytes) if bytes > STATE_KEY_BYTES_MAX => Err(Error::Invalid(format!(
            "a key of {bytes} bytes is above the limit of {STATE_KEY_BYTES_MAX}"
        ))),
        _ => Ok(()),
    }
}

/// A record of somebody else's that is no event of its topic.
#[derive(Clone, Debug)]
pub struct RefusedRecord {
    pub offset: Offset,
    /// A sentence for people.
    pub what: String,
    pub bytes: Bytes,
}

/// What becomes visible and durable together, or not at all. Cheap to clone, so that whoever has
/// to try again can keep it: rows and entries are shared.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The next offset to read of each input, where it changed.
    pub consumed: Vec<(TopicPartition, Offset)>,
    pub produced: Vec<Produced>,
    pub state: Vec<StateWrite>,
}

/// The right to commit in an owner's name, until somebody else claims it, or the log that gave it is closed.
#[derive(Clone, Debug)]
pub struct Claim {
    pub owner: Arc<str>,
    /// Greater than that of every earlier claim of the same owner.
    pub token: u64,
    /// What the owner's last commit left as consumed.
    pub consumed: HashMap<TopicPartition, Offset>,
}

/// A durable, partitioned log with atomic commits.
///
/// The contract, which [`conformance`] checks:
/// * offsets of a partition increase and need not be dense;
/// * reading waits for nothing and is safe to cancel; whoever wants to wait uses [`Log::wait`];
/// * an append or commit that returned is durable; one that failed is not visible, now or after
///   a restart; one that was cancelled is either, as a whole;
/// * a commit with an outdated claim fails with [`error::Kind::Conflict`] and changes nothing;
/// * creating what is already there in the same form succeeds.
#[async_trait]
pub trait Log: std::fmt::Debug + Send + Sync + 'static {
    /// Creates the topic, or finds it: an existing one with another schema, number of
    /// partitions or kind of cleanup is a conflict. Retention may differ and is updated.
    async fn create_topic(&self, spec: TopicSpec) -> Result<Topic>;

    /// Deletes the topic with everything in it. Deleting what isn't there succeeds.
    async fn delete_topic(&self, name: &str) -> Result<()>;

    async fn topic(&self, name: &str) -> Result<Option<Topic>>;

    /// What there is of a topic that others may have made, by the name that they know it by; `None` where nobody has yet.
    ///
    /// Fails with [`error::Kind::Invalid`] where events can't be kept in it, or others can't reach this log.
    async fn bound_topic(&self, _name: &str) -> Result<Option<BoundTopic>> {
        Err(Error::Invalid(
            "a topic that other programs read and write is on Kafka: it needs log.backend = 'kafka' in the configuration".to_owned(),
        ))
    }

    /// Of the records from `from` on, some that are no events, in a topic that others write to; and where to look on. Waits for nothing
    /// for long.
    async fn refused(&self, _partition: &TopicPartition, from: Offset) -> Result<(Vec<RefusedRecord>, Offset)> {
        Ok((Vec::new(), from))
    }

    async fn topics(&self) -> Result<Vec<Topic>>;

    /// From the earliest offset that is still kept to the next one to be written.
    async fn offsets(&self, partition: &TopicPartition) -> Result<Range<Offset>>;

    /// The same once everything that was committed before can be read, whoever committed it: what [`Log::consumed`] tells of may
    /// be seen a little earlier than what was produced with it.
    async fn settled(&self, partition: &TopicPartition) -> Result<Range<Offset>> {
        self.offsets(partition).await
    }

    /// The offset after the last batch that is known here, or 0. All that this process has appended and committed is, once that has returned.
    fn known_end(&self, partition: &TopicPartition) -> Offset;

    /// The base offset of the first batch appended at `time` or later; the end where there is none.
    async fn offset_at(&self, partition: &TopicPartition, time: Micros) -> Result<Offset>;

    /// Removes the batches that lie before the offset as a whole, for good; a batch that holds it
    /// stays. For readers that are the only ones of a topic and have committed what they read.
    /// A compacted topic can't be trimmed: that is invalid.
    async fn trim(&self, partition: &TopicPartition, before: Offset) -> Result<()>;

    /// Appends batches, of any topics, atomically and durably. The answer has the first offset
    /// of each.
    async fn append(&self, batches: Vec<Produced>) -> Result<Vec<Offset>>;

    /// Whole batches from the one that holds `from` on, at least one if there is any, until they
    /// pass `bytes_max` of Arrow memory; empty at the end. Rows before `from` in the first batch
    /// are left out; an offset before the earliest kept reads from the earliest.
    ///
    /// `columns` selects columns of the topic's schema, in ascending order.
    ///
    /// A damaged batch is an error of kind [`error::Kind::Corrupt`] that names it and the offset
    /// after it, so that reading can go on there.
    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        bytes_max: usize,
        columns: Option<&[usize]>,
    ) -> Result<Vec<LoggedBatch>>;

    /// Returns when there is something to read at `from` or after it.
    async fn wait(&self, partition: &TopicPartition, from: Offset) -> Result<()>;

    /// Takes over the owner's work: commits with earlier claims of the same owner fail from now on.
    async fn claim(&self, owner: &str) -> Result<Claim>;

    /// Commits in the owner's name. The answer has the first offset of each produced batch.
    async fn commit(&self, claim: &Claim, commit: Commit) -> Result<Vec<Offset>>;

    /// What the owner's last commit left as consumed, whoever made it. What other processes commit is known a little later.
    async fn consumed(&self, owner: &str) -> Result<HashMap<TopicPartition, Offset>>;

    /// Forgets what the owner consumed.
    async fn release(&self, owner: &str) -> Result<()>;

    /// A process that shares this log has left, or is taken for it: nobody waits for it to give up what it has claimed.
    fn left(&self, _process: &str) {}

    /// Opens a state table, creating it if it isn't there.
    async fn state(&self, table: &str) -> Result<Arc<dyn StateTable>>;

    /// Deletes a state table with everything in it. Deleting what isn't there succeeds.
    async fn delete_state(&self, table: &str) -> Result<()>;

    /// The names of all state tables.
    async fn state_tables(&self) -> Result<Vec<String>>;

    /// The bytes that the log takes on disk (or in memory, where it lives there).
    fn bytes_used(&self) -> u64;
}

/// An ordered table of bytes, written by commits alone. Reads see all commits that have returned,
/// may block on the disk, and belong on threads that may.
pub trait StateTable: std::fmt::Debug + Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// The values of keys, in the order of the keys, as of one instant.
    fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>>;

    /// All entries whose key begins with `prefix`, in ascending order, as of one instant.
    fn scan(&self, prefix: &[u8]) -> Entries;

    /// All entries from `from` (inclusive) on, in ascending order, as of one instant.
    fn scan_from(&self, from: &[u8]) -> Entries;

    /// The bytes that the table takes, roughly.
    fn bytes_used(&self) -> u64;

    /// The number of entries, roughly: of one that was written anew, the former ones may be counted too.
    fn entries(&self) -> u64;
}

pub type Entries = Box<dyn Iterator<Item = Result<(Bytes, Bytes)>> + Send>;
