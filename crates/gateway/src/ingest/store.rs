//! Storing groups: each partition gets one batch, and all of them one append.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use headwater_catalog::definition::{DEAD_LETTERS, Idempotency};
use headwater_event::offset::TopicPartition;
use headwater_event::partition::{partitions_of, split};
use headwater_event::stored::Stored;
use headwater_log::error::{Error as LogError, Kind};
use headwater_log::{Commit, Produced};
use headwater_schema::dead_letter;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::ingest::Kept;
use crate::ingest::error::IngestError;
use crate::ingest::group::Group;
use crate::ingest::keys::{self, Keys, KeysOptions, Screened};
use crate::ingest::lane::Lane;

/// As many groups wait for a commit, and share it.
const GROUPS_MAX: usize = 16;

/// Where the groups of a lane go.
pub(super) enum Store {
    /// Without an idempotency key: a few groups are stored beside each other.
    Beside(Arc<Semaphore>),
    /// With one: [`store_new`] takes one after the other.
    InTurn(mpsc::Sender<Group>),
}

/// Room for one more group.
pub(super) enum Place {
    Beside(OwnedSemaphorePermit),
    InTurn(mpsc::OwnedPermit<Group>),
}

impl Store {
    pub(super) fn open(lane: &Arc<Lane>, cpu: &Handle) -> Self {
        let Some(idempotency) = lane.stream.idempotency.clone() else {
            let in_flight_max = lane.shared.options.appends_in_flight_max.max(1);
            return Self::Beside(Arc::new(Semaphore::new(in_flight_max)));
        };
        let (groups, waiting) = mpsc::channel(GROUPS_MAX);
        cpu.spawn(store_new(Arc::clone(lane), idempotency, waiting));
        Self::InTurn(groups)
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Beside(in_flight) => in_flight.is_closed(),
            Self::InTurn(groups) => groups.is_closed(),
        }
    }

    /// Waits for room; `None` if there won't be any.
    pub(super) async fn place(&self) -> Option<Place> {
        match self {
            Self::Beside(in_flight) => Arc::clone(in_flight).acquire_owned().await.ok().map(Place::Beside),
            Self::InTurn(groups) => groups.clone().reserve_owned().await.ok().map(Place::InTurn),
        }
    }

    /// Stores a group that needs no place, because it is bounded by the budget for bodies.
    pub(super) async fn large(&self, lane: &Lane, group: Group) {
        match self {
            Self::Beside(_) => append(lane, group).await,
            Self::InTurn(groups) => {
                if let Err(mpsc::error::SendError(group)) = groups.send(group).await {
                    group.refuse(&IngestError::Gone);
                }
            }
        }
    }
}

impl Place {
    pub(super) fn store(self, lane: &Arc<Lane>, group: Group) {
        match self {
            Self::InTurn(place) => {
                place.send(group);
            }
            Self::Beside(place) => {
                let lane = Arc::clone(lane);
                tokio::spawn(async move {
                    append(&lane, group).await;
                    drop(place);
                });
            }
        }
    }
}

/// Stores a group, and answers.
async fn append(lane: &Lane, group: Group) {
    let stored = async {
        let batches = produced(lane, &group.rows, &group)?;
        let written = written(lane, &batches);
        lane.shared.log.append(batches).await?;
        Ok(place(lane, &written))
    };
    match stored.await {
        Ok(stored) => {
            lane.metrics.count_letters(&group.letters);
            group.answer(None, &stored);
        }
        Err(error) => group.refuse(&error),
    }
}

/// The partitions of the stream that batches go to.
fn written(lane: &Lane, batches: &[Produced]) -> Vec<u32> {
    let of_stream = batches.iter().filter(|batch| batch.partition.topic == lane.topic);
    match lane.stream.topic {
        None => of_stream.map(|batch| batch.partition.partition).collect(),
        // Where an event lies there, its key decides.
        Some(_) => of_stream.take(1).flat_map(|_| 0..lane.stream.partitions).collect(),
    }
}

/// How far partitions of the stream have come with what this process has stored there.
fn place(lane: &Lane, partitions: &[u32]) -> Stored {
    let mut stored = Stored::default();
    for &partition in partitions {
        let of_stream = TopicPartition::new(Arc::clone(&lane.topic), partition);
        let end = lane.shared.log.known_end(&of_stream);
        if end > 0 {
            stored.note(lane.definition.id, partition, end);
        }
    }
    stored
}

/// How far the stream has come: with events that had been stored before, wherever that was and by whomever.
async fn end_of_stream(lane: &Lane) -> Result<Stored, IngestError> {
    let mut stored = Stored::default();
    for partition in 0..lane.stream.partitions {
        let of_stream = TopicPartition::new(Arc::clone(&lane.topic), partition);
        let end = lane.shared.log.settled(&of_stream).await?.end;
        if end > 0 {
            stored.note(lane.definition.id, partition, end);
        }
    }
    Ok(stored)
}

/// Stores the groups of a stream with an idempotency key: one commit at a time, so that what was
/// stored before is known when the next is looked at.
async fn store_new(lane: Arc<Lane>, idempotency: Idempotency, mut groups: mpsc::Receiver<Group>) {
    let shared = &lane.shared;
    let mut keys = None;
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            biased;
            taken = groups.recv_many(&mut waiting, GROUPS_MAX) => if taken == 0 { return },
            () = shared.clock.sleep(shared.options.sweep_interval) => {}
        }
        let Ok(group) = merge(&mut waiting) else { continue };
        let mut result = commit_new(&lane, &idempotency, &mut keys, group.as_ref()).await;
        if result.as_ref().is_err_and(is_conflict) {
            // Somebody else has written keys meanwhile: what we know of them is outdated.
            keys = None;
            result = commit_new(&lane, &idempotency, &mut keys, group.as_ref()).await;
        }
        match (result, group) {
            (Ok(kept), Some(group)) => {
                lane.metrics.count_letters(&group.letters);
                group.answer(Some(&kept.fresh), &kept.stored);
            }
            (Ok(_), None) => {}
            (Err(error), Some(group)) => group.refuse(&error),
            (Err(error), None) => {
                tracing::warn!(stream = lane.definition.name, %error, "expired idempotency keys could not be removed; the next sweep tries again");
            }
        }
    }
}

fn is_conflict(error: &IngestError) -> bool {
    matches!(error, IngestError::Log(error) if error.kind() == Kind::Conflict)
}

/// The waiting groups as one; they are refused if they can't be.
fn merge(waiting: &mut Vec<Group>) -> Result<Option<Group>, ()> {
    Group::merge(std::mem::take(waiting)).map_err(|(groups, error)| {
        let error = IngestError::Internal(error.to_string());
        for group in groups {
            group.refuse(&error);
        }
    })
}

/// Commits what is new of a group and its keys, and the removal of expired keys if it is time.
async fn commit_new(
    lane: &Lane,
    idempotency: &Idempotency,
    opened: &mut Option<Keys>,
    group: Option<&Group>,
) -> Result<Kept, IngestError> {
    let shared = &lane.shared;
    if let Some(kept) = elsewhere(lane, group).await? {
        // Whoever has the keys writes new ones: those that are known here are outdated.
        *opened = None;
        return Ok(kept);
    }
    let now = group.map_or_else(|| shared.clock.now(), |group| group.now);
    if opened.is_none() {
        let log = &*shared.log;
        let (options, share) = (keys_options(lane), shared.key_caches.share());
        *opened = Some(Keys::open(log, &lane.topic, idempotency, options, share, now).await?);
    }
    let Some(keys) = opened else {
        return Err(IngestError::Gone);
    };

    let mut screened = Screened::default();
    let mut batches = Vec::new();
    if let Some(group) = group {
        let column = key_column(&group.rows, idempotency)?;
        screened = keys.screen(column, now)?;
        let rows = only(&group.rows, &screened.fresh)?;
        batches = produced(lane, &rows, group)?;
    }
    let swept = keys.sweep(now, shared.clock.elapsed())?;
    // Before the commit, so that what fails here has stored nothing.
    let mut stored = match screened.fresh.iter().all(|&fresh| fresh) {
        true => Stored::default(),
        false => end_of_stream(lane).await?,
    };
    let written = written(lane, &batches);
    if !(batches.is_empty() && swept.is_empty()) {
        let commit = Commit {
            consumed: Vec::new(),
            produced: batches,
            state: vec![keys.write(swept, &screened.keys, now)],
        };
        shared.log.commit(&keys.claim, commit).await?;
        keys.remember(&screened.keys, now);
    }
    stored.merge(&place(lane, &written));
    Ok(Kept {
        fresh: screened.fresh,
        stored,
    })
}

/// Has a group stored by the gateway that has the stream's keys, if that is another one. Its dead letters after it: if they can't be, the
/// client sends it all again.
async fn elsewhere(lane: &Lane, group: Option<&Group>) -> Result<Option<Kept>, IngestError> {
    let Some(forward) = &lane.shared.forward else {
        return Ok(None);
    };
    let owner = keys::owner(&lane.topic);
    if forward.is_here(&owner) || group.is_some_and(Group::is_forwarded) {
        return Ok(None);
    }
    // Sweeping is for the one that has the keys.
    let Some(group) = group else {
        return Ok(Some(Kept::default()));
    };
    let mut kept = Kept::default();
    if group.rows.num_rows() > 0 {
        match forward.store(&owner, &lane.definition, &group.rows).await {
            Some(by_other) => kept = by_other?,
            None => return Ok(None),
        }
    }
    if let Some(letters) = letters(lane, group)? {
        lane.shared.log.append(vec![letters]).await?;
    }
    Ok(Some(kept))
}

fn keys_options(lane: &Lane) -> KeysOptions {
    let options = &lane.shared.options;
    KeysOptions {
        sweep_keys_max: options.sweep_keys_max.max(1),
        sweep_interval: options.sweep_interval,
    }
}

fn key_column<'a>(rows: &'a RecordBatch, idempotency: &Idempotency) -> Result<&'a ArrayRef, IngestError> {
    let column = rows.column_by_name(&idempotency.column);
    column.ok_or_else(|| IngestError::Internal(format!("there is no column '{}'", idempotency.column)))
}

/// The rows that are marked; they are not copied where all are.
fn only(rows: &RecordBatch, marked: &[bool]) -> Result<RecordBatch, IngestError> {
    if marked.iter().all(|&marked| marked) {
        return Ok(rows.clone());
    }
    let marked = BooleanArray::from(marked.to_vec());
    filter_record_batch(rows, &marked).map_err(|error| LogError::from(error).into())
}

/// The batches to append: the rows by partition, and the group's dead letters.
fn produced(lane: &Lane, rows: &RecordBatch, group: &Group) -> Result<Vec<Produced>, IngestError> {
    let mut batches = Vec::new();
    for (partition, rows) in by_partition(lane, rows).map_err(LogError::from)? {
        let produced = Produced {
            partition: TopicPartition::new(Arc::clone(&lane.topic), partition),
            rows,
            progress: None,
        };
        batches.append(&mut produced.in_batches()?);
    }
    batches.extend(letters(lane, group)?);
    Ok(batches)
}

/// The group's dead letters, if it has any.
fn letters(lane: &Lane, group: &Group) -> Result<Option<Produced>, IngestError> {
    if group.letters.is_empty() {
        return Ok(None);
    }
    let snapshot = lane.shared.catalog.snapshot();
    let Some(definition) = snapshot.get(DEAD_LETTERS) else {
        return Err(IngestError::Internal(format!("there is no stream '{DEAD_LETTERS}'")));
    };
    Ok(Some(Produced {
        partition: TopicPartition::new(definition.topic(), 0),
        rows: dead_letter::batch(&group.letters),
        progress: None,
    }))
}

fn by_partition(lane: &Lane, rows: &RecordBatch) -> Result<Vec<(u32, RecordBatch)>, arrow::error::ArrowError> {
    let partitions = lane.stream.partitions.max(1);
    if rows.num_rows() == 0 {
        return Ok(Vec::new());
    }
    if lane.partition_by.is_empty() {
        let partition = lane.next_partition.fetch_add(1, Ordering::Relaxed) % partitions;
        return Ok(vec![(partition, rows.clone())]);
    }
    let keys = lane.partition_by.iter().map(|&column| Arc::clone(rows.column(column)));
    let assigned = partitions_of(&keys.collect::<Vec<_>>(), rows.num_rows(), partitions)?;
    split(rows, &assigned, partitions)
}
