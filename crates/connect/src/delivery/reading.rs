//! What a sink reads: the partitions of a topic, each from its own offset on. Small batches that stand side by side become one.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use futures::future::select_all;
use headwater_catalog::definition::Definition;
use headwater_event::changes::readable;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::Log;
use headwater_log::error::Error as LogError;
use tracing::warn;

use crate::sink::Offsets;
use crate::source::Error;

/// How much is read of a partition at once.
const READ_BYTES_MAX: usize = 4 << 20;
/// Batches are put together up to so many rows.
const TOGETHER_ROWS_MAX: usize = 64 << 10;

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
    /// From the position on; else from the first that is kept.
    pub(super) async fn open(log: &Arc<dyn Log>, reads: &Definition, position: &Offsets) -> Result<Self, Error> {
        let topic: Arc<str> = reads.topic().into();
        let Some(there) = log.topic(&topic).await? else {
            return Err(Error::outside(format!("{} is not there yet", reads.name)));
        };
        let mut lanes = Vec::new();
        for number in 0..there.spec.partitions {
            let partition = TopicPartition::new(Arc::clone(&topic), number);
            let there = log.offsets(&partition).await?;
            let start = position.get(&number).copied().unwrap_or(there.start);
            if start > there.end {
                return Err(Error::outside(format!(
                    "what it writes to has rows up to offset {start} of partition {number} of {}, which itself ends at {}: its data was \
                     put back to an earlier time. Drop the sink, and create it again where duplicates do no harm",
                    reads.name, there.end
                )));
            }
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
        let batches: Result<_, ArrowError> = logged.into_iter().map(batch).collect();
        Ok(News {
            batches: batches
                .and_then(together)
                .map_err(|error| Error::Rows(error.to_string()))?,
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

/// The same rows in fewer batches. Offsets within a batch have no gaps.
fn together(batches: Vec<Batch>) -> Result<Vec<Batch>, ArrowError> {
    let mut joined: Vec<Batch> = Vec::new();
    let mut pieces: Vec<RecordBatch> = Vec::new();
    let mut count = 0;
    for batch in batches {
        let rows = batch.rows.num_rows();
        let follows = |last: &&mut Batch| last.first + count as u64 == batch.first && rows > 0 && count > 0;
        match joined.last_mut().filter(follows) {
            Some(last) if count + rows <= TOGETHER_ROWS_MAX => {
                last.next = batch.next;
                count += rows;
            }
            _ => {
                join(joined.last_mut(), &mut pieces)?;
                count = rows;
                joined.push(Batch {
                    rows: RecordBatch::new_empty(batch.rows.schema()),
                    ..batch
                });
            }
        }
        pieces.push(batch.rows);
    }
    join(joined.last_mut(), &mut pieces)?;
    Ok(joined)
}

fn join(into: Option<&mut Batch>, pieces: &mut Vec<RecordBatch>) -> Result<(), ArrowError> {
    if let Some(batch) = into {
        batch.rows = match pieces.as_slice() {
            [one] => one.clone(),
            several => concat_batches(batch.rows.schema_ref(), several)?,
        };
    }
    pieces.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn rows_side_by_side_are_put_together() {
        let batch = |first: u64, rows: u64| {
            let numbers = Int64Array::from_iter_values(first as i64..(first + rows) as i64);
            Batch {
                partition: 0,
                first,
                next: first + rows.max(1),
                rows: RecordBatch::try_from_iter([("n", Arc::new(numbers) as _)]).unwrap(),
            }
        };
        let half = TOGETHER_ROWS_MAX as u64 / 2 + 1;
        // A gap, a batch without rows, and one that would be too much.
        let all = vec![
            batch(3, 2),
            batch(5, 1),
            batch(7, 1),
            batch(8, 0),
            batch(9, 4),
            batch(13, half),
            batch(13 + half, half),
        ];
        let joined = together(all).unwrap();
        let places: Vec<_> = joined
            .iter()
            .map(|batch| (batch.first, batch.rows.num_rows() as u64, batch.next))
            .collect();
        assert_eq!(
            places,
            [
                (3, 3, 6),
                (7, 1, 8),
                (8, 0, 9),
                (9, 4 + half, 13 + half),
                (13 + half, half, 13 + 2 * half)
            ]
        );
        for batch in joined {
            let numbers = batch.rows.column(0).as_primitive::<Int64Type>().values();
            assert!(
                numbers
                    .iter()
                    .zip(batch.first as i64..)
                    .all(|(found, expected)| *found == expected)
            );
        }
    }
}
