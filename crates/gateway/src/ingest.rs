//! The pipeline behind all doors: decode → validate → fill defaults → keep out what lies too far in the
//! future → recognise repeated events → split by partition key → append. It answers when the events are durable.
//!
//! 1. A door reserves room for a body ([`budget`]) and hands it to the stream's lane ([`lane`]).
//! 2. Small bodies wait in the lane's queue. Its decoder takes all that wait, decodes them into one
//!    batch ([`group`]) and hands that on; meanwhile the next ones gather. So single events from
//!    many connections share batches and disk writes, the more the busier it is. Large bodies are
//!    groups of their own, decoded beside each other on all cores.
//! 3. Groups are stored ([`store`]): each partition gets one batch, and all of them, together with
//!    what goes to `dead_letters`, one append. Streams with an idempotency key store what waits in
//!    one commit at a time, which holds the events' keys too ([`keys`], [`recent`]).
//!
//! All of it runs on threads of its own, away from the sockets. Every queue is bounded; whoever
//! finds one full is told to come back ([`error::IngestError::TooBusy`]).

pub mod budget;
pub mod error;
pub mod forward;
mod group;
pub mod keys;
mod lane;
mod letters;
mod recent;
mod store;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::Snapshot;
use headwater_catalog::store::Catalog;
use headwater_event::clock::Clock;
use headwater_event::id::Ids;
use headwater_event::room::Room;
use headwater_event::stored::Stored;
use headwater_log::Log;
use headwater_schema::decode::{Failure, Format, OnError};
use headwater_telemetry::metrics::INGEST_ERRORS;
use metrics::counter;
use parking_lot::RwLock;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::ingest::budget::{Budget, Reservation};
use crate::ingest::error::IngestError;
use crate::ingest::forward::Forward;
use crate::ingest::group::{Reply, Sender};
use crate::ingest::lane::{Job, OpenLane, Payload};

/// The bounds of the pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct IngestOptions {
    /// Bodies that are being read, decoded or stored take no more than this together.
    pub queue_bytes_max: usize,
    /// As many small bodies may wait for one stream's decoder.
    pub queue_requests_max: usize,
    /// Small bodies are decoded together up to this.
    pub group_bytes_max: usize,
    /// A body of this size is a group of its own.
    pub large_body_bytes_min: usize,
    /// As many groups of small bodies of one stream may wait for the disk. More make for smaller groups.
    pub appends_in_flight_max: usize,
    /// The threads that decode and split.
    pub threads: usize,
    /// The memory for recent idempotency keys, over all streams that have them.
    pub keys_cache_bytes_max: usize,
    /// How often expired idempotency keys are looked for, and among how many at once.
    pub sweep_interval: Duration,
    pub sweep_keys_max: usize,
}

/// What became of a request whose good events are durable now.
///
/// The three add up to the number of events that were sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accepted {
    /// Stored by this request.
    pub accepted: usize,
    /// Had been stored before, by their idempotency key; nothing had to be done.
    pub duplicates: usize,
    /// Stored in `dead_letters`.
    pub rejected: usize,
    /// What is wrong with the first of the rejected.
    pub failures: Vec<Failure>,
    /// How far the stream had come with these events, and those that had been stored before: a [`Stored`] as text. Empty where none were
    /// stored.
    pub stored: Arc<str>,
}

/// What became of rows that another gateway has handed on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Which rows were stored; the others had been before.
    pub fresh: Vec<bool>,
    pub stored: Stored,
}

/// The pipeline of one process.
pub struct Ingest {
    shared: Arc<Shared>,
    lanes: Arc<Lanes>,
    /// Taken out only to be shut down.
    runtime: Option<Runtime>,
}

type Lanes = RwLock<HashMap<String, Arc<OpenLane>>>;

/// What all lanes work with.
#[derive(Debug)]
struct Shared {
    options: IngestOptions,
    log: Arc<dyn Log>,
    catalog: Arc<Catalog>,
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    budget: Arc<Budget>,
    /// Recent idempotency keys.
    key_caches: Room,
    /// The way to the other gateways, where there can be any.
    forward: Option<Arc<dyn Forward>>,
}

/// A body as a door hands it over.
#[derive(Clone, Debug)]
pub struct Delivery<'a> {
    pub body: Bytes,
    pub format: Format,
    pub on_error: OnError,
    /// The door and who came through it, as dead letters will say it.
    pub source: &'a str,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            queue_bytes_max: 256 << 20,
            queue_requests_max: 10_000,
            group_bytes_max: 1 << 20,
            large_body_bytes_min: 64 << 10,
            appends_in_flight_max: 2,
            threads: available_parallelism().map_or(1, usize::from),
            keys_cache_bytes_max: 64 << 20,
            sweep_interval: Duration::from_secs(5),
            sweep_keys_max: 10_000,
        }
    }
}

impl Ingest {
    /// # Errors
    /// If the machine doesn't give us the threads.
    pub fn new(
        options: IngestOptions,
        log: Arc<dyn Log>,
        catalog: Arc<Catalog>,
        clock: Arc<dyn Clock>,
        ids: Arc<Ids>,
        forward: Option<Arc<dyn Forward>>,
    ) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .thread_name("ingest")
            .enable_time()
            .build()?;
        let budget = Budget::new(options.queue_bytes_max);
        let shared = Arc::new(Shared {
            key_caches: Room::new(options.keys_cache_bytes_max),
            options,
            log,
            catalog,
            clock,
            ids,
            budget,
            forward,
        });
        let lanes = Arc::new(Lanes::default());
        runtime.spawn(follow(Arc::clone(&shared), Arc::clone(&lanes)));
        Ok(Arc::new(Self {
            shared,
            lanes,
            runtime: Some(runtime),
        }))
    }

    /// Stores the events of a body. They are durable when it returns.
    ///
    /// # Errors
    /// Nothing of the body was stored.
    pub async fn send(
        &self,
        stream: &str,
        body: Bytes,
        format: Format,
        on_error: OnError,
        source: &str,
    ) -> Result<Accepted, IngestError> {
        let reservation = self.reserve(body.len()).inspect_err(count)?;
        let delivery = Delivery {
            body,
            format,
            on_error,
            source,
        };
        self.deliver(stream, delivery, reservation).await
    }

    /// Like [`Ingest::send`], with room that was reserved while the body came in.
    pub async fn deliver(
        &self,
        stream: &str,
        delivery: Delivery<'_>,
        reservation: Reservation,
    ) -> Result<Accepted, IngestError> {
        let bytes = delivery.body.len();
        let lane = self.lane(stream).inspect_err(|error| report(stream, error))?;
        let source = match delivery.on_error {
            OnError::Reject if lane.lane.horizon.is_none() => Box::default(),
            OnError::Reject | OnError::Collect => delivery.source.into(),
        };
        let payload = Payload::Body {
            body: delivery.body,
            format: delivery.format,
            on_error: delivery.on_error,
            source,
        };
        let stored = self.store(&lane, payload, bytes, reservation).await;
        stored.inspect_err(|error| report(stream, error))
    }

    /// Stores rows, their columns found by name, defaults filled and NOT NULL checked: `INSERT`.
    ///
    /// # Errors
    /// None of the rows was stored.
    pub async fn append(&self, stream: &str, rows: RecordBatch) -> Result<Accepted, IngestError> {
        let bytes = rows.get_array_memory_size();
        let reservation = self.reserve(bytes).inspect_err(count)?;
        let lane = self.lane(stream).inspect_err(|error| report(stream, error))?;
        let stored = self.store(&lane, Payload::Rows(rows), bytes, reservation).await;
        stored.inspect_err(|error| report(stream, error))
    }

    /// Whether who knows this may hand rows on.
    pub(crate) fn admits(&self, secret: &str) -> bool {
        let forward = self.shared.forward.as_ref();
        forward.is_some_and(|forward| forward.admits(secret))
    }

    /// Stores rows that another gateway has decoded for this definition of the stream.
    ///
    /// # Errors
    /// None of the rows was stored.
    pub(crate) async fn store_forwarded(
        &self,
        stream: &str,
        id: u64,
        rows: RecordBatch,
        reservation: Reservation,
    ) -> Result<Kept, IngestError> {
        let lane = self.lane(stream)?;
        let fits = *rows.schema() == *lane.lane.stream.schema.arrow();
        if lane.lane.definition.id != id || !fits {
            return Err(IngestError::Gone);
        }
        let (sender, answer) = oneshot::channel();
        let job = Job {
            bytes: rows.get_array_memory_size(),
            payload: Payload::Forwarded(rows),
            reply: Reply {
                sender: Sender::Gateway(sender),
                reservation,
            },
        };
        let Some(runtime) = &self.runtime else {
            return Err(IngestError::Gone);
        };
        lane.take(job, runtime.handle())?;
        answer.await.unwrap_or(Err(IngestError::Gone))
    }

    /// Reserves room for a body that a door is about to read; it may grow.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, IngestError> {
        self.shared.budget.reserve(bytes)
    }

    /// Whether events can be sent to the stream: doors ask before they read a body.
    pub fn check(&self, stream: &str) -> Result<(), IngestError> {
        let snapshot = self.shared.catalog.snapshot();
        writable(&snapshot, stream).map(drop).inspect_err(count)
    }

    /// Runs something that takes CPU away from the sockets' threads.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, IngestError> {
        let Some(runtime) = &self.runtime else {
            return Err(IngestError::Gone);
        };
        let done = runtime.spawn(async move { work() }).await;
        done.map_err(|error| IngestError::Internal(format!("reading the body failed: {error}")))
    }

    async fn store(
        &self,
        lane: &OpenLane,
        payload: Payload,
        bytes: usize,
        reservation: Reservation,
    ) -> Result<Accepted, IngestError> {
        let started = self.shared.clock.elapsed();
        let (sender, answer) = oneshot::channel();
        let reply = Reply {
            sender: Sender::Client(sender),
            reservation,
        };
        let job = Job { payload, bytes, reply };
        let Some(runtime) = &self.runtime else {
            return Err(IngestError::Gone);
        };
        lane.take(job, runtime.handle())?;
        let accepted = answer.await.unwrap_or(Err(IngestError::Gone))?;
        let took = self.shared.clock.elapsed().saturating_sub(started);
        lane.lane.metrics.count(&accepted, bytes, took);
        if accepted.rejected > 0 {
            let stream = &lane.lane.definition.name;
            tracing::debug!(stream, rejected = accepted.rejected, "events went to dead_letters");
        }
        Ok(accepted)
    }

    fn lane(&self, name: &str) -> Result<Arc<OpenLane>, IngestError> {
        let snapshot = self.shared.catalog.snapshot();
        let definition = writable(&snapshot, name)?;
        if let Some(lane) = self.lanes.read().get(name)
            && lane.serves(definition)
        {
            return Ok(Arc::clone(lane));
        }
        let mut lanes = self.lanes.write();
        if let Some(lane) = lanes.get(name)
            && lane.serves(definition)
        {
            return Ok(Arc::clone(lane));
        }
        let Some(runtime) = &self.runtime else {
            return Err(IngestError::Gone);
        };
        let lane = Arc::new(OpenLane::open(&self.shared, definition, runtime.handle())?);
        lanes.insert(name.to_owned(), Arc::clone(&lane));
        Ok(lane)
    }
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ingest({:?})", self.shared.budget)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for the threads is not allowed where this may be dropped.
            runtime.shutdown_background();
        }
    }
}

/// The stream, if it takes events from outside.
fn writable<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Arc<Definition>, IngestError> {
    let Some(definition) = snapshot.get(name) else {
        let streams = snapshot.iter().filter(|object| object.stream().is_some());
        let names = streams.map(|stream| stream.name.as_str());
        return Err(IngestError::UnknownStream {
            name: name.to_owned(),
            nearest: headwater_catalog::snapshot::nearest(name, names).map(str::to_owned),
        });
    };
    let Some(stream) = definition.stream() else {
        return Err(IngestError::NotAStream { name: name.to_owned() });
    };
    let by = match stream {
        stream if stream.builtin => "Headwater itself",
        stream if stream.query.is_some() => "its query",
        _ => return Ok(definition),
    };
    Err(IngestError::NotWritable {
        name: name.to_owned(),
        by,
    })
}

/// Closes the lanes of streams that are replaced or dropped; they finish what waits in them.
async fn follow(shared: Arc<Shared>, lanes: Arc<Lanes>) {
    let mut changes = shared.catalog.subscribe();
    while changes.changed().await.is_ok() {
        let snapshot = changes.borrow_and_update().clone();
        let is_current = |name: &String, lane: &mut Arc<OpenLane>| {
            snapshot.get(name).is_some_and(|definition| lane.serves(definition))
        };
        lanes.write().retain(is_current);
    }
}

/// In the span of the request, so that the line has its id. The door says aloud what has failed.
fn report(stream: &str, error: &IngestError) {
    count(error);
    tracing::debug!(stream, %error, "events were not stored");
}

fn count(error: &IngestError) {
    counter!(INGEST_ERRORS, "reason" => error.reason()).increment(1);
}
