//! Retention and compaction.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, StringArray};
use headwater_event::offset::TopicPartition;

use super::{Backend, batch, ids, ids_of, produced, read_all, reopened, spec};
use crate::error::{Kind, Result};
use crate::topic::{Cleanup, TopicSpec};
use crate::{Log, Produced};

fn kept(retention_ms: Option<u64>, retention_bytes: Option<u64>) -> TopicSpec {
    let mut kept = spec("t", 1);
    kept.cleanup = Cleanup::Delete {
        retention_ms,
        retention_bytes,
    };
    kept
}

/// Batches older than the retention go, younger ones stay; reading an offset that is gone begins
/// at the earliest.
pub(super) async fn old_batches_go<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("age")?;
    log.create_topic(kept(Some(60_000), None)).await?;
    let partition = TopicPartition::new("t", 0);
    for minute in 0..5 {
        log.append(vec![produced("t", 0, minute * 10..minute * 10 + 10)])
            .await?;
        backend.clock().advance(Duration::from_secs(40));
    }
    B::sweep(&log).await?;
    assert_eq!(ids_of(&*log, "t", 0).await?, (40..50).collect::<Vec<_>>());
    let log = reopened(backend, log, "age")?;
    assert_eq!(log.offsets(&partition).await?, 40..50);
    let read = log.read(&partition, 3, usize::MAX, None).await?;
    assert_eq!((read[0].base, ids(&read)), (40, (40..50).collect()));
    Ok(())
}

/// The oldest batches go while newer ones hold the bytes already.
pub(super) async fn large_partitions_shrink<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("size")?;
    log.create_topic(kept(None, Some(50_000))).await?;
    let partition = TopicPartition::new("t", 0);
    for batch in 0..50 {
        log.append(vec![produced("t", 0, batch * 100..batch * 100 + 100)])
            .await?;
    }
    B::sweep(&log).await?;
    let left = log.offsets(&partition).await?;
    assert!(left.start > 0 && left.start < 4900 && left.end == 5000, "{left:?}");
    let log = reopened(backend, log, "size")?;
    assert_eq!(log.offsets(&partition).await?, left);
    assert_eq!(
        ids_of(&*log, "t", 0).await?,
        (left.start as i64..5000).collect::<Vec<_>>()
    );
    B::sweep(&log).await?;
    assert_eq!(log.offsets(&partition).await?, left);
    Ok(())
}

/// Offsets never go back, also where retention has left nothing.
pub(super) async fn offsets_go_on_when_everything_is_gone<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("all-gone")?;
    log.create_topic(kept(Some(1000), None)).await?;
    let partition = TopicPartition::new("t", 0);
    log.append(vec![produced("t", 0, 0..10)]).await?;
    backend.clock().advance(Duration::from_secs(5));
    B::sweep(&log).await?;
    assert_eq!(log.offsets(&partition).await?, 10..10);
    let log = reopened(backend, log, "all-gone")?;
    assert_eq!(log.offsets(&partition).await?, 10..10);
    assert!(log.read(&partition, 0, 1, None).await?.is_empty());
    let mut waiting = std::pin::pin!(log.wait(&partition, 0));
    assert!(
        futures::poll!(&mut waiting).is_pending(),
        "there is nothing to read, but the wait ends"
    );
    assert_eq!(log.append(vec![produced("t", 0, [7])]).await?, [10]);
    waiting.await?;
    assert_eq!(ids(&log.read(&partition, 0, 1, None).await?), [7]);
    Ok(())
}

/// What lies before the offset goes, but for the batch that holds it; offsets go on.
pub(super) async fn trimming_removes_whole_batches<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("trim")?;
    log.create_topic(spec("t", 2)).await?;
    let partition = TopicPartition::new("t", 0);
    let mut bases = Vec::new();
    for batch in 0..5 {
        let both = vec![produced("t", 0, batch * 10..batch * 10 + 10), produced("t", 1, [batch])];
        bases.push(log.append(both).await?[0]);
    }
    let end = log.offsets(&partition).await?.end;
    log.trim(&partition, bases[2] + 5).await?;
    let left = log.offsets(&partition).await?;
    assert!(
        left.start > bases[1] && left.start <= bases[2] && left.end == end,
        "{left:?} of {bases:?}"
    );
    assert_eq!(ids_of(&*log, "t", 0).await?, (20..50).collect::<Vec<_>>());
    log.trim(&partition, bases[2] + 10).await?;
    log.trim(&partition, bases[0] + 3).await?;
    let left = log.offsets(&partition).await?;
    assert!(
        left.start > bases[2] && left.start <= bases[3] && left.end == end,
        "{left:?} of {bases:?}"
    );
    let log = reopened(backend, log, "trim")?;
    assert_eq!(ids_of(&*log, "t", 0).await?, (30..50).collect::<Vec<_>>());
    log.trim(&partition, end + 1_000_000).await?;
    let left = log.offsets(&partition).await?;
    assert!(left.is_empty() && left.end >= end, "{left:?} of {bases:?}");
    let log = reopened(backend, log, "trim")?;
    let after = log.append(vec![produced("t", 0, [7])]).await?;
    assert!(after[0] >= end);
    assert_eq!(ids_of(&*log, "t", 0).await?, [7]);
    assert_eq!(ids_of(&*log, "t", 1).await?, [0, 1, 2, 3, 4], "another partition");
    let nowhere = TopicPartition::new("t", 2);
    let trimmed = log.trim(&nowhere, 1).await;
    assert_eq!(trimmed.map_err(|error| error.kind()), Err(Kind::Invalid));
    Ok(())
}

/// Which rows of it stay is a matter of their keys.
pub(super) async fn a_compacted_topic_is_not_trimmed<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("trim-compacted")?;
    log.create_topic(compacted()).await?;
    log.append(vec![keyed([(1, Some("a"))])]).await?;
    let trimmed = log.trim(&TopicPartition::new("t", 0), 1).await;
    assert_eq!(trimmed.map_err(|error| error.kind()), Err(Kind::Invalid));
    assert_eq!(values_of(&*log).await?.len(), 1);
    Ok(())
}

/// A row for each key and value; `None` removes the key.
fn keyed<const N: usize>(values: [(i64, Option<&str>); N]) -> Produced {
    let keys = Int64Array::from_iter_values(values.iter().map(|(key, _)| *key));
    let names = StringArray::from_iter(values.iter().map(|(_, value)| *value));
    Produced {
        partition: TopicPartition::new("t", 0),
        rows: batch(vec![Arc::new(keys), Arc::new(names), Arc::new(Int64Array::new_null(N))]),
        progress: None,
    }
}

async fn values_of<L: Log>(log: &L) -> Result<Vec<(i64, Option<String>)>> {
    let batches = read_all(log, &TopicPartition::new("t", 0), 0).await?;
    assert!(
        batches.windows(2).all(|pair| pair[0].next() <= pair[1].base),
        "offsets don't increase"
    );
    let mut values = Vec::new();
    for batch in &batches {
        let names = arrow::array::AsArray::as_string::<i32>(batch.rows.column(1));
        let names = names.iter().map(|name| name.map(str::to_owned));
        values.extend(ids(std::slice::from_ref(batch)).into_iter().zip(names));
    }
    Ok(values)
}

fn compacted() -> TopicSpec {
    let mut compacted = spec("t", 1);
    compacted.cleanup = Cleanup::Compact { key: "id".to_owned() };
    compacted
}

/// They come back as rows, for readers to see.
pub(super) async fn a_compacted_topic_has_rows_that_remove_their_key<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("removed-keys")?;
    log.create_topic(compacted()).await?;
    log.append(vec![keyed([(1, Some("a")), (2, Some("b"))]), keyed([(1, None)])])
        .await?;
    let log = reopened(backend, log, "removed-keys")?;
    let value = |key, name: &str| (key, Some(name.to_owned()));
    assert_eq!(values_of(&*log).await?, [value(1, "a"), value(2, "b"), (1, None)]);
    Ok(())
}

/// The last row of each key stays, in order, and the partition ends where it did.
pub(super) async fn compaction_keeps_the_last_row_of_each_key<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("compaction")?;
    log.create_topic(compacted()).await?;
    let partition = TopicPartition::new("t", 0);
    log.append(vec![keyed([(1, Some("a")), (2, Some("a")), (3, Some("a"))])])
        .await?;
    log.append(vec![keyed([(1, Some("b")), (4, Some("b")), (1, Some("c"))])])
        .await?;
    log.append(vec![keyed([(2, Some("d")), (4, Some("d"))])]).await?;
    log.append(vec![keyed([(5, Some("e"))])]).await?;
    let end = log.offsets(&partition).await?.end;
    B::sweep(&log).await?;
    let value = |key, name: &str| (key, Some(name.to_owned()));
    let expected = [
        value(3, "a"),
        value(1, "c"),
        value(2, "d"),
        value(4, "d"),
        value(5, "e"),
    ];
    assert_eq!(values_of(&*log).await?, expected);
    assert_eq!(log.offsets(&partition).await?.end, end);
    // A reader that was in the middle of a batch misses nothing.
    assert_eq!(ids(&read_all(&*log, &partition, 1).await?), [3, 1, 2, 4, 5]);
    let log = reopened(backend, log, "compaction")?;
    assert_eq!(values_of(&*log).await?, expected);
    assert_eq!(log.append(vec![keyed([(3, Some("f"))])]).await?, [end]);
    B::sweep(&log).await?;
    assert_eq!(values_of(&*log).await?.len(), 5);
    assert_eq!(values_of(&*log).await?.last(), Some(&value(3, "f")));
    Ok(())
}

/// A row that removes its key stays for readers to see, and goes later.
pub(super) async fn removed_keys_disappear_in_the_end<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("tombstones")?;
    log.create_topic(compacted()).await?;
    log.append(vec![keyed([(1, Some("a")), (2, Some("a"))])]).await?;
    log.append(vec![keyed([(1, None)])]).await?;
    log.append(vec![keyed([(3, Some("a"))])]).await?;
    B::sweep(&log).await?;
    let keys = |values: Vec<(i64, Option<String>)>| values.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(values_of(&*log).await?), [2, 1, 3]);
    backend.clock().advance(Duration::from_secs(25 * 3600));
    for _ in 0..10 {
        log.append(vec![keyed([(3, Some("b"))])]).await?;
    }
    let log = reopened(backend, log, "tombstones")?;
    B::sweep(&log).await?;
    assert_eq!(keys(values_of(&*log).await?), [2, 3]);
    Ok(())
}
