//! Where a task's rows go: to a topic, to a view, or to somebody who listens.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use headwater_event::offset::TopicPartition;
use headwater_event::partition::{partitions_of, split};
use headwater_event::watermark::Progress;
use headwater_log::{Commit, Log, Produced, StateWrite};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::view::{Place, ViewCodec};

#[derive(Clone, Debug)]
pub enum Destination {
    Topic {
        topic: Arc<str>,
        schema: SchemaRef,
        partitions: u32,
        partition_by: Vec<usize>,
    },
    View {
        table: Arc<str>,
        topic: Arc<str>,
        schema: SchemaRef,
        codec: Arc<ViewCodec>,
    },
    /// Rows leave with the commit, and are stored nowhere.
    Listener(mpsc::Sender<Result<RecordBatch>>),
}

/// What a task tells the readers of its topic.
#[derive(Clone, Copy, Debug)]
pub struct Announcement {
    pub progress: Option<Progress>,
    /// To write it where there are no rows as well.
    pub alone: bool,
}

impl Destination {
    /// Adds an epoch's rows to its commit. `task` is the partition of the task.
    pub fn write(
        &self,
        task: u32,
        rows: &[(RecordBatch, Place)],
        announcement: Announcement,
        commit: &mut Commit,
    ) -> Result<()> {
        match self {
            Self::Listener(_) => Ok(()),
            Self::Topic {
                topic,
                schema,
                partitions,
                partition_by,
            } => {
                let own = task % partitions;
                let mut by_partition: BTreeMap<u32, Vec<RecordBatch>> = BTreeMap::new();
                if announcement.alone {
                    // Readers wait for every producer, also for those that have no rows for them.
                    by_partition.extend((0..*partitions).map(|partition| (partition, Vec::new())));
                }
                for (batch, _) in rows {
                    let batch = with_schema(batch, schema)?;
                    for (partition, rows) in spread(batch, partition_by, *partitions, own)? {
                        by_partition.entry(partition).or_default().push(rows);
                    }
                }
                for (partition, batches) in by_partition {
                    produce(commit, topic, partition, schema, &batches, announcement.progress)?;
                }
                Ok(())
            }
            Self::View {
                table,
                topic,
                schema,
                codec,
            } => {
                let mut entries = Vec::new();
                let mut batches = Vec::with_capacity(rows.len());
                for (batch, place) in rows {
                    let mut change = codec.apply(batch, *place)?;
                    entries.append(&mut change.entries);
                    batches.push(with_schema(&change.changes, schema)?);
                }
                if !entries.is_empty() {
                    let table = Arc::clone(table);
                    commit.state.push(StateWrite {
                        table,
                        entries: entries.into(),
                    });
                }
                if batches.is_empty() && !announcement.alone {
                    return Ok(());
                }
                produce(commit, topic, task, schema, &batches, announcement.progress)
            }
        }
    }

    /// How many rows a view without a key has from `place` on at the same offset.
    pub async fn flushed_rows(&self, log: &dyn Log, place: Place) -> Result<u32> {
        match self {
            Self::View { table, codec, .. } if codec.is_by_place() => {
                let table = log.state(table).await?;
                Ok(place.next_row(&*table)? - place.row)
            }
            _ => Ok(0),
        }
    }

    /// Hands rows to a listener, after their commit. False when nobody listens any more.
    pub async fn deliver(&self, rows: Vec<(RecordBatch, Place)>) -> bool {
        let Self::Listener(listener) = self else { return true };
        for (batch, _) in rows {
            if listener.send(Ok(batch)).await.is_err() {
                return false;
            }
        }
        !listener.is_closed()
    }
}

fn spread(batch: RecordBatch, partition_by: &[usize], partitions: u32, own: u32) -> Result<Vec<(u32, RecordBatch)>> {
    if partition_by.is_empty() {
        return Ok(vec![(own, batch)]);
    }
    let keys: Vec<ArrayRef> = partition_by
        .iter()
        .map(|&column| Arc::clone(batch.column(column)))
        .collect();
    let assigned = partitions_of(&keys, batch.num_rows(), partitions)?;
    Ok(split(&batch, &assigned, partitions)?)
}

/// Progress holds after the rows it comes with, so it goes with the last of them.
fn produce(
    commit: &mut Commit,
    topic: &Arc<str>,
    partition: u32,
    schema: &SchemaRef,
    batches: &[RecordBatch],
    progress: Option<Progress>,
) -> Result<()> {
    let rows = match batches {
        [batch] => batch.clone(),
        batches => concat_batches(schema, batches)?,
    };
    let produced = Produced {
        partition: TopicPartition::new(Arc::clone(topic), partition),
        rows,
        progress,
    };
    commit.produced.append(&mut produced.in_batches()?);
    Ok(())
}

/// The same columns under the topic's schema, which may name them otherwise.
fn with_schema(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    RecordBatch::try_new(schema.clone(), batch.columns().to_vec()).map_err(|error| {
        Error::Plan(format!(
            "the query's rows are not those of the topic that takes them: {error}"
        ))
    })
}
