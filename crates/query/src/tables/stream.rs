//! A stream's events as a table: one partition of output for each of the log's.
//!
//! The end is fixed when the query is planned, so a scan is finite while events keep coming.
//! Columns that the query doesn't need are never decoded, and with a LIMIT reading stops early.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{TryStreamExt, stream};
use headwater_catalog::definition::Stream;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::{Log, LoggedBatch};

/// How much of a partition a scan holds at a time.
const READ_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub struct StreamTable {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    partitions: u32,
    schema: SchemaRef,
}

impl StreamTable {
    pub fn new(log: Arc<dyn Log>, topic: String, stream: &Stream) -> Self {
        Self {
            log,
            topic: topic.into(),
            partitions: stream.partitions,
            schema: stream.schema.arrow(),
        }
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = Columns::new(&self.schema, projection)?;
        let mut partitions: Vec<Arc<dyn PartitionStream>> = Vec::new();
        for number in 0..self.partitions {
            let partition = TopicPartition::new(Arc::clone(&self.topic), number);
            let range = self.log.offsets(&partition).await.map_err(external)?;
            partitions.push(Arc::new(PartitionScan {
                log: Arc::clone(&self.log),
                partition,
                range,
                columns: columns.clone(),
            }));
        }
        let plan = StreamingTableExec::try_new(columns.schema, partitions, None, [], false, limit)?;
        Ok(Arc::new(plan))
    }
}

/// The columns to read. The log takes them in ascending order, a query may want another.
#[derive(Clone, Debug)]
struct Columns {
    /// Of the topic, ascending; `None` for all.
    read: Option<Vec<usize>>,
    /// Of what was read, in the order in which they are wanted, where that is another.
    reorder: Option<Vec<usize>>,
    schema: SchemaRef,
}

impl Columns {
    fn new(schema: &SchemaRef, projection: Option<&Vec<usize>>) -> Result<Self> {
        let Some(wanted) = projection else {
            return Ok(Self {
                read: None,
                reorder: None,
                schema: Arc::clone(schema),
            });
        };
        let mut read = wanted.clone();
        read.sort_unstable();
        read.dedup();
        let place = |column: &usize| read.binary_search(column).unwrap_or_default();
        let reorder = (read != *wanted).then(|| wanted.iter().map(place).collect());
        Ok(Self {
            read: Some(read),
            reorder,
            schema: Arc::new(schema.project(wanted)?),
        })
    }

    /// The rows in the wanted form, under the schema that was promised.
    fn arrange(&self, rows: RecordBatch) -> Result<RecordBatch> {
        let rows = match &self.reorder {
            Some(order) => rows.project(order)?,
            None => rows,
        };
        Ok(rows.with_schema(Arc::clone(&self.schema))?)
    }
}

/// One partition of the log, from where it begins to where it ended at planning.
struct PartitionScan {
    log: Arc<dyn Log>,
    partition: TopicPartition,
    range: Range<Offset>,
    columns: Columns,
}

impl fmt::Debug for PartitionScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range;
        write!(f, "{} {start}..{end}", self.partition)
    }
}

impl PartitionStream for PartitionScan {
    fn schema(&self) -> &SchemaRef {
        &self.columns.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (log, partition, columns) = (Arc::clone(&self.log), self.partition.clone(), self.columns.clone());
        let end = self.range.end;
        let reads = stream::try_unfold(self.range.start, move |from| {
            let (log, partition, columns) = (Arc::clone(&log), partition.clone(), columns.clone());
            async move {
                if from >= end {
                    return Ok(None);
                }
                let read = columns.read.as_deref();
                let batches = log
                    .read(&partition, from, READ_BYTES_MAX, read)
                    .await
                    .map_err(external)?;
                let next = batches.last().map_or(end, LoggedBatch::next);
                let rows: Result<Vec<_>> = batches
                    .into_iter()
                    .filter_map(|batch| before(end, batch))
                    .map(|rows| columns.arrange(rows))
                    .collect();
                Ok::<_, DataFusionError>(Some((stream::iter(rows?.into_iter().map(Ok)), next)))
            }
        });
        let schema = Arc::clone(&self.columns.schema);
        Box::pin(RecordBatchStreamAdapter::new(schema, reads.try_flatten()))
    }
}

/// The batch's rows with offsets below `end`, if there are any.
fn before(end: Offset, batch: LoggedBatch) -> Option<RecordBatch> {
    let rows = batch.rows.num_rows();
    let wanted = usize::try_from(end.saturating_sub(batch.base)).map_or(rows, |wanted| wanted.min(rows));
    match wanted {
        0 => None,
        _ if wanted == rows => Some(batch.rows),
        _ => Some(batch.rows.slice(0, wanted)),
    }
}

fn external(error: headwater_log::error::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
