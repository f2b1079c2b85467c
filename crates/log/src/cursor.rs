//! Reading a partition from one place on, batch after batch.

use std::sync::Arc;

use headwater_event::offset::{Offset, TopicPartition};

use crate::error::Result;
use crate::{Log, LoggedBatch};

/// A place in a partition that moves on as it is read.
#[derive(Clone, Debug)]
pub struct Cursor {
    log: Arc<dyn Log>,
    partition: TopicPartition,
    position: Offset,
    columns: Option<Vec<usize>>,
}

impl Cursor {
    /// `columns` selects columns of the topic's schema, in ascending order.
    pub fn new(log: Arc<dyn Log>, partition: TopicPartition, from: Offset, columns: Option<Vec<usize>>) -> Self {
        Self {
            log,
            partition,
            position: from,
            columns,
        }
    }

    /// The next batches, at least one: waits until there is one. Safe to cancel: the position
    /// moves in the same instant in which the batches are handed out.
    ///
    /// An error leaves the position where it was; after damage, [`Cursor::seek`] to the offset
    /// that the error names.
    pub async fn next(&mut self, bytes_max: usize) -> Result<Vec<LoggedBatch>> {
        loop {
            let batches = self.try_next(bytes_max).await?;
            if !batches.is_empty() {
                return Ok(batches);
            }
            self.log.wait(&self.partition, self.position).await?;
        }
    }

    /// The next batches, or none at the end of the partition.
    pub async fn try_next(&mut self, bytes_max: usize) -> Result<Vec<LoggedBatch>> {
        let columns = self.columns.as_deref();
        let batches = self
            .log
            .read(&self.partition, self.position, bytes_max, columns)
            .await?;
        if let Some(last) = batches.last() {
            self.position = last.next();
        }
        Ok(batches)
    }

    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The next offset to be read.
    pub fn position(&self) -> Offset {
        self.position
    }

    pub fn seek(&mut self, position: Offset) {
        self.position = position;
    }
}
