//! Reading batches from the store, and finding them by time.
//!
//! The index says which batches there are; each is then got by its key. So damage to one batch
//! concerns that one alone, and the offset after it is known.

use std::ops::{ControlFlow, Range};

use fjall::{Readable, Snapshot};
use headwater_event::clock::Micros;
use headwater_event::offset::Offset;

use crate::LoggedBatch;
use crate::embedded::layout::{Entry, batch_key};
use crate::embedded::store::Store;
use crate::embedded::topics::{OpenTopic, Partition};
use crate::encoding;
use crate::error::{Error, Result};
use crate::rows::{memory_bytes, skip_to};

/// What to read of a partition.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub from: Offset,
    pub bytes_max: usize,
    pub columns: Option<Vec<usize>>,
}

/// Reads from the store up to the published end of the partition.
pub(super) fn read(
    store: &Store,
    topic: &OpenTopic,
    partition: &Partition,
    wanted: &Wanted,
) -> Result<Vec<LoggedBatch>> {
    let ends = partition.check()?;
    let snapshot = store.database.snapshot();
    let number = partition.name.partition;
    let from = wanted.from.max(ends.start);
    let first = first_at(store, &snapshot, topic, number, from)?;
    let mut read = Vec::new();
    let mut bytes = 0;
    for guard in snapshot.range(
        &topic.stored.index,
        batch_key(number, first)..batch_key(number, ends.next),
    ) {
        let (base, entry) = store.index_entry(guard)?;
        match read_one(
            store,
            &snapshot,
            topic,
            partition,
            base,
            entry,
            wanted.columns.as_deref(),
        ) {
            Ok(batch) => {
                let batch = skip_to(batch, from);
                bytes += memory_bytes(&batch.rows);
                read.push(batch);
            }
            // Swept away since we looked where the partition starts.
            Err(Error::Damaged { .. }) if entry.next <= partition.check()?.start => continue,
            Err(error) if read.is_empty() => return Err(error),
            // What is good comes first; the next call meets the damage.
            Err(_) => break,
        }
        if bytes > wanted.bytes_max {
            break;
        }
    }
    Ok(read)
}

/// The base of the first batch appended at `time` or later. Looks at a number of batches that
/// grows with the logarithm of the range of offsets.
pub(super) fn offset_at(store: &Store, topic: &OpenTopic, partition: &Partition, time: Micros) -> Result<Offset> {
    let ends = partition.check()?;
    let snapshot = store.database.snapshot();
    let number = partition.name.partition;
    let first_from = |low: Offset| -> Result<Option<(Offset, Entry)>> {
        let range = batch_key(number, low)..batch_key(number, ends.next);
        snapshot
            .range(&topic.stored.index, range)
            .next()
            .map(|guard| store.index_entry(guard))
            .transpose()
    };
    // Batches whose base is below `low` are before the time; those at `high` or above are not.
    let (mut low, mut high) = (ends.start, ends.next);
    while low < high {
        let middle = low + (high - low) / 2;
        match first_from(middle)? {
            Some((base, entry)) if entry.appended < time => low = base + 1,
            _ => high = middle,
        }
    }
    Ok(first_from(low)?.map_or(ends.next, |(base, _)| base))
}

/// Goes over the batches whose base is in the range by the index alone, in order.
pub(super) fn walk_index(
    store: &Store,
    topic: &OpenTopic,
    partition: u32,
    bases: Range<Offset>,
    mut visit: impl FnMut(&Snapshot, Offset, Entry) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let snapshot = store.database.snapshot();
    for guard in snapshot.range(
        &topic.stored.index,
        batch_key(partition, bases.start)..batch_key(partition, bases.end),
    ) {
        let (base, entry) = store.index_entry(guard)?;
        if visit(&snapshot, base, entry)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Reads and checks one batch.
pub(super) fn read_one(
    store: &Store,
    snapshot: &Snapshot,
    topic: &OpenTopic,
    partition: &Partition,
    base: Offset,
    entry: Entry,
    columns: Option<&[usize]>,
) -> Result<LoggedBatch> {
    let damaged = |what: String| Error::Damaged {
        partition: partition.name.clone(),
        base,
        next: entry.next,
        what,
    };
    let value = match snapshot.get(&topic.stored.batches, batch_key(partition.name.partition, base)) {
        Ok(Some(value)) => value,
        Ok(None) => return Err(damaged("it is missing".to_owned())),
        Err(fjall::Error::Storage(error)) if super::store::is_damage(&error) => {
            return Err(damaged(format!("its block on disk: {error:?}")));
        }
        Err(error) => return Err(store.error(error)),
    };
    let decoded = encoding::decode(&value, &topic.schema, columns).map_err(&damaged)?;
    Ok(LoggedBatch {
        base,
        appended: entry.appended,
        progress: decoded.progress,
        rows: decoded.rows,
    })
}

/// The base of the batch that holds `from`, or `from` where none does.
fn first_at(store: &Store, snapshot: &Snapshot, topic: &OpenTopic, partition: u32, from: Offset) -> Result<Offset> {
    let range = batch_key(partition, 0)..=batch_key(partition, from);
    match snapshot.range(&topic.stored.index, range).next_back() {
        Some(guard) => {
            let (base, entry) = store.index_entry(guard)?;
            Ok(if entry.next > from { base } else { from })
        }
        None => Ok(from),
    }
}

/// The base of a partition's first batch.
pub(super) fn first_base(store: &Store, topic: &OpenTopic, partition: u32) -> Result<Option<Offset>> {
    let snapshot = store.database.snapshot();
    let first = snapshot.prefix(&topic.stored.index, partition.to_be_bytes()).next();
    Ok(first
        .map(|guard| store.index_entry(guard))
        .transpose()?
        .map(|(base, _)| base))
}
