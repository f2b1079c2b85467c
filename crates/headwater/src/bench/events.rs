//! The events that benchmarks work on: NEXMark's, from the generator that `CREATE SOURCE` has.

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

/// Appends a table's part of a sequence of events to its stream, batches spread over the partitions
/// as they come.
pub async fn fill(core: &Core, table: Table, events: u64) -> Result<u64, Failure> {
    let snapshot = core.catalog.snapshot();
    let name = table.name();
    let stream = snapshot.get(name).ok_or_else(|| format!("there is no stream {name}"))?;
    let topic: Arc<str> = stream.topic().into();
    let generator = Generator::standard(table, SEED);
    let step = table.events_of(ROWS_PER_BATCH);
    let mut rows_all = 0;
    for (number, first) in (0..events).step_by(step as usize).enumerate() {
        let rows = generator.batch(first..events.min(first + step))?;
        rows_all += rows.num_rows() as u64;
        let partition = TopicPartition::new(Arc::clone(&topic), number as u32 % stream.partitions());
        let produced = Produced {
            partition,
            rows,
            progress: None,
        };
        core.log.append(vec![produced]).await?;
    }
    Ok(rows_all)
}
