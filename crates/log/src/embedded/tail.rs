//! The most recent batches of every partition as they were appended, so that a reader that keeps
//! up shares the arrays with the writer and decodes nothing. Bounded in bytes over all partitions;
//! the oldest goes first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use headwater_event::offset::Offset;
use parking_lot::Mutex;

use crate::LoggedBatch;
use crate::embedded::topics::Partition;
use crate::error::Result;
use crate::rows::view;

/// What a batch takes beside its rows.
const BATCH_OVERHEAD_BYTES: usize = 256;

#[derive(Debug)]
pub(super) struct TailCache {
    bytes_max: usize,
    bytes: AtomicUsize,
    order: Mutex<VecDeque<(Arc<Partition>, usize)>>,
}

/// The tail of one partition: batches that follow each other without a gap, up to its end.
#[derive(Debug, Default)]
pub(super) struct Tail {
    batches: Mutex<VecDeque<LoggedBatch>>,
}

impl TailCache {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: AtomicUsize::new(0),
            order: Mutex::default(),
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Adds the partition's newest batch. It is the committer that calls this, in order.
    pub fn push(&self, partition: &Arc<Partition>, batch: LoggedBatch) {
        let bytes = batch.rows.get_array_memory_size() + BATCH_OVERHEAD_BYTES;
        let mut order = self.order.lock();
        partition.tail.batches.lock().push_back(batch);
        order.push_back((partition.clone(), bytes));
        let mut total = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        while total > self.bytes_max {
            let Some((oldest, bytes)) = order.pop_front() else {
                break;
            };
            oldest.tail.batches.lock().pop_front();
            total = self.bytes.fetch_sub(bytes, Ordering::Relaxed) - bytes;
        }
    }
}

impl Tail {
    /// Forgets the batches. What they took counts until its turn comes in the cache's order.
    pub fn clear(&self) {
        self.batches.lock().clear();
    }

    /// Batches from `from` on, below `next`, if the tail reaches back that far.
    pub fn read(
        &self,
        from: Offset,
        next: Offset,
        bytes_max: usize,
        columns: Option<&[usize]>,
    ) -> Result<Option<Vec<LoggedBatch>>> {
        let batches = self.batches.lock();
        if batches.front().is_none_or(|first| first.base > from) {
            return Ok(None);
        }
        let at = batches.partition_point(|batch| batch.next() <= from);
        let mut read = Vec::new();
        let mut bytes = 0;
        for batch in batches.range(at..).take_while(|batch| batch.base < next) {
            let batch = view(batch, from, columns)?;
            bytes += crate::rows::memory_bytes(&batch.rows);
            read.push(batch);
            if bytes > bytes_max {
                break;
            }
        }
        Ok(Some(read))
    }
}
