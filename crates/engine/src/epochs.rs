//! The memory of epochs, over all tasks: what they read, what operators make of it, and what comes out, until
//! it is committed.
//!
//! How much that is shows too late, so it is reckoned as a multiple of what is read. A task takes
//! what an epoch may need at most before it reads, and gives back what this one doesn't. Those that
//! find no room wait, and what they would have read stays in the log.

use std::sync::Arc;

use headwater_log::LoggedBatch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What an epoch takes for each byte that it reads. Counting per key, where every key is new, is the dearest: keys and
/// states are there as columns, in tables of groups, as entries of state and view, and once more on their way
/// into the store.
const COST: usize = 8;

/// There is room for so many of the largest epochs: while one waits for its commit, another one computes.
const LARGEST_MIN: usize = 2;

/// The room is counted in this many bytes.
const UNIT_BYTES: usize = 1024;

pub struct Epochs {
    units: Arc<Semaphore>,
    read_bytes_max: usize,
}

/// What an epoch holds; given back when it is dropped.
pub struct EpochRoom {
    units: Option<OwnedSemaphorePermit>,
}

impl Epochs {
    /// An epoch reads `read_bytes_max` at most, and less where that is too much for `bytes_max`.
    pub fn new(read_bytes_max: usize, bytes_max: usize) -> Arc<Self> {
        let read_bytes_max = read_bytes_max.min(bytes_max / COST / LARGEST_MIN).max(1);
        let units = (bytes_max / UNIT_BYTES).clamp(units_of(read_bytes_max), Semaphore::MAX_PERMITS);
        Arc::new(Self {
            units: Arc::new(Semaphore::new(units)),
            read_bytes_max,
        })
    }

    /// Room beside this one, for the tasks of one stage.
    pub fn of_one_stage(&self) -> Arc<Self> {
        Self::new(self.read_bytes_max, self.read_bytes_max * COST * LARGEST_MIN)
    }

    /// An epoch reads at most this much, and whole batches.
    pub fn read_bytes_max(&self) -> usize {
        self.read_bytes_max
    }

    /// Waits for what the largest epoch needs.
    pub async fn room(&self) -> EpochRoom {
        let units = u32::try_from(units_of(self.read_bytes_max)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let units = Arc::clone(&self.units).acquire_many_owned(units).await.ok();
        EpochRoom { units }
    }
}

impl EpochRoom {
    /// Gives back what an epoch on these batches doesn't need.
    pub fn keep_for(&mut self, batches: &[LoggedBatch]) {
        let bytes: usize = batches.iter().map(LoggedBatch::memory_bytes).sum();
        if let Some(units) = &mut self.units {
            let spare = units.num_permits().saturating_sub(units_of(bytes));
            drop(units.split(spare));
        }
    }
}

fn units_of(read_bytes: usize) -> usize {
    (read_bytes * COST).div_ceil(UNIT_BYTES).max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use futures::FutureExt;

    use super::*;

    fn batch(rows: i64) -> LoggedBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        LoggedBatch {
            base: 0,
            appended: 0,
            progress: None,
            rows: RecordBatch::try_from_iter([("n", column)]).unwrap(),
        }
    }

    #[test]
    fn epochs_wait_until_others_have_given_back() {
        let epochs = Epochs::new(8 << 10, 2 * COST * (8 << 10));
        let mut first = epochs.room().now_or_never().unwrap();
        let second = epochs.room().now_or_never().unwrap();
        assert!(epochs.room().now_or_never().is_none());
        first.keep_for(&[batch(10)]);
        assert!(epochs.room().now_or_never().is_none());
        drop(second);
        assert!(epochs.room().now_or_never().is_some());
    }

    #[test]
    fn an_epoch_is_no_larger_than_the_room() {
        let epochs = Epochs::new(8 << 20, 1 << 20);
        assert_eq!(epochs.read_bytes_max(), (1 << 20) / COST / 2);
        assert!(epochs.room().now_or_never().is_some());
    }
}
