//! Retention and compaction, now and then (`EmbeddedOptions::sweep_every`) and when asked to; and what
//! readers ask to be trimmed.
//!
//! The sweep finds out by the index what has to go, on its own thread, and lets the committer
//! remove it. In the same atomic step it writes down where the partition ended, so that offsets go
//! on from there even when nothing is left. Tables of the store that hold nothing else any more
//! are dropped at once; the rest of the space comes back as the store compacts.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;

use fjall::{AbstractTree, Snapshot};
use headwater_event::offset::Offset;
use tokio::sync::{mpsc, watch};

use crate::LoggedBatch;
use crate::compaction::{Latest, Outcome, TOMBSTONE_KEPT};
use crate::embedded::Shared;
use crate::embedded::committer::{self, Committer, Request};
use crate::embedded::layout::{Entry, batch_key, mark_key};
use crate::embedded::read::{read_one, walk_index};
use crate::embedded::topics::{Compacted, OpenTopic, Partition};
use crate::encoding;
use crate::error::{Error, Result};
use crate::rows::memory_bytes;
use crate::topic::Cleanup;

/// What one step removes at most, so that the committer isn't held up.
const STEP_BATCHES_MAX: usize = 4096;
const STEP_BYTES_MAX: usize = 8 << 20;

/// Runs the sweep on a thread of its own until `stop` says so.
pub(super) fn spawn(
    shared: Arc<Shared>,
    queue: mpsc::WeakSender<Request>,
    mut stop: watch::Receiver<bool>,
) -> Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| Error::Storage(format!("no runtime for the log's sweep: {error}")))?;
    let work = async move {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = shared.clock.sleep(shared.options.sweep_every) => {}
            }
            let Some(queue) = queue.upgrade() else {
                return;
            };
            if let Err(error) = sweep(&shared, &queue).await {
                tracing::warn!(%error, "retention has failed and will be tried again");
            }
        }
    };
    super::spawn("log-sweep", move || runtime.block_on(work))
}

/// Goes over all topics once. A partition that fails doesn't keep the others from their turn.
pub(super) async fn sweep(shared: &Arc<Shared>, queue: &mpsc::Sender<Request>) -> Result<()> {
    let topics: Vec<_> = shared.topics.read().values().cloned().collect();
    let mut result = Ok(());
    for topic in topics {
        let cleanup = topic.spec.read().cleanup.clone();
        for partition in &topic.partitions {
            let swept = match &cleanup {
                Cleanup::Delete {
                    retention_ms,
                    retention_bytes,
                } => retain(shared, queue, &topic, partition, *retention_ms, *retention_bytes).await,
                Cleanup::Compact { key } => compact(shared, queue, &topic, partition, key).await,
            };
            match swept {
                // Deleted meanwhile.
                Ok(()) | Err(Error::UnknownTopic(_)) => {}
                Err(error) => result = Err(error),
            }
        }
    }
    result
}

async fn retain(
    shared: &Arc<Shared>,
    queue: &mpsc::Sender<Request>,
    topic: &Arc<OpenTopic>,
    partition: &Arc<Partition>,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
) -> Result<()> {
    if retention_ms.is_none() && retention_bytes.is_none() {
        return Ok(());
    }
    let goes = |last: &Entry, entry: &Entry| {
        let age_ms = u64::try_from(shared.clock.now().saturating_sub(entry.appended) / 1000).unwrap_or(0);
        let newer_bytes = last.bytes_total.saturating_sub(entry.bytes_total);
        retention_ms.is_some_and(|max| age_ms > max) || retention_bytes.is_some_and(|max| newer_bytes >= max)
    };
    remove_while(shared, queue, topic, partition, goes).await
}

/// Removes the batches that end at `before` or earlier.
pub(super) async fn trim(
    shared: &Arc<Shared>,
    queue: &mpsc::Sender<Request>,
    topic: &Arc<OpenTopic>,
    partition: &Arc<Partition>,
    before: Offset,
) -> Result<()> {
    remove_while(shared, queue, topic, partition, |_, entry| entry.next <= before).await
}

/// Removes batches from the start of a partition on, up to the first that doesn't go. What goes
/// is told by the partition's last batch and the batch in question.
async fn remove_while(
    shared: &Arc<Shared>,
    queue: &mpsc::Sender<Request>,
    topic: &Arc<OpenTopic>,
    partition: &Arc<Partition>,
    goes: impl Fn(&Entry, &Entry) -> bool,
) -> Result<()> {
    loop {
        let last = *partition.last.lock();
        let start = partition.check()?.start;
        let mut removed = Vec::new();
        // What was removed before has left its traces in the store: they are not walked over again.
        walk_index(
            &shared.store,
            topic,
            partition.name.partition,
            start..last.next.max(start),
            |_, base, entry| {
                if !goes(&last, &entry) || removed.len() >= STEP_BATCHES_MAX {
                    return Ok(ControlFlow::Break(()));
                }
                removed.push((base, entry));
                Ok(ControlFlow::Continue(()))
            },
        )?;
        if removed.is_empty() {
            return Ok(());
        }
        let (topic, partition) = (topic.clone(), partition.clone());
        committer::change(queue, move |committer| remove(committer, &topic, &partition, &removed)).await?;
    }
}

/// Removes the first batches of a partition. Readers stop seeing them before they are gone.
fn remove(
    committer: &mut Committer,
    topic: &OpenTopic,
    partition: &Partition,
    removed: &[(Offset, Entry)],
) -> Result<()> {
    partition.check()?;
    let Some(&(last_base, last)) = removed.last() else {
        return Ok(());
    };
    let number = partition.name.partition;
    let store = &committer.shared.store;
    let before = partition.ends.borrow().start;
    if last.next <= before {
        // Somebody else, the retention or a reader, was faster. The mark must not go back.
        return Ok(());
    }
    partition
        .ends
        .send_modify(|ends| ends.start = ends.start.max(last.next));
    let mut batch = store.batch();
    for &(base, _) in removed {
        batch.remove(&topic.stored.batches, batch_key(number, base));
        batch.remove(&topic.stored.index, batch_key(number, base));
    }
    batch.insert(&store.meta, mark_key(topic.number, number), last.to_bytes());
    if let Err(error) = store.commit(batch) {
        partition.ends.send_modify(|ends| ends.start = before);
        return Err(error);
    }
    let range = batch_key(number, 0)..=batch_key(number, last_base);
    if let Err(error) = topic.stored.batches.tree.drop_range(range) {
        tracing::warn!(
            ?error,
            topic = &*partition.name.topic,
            "space of removed batches comes back later"
        );
    }
    metrics::counter!("headwater_log_removed_batches_total").increment(removed.len() as u64);
    Ok(())
}

/// What becomes of a batch: removed, or replaced by a smaller one at another base.
struct Change {
    base: Offset,
    replaced: Option<(LoggedBatch, Entry, fjall::Slice)>,
}

async fn compact(
    shared: &Arc<Shared>,
    queue: &mpsc::Sender<Request>,
    topic: &Arc<OpenTopic>,
    partition: &Arc<Partition>,
    key: &str,
) -> Result<()> {
    let before = *partition.compacted.lock();
    let last = *partition.last.lock();
    let dirty_bytes = last.bytes_total.saturating_sub(before.bytes_total);
    // Half of it new, or more: else the same rows would be read again and again.
    if dirty_bytes == 0 || dirty_bytes < before.clean_bytes {
        return Ok(());
    }
    let pass = Pass::prepare(shared, topic, partition, key, before.up_to..last.next)?;
    let mut clean_bytes = 0;
    let mut from = 0;
    while let Some(step) = pass.decide(from)? {
        from = step.next;
        clean_bytes += step.kept_bytes;
        if !step.changes.is_empty() {
            let (topic, partition) = (topic.clone(), partition.clone());
            let changes = step.changes;
            committer::change(queue, move |committer| replace(committer, &topic, &partition, &changes)).await?;
        }
    }
    *partition.compacted.lock() = Compacted {
        up_to: pass.up_to,
        // A pass that ended early leaves the partition dirty.
        bytes_total: if pass.complete {
            last.bytes_total
        } else {
            before.bytes_total
        },
        clean_bytes: if pass.complete { clean_bytes } else { 0 },
    };
    Ok(())
}

/// One pass of compaction over a partition. Its memory is bounded by the keys of one pass.
struct Pass<'a> {
    shared: &'a Shared,
    topic: &'a OpenTopic,
    partition: &'a Partition,
    key: &'a str,
    latest: Latest,
    /// The base of the last batch whose keys are known. It stays as it is.
    up_to: Offset,
    /// Whether that is the partition's last batch.
    complete: bool,
}

/// What a pass decided about some batches.
struct Step {
    changes: Vec<Change>,
    /// Where to go on.
    next: Offset,
    kept_bytes: u64,
}

impl<'a> Pass<'a> {
    /// Notes the keys of batches that are new since the last pass.
    fn prepare(
        shared: &'a Shared,
        topic: &'a OpenTopic,
        partition: &'a Partition,
        key: &'a str,
        new: std::ops::Range<Offset>,
    ) -> Result<Self> {
        let mut pass = Self {
            shared,
            topic,
            partition,
            key,
            latest: Latest::default(),
            up_to: new.start,
            complete: true,
        };
        walk_index(
            &shared.store,
            topic,
            partition.name.partition,
            new,
            |snapshot, base, entry| {
                pass.up_to = base;
                if let Some(batch) = pass.read(snapshot, base, entry)? {
                    pass.latest.note(&batch, key)?;
                }
                pass.complete = !pass.latest.is_full();
                Ok(if pass.complete {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                })
            },
        )?;
        Ok(pass)
    }

    /// Decides about some batches from `from` on; `None` at the end.
    fn decide(&self, from: Offset) -> Result<Option<Step>> {
        let old = self.shared.clock.now() - TOMBSTONE_KEPT;
        let mut step = Step {
            changes: Vec::new(),
            next: from,
            kept_bytes: 0,
        };
        let mut step_bytes = 0;
        let number = self.partition.name.partition;
        walk_index(
            &self.shared.store,
            self.topic,
            number,
            from..self.up_to,
            |snapshot, base, entry| {
                step.next = entry.next;
                let Some(batch) = self.read(snapshot, base, entry)? else {
                    return Ok(ControlFlow::Continue(()));
                };
                step_bytes += memory_bytes(&batch.rows);
                match self.latest.decide(&batch, self.key, old)? {
                    Outcome::Keep => step.kept_bytes += memory_bytes(&batch.rows) as u64,
                    Outcome::Remove => step.changes.push(Change { base, replaced: None }),
                    Outcome::Replace(batch) => {
                        let value = encoding::encode(&batch.rows, batch.progress, self.shared.options.compression)?;
                        step.kept_bytes += value.len() as u64;
                        let replaced = Some((batch, entry, value.into()));
                        step.changes.push(Change { base, replaced });
                    }
                }
                let full = step_bytes >= STEP_BYTES_MAX || step.changes.len() >= STEP_BATCHES_MAX;
                Ok(if full {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            },
        )?;
        Ok((step.next > from).then_some(step))
    }

    /// A batch, or nothing where it is damaged: that is said to whoever reads it.
    fn read(&self, snapshot: &Snapshot, base: Offset, entry: Entry) -> Result<Option<LoggedBatch>> {
        match read_one(
            &self.shared.store,
            snapshot,
            self.topic,
            self.partition,
            base,
            entry,
            None,
        ) {
            Ok(batch) => Ok(Some(batch)),
            Err(Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn replace(committer: &mut Committer, topic: &OpenTopic, partition: &Partition, changes: &[Change]) -> Result<()> {
    partition.check()?;
    let number = partition.name.partition;
    let store = &committer.shared.store;
    let mut batch = store.batch();
    for change in changes {
        let moved = change
            .replaced
            .as_ref()
            .is_none_or(|(replaced, ..)| replaced.base != change.base);
        if moved {
            batch.remove(&topic.stored.batches, batch_key(number, change.base));
            batch.remove(&topic.stored.index, batch_key(number, change.base));
        }
        if let Some((replaced, entry, value)) = &change.replaced {
            batch.insert(&topic.stored.batches, batch_key(number, replaced.base), value.clone());
            batch.insert(&topic.stored.index, batch_key(number, replaced.base), entry.to_bytes());
        }
    }
    store.commit(batch)?;
    partition.tail.clear();
    let first = super::read::first_base(store, topic, number)?;
    partition
        .ends
        .send_modify(|ends| ends.start = first.unwrap_or(ends.next));
    metrics::counter!("headwater_log_compacted_batches_total").increment(changes.len() as u64);
    Ok(())
}
