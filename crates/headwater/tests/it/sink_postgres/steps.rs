//! The sink by itself, stopped between its steps.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use headwater_catalog::definition::{Definition, Late, Object, Sink as SinkDefinition, Stream};
use headwater_connect::sink::{Offsets, Promise, Rows, Sink, Start};
use headwater_connect::sinks;
use headwater_connect::source::Error;
use headwater_connect::within::Within;
use headwater_event::clock::{Clock, SystemClock};
use headwater_schema::column::{Column, EventSchema, UnknownFields};
use headwater_test_servers::postgres::Postgres;

struct Steps {
    postgres: Postgres,
    clock: Arc<dyn Clock>,
    definition: SinkDefinition,
    stream: Definition,
}

impl Steps {
    async fn new() -> Option<Self> {
        let postgres = Postgres::start().await?;
        let column = |name: &str, data_type| Column {
            name: name.to_owned(),
            data_type,
            json: false,
            nullable: false,
            default: None,
        };
        let stream = Stream {
            schema: EventSchema {
                columns: vec![column("n", DataType::Int64), column("t", DataType::Utf8)],
                unknown_fields: UnknownFields::Reject,
            },
            watermark: None,
            partition_by: Vec::new(),
            partitions: 2,
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
        };
        let options = [("url", postgres.url()), ("table", "t".to_owned())];
        postgres
            .execute("CREATE TABLE t (n bigint CHECK (n <> 13), t text)")
            .await;
        Some(Self {
            definition: SinkDefinition {
                reads: "numbers".to_owned(),
                connector: "postgres".to_owned(),
                options: options.map(|(key, value)| (key.to_owned(), value)).into(),
            },
            stream: Definition::new("numbers", "", Object::Stream(stream)),
            postgres,
            clock: SystemClock::new(),
        })
    }

    async fn open(&self, promise: &Promise, committed: &Offsets) -> (Box<dyn Sink>, Option<Offsets>) {
        let mut sink = sinks::open(&self.definition, &self.stream).expect("it can be").sink;
        let start = Start {
            name: "out-9",
            identity: "6f1c",
            promise,
            committed,
            within: &Within::default(),
            clock: &self.clock,
        };
        let position = sink.open(start).await.expect("it opens");
        (sink, position)
    }

    async fn count(&self) -> Option<String> {
        self.postgres
            .value("SELECT count(*) || ' ' || count(DISTINCT n) FROM t")
            .await
    }
}

fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
    let columns: [(&str, ArrayRef); 2] = [
        ("n", Arc::new(Int64Array::from_iter_values(range.clone()))),
        (
            "t",
            Arc::new(range.map(|n| Some(n.to_string())).collect::<StringArray>()),
        ),
    ];
    RecordBatch::try_from_iter(columns).expect("rows")
}

fn at(partition: u32, first: u64, rows: &RecordBatch) -> Rows<'_> {
    Rows { partition, first, rows }
}

#[tokio::test]
async fn a_transaction_that_was_not_committed_is_made_again() {
    let Some(steps) = Steps::new().await else { return };
    let (first, second) = (numbers(0..20), numbers(20..30));
    let (mut sink, position) = steps.open(&Promise::new(), &Offsets::new()).await;
    assert_eq!(position, Some(Offsets::new()));
    let refused = sink.write(at(0, 100, &first)).await.expect("written");
    assert_eq!(refused.iter().map(|row| row.row).collect::<Vec<_>>(), [13]);
    let promise = sink.prepare().await.expect("prepared");
    assert_eq!(promise.len(), 1);
    drop(sink);
    // The log has committed, the table has not.
    let committed = Offsets::from([(0, 120)]);
    let (mut sink, position) = steps.open(&promise, &committed).await;
    assert_eq!(
        (position, steps.count().await.as_deref()),
        (Some(Offsets::new()), Some("0 0"))
    );
    // The row that is a dead letter is none once more, whatever the rows come with.
    assert_eq!(sink.write(at(0, 100, &numbers(0..25))).await.expect("written"), []);
    assert_eq!(sink.write(at(1, 7, &second)).await.expect("written"), []);
    assert_eq!(sink.prepare().await.expect("prepared").len(), 1);
    sink.publish().await.expect("published");
    assert_eq!(steps.count().await.as_deref(), Some("34 29"));
    assert_eq!(sink.prepare().await.expect("prepared").len(), 0);
    drop(sink);
    let (_, position) = steps.open(&promise, &Offsets::from([(0, 125), (1, 17)])).await;
    assert_eq!(position, Some(Offsets::from([(0, 125), (1, 17)])));

    // Without its row it can't know how far it is.
    steps.postgres.execute("DELETE FROM headwater_delivery").await;
    let mut sink = sinks::open(&steps.definition, &steps.stream).expect("it can be").sink;
    let (promise, within) = (Promise::new(), Within::default());
    let start = Start {
        name: "out-9",
        identity: "6f1c",
        promise: &promise,
        committed: &committed,
        within: &within,
        clock: &steps.clock,
    };
    let error = sink.open(start).await.expect_err("it has no position");
    assert!(error.to_string().contains("has lost the row of this sink"), "{error}");
}

#[tokio::test]
async fn a_zombie_commits_nothing() {
    let Some(steps) = Steps::new().await else { return };
    let rows = numbers(0..10);
    let (mut zombie, _) = steps.open(&Promise::new(), &Offsets::new()).await;
    zombie.write(at(0, 0, &rows)).await.expect("written");
    zombie.prepare().await.expect("prepared");
    // Nobody waits for it, although its transaction is open.
    let (mut successor, position) = steps.open(&Promise::new(), &Offsets::new()).await;
    assert_eq!(position, Some(Offsets::new()));
    assert!(zombie.publish().await.is_err());
    successor.write(at(0, 0, &rows)).await.expect("written");
    successor.prepare().await.expect("prepared");
    successor.publish().await.expect("published");
    assert_eq!(steps.count().await.as_deref(), Some("10 10"));

    // One whose session could not be ended.
    steps
        .postgres
        .execute("UPDATE headwater_delivery SET epoch = epoch + 1")
        .await;
    successor.write(at(0, 10, &rows)).await.expect("written");
    let error = successor.prepare().await.expect_err("it is a zombie");
    assert!(matches!(error, Error::Taken(_)), "{error}");
    drop(successor);
    assert_eq!(steps.count().await.as_deref(), Some("10 10"));
}
