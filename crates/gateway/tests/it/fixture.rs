//! An ingest on a log in memory, with the streams that the tests send to.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimeUnit};
use bytes::Bytes;
use headwater_catalog::dead_letters;
use headwater_catalog::definition::{
    DEAD_LETTERS, Definition, Idempotency, Late, Object, Query, Start, StateBound, Stream, View,
};
use headwater_catalog::snapshot::Change;
use headwater_catalog::store::Catalog;
use headwater_event::clock::ManualClock;
use headwater_event::id::Ids;
use headwater_event::offset::TopicPartition;
use headwater_event::stored::Stored;
use headwater_gateway::http::{HttpDoor, HttpOptions, router};
use headwater_gateway::ingest::error::IngestError;
use headwater_gateway::ingest::{Accepted, Ingest, IngestOptions};
use headwater_log::Log;
use headwater_log::memory::MemoryLog;
use headwater_log::topic::{Cleanup, Encoding, TopicSpec};
use headwater_schema::column::{Column, ColumnDefault, EventSchema, UnknownFields};
use headwater_schema::decode::{Format, OnError};

pub const PARTITIONS: u32 = 4;
pub const WINDOW_MS: u64 = 3_600_000;

/// 2026-01-01T00:00:00Z
pub const NOW: i64 = 1_767_225_600_000_000;

pub struct Fixture {
    pub clock: Arc<ManualClock>,
    pub ids: Arc<Ids>,
    pub log: Arc<dyn Log>,
    pub catalog: Arc<Catalog>,
    pub ingest: Arc<Ingest>,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with(IngestOptions::default()).await
    }

    pub async fn with(options: IngestOptions) -> Self {
        let clock = ManualClock::new(NOW);
        Self::on(MemoryLog::new(clock.clone()), clock, options).await
    }

    /// On a log that may have been used before.
    pub async fn on(log: Arc<dyn Log>, clock: Arc<ManualClock>, options: IngestOptions) -> Self {
        let ids = Ids::seeded(clock.clone(), 7);
        let catalog = Catalog::open(Arc::clone(&log)).await.unwrap();
        if catalog.snapshot().get("clicks").is_none() {
            let definitions = [
                dead_letters::definition(),
                stream("clicks", None),
                stream("unique_clicks", Some("event_id")),
                derived_stream(),
                view(),
            ];
            let changes = definitions.map(Change::Put).to_vec();
            catalog.apply(catalog.snapshot().version, changes).await.unwrap();
        }
        for definition in catalog.snapshot().iter() {
            create_topic(&*log, definition).await;
        }
        let ingest = Ingest::new(
            options,
            Arc::clone(&log),
            Arc::clone(&catalog),
            clock.clone(),
            ids.clone(),
            None,
        )
        .unwrap();
        Self {
            clock,
            ids,
            log,
            catalog,
            ingest,
        }
    }

    /// A new ingest on the same log, as after a restart.
    pub fn restarted(&self, options: IngestOptions) -> Arc<Ingest> {
        let log = Arc::clone(&self.log);
        Ingest::new(
            options,
            log,
            Arc::clone(&self.catalog),
            self.clock.clone(),
            self.ids.clone(),
            None,
        )
        .unwrap()
    }

    pub async fn send(&self, stream: &str, body: &str) -> Result<Accepted, IngestError> {
        send(&self.ingest, stream, body, OnError::Reject).await
    }

    pub fn router(&self, options: HttpOptions) -> axum::Router {
        router(Arc::new(HttpDoor {
            ingest: Arc::clone(&self.ingest),
            clock: self.clock.clone(),
            options,
        }))
    }

    /// What is stored, by partition.
    pub async fn stored(&self, stream: &str) -> BTreeMap<u32, Vec<RecordBatch>> {
        let definition = Arc::clone(self.catalog.snapshot().get(stream).unwrap());
        let mut stored = BTreeMap::new();
        for partition in 0..definition.partitions() {
            let partition = TopicPartition::new(definition.topic(), partition);
            let mut from = 0;
            loop {
                let batches = self.log.read(&partition, from, usize::MAX, None).await.unwrap();
                let Some(last) = batches.last() else { break };
                from = last.next();
                let rows = batches.into_iter().map(|batch| batch.rows);
                stored.entry(partition.partition).or_insert_with(Vec::new).extend(rows);
            }
        }
        stored
    }

    /// The values of a text column, sorted.
    pub async fn texts(&self, stream: &str, column: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for batch in self.stored(stream).await.into_values().flatten() {
            let column = batch.column_by_name(column).unwrap().as_string::<i32>().clone();
            texts.extend(column.iter().map(|text| text.unwrap_or("NULL").to_owned()));
        }
        texts.sort();
        texts
    }

    pub async fn dead_letters(&self) -> RecordBatch {
        let batches: Vec<_> = self.stored(DEAD_LETTERS).await.into_values().flatten().collect();
        arrow::compute::concat_batches(&headwater_schema::dead_letter::schema(), &batches).unwrap()
    }
}

/// What became of the events, but for where they are.
pub async fn send(ingest: &Ingest, stream: &str, body: &str, on_error: OnError) -> Result<Accepted, IngestError> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let accepted = ingest.send(stream, body, Format::NdJson, on_error, "test").await?;
    Ok(Accepted {
        stored: Arc::default(),
        ..accepted
    })
}

/// Where the events are, with those that had been stored before.
pub async fn place(ingest: &Ingest, stream: &str, body: &str) -> Stored {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let accepted = ingest.send(stream, body, Format::NdJson, OnError::Reject, "test").await;
    accepted.unwrap().stored.parse().unwrap()
}

pub fn click(id: &str, user: &str) -> String {
    format!(r#"{{"event_id":"{id}","user_id":"{user}"}}"#)
}

pub async fn create_topic(log: &dyn Log, definition: &Definition) {
    let spec = TopicSpec {
        name: definition.topic(),
        schema: EventSchema {
            columns: definition.columns().to_vec(),
            unknown_fields: UnknownFields::Reject,
        }
        .arrow(),
        partitions: definition.partitions(),
        cleanup: Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        },
        events: None,
    };
    log.create_topic(spec).await.unwrap();
}

pub fn stream(name: &str, idempotency_key: Option<&str>) -> Definition {
    let text = DataType::Utf8;
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let idempotency = idempotency_key.map(|column| Idempotency {
        column: column.to_owned(),
        window_ms: WINDOW_MS,
    });
    let columns = vec![
        column("event_id", text.clone(), false, Some(ColumnDefault::Uuid)),
        column("user_id", text, false, None),
        column("duration", DataType::Int32, true, None),
        column("time_stamp", time, false, Some(ColumnDefault::Now)),
    ];
    Definition::new(
        name,
        "",
        Object::Stream(Stream {
            schema: EventSchema {
                columns,
                unknown_fields: UnknownFields::Reject,
            },
            watermark: None,
            partition_by: vec!["user_id".to_owned()],
            partitions: PARTITIONS,
            retention_ms: None,
            retention_bytes: None,
            idempotency,
            late: Late::DeadLetter,
            idle_timeout_ms: 1000,
            http_path: None,
            topic: None,
            encoding: Encoding::Json,
            query: None,
            builtin: false,
        }),
    )
}

fn column(name: &str, data_type: DataType, nullable: bool, default: Option<ColumnDefault>) -> Column {
    Column {
        name: name.to_owned(),
        data_type,
        json: false,
        nullable,
        default,
    }
}

fn derived_stream() -> Definition {
    let mut definition = stream("clicks_per_minute", None);
    if let Object::Stream(stream) = &mut definition.object {
        stream.query = Some(query());
    }
    definition
}

fn view() -> Definition {
    Definition {
        object: Object::View(View {
            columns: stream("", None).columns().to_vec(),
            key: None,
            partitions: 1,
            http_path: None,
            query: query(),
        }),
        ..stream("page_clicks", None)
    }
}

fn query() -> Query {
    Query {
        sql: "SELECT * FROM clicks".to_owned(),
        reads: vec!["clicks".to_owned()],
        start: Start::Earliest,
        state: StateBound::Bounded,
        allowed_lateness: 0,
        state_ttl: None,
        tables: Vec::new(),
    }
}
