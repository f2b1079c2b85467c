//! What a sink reads: the partitions of a topic, each from its own offset on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::future::select_all;
use headwater_catalog::definition::Definition;
use headwater_event::changes::readable;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::Log;
use headwater_log::error::Error as LogError;
use tracing::warn;

use crate::source::Error;

/// How much is read of a partition at once.
const READ_BYTES_MAX: usize = 4 << 20;

pub(super) struct Reading {
    log: Arc<dyn Log>,
    lanes: Vec<Lane>,
}

struct Lane {
    partition: TopicPartition,
    /// The next offset to be handed to the sink.
    read: Offset,
    /// The next offset as it was committed last.
    committed: Offset,
}

/// What a partition had.
pub(super) struct News {
    pub(super) batches: Vec<Batch>,
    /// Offsets that were gone before they could be read.
    pub(super) missed: u64,
}

/// Rows as a sink gets them.
pub(super) struct Batch {
    pub(super) partition: u32,
    pub(super) first: Offset,
    /// Where to go on after it.
    pub(super) next: Offset,
    pub(super) rows: RecordBatch,
}

impl Reading {
    /// From what was consumed on; else from the first that is kept.
    pub(super) async fn open(
        log: &Arc<dyn Log>,
        reads: &Definition,
        consumed: &HashMap<TopicPartition, Offset>,
    ) -> Result<Self, Error> {
        let topic: Arc<str> = reads.topic().into();
        let Some(there) = log.topic(&topic).await? else {
            return Err(Error::outside(format!("{} is not there yet", reads.name)));
        };
        let mut lanes = Vec::new();
        for number in 0..there.spec.partitions {
            let partition = TopicPartition::new(Arc::clone(&topic), number);
            let start = match consumed.get(&partition) {
                Some(&offset) => offset,
                None => log.offsets(&partition).await?.start,
            };
            lanes.push(Lane {
                partition,
                read: start,
                committed: start,
            });
        }
        Ok(Self {
            log: Arc::clone(log),
            lanes,
        })
    }

    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// What a partition has next. It is the same again until it was passed on.
    pub(super) async fn next(&mut self, lane: usize) -> Result<News, Error> {
        let lane = &mut self.lanes[lane];
        let partition = &lane.partition;
        let start = self.log.offsets(partition).await?.start;
        let mut missed = start.saturating_sub(lane.read);
        if missed > 0 {
            warn!(%partition, from = lane.read, to = start, "deleted by the retention before a sink could deliver it");
            lane.read = start;
        }
        let read = self.log.read(partition, lane.read, READ_BYTES_MAX, None).await;
        let logged = match read {
            Ok(logged) => logged,
            Err(error @ LogError::Damaged { next, .. }) if next > lane.read => {
                warn!(%error, "it can't be delivered");
                missed += next - lane.read;
                lane.read = next;
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        let number = partition.partition;
        let batch = |logged: headwater_log::LoggedBatch| {
            Ok(Batch {
                partition: number,
                first: logged.base,
                next: logged.next(),
                rows: readable(&logged.rows)?,
            })
        };
        let batches: Result<_, arrow::error::ArrowError> = logged.into_iter().map(batch).collect();
        Ok(News {
            batches: batches.map_err(|error| Error::Rows(error.to_string()))?,
            missed,
        })
    }

    pub(super) fn passed_on(&mut self, lane: usize, next: Offset) {
        self.lanes[lane].read = next;
    }

    /// Whether the log has anything that was not read.
    pub(super) async fn has_more(&self) -> Result<bool, Error> {
        for lane in &self.lanes {
            if self.log.offsets(&lane.partition).await?.end > lane.read {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether there is something to commit.
    pub(super) fn has_news(&self) -> bool {
        self.lanes.iter().any(|lane| lane.read > lane.committed)
    }

    /// What is to be committed.
    pub(super) fn news(&self) -> Vec<(TopicPartition, Offset)> {
        let news = self.lanes.iter().filter(|lane| lane.read > lane.committed);
        news.map(|lane| (lane.partition.clone(), lane.read)).collect()
    }

    pub(super) fn committed(&mut self) {
        for lane in &mut self.lanes {
            lane.committed = lane.read;
        }
    }

    /// The next offsets to be handed to the sink.
    pub(super) fn read(&self) -> BTreeMap<u32, Offset> {
        self.lanes
            .iter()
            .map(|lane| (lane.partition.partition, lane.read))
            .collect()
    }

    /// The next offsets behind what is delivered.
    pub(super) fn delivered(&self) -> BTreeMap<u32, Offset> {
        self.lanes
            .iter()
            .map(|lane| (lane.partition.partition, lane.committed))
            .collect()
    }

    /// Returns when a partition may have more.
    pub(super) async fn wait(&self) -> Result<(), Error> {
        let waits = self.lanes.iter().map(|lane| self.log.wait(&lane.partition, lane.read));
        let (ready, ..) = select_all(waits).await;
        Ok(ready?)
    }
}
