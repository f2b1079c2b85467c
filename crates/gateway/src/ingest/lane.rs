//! The way of one stream's events: a queue, a decoder, and a task that stores.
//!
//! A lane serves one definition of its stream. When that is replaced or dropped the lane is closed,
//! finishes what waits in it, and a new one is opened for the next request.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use headwater_catalog::definition::{Definition, Stream};
use headwater_event::stored::Stored;
use headwater_problem::ERRORS_MAX;
use headwater_schema::conform::conform;
use headwater_schema::dead_letter::DeadLetter;
use headwater_schema::decode::{Decoder, FAILURES_COLLECTED_MAX, Format, OnError};
use headwater_schema::future::{self, Horizon};
use headwater_telemetry::metrics::{DEAD_LETTERS, INGEST_BYTES, INGEST_DUPLICATES, INGEST_EVENTS, INGEST_SECONDS};
use metrics::{Counter, Histogram, counter, histogram};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::yield_now;

use crate::ingest::error::IngestError;
use crate::ingest::group::{Group, Part, Reply};
use crate::ingest::store::Store;
use crate::ingest::{Accepted, Shared, letters};

/// As many jobs are taken from the queue at once.
const JOBS_MAX: usize = 4096;
/// What dead letters of an `INSERT` say where they come from.
const INSERT: &str = "INSERT";

/// A request on its way.
pub(super) struct Job {
    pub(super) payload: Payload,
    pub(super) bytes: usize,
    pub(super) reply: Reply,
}

pub(super) enum Payload {
    Body {
        body: Bytes,
        format: Format,
        on_error: OnError,
        /// Empty where it will not be needed: without a horizon, and where bad events are refused.
        source: Box<str>,
    },
    Rows(RecordBatch),
    /// By another gateway, which has fitted them to the stream.
    Forwarded(RecordBatch),
}

/// The near end of a lane. The lane closes when it is dropped.
pub(super) struct OpenLane {
    pub(super) lane: Arc<Lane>,
    jobs: mpsc::Sender<Job>,
    store: Arc<Store>,
}

/// What the lane's tasks share.
pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    pub(super) definition: Arc<Definition>,
    pub(super) stream: Stream,
    pub(super) topic: Arc<str>,
    /// Rows beyond it go to `dead_letters`.
    pub(super) horizon: Option<Horizon>,
    /// The columns whose values decide the partition, by their place.
    pub(super) partition_by: Vec<usize>,
    /// The partition that the next batch goes to where no column decides.
    pub(super) next_partition: AtomicU32,
    pub(super) metrics: LaneMetrics,
    /// Decoders that are not in use; they keep their memory.
    decoders: Mutex<Vec<Decoder>>,
}

pub(super) struct LaneMetrics {
    events: Counter,
    bytes: Counter,
    duplicates: Counter,
    undecoded: Counter,
    future: Counter,
    seconds: Histogram,
}

impl OpenLane {
    pub(super) fn open(shared: &Arc<Shared>, definition: &Arc<Definition>, cpu: &Handle) -> Result<Self, IngestError> {
        let lane = Arc::new(Lane::new(shared, definition)?);
        let store = Arc::new(Store::open(&lane, cpu));
        let (jobs, waiting) = mpsc::channel(shared.options.queue_requests_max.max(1));
        cpu.spawn(decode_small(Arc::clone(&lane), waiting, Arc::clone(&store)));
        Ok(Self { lane, jobs, store })
    }

    /// Whether it is for this definition, and alive.
    pub(super) fn serves(&self, definition: &Arc<Definition>) -> bool {
        let is_same = Arc::ptr_eq(&self.lane.definition, definition) || *self.lane.definition == **definition;
        is_same && !self.jobs.is_closed() && !self.store.is_closed()
    }

    pub(super) fn take(&self, job: Job, cpu: &Handle) -> Result<(), IngestError> {
        let is_small = job.bytes < self.lane.shared.options.large_body_bytes_min;
        if is_small && matches!(job.payload, Payload::Body { .. }) {
            return self.jobs.try_send(job).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => IngestError::busy(),
                mpsc::error::TrySendError::Closed(_) => IngestError::Gone,
            });
        }
        cpu.spawn(decode_large(Arc::clone(&self.lane), job, Arc::clone(&self.store)));
        Ok(())
    }
}

impl Lane {
    fn new(shared: &Arc<Shared>, definition: &Arc<Definition>) -> Result<Self, IngestError> {
        let Some(stream) = definition.stream() else {
            return Err(IngestError::NotAStream {
                name: definition.name.clone(),
            });
        };
        let schema = stream.schema.arrow();
        let partition_by = stream.partition_by.iter().map(|column| schema.index_of(column));
        let partition_by = partition_by.collect::<Result<_, _>>();
        Ok(Self {
            shared: Arc::clone(shared),
            definition: Arc::clone(definition),
            horizon: stream.horizon(),
            stream: stream.clone(),
            topic: definition.topic().into(),
            partition_by: partition_by.map_err(|error| IngestError::Internal(error.to_string()))?,
            next_partition: AtomicU32::new(0),
            metrics: LaneMetrics::new(&definition.name),
            decoders: Mutex::default(),
        })
    }

    /// Decodes jobs up to the bytes of a group. Bad ones are answered; `None` if nothing is left.
    fn decode(&self, jobs: &mut VecDeque<Job>) -> Option<Group> {
        let now = self.shared.clock.now();
        let mut decoder = self.decoder();
        let mut parts = Vec::with_capacity(jobs.len());
        let mut letters = Vec::new();
        let mut bytes = 0;
        while bytes < self.shared.options.group_bytes_max
            && let Some(job) = jobs.pop_front()
        {
            bytes += job.bytes;
            let Payload::Body {
                body,
                format,
                on_error,
                source,
            } = job.payload
            else {
                // Rows go by `conform` alone; a dropped reply tells its sender to try again.
                continue;
            };
            let decoded = decoder.decode(&body, format, on_error, now);
            if decoded.rejected {
                job.reply.refuse(IngestError::of_rejected(decoded, on_error));
                continue;
            }
            letters::write(&mut letters, self, &body, &decoded.failures, &source, now);
            parts.push(Part {
                reply: job.reply,
                source,
                rows: decoded.rows,
                rejected: decoded.failed,
                failures: decoded.failures,
            });
        }
        let rows = decoder.finish();
        self.decoders.lock().push(decoder);
        let group = self.in_time(Group {
            rows,
            parts,
            letters,
            now,
        })?;
        if group.is_empty() {
            group.answer(None, &Stored::default());
            return None;
        }
        Some(group)
    }

    /// Fits the rows of an INSERT to the stream.
    fn conform(&self, rows: &RecordBatch, reply: Reply) -> Option<Group> {
        let now = self.shared.clock.now();
        match conform(&self.stream.schema, rows, &self.shared.ids, now) {
            Ok(rows) => self.in_time(Group {
                parts: vec![Part {
                    reply,
                    source: INSERT.into(),
                    rows: rows.num_rows(),
                    rejected: 0,
                    failures: Vec::new(),
                }],
                rows,
                letters: Vec::new(),
                now,
            }),
            Err(failure) => {
                reply.refuse(IngestError::Invalid {
                    failures: vec![*failure],
                    failed: 1,
                });
                None
            }
        }
    }

    /// What another gateway has decoded, checked, and found to be in time.
    fn forwarded(&self, rows: RecordBatch, reply: Reply) -> Group {
        let part = Part {
            reply,
            source: Box::default(),
            rows: rows.num_rows(),
            rejected: 0,
            failures: Vec::new(),
        };
        Group {
            rows,
            parts: vec![part],
            letters: Vec::new(),
            now: self.shared.clock.now(),
        }
    }

    /// The group without the rows beyond the horizon, which are among its letters then. A body with too many of them is
    /// refused, so that memory stays bounded and its sender still has everything.
    fn in_time(&self, mut group: Group) -> Option<Group> {
        let horizon = self.horizon.as_ref();
        let beyond = horizon.map_or_else(Vec::new, |horizon| horizon.beyond(&group.rows, group.now));
        let Some(horizon) = horizon.filter(|_| !beyond.is_empty()) else {
            group.parts.iter_mut().for_each(Part::forget_failures);
            return Some(group);
        };
        if group.parts.len() == 1 && beyond.len() > FAILURES_COLLECTED_MAX {
            let told = beyond.iter().take(ERRORS_MAX);
            let failures = told.map(|&row| horizon.failure(&group.rows, row, group.now)).collect();
            let failed = beyond.len();
            group.refuse(&IngestError::Invalid { failures, failed });
            return None;
        }
        match horizon.part(&group.rows, &beyond, group.now) {
            Ok((rows, too_far)) => {
                group.keep_out(rows, too_far, &self.definition.name);
                Some(group)
            }
            Err(error) => {
                group.refuse(&IngestError::Internal(error.to_string()));
                None
            }
        }
    }

    fn decoder(&self) -> Decoder {
        let spare = self.decoders.lock().pop();
        spare.unwrap_or_else(|| Decoder::new(&self.stream.schema, Arc::clone(&self.shared.ids)))
    }
}

impl LaneMetrics {
    fn new(stream: &str) -> Self {
        let stream = stream.to_owned();
        let letters = |reason| counter!(DEAD_LETTERS, "stream" => stream.clone(), "reason" => reason);
        Self {
            events: counter!(INGEST_EVENTS, "stream" => stream.clone()),
            bytes: counter!(INGEST_BYTES, "stream" => stream.clone()),
            duplicates: counter!(INGEST_DUPLICATES, "stream" => stream.clone()),
            undecoded: letters(letters::REASON),
            future: letters(future::REASON),
            seconds: histogram!(INGEST_SECONDS, "stream" => stream),
        }
    }

    pub(super) fn count(&self, accepted: &Accepted, bytes: usize, took: Duration) {
        self.events.increment(accepted.accepted as u64);
        self.bytes.increment(bytes as u64);
        self.duplicates.increment(accepted.duplicates as u64);
        self.seconds.record(took.as_secs_f64());
    }

    /// Dead letters that are stored.
    pub(super) fn count_letters(&self, letters: &[DeadLetter]) {
        let future = letters.iter().filter(|letter| letter.reason == future::REASON).count();
        self.future.increment(future as u64);
        self.undecoded.increment((letters.len() - future) as u64);
    }
}

/// Decodes what waits in the queue, a group at a time, until the lane is closed.
async fn decode_small(lane: Arc<Lane>, mut jobs: mpsc::Receiver<Job>, store: Arc<Store>) {
    let mut taken = Vec::new();
    let mut waiting = VecDeque::new();
    // The place first: while there is none, more gather for the group.
    while let Some(place) = store.place().await {
        if waiting.is_empty() && jobs.recv_many(&mut taken, JOBS_MAX).await == 0 {
            return;
        }
        waiting.extend(taken.drain(..));
        if let Some(group) = lane.decode(&mut waiting) {
            place.store(&lane, group);
        }
        // The task that stores was woken on this thread; it shall not wait for the next group.
        yield_now().await;
    }
}

async fn decode_large(lane: Arc<Lane>, job: Job, store: Arc<Store>) {
    let body_bytes = job.bytes;
    let group = match job.payload {
        Payload::Rows(ref rows) => lane.conform(rows, job.reply),
        Payload::Forwarded(rows) => Some(lane.forwarded(rows, job.reply)),
        Payload::Body { .. } => lane.decode(&mut VecDeque::from([job])),
    };
    let Some(mut group) = group else { return };
    // Events of few bytes can make rows of many, by their defaults; and bad ones are copied.
    let more = group.rows.get_array_memory_size().saturating_sub(body_bytes) + letters::bytes(&group.letters);
    let room = group
        .parts
        .iter_mut()
        .try_for_each(|part| part.reply.reservation.grow(more));
    match room {
        Ok(()) => store.large(&lane, group).await,
        Err(error) => group.refuse(&error),
    }
}
