//! Reads the partitions of a topic as one sequence, at the pace of whoever asks.
//!
//! The partitions' batches come in the order in which they were appended, as far as that is known;
//! within a partition the order is exact. What is held is at most one read ahead per partition, so a
//! slow subscriber costs nothing but its own delay.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::select_all;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::error::{Error, Result};
use headwater_log::{Log, LoggedBatch};

use crate::position::{From, Position};

/// A cursor over partitions of one topic. Safe to cancel at any await.
#[derive(Debug)]
pub struct TopicReader {
    log: Arc<dyn Log>,
    read_bytes_max: usize,
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    partition: TopicPartition,
    /// After the last row that was handed out.
    next: Offset,
    ahead: VecDeque<LoggedBatch>,
    /// There was nothing more when it was last looked at.
    at_end: bool,
}

impl TopicReader {
    /// Reads all of the topic's partitions, or the one that is named.
    pub async fn open(
        log: Arc<dyn Log>,
        topic: &str,
        partitions: u32,
        only: Option<u32>,
        from: &From,
        read_bytes_max: usize,
    ) -> Result<Self> {
        let topic: Arc<str> = topic.into();
        let mut lanes = Vec::new();
        for number in 0..partitions {
            if only.is_some_and(|only| only != number) {
                continue;
            }
            let partition = TopicPartition::new(Arc::clone(&topic), number);
            let next = from.resolve(log.as_ref(), &partition).await?;
            lanes.push(Lane {
                partition,
                next,
                ahead: VecDeque::new(),
                at_end: false,
            });
        }
        Ok(Self {
            log,
            read_bytes_max,
            lanes,
        })
    }

    /// The next batch with rows and its partition; `None` at the end of what there is.
    ///
    /// After [`Error::Damaged`] reading goes on behind the damage.
    pub async fn next(&mut self) -> Result<Option<(u32, LoggedBatch)>> {
        loop {
            self.read_ahead().await?;
            let first = self
                .lanes
                .iter_mut()
                .filter(|lane| !lane.ahead.is_empty())
                .min_by_key(|lane| lane.ahead.front().map(|batch| batch.appended));
            let Some(lane) = first else {
                return Ok(None);
            };
            let Some(batch) = lane.ahead.pop_front() else {
                return Ok(None);
            };
            lane.next = batch.next();
            if batch.rows.num_rows() > 0 {
                return Ok(Some((lane.partition.partition, batch)));
            }
        }
    }

    /// Returns when [`TopicReader::next`] may have more.
    pub async fn wait(&mut self) -> Result<()> {
        if self.lanes.iter().any(|lane| !lane.at_end) {
            return Ok(());
        }
        let waits = self.lanes.iter().map(|lane| self.log.wait(&lane.partition, lane.next));
        let (ready, lane, _) = select_all(waits).await;
        self.lanes[lane].at_end = false;
        ready
    }

    /// Where to go on after the last batch that was handed out.
    pub fn position(&self) -> Position {
        let places = self.lanes.iter().map(|lane| (lane.partition.partition, lane.next));
        Position(places.collect())
    }

    async fn read_ahead(&mut self) -> Result<()> {
        for lane in &mut self.lanes {
            if lane.at_end || !lane.ahead.is_empty() {
                continue;
            }
            match self
                .log
                .read(&lane.partition, lane.next, self.read_bytes_max, None)
                .await
            {
                Ok(batches) => {
                    lane.at_end = batches.is_empty();
                    lane.ahead = batches.into();
                }
                Err(error) => {
                    if let Error::Damaged { next, .. } = error {
                        lane.next = next;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
