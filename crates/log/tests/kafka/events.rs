//! Topics with a record for each event, on a real broker: what is written comes back, others' records are read, and what is none of them is passed
//! over.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray, BinaryArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, TimeUnit};
use bytes::Bytes;
use headwater_event::clock::{Clock, SystemClock};
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::error::{Error, Kind};
use headwater_log::kafka::KafkaLog;
use headwater_log::kafka::connection::{Connection, Security};
use headwater_log::kafka::transactions::{Failure, Record, Transactions};
use headwater_log::topic::{Cleanup, Encoding, Events, TopicSpec};
use headwater_log::{Commit, Log, LoggedBatch, Produced};
use headwater_schema::column::{Column, ColumnDefault, EventSchema, UnknownFields};
use headwater_test_servers::kafka::{self, Kafka};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::open;

const DAY: i64 = 86_400_000_000;

fn columns() -> EventSchema {
    let column = |name: &str, data_type, nullable, default| Column {
        name: name.to_owned(),
        data_type,
        json: name == "more",
        nullable,
        default,
    };
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    EventSchema {
        columns: vec![
            column("id", DataType::Int64, false, None),
            column("shop", DataType::Utf8, true, None),
            column("price", DataType::Float64, true, None),
            column("total", DataType::Decimal128(10, 2), true, None),
            column("bytes", DataType::Binary, true, None),
            column("more", DataType::Utf8, true, None),
            column("at", time.clone(), true, None),
            column("code", DataType::Utf8, false, Some(ColumnDefault::Uuid)),
            column("came", time, false, Some(ColumnDefault::Now)),
        ],
        unknown_fields: UnknownFields::Reject,
    }
}

fn spec(name: &str, encoding: Encoding, bound: Option<&str>) -> TopicSpec {
    TopicSpec {
        name: name.to_owned(),
        schema: columns().arrow(),
        partitions: 2,
        cleanup: Cleanup::Delete {
            retention_ms: Some(7 * 24 * 60 * 60 * 1000),
            retention_bytes: None,
        },
        events: Some(Events {
            encoding,
            columns: columns(),
            key: vec!["shop".to_owned()],
            time: Some("at".to_owned()),
            bound: bound.map(str::to_owned),
        }),
    }
}

/// All kinds of values, with NULLs among them.
fn rows(ids: std::ops::Range<i64>, now: i64) -> RecordBatch {
    let some = |id: i64, of: i64| (id % of != 0).then_some(id);
    let ids = || ids.clone();
    let text = |id: i64| some(id, 5).map(|id| format!("ü \"{}\",\n{id}", "x".repeat(id as usize % 40)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids())),
        Arc::new(StringArray::from_iter(ids().map(text))),
        Arc::new(Float64Array::from_iter(
            ids().map(|id| some(id, 3).map(|id| id as f64 / 7.0)),
        )),
        Arc::new(
            Decimal128Array::from_iter(ids().map(|id| some(id, 4).map(|id| i128::from(id) * 1001)))
                .with_precision_and_scale(10, 2)
                .unwrap(),
        ),
        Arc::new(BinaryArray::from_iter(
            ids().map(|id| some(id, 6).map(|id| id.to_le_bytes())),
        )),
        Arc::new(StringArray::from_iter(
            ids().map(|id| some(id, 7).map(|id| format!("{{\"a\": [{id}, null]}}"))),
        )),
        Arc::new(TimestampMicrosecondArray::from_iter(
            ids().map(|id| some(id, 8).map(|id| now - id * 1_000_001)),
        )),
        Arc::new(StringArray::from_iter_values(ids().map(|id| id.to_string()))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(ids().map(|id| now + id))),
    ];
    RecordBatch::try_new(super::events::columns().arrow(), columns).unwrap()
}

fn produced(topic: &str, partition: u32, rows: RecordBatch) -> Produced {
    Produced {
        partition: TopicPartition::new(topic, partition),
        rows,
        progress: None,
    }
}

async fn read(log: &dyn Log, partition: &TopicPartition, from: Offset) -> Vec<LoggedBatch> {
    let (mut batches, mut at) = (Vec::new(), from);
    loop {
        let read = log.read(partition, at, 1 << 20, None).await.unwrap();
        let Some(last) = read.last() else {
            return batches;
        };
        assert!(read.windows(2).all(|pair| pair[0].next() <= pair[1].base));
        at = last.next();
        batches.extend(read);
    }
}

fn together(batches: &[LoggedBatch]) -> RecordBatch {
    concat_batches(&columns().arrow(), batches.iter().map(|batch| &batch.rows)).unwrap()
}

fn ids(batches: &[LoggedBatch]) -> Vec<i64> {
    let ids = |batch: &LoggedBatch| {
        batch
            .rows
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>()
            .values()
            .to_vec()
    };
    batches.iter().flat_map(ids).collect()
}

/// Partition, key and value.
type Other<'a> = (u32, Option<&'a str>, Option<&'a [u8]>);

/// Somebody else, who writes records as they are.
fn others(broker: &Kafka, records: Vec<Other>) {
    let connection = Connection::new(&broker.brokers, "somebody", &Security::default());
    let transactions = Transactions::open(&connection, "somebody", "bound").unwrap();
    let record = |(partition, key, value): Other| Record {
        topic: "bound".into(),
        partition: Some(partition),
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        value: value.map(Bytes::copy_from_slice),
        time: Some(1_700_000_000_123_000),
    };
    let records: Vec<_> = records.into_iter().map(record).collect();
    transactions.write(&records).map_err(Failure::into_error).unwrap();
}

async fn make(broker: &Kafka, name: &str, partitions: i32, properties: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &broker.brokers)
        .create()
        .unwrap();
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (key, value) in properties {
        topic = topic.set(key, value);
    }
    let made = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    made[0].as_ref().unwrap();
}

fn log_of(broker: &Kafka, prefix: &str) -> (Arc<KafkaLog>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (open(broker, prefix, folder.path()), folder)
}

/// Every value comes back as it was, in both encodings, from any place on; and what is read together stays within its bound.
#[tokio::test(flavor = "multi_thread")]
async fn events_come_back_as_they_were() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    let (log, _folder) = log_of(broker, "events");
    let (second, _other_folder) = log_of(broker, "events");
    let now = SystemClock::new().now() / 1000 * 1000;
    for (name, encoding) in [("json", Encoding::Json), ("csv", Encoding::Csv)] {
        log.create_topic(spec(name, encoding, None)).await.unwrap();
        let partition = TopicPartition::new(name, 1);
        let first = log.append(vec![produced(name, 1, rows(1..501, now))]).await.unwrap();
        let next = log
            .append(vec![
                produced(name, 1, rows(501..601, now)),
                produced(name, 0, rows(601..602, now)),
            ])
            .await
            .unwrap();
        assert!(next[0] >= first[0] + 500 && next.len() == 2, "{first:?} {next:?}");
        let ends = log.offsets(&partition).await.unwrap();
        assert_eq!((ends.start, ends.end), (0, next[0] + 100));
        for log in [&log, &second] {
            // How many batches they are read in depends on what was fetched.
            let batches = read(&**log, &partition, 0).await;
            let all = together(&batches);
            assert_eq!((batches[0].base, all.num_rows()), (first[0], 600));
            assert_eq!(all.slice(0, 500), rows(1..501, now), "{name}");
            assert_eq!(all.slice(500, 100), rows(501..601, now), "{name}");
            let middle = read(&**log, &partition, first[0] + 123).await;
            assert_eq!(
                (middle[0].base, together(&middle)),
                (first[0] + 123, all.slice(123, 477))
            );
            let some = log
                .read(&partition, next[0] + 7, usize::MAX, Some(&[0, 6]))
                .await
                .unwrap();
            let expected = rows(508..601, now).project(&[0, 6]).unwrap();
            assert_eq!(some[0].rows, expected.slice(0, some[0].rows.num_rows()));
            assert!(log.read(&partition, ends.end, 1, None).await.unwrap().is_empty());
        }
        // As their time stamps say: the events of before are found by their time.
        let found = log.offset_at(&partition, now - 2_000_000).await.unwrap();
        assert_eq!(found, first[0]);
    }
    // What the clock says where the event's time is none that Kafka takes, or keeps.
    log.create_topic(spec("times", Encoding::Json, None)).await.unwrap();
    let odd = rows(1..4, now + 10 * DAY);
    log.append(vec![produced("times", 0, odd.slice(0, 1))]).await.unwrap();
    log.append(vec![produced("times", 0, rows(1..2, -5 * DAY))])
        .await
        .unwrap();
    for batch in read(&*log, &TopicPartition::new("times", 0), 0).await {
        assert!((now..now + 60_000_000).contains(&batch.appended), "{}", batch.appended);
    }
    let waited = {
        let (log, partition) = (second.clone(), TopicPartition::new("times", 1));
        tokio::spawn(async move { log.wait(&partition, 0).await })
    };
    SystemClock::new().sleep(Duration::from_millis(100)).await;
    log.append(vec![produced("times", 1, rows(1..2, now))]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

/// What JSON can't say is refused before anything is written; and so is what is too large.
#[tokio::test(flavor = "multi_thread")]
async fn what_cant_be_written_is_refused() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    make(broker, "small", 2, &[("max.message.bytes", "1200000")]).await;
    let (log, _folder) = log_of(broker, "refusing");
    log.create_topic(spec("none", Encoding::Json, None)).await.unwrap();
    log.create_topic(spec("limited", Encoding::Json, Some("small")))
        .await
        .unwrap();
    let with = |column: usize, array: ArrayRef| {
        let good = rows(1..3, 0);
        let mut arrays = good.columns().to_vec();
        arrays[column] = array;
        RecordBatch::try_new(good.schema(), arrays).unwrap()
    };
    let not_a_number = with(2, Arc::new(Float64Array::from(vec![1.0, f64::NAN])));
    let error = log.append(vec![produced("none", 0, not_a_number)]).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unwritable { row: 1, what, .. } if what.contains("price")),
        "{error}"
    );
    let far = with(6, Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX, 0])));
    let error = log.append(vec![produced("none", 0, far)]).await.unwrap_err();
    assert!(matches!(&error, Error::Unwritable { row: 0, .. }), "{error}");
    let large = with(
        1,
        Arc::new(StringArray::from(vec!["a".repeat(1_300_000), String::new()])),
    );
    let error = log
        .append(vec![produced("limited", 0, large.clone())])
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            Error::TooLarge {
                bytes_max: 1_200_000,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.kind(), Kind::Invalid);
    log.append(vec![produced("none", 0, large)]).await.unwrap();
    assert_eq!(read(&*log, &TopicPartition::new("limited", 0), 0).await.len(), 0);
}

/// A topic of others: it is read, whoever wrote it; what is no event is passed over and told once; our own lie where Kafka's clients look for
/// them; and it stays when we go.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_others_is_read_and_stays() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    make(broker, "bound", 2, &[]).await;
    others(
        broker,
        vec![
            (0, Some("a"), Some(br#"{"id": 1, "shop": "a"}"#)),
            (0, None, Some(b"no JSON")),
            (0, None, None),
            (0, Some("a"), Some(b"{\"id\": 2,\n \"code\": \"own\"}")),
            (0, None, Some(br#"[{"id": 3}]"#)),
            (0, Some("b"), Some(br#"{"id": 4, "shop": "b"}"#)),
        ],
    );
    let (log, _folder) = log_of(broker, "binding");
    assert_eq!(log.bound_topic("bound").await.unwrap().unwrap().partitions, 2);
    assert!(log.bound_topic("nobodys").await.unwrap().is_none());
    log.create_topic(spec("ours", Encoding::Json, Some("bound")))
        .await
        .unwrap();
    let partition = TopicPartition::new("ours", 0);
    let first = read(&*log, &partition, 0).await;
    assert_eq!(ids(&first), [1, 2, 4]);
    assert_eq!(first[0].appended, 1_700_000_000_123_000);
    // Defaults follow from the record: another process, and another time, sees the same.
    let (second, _other_folder) = log_of(broker, "binding");
    let again = read(&*second, &partition, 0).await;
    for (one, other) in first.iter().zip(&again) {
        assert_eq!((one.base, &one.rows), (other.base, &other.rows));
    }
    assert_eq!(read(&*second, &partition, 4).await[0].rows, first[2].rows);
    let codes = first[0].rows.column(7).as_string::<i32>();
    assert_eq!(codes.value(0).len(), 36);
    let came = first[0]
        .rows
        .column(8)
        .as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    assert_eq!(came.value(0), 1_700_000_000_123_000);
    assert_eq!(log.offsets(&partition).await.unwrap().end, first[2].next());

    let mut refused = Vec::new();
    let mut at = 0;
    loop {
        let (some, next) = log.refused(&partition, at).await.unwrap();
        if next == at {
            break;
        }
        refused.extend(some);
        at = next;
    }
    let told: Vec<_> = refused
        .iter()
        .map(|record| (record.offset, &record.bytes[..]))
        .collect();
    assert_eq!(told, [(1, &b"no JSON"[..]), (2, b""), (4, br#"[{"id": 3}]"#)]);
    assert!(refused[2].what.contains("array"), "{}", refused[2].what);

    // The keys "21" and "foobar" lie in partitions 0 and 0 of 2, "a-little-bit-longer-string" in 1, by Kafka's own reckoning.
    let now = SystemClock::new().now();
    let mut three = rows(1..4, now).columns().to_vec();
    three[1] = Arc::new(StringArray::from(vec!["21", "foobar", "a-little-bit-longer-string"]));
    let three = RecordBatch::try_new(columns().arrow(), three).unwrap();
    let placed = log.append(vec![produced("ours", 1, three)]).await.unwrap();
    assert_eq!(placed.len(), 1);
    assert_eq!(ids(&read(&*log, &partition, at).await), [1, 2]);
    assert_eq!(ids(&read(&*log, &TopicPartition::new("ours", 1), 0).await), [3]);

    // A commit and its position are one; a later claim fences the earlier one here too.
    let claim = log.claim("reader").await.unwrap();
    let commit = |row: i64| Commit {
        consumed: vec![(partition.clone(), row as u64)],
        produced: vec![produced("ours", 1, rows(row..row + 1, now))],
        state: Vec::new(),
    };
    log.commit(&claim, commit(10)).await.unwrap();
    let later = second.claim("reader").await.unwrap();
    assert_eq!(later.consumed[&partition], 10);
    assert_eq!(log.commit(&claim, commit(11)).await.unwrap_err().kind(), Kind::Conflict);
    let both = [
        read(&*second, &partition, at).await,
        read(&*second, &TopicPartition::new("ours", 1), 0).await,
    ]
    .concat();
    assert!(
        ids(&both).contains(&10) && !ids(&both).contains(&11),
        "{:?}",
        ids(&both)
    );

    log.delete_topic("ours").await.unwrap();
    assert!(
        log.bound_topic("bound").await.unwrap().is_some(),
        "it is somebody else's"
    );
}

/// A topic that was made for a stream goes with the last stream that is bound to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_goes_with_the_last_stream() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    let (log, _folder) = log_of(broker, "making");
    log.create_topic(spec("one", Encoding::Json, Some("made")))
        .await
        .unwrap();
    log.create_topic(spec("two", Encoding::Json, Some("made")))
        .await
        .unwrap();
    log.append(vec![produced("one", 0, rows(1..2, 0).slice(0, 1))])
        .await
        .unwrap();
    log.delete_topic("one").await.unwrap();
    assert!(log.bound_topic("made").await.unwrap().is_some());
    let partitions = [0, 1].map(|number| TopicPartition::new("two", number));
    let both = [
        read(&*log, &partitions[0], 0).await,
        read(&*log, &partitions[1], 0).await,
    ]
    .concat();
    assert_eq!(ids(&both), [1]);
    log.delete_topic("two").await.unwrap();
    assert!(log.bound_topic("made").await.unwrap().is_none());
}

/// Topics that can't hold a stream are refused with what is wrong with them.
#[tokio::test(flavor = "multi_thread")]
async fn topics_that_dont_fit_are_refused() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    make(broker, "compacted", 1, &[("cleanup.policy", "compact,delete")]).await;
    make(broker, "tiny", 1, &[("max.message.bytes", "1000")]).await;
    let (log, _folder) = log_of(broker, "fitting");
    for (name, what) in [
        ("compacted", "cleanup.policy=compact,delete"),
        ("tiny", "max.message.bytes=1000"),
        ("fitting.hidden-1", "internal"),
        ("a b", "doesn't fit"),
    ] {
        let error = log.bound_topic(name).await.unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(error.kind(), Kind::Invalid);
        let made = log.create_topic(spec("x", Encoding::Json, Some(name))).await;
        assert!(made.unwrap_err().to_string().contains(what));
    }
    make(broker, "single", 1, &[]).await;
    let error = log
        .create_topic(spec("y", Encoding::Json, Some("single")))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("1 partitions"), "{error}");
}
