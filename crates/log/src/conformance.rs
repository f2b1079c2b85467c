//! The suite that every back end must pass: the contract of [`crate::Log`], one function for each
//! property. A back end runs it with one line in its tests:
//!
//! ```ignore
//! conformance::run(&MyBackend::new()).await.unwrap();
//! ```
//!
//! A property that doesn't hold panics and says which.

mod batches;
mod cleanup;
mod commits;
mod topics;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use headwater_event::clock::ManualClock;
use headwater_event::offset::{Offset, TopicPartition};

use crate::error::Result;
use crate::topic::{Cleanup, TopicSpec};
use crate::{Log, LoggedBatch, Produced};

/// A property that takes longer than this hangs.
const PROPERTY_TIME_MAX: Duration = Duration::from_secs(120);

/// A back end under test.
pub trait Backend {
    type Log: Log;

    /// Whether what was written is there after the log was dropped and opened again.
    const DURABLE: bool;

    /// Whether it applies retention and compaction itself, by its clock; else they are up to a server, and so to tests of that.
    const SWEEPS: bool;

    /// The clock that its logs go by.
    fn clock(&self) -> &ManualClock;

    /// Opens the log on a storage with this name, which is empty at first.
    fn open(&self, storage: &str) -> Result<Arc<Self::Log>>;

    /// Applies retention and compaction now.
    fn sweep(log: &Self::Log) -> impl Future<Output = Result<()>> + Send;
}

macro_rules! properties {
    ($backend:expr, $($group:ident::$property:ident),+ $(,)?) => {
        $(
            let held = tokio::time::timeout(PROPERTY_TIME_MAX, $group::$property($backend)).await;
            match held {
                Ok(held) => held?,
                Err(_) => panic!("{} doesn't end", stringify!($property)),
            }
        )+
    };
}

/// Checks every property, each on a storage of its own.
pub async fn run<B: Backend>(backend: &B) -> Result<()> {
    properties!(
        backend,
        topics::creating_twice_finds_the_first,
        topics::creating_differently_is_a_conflict,
        topics::retention_may_be_changed,
        topics::a_topic_without_partitions_is_invalid,
        topics::deleting_forgets_everything,
        topics::what_is_not_there_is_unknown,
        topics::names_may_hold_anything,
        batches::offsets_increase_without_overlap,
        batches::what_was_appended_comes_back,
        batches::reading_starts_in_the_middle_of_a_batch,
        batches::reading_stops_after_bytes_max,
        batches::columns_are_selected,
        batches::columns_out_of_order_are_invalid,
        batches::progress_alone_takes_one_offset,
        batches::rows_must_fit_the_schema,
        batches::appending_to_several_topics_is_atomic,
        batches::time_finds_its_batch,
        batches::many_writers_lose_and_double_nothing,
        waiting::waiting_ends_when_something_comes,
        waiting::waiting_ends_at_once_when_something_is_there,
        waiting::a_cancelled_wait_does_no_harm,
        waiting::a_cancelled_cursor_loses_nothing,
        waiting::deleting_the_topic_ends_the_wait,
        waiting::a_cancelled_append_is_whole_or_not_there,
        commits::a_commit_shows_everything_together,
        commits::what_was_consumed_has_its_output,
        commits::a_later_claim_fences_the_earlier,
        commits::a_failed_commit_changes_nothing,
        commits::consumed_offsets_are_kept_per_owner,
        commits::a_released_owner_starts_anew,
        commits::the_last_value_of_a_key_wins,
        commits::a_key_has_a_limit,
        commits::state_is_read_in_order,
        commits::a_scan_sees_one_instant,
        commits::a_deleted_state_table_is_empty_when_it_is_made_again,
        commits::tokens_increase_over_a_restart,
        cleanup::trimming_removes_whole_batches,
        cleanup::a_compacted_topic_is_not_trimmed,
        cleanup::a_compacted_topic_has_rows_that_remove_their_key,
    );
    if B::SWEEPS {
        properties!(
            backend,
            cleanup::old_batches_go,
            cleanup::large_partitions_shrink,
            cleanup::offsets_go_on_when_everything_is_gone,
            cleanup::compaction_keeps_the_last_row_of_each_key,
            cleanup::removed_keys_disappear_in_the_end,
        );
    }
    Ok(())
}

/// The same storage opened again, where the back end keeps anything; else the same log.
fn reopened<B: Backend>(backend: &B, log: Arc<B::Log>, storage: &str) -> Result<Arc<B::Log>> {
    if !B::DURABLE {
        return Ok(log);
    }
    drop(log);
    backend.open(storage)
}

fn schema() -> SchemaRef {
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("size", DataType::Int64, true),
    ];
    Arc::new(Schema::new(fields))
}

fn spec(name: &str, partitions: u32) -> TopicSpec {
    TopicSpec {
        name: name.to_owned(),
        schema: schema(),
        partitions,
        cleanup: Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        },
        events: None,
    }
}

/// One row for each id.
fn rows(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let names = StringArray::from_iter(ids.iter().map(|id| (id % 3 != 0).then(|| format!("name {id}"))));
    let sizes = Int64Array::from_iter(ids.iter().map(|id| (id % 5 != 0).then_some(id * 10)));
    batch(vec![Arc::new(Int64Array::from(ids)), Arc::new(names), Arc::new(sizes)])
}

#[allow(clippy::expect_used, reason = "a test's own rows fit the test's own schema")]
fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(schema(), columns).expect("the columns fit the schema")
}

fn produced(topic: &str, partition: u32, ids: impl IntoIterator<Item = i64>) -> Produced {
    Produced {
        partition: TopicPartition::new(topic, partition),
        rows: rows(ids),
        progress: None,
    }
}

/// Everything that a partition holds from `from` on.
async fn read_all<L: Log>(log: &L, partition: &TopicPartition, from: Offset) -> Result<Vec<LoggedBatch>> {
    let mut all: Vec<LoggedBatch> = Vec::new();
    let mut at = from;
    loop {
        let read = log.read(partition, at, 1 << 16, None).await?;
        let Some(last) = read.last() else {
            return Ok(all);
        };
        assert!(last.next() > at, "reading at {at} doesn't get on");
        at = last.next();
        all.extend(read);
    }
}

fn ids(batches: &[LoggedBatch]) -> Vec<i64> {
    let column = |batch: &LoggedBatch| batch.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
    batches.iter().flat_map(column).collect()
}

async fn ids_of<L: Log>(log: &L, topic: &str, partition: u32) -> Result<Vec<i64>> {
    Ok(ids(&read_all(log, &TopicPartition::new(topic, partition), 0).await?))
}
