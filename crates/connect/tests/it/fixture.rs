//! A log in memory, a stream, and a source that can be stopped and started again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use headwater_catalog::definition::{Definition, Late, Object, Source, Stream};
use headwater_connect::runtime::{SourceStatus, Sources};
use headwater_connect::shared::Shared;
use headwater_connect::within::Within;
use headwater_event::clock::{Clock, ManualClock};
use headwater_event::id::Ids;
use headwater_event::offset::TopicPartition;
use headwater_log::Log;
use headwater_log::memory::MemoryLog;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::work::Work;
use headwater_schema::column::{Column, EventSchema, UnknownFields};
use headwater_schema::dead_letter;

pub const PARTITIONS: u32 = 3;
pub const DEAD_LETTERS: &str = "dead_letters-1";

pub struct Fixture {
    pub clock: Arc<ManualClock>,
    pub log: Arc<MemoryLog>,
    pub stream: Arc<Definition>,
    pub source: Arc<Definition>,
    pub sources: Arc<Sources>,
}

impl Fixture {
    /// With the stream `numbers (n BIGINT NOT NULL, text TEXT)`.
    pub async fn new(connector: &str, options: &[(&str, &str)]) -> Self {
        let clock = ManualClock::new(1_767_225_600_000_000);
        let log = MemoryLog::new(Arc::clone(&clock) as _);
        let stream = definition("numbers", 2, Object::Stream(numbers_stream()));
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let source = Source {
            stream: "numbers".to_owned(),
            connector: connector.to_owned(),
            options: options.collect::<BTreeMap<_, _>>(),
            encode: None,
        };
        let source = definition("source", 3, Object::Source(source));
        let topic = |name: &str, schema, partitions| TopicSpec {
            name: name.to_owned(),
            schema,
            partitions,
            cleanup: Cleanup::Delete {
                retention_ms: None,
                retention_bytes: None,
            },
            events: None,
        };
        let schema = stream.stream().unwrap().schema.arrow();
        log.create_topic(topic(&stream.topic(), schema, PARTITIONS))
            .await
            .unwrap();
        log.create_topic(topic(DEAD_LETTERS, dead_letter::schema(), 1))
            .await
            .unwrap();
        let fixture = Self {
            sources: sources(&log, &clock),
            clock,
            log,
            stream,
            source,
        };
        fixture.start();
        fixture
    }

    pub fn start(&self) {
        self.sources.start(&self.source, &self.stream);
    }

    /// As a process that ends and another that begins: nothing but the log is left.
    pub async fn restart(&mut self) {
        self.sources.stop(self.source.id).await;
        self.sources = sources(&self.log, &self.clock);
        self.start();
    }

    pub async fn advance(&self, duration: Duration) {
        self.sources.caught_up().await;
        self.clock.advance(duration);
        self.sources.caught_up().await;
    }

    pub fn status(&self) -> SourceStatus {
        self.sources.status().pop().expect("it is there")
    }

    /// All that is in the stream, in ascending order.
    pub async fn numbers(&self) -> Vec<i64> {
        let mut numbers = Vec::new();
        for partition in 0..PARTITIONS {
            let partition = TopicPartition::new(self.stream.topic(), partition);
            for batch in self.log.read(&partition, 0, usize::MAX, None).await.unwrap() {
                numbers.extend(batch.rows.column(0).as_primitive::<Int64Type>().values());
            }
        }
        numbers.sort_unstable();
        numbers
    }

    /// The details of dead letters, with what they hold.
    pub async fn letters(&self) -> Vec<(String, String)> {
        letters(&self.log).await
    }
}

/// The details of dead letters, with what they hold.
pub async fn letters(log: &Arc<MemoryLog>) -> Vec<(String, String)> {
    let partition = TopicPartition::new(DEAD_LETTERS, 0);
    let mut letters = Vec::new();
    for batch in log.read(&partition, 0, usize::MAX, None).await.unwrap() {
        let details = batch.rows.column(4).as_string::<i32>();
        let payloads = batch.rows.column(5).as_binary::<i32>();
        letters.extend(details.iter().zip(payloads.iter()).map(|(detail, payload)| {
            let payload = String::from_utf8_lossy(payload.unwrap_or_default());
            (detail.unwrap_or_default().to_owned(), payload.into_owned())
        }));
    }
    letters
}

pub fn definition(name: &str, id: u64, object: Object) -> Arc<Definition> {
    Arc::new(Definition {
        id,
        ..Definition::new(name, "", object)
    })
}

fn sources(log: &Arc<MemoryLog>, clock: &Arc<ManualClock>) -> Arc<Sources> {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
    let ids = Ids::seeded(Arc::clone(&clock), 1);
    let shared = Shared {
        log: Arc::clone(log) as _,
        clock,
        ids,
        dead_letters: DEAD_LETTERS.into(),
        within: Within::default(),
        work: Work::all(),
    };
    Sources::new(1, shared).unwrap()
}

/// `numbers (n BIGINT NOT NULL, text TEXT)`, partitioned by `n`.
pub fn numbers_stream() -> Stream {
    let column = |name: &str, data_type, nullable| Column {
        name: name.to_owned(),
        data_type,
        json: false,
        nullable,
        default: None,
    };
    Stream {
        schema: EventSchema {
            columns: vec![
                column("n", DataType::Int64, false),
                column("text", DataType::Utf8, true),
            ],
            unknown_fields: UnknownFields::Reject,
        },
        watermark: None,
        partition_by: vec!["n".to_owned()],
        partitions: PARTITIONS,
        retention_ms: None,
        retention_bytes: None,
        idempotency: None,
        late: Late::Drop,
        idle_timeout_ms: 5000,
        http_path: None,
        topic: None,
        encoding: headwater_log::topic::Encoding::Json,
        query: None,
        builtin: false,
    }
}
