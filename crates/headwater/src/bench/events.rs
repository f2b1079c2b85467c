//! The events that benchmarks work on: NEXMark's, from the generator that `CREATE SOURCE` has.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use headwater_connect::sources::nexmark::generator::{Generator, Table};
use headwater_event::offset::TopicPartition;
use headwater_log::Produced;

use crate::bench::Failure;
use crate::instance::Core;

/// The streams that the benchmarks read, as the example has them.
pub const STREAMS_SQL: &str = include_str!("../../../../examples/nexmark/streams.sql");

const SEED: u64 = 1;
const ROWS_PER_BATCH: u64 = 8192;

/// As many bids, from the first on.
pub fn bids(count: usize) -> Result<RecordBatch, ArrowError> {
    let events = Table::Bid.events_of(count as u64 + 1);
    let bids = Generator::standard(Table::Bid, SEED).batch(0..events + 50)?;
    Ok(bids.slice(0, count))
}

/// A stream of NEXMark's, to append to.
#[derive(Clone, Debug)]
pub struct Feed {
    pub table: Table,
    topic: Arc<str>,
    partitions: u32,
}

impl Feed {
    pub fn of(core: &Core, table: Table) -> Result<Self, Failure> {
        let snapshot = core.catalog.snapshot();
        let name = table.name();
        let stream = snapshot.get(name).ok_or_else(|| format!("there is no stream {name}"))?;
        Ok(Self {
            table,
            topic: stream.topic().into(),
            partitions: stream.partitions(),
        })
    }

    /// Appends the table's part of the sequence's first events, batches spread over the partitions
    /// as they come, and says how many rows that were.
    pub async fn fill(&self, core: &Core, events: u64) -> Result<u64, Failure> {
        let step = self.table.events_of(ROWS_PER_BATCH);
        let mut rows_all = 0;
        for (number, first) in (0..events).step_by(step as usize).enumerate() {
            let produced = self.batch(first..events.min(first + step), number)?;
            rows_all += produced.rows.num_rows() as u64;
            core.log.append(vec![produced]).await?;
        }
        Ok(rows_all)
    }

    /// The table's part of these events, as the batch of this number.
    pub fn batch(&self, events: Range<u64>, number: usize) -> Result<Produced, ArrowError> {
        Ok(Produced {
            partition: TopicPartition::new(Arc::clone(&self.topic), number as u32 % self.partitions),
            rows: Generator::standard(self.table, SEED).batch(events)?,
            progress: None,
        })
    }
}
