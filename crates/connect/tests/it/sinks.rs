//! Files that a sink writes: every row in one of them, whatever happens in between.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use headwater_catalog::definition::{Definition, Object, Sink};
use headwater_connect::delivery::{SinkStatus, Sinks};
use headwater_connect::shared::Shared;
use headwater_connect::sink::{Offsets, Promise, Rows, Start};
use headwater_connect::sinks;
use headwater_connect::within::Within;
use headwater_event::clock::{Clock, ManualClock};
use headwater_event::id::Ids;
use headwater_event::offset::TopicPartition;
use headwater_log::memory::MemoryLog;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::work::Work;
use headwater_log::{Log, Produced};
use headwater_schema::dead_letter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::fixture::{DEAD_LETTERS, PARTITIONS, definition, letters, numbers_stream};

const INTERVAL: Duration = Duration::from_secs(60);
const RETENTION_MS: u64 = 3_600_000;

struct Delivery {
    clock: Arc<ManualClock>,
    log: Arc<MemoryLog>,
    stream: Arc<Definition>,
    sink: Arc<Definition>,
    sinks: Arc<Sinks>,
    folder: tempfile::TempDir,
}

fn running(log: &Arc<MemoryLog>, clock: &Arc<ManualClock>) -> Arc<Sinks> {
    let ids = Ids::seeded(Arc::clone(clock) as _, 1);
    let (log, clock) = (Arc::clone(log) as _, Arc::clone(clock) as _);
    let shared = Shared {
        log,
        clock,
        ids,
        dead_letters: DEAD_LETTERS.into(),
        within: Within::default(),
        work: Work::all(),
    };
    Sinks::new(1, shared).unwrap()
}

impl Delivery {
    async fn new(options: &[(&str, &str)]) -> Self {
        let clock = ManualClock::new(1_767_225_600_000_000);
        let log = MemoryLog::new(Arc::clone(&clock) as _);
        let stream = definition("numbers", 2, Object::Stream(numbers_stream()));
        let folder = tempfile::tempdir().unwrap();
        let mut all = BTreeMap::from([("path".to_owned(), folder.path().join("out").display().to_string())]);
        all.extend(
            options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        let sink = Sink {
            reads: "numbers".to_owned(),
            connector: "file".to_owned(),
            options: all,
        };
        let sink = definition("out", 3, Object::Sink(sink));
        let topic = |name: &str, schema, partitions| TopicSpec {
            name: name.to_owned(),
            schema,
            partitions,
            cleanup: Cleanup::Delete {
                retention_ms: Some(RETENTION_MS),
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
        let delivery = Self {
            sinks: running(&log, &clock),
            clock,
            log,
            stream,
            sink,
            folder,
        };
        delivery.sinks.start(&delivery.sink, &delivery.stream);
        delivery
    }

    /// As a process that ends and another that begins: nothing but the log and the folder is left.
    async fn restart(&mut self) {
        self.sinks.stop(self.sink.id).await;
        self.sinks = running(&self.log, &self.clock);
        self.sinks.start(&self.sink, &self.stream);
    }

    async fn append(&self, partition: u32, numbers: impl Iterator<Item = i64>) {
        let rows = rows(numbers);
        let rows = RecordBatch::try_new(self.stream.stream().unwrap().schema.arrow(), rows.columns().to_vec());
        let produced = Produced {
            partition: TopicPartition::new(self.stream.topic(), partition),
            rows: rows.unwrap(),
            progress: None,
        };
        self.log.append(vec![produced]).await.unwrap();
    }

    async fn advance(&self, duration: Duration) {
        self.sinks.caught_up().await;
        self.clock.advance(duration);
        self.sinks.caught_up().await;
    }

    async fn status(&self) -> SinkStatus {
        self.sinks.status().await.pop().expect("it is there")
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// All numbers in visible files, in ascending order.
    fn numbers(&self) -> Vec<i64> {
        let mut numbers: Vec<i64> = visible(&self.out()).iter().flat_map(|path| numbers_in(path)).collect();
        numbers.sort_unstable();
        numbers
    }
}

fn rows(numbers: impl Iterator<Item = i64>) -> RecordBatch {
    let numbers: Vec<i64> = numbers.collect();
    let texts = numbers.iter().map(|n| (n % 5 != 0).then(|| format!("t{}", n % 3)));
    let columns: [(&str, ArrayRef, bool); 2] = [
        ("n", Arc::new(Int64Array::from(numbers.clone())), false),
        ("text", Arc::new(texts.collect::<StringArray>()), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn visible(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return files;
    };
    for path in entries.map(|entry| entry.unwrap().path()) {
        let hidden = path.file_name().unwrap().to_string_lossy().starts_with('.');
        match path.is_dir() {
            _ if hidden => {}
            true => files.extend(visible(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

fn numbers_in(path: &Path) -> Vec<i64> {
    if path.extension().is_some_and(|extension| extension == "parquet") {
        let file = std::fs::File::open(path).unwrap();
        let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        return batches
            .flat_map(|rows| rows.unwrap().column(0).as_primitive::<Int64Type>().values().to_vec())
            .collect();
    }
    let text = std::fs::read_to_string(path).unwrap();
    let number = |line: &str| {
        let digits: String = line
            .chars()
            .filter(|c| *c != '{')
            .skip_while(|c| !c.is_ascii_digit())
            .collect();
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse().ok()
    };
    text.lines().filter_map(number).collect()
}

#[tokio::test]
async fn every_row_is_in_one_file_whenever_it_is_stopped() {
    for (format, partition_by) in [
        ("ndjson", None),
        ("csv", Some("text")),
        ("parquet", None),
        ("parquet", Some("text")),
    ] {
        let mut options = vec![("format", format), ("roll_interval", "1 minute")];
        options.extend(partition_by.map(|columns| ("partition_by", columns)));
        let mut delivery = Delivery::new(&options).await;
        let mut next = 0;
        for step in 0..24_i64 {
            let count = 1 + step * 7 % 40;
            delivery.append((step % 3) as u32, next..next + count).await;
            next += count;
            match step % 4 {
                0 => delivery.restart().await,
                1 => delivery.advance(INTERVAL / 2).await,
                2 => {
                    delivery.sinks.caught_up().await;
                    delivery.clock.advance(INTERVAL);
                    delivery.restart().await;
                }
                _ => delivery.advance(INTERVAL).await,
            }
        }
        delivery.advance(INTERVAL).await;
        assert_eq!(
            delivery.numbers(),
            (0..next).collect::<Vec<_>>(),
            "{format} {partition_by:?}"
        );
        let status = delivery.status().await;
        assert_eq!(
            (status.rows, status.lag, status.state),
            (next as u64, Some(0), "running")
        );
        if partition_by.is_some() {
            let folders = visible(&delivery.out());
            let of_folder = |name: &str| {
                folders
                    .iter()
                    .filter(|path| path.to_string_lossy().contains(name))
                    .count()
            };
            assert!(
                of_folder("/text=t1/") > 0 && of_folder("/text=__HIVE_DEFAULT_PARTITION__/") > 0,
                "{folders:?}"
            );
        }
    }
}

#[tokio::test]
async fn nothing_is_seen_before_its_time() {
    let delivery = Delivery::new(&[
        ("format", "ndjson"),
        ("roll_interval", "1 minute"),
        ("roll_size", "1 MB"),
    ])
    .await;
    delivery.append(0, 0..100).await;
    delivery.advance(INTERVAL / 2).await;
    assert_eq!(visible(&delivery.out()), Vec::<PathBuf>::new());
    assert_eq!(delivery.status().await.lag, Some(100));
    delivery.advance(INTERVAL / 2).await;
    let files = visible(&delivery.out());
    assert_eq!(files, [delivery.out().join("out-3-0-000000000000.ndjson")]);
    let text = std::fs::read_to_string(&files[0]).unwrap();
    assert!(
        text.starts_with("{\"n\":0,\"text\":null}\n{\"n\":1,\"text\":\"t1\"}\n"),
        "{text}"
    );

    // So many that they don't wait for the time.
    delivery.append(0, 100..100_000).await;
    delivery.sinks.caught_up().await;
    assert!(visible(&delivery.out()).len() > 1);
    assert!(delivery.status().await.rows > 100);
}

#[tokio::test]
async fn what_stands_in_the_way_is_said_and_nothing_is_lost() {
    let delivery = Delivery::new(&[
        ("format", "csv"),
        ("partition_by", "text"),
        ("roll_interval", "1 minute"),
    ])
    .await;
    std::fs::create_dir(delivery.out()).unwrap();
    let obstacle = delivery.out().join("text=t1");
    std::fs::write(&obstacle, "not a folder").unwrap();
    delivery.append(0, 1..4).await;
    delivery.advance(INTERVAL).await;
    let status = delivery.status().await;
    assert_eq!(status.state, "failing");
    assert!(status.failure.as_ref().unwrap().contains("text=t1"), "{status:?}");
    delivery.advance(INTERVAL).await;
    assert_eq!(delivery.status().await.state, "failing");

    std::fs::remove_file(&obstacle).unwrap();
    delivery.advance(INTERVAL).await;
    delivery.advance(INTERVAL).await;
    let status = delivery.status().await;
    assert_eq!((status.state, status.failure, status.rows), ("running", None, 3));
    assert_eq!(delivery.numbers(), [1, 2, 3]);
}

#[tokio::test]
async fn a_file_of_somebody_else_is_not_replaced() {
    let delivery = Delivery::new(&[("format", "csv"), ("roll_interval", "1 minute")]).await;
    std::fs::create_dir(delivery.out()).unwrap();
    let other = delivery.out().join("out-3-0-000000000000.csv");
    std::fs::write(&other, "7,precious\n").unwrap();
    delivery.append(0, 1..4).await;
    delivery.advance(INTERVAL).await;
    assert!(delivery.status().await.failure.unwrap().contains("has not written"));
    std::fs::rename(&other, delivery.folder.path().join("elsewhere.csv")).unwrap();
    delivery.advance(INTERVAL).await;
    assert_eq!(delivery.numbers(), [1, 2, 3]);
}

#[tokio::test]
async fn rows_without_a_folder_are_dead_letters() {
    let delivery = Delivery::new(&[
        ("format", "ndjson"),
        ("partition_by", "text"),
        ("roll_interval", "1 minute"),
    ])
    .await;
    let long = "x".repeat(300);
    let schema = delivery.stream.stream().unwrap().schema.arrow();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, 2, 3])),
        Arc::new(StringArray::from(vec![Some("a"), Some(&long), Some("b")])),
    ];
    let produced = Produced {
        partition: TopicPartition::new(delivery.stream.topic(), 1),
        rows: RecordBatch::try_new(schema, columns).unwrap(),
        progress: None,
    };
    delivery.log.append(vec![produced]).await.unwrap();
    delivery.advance(INTERVAL).await;
    assert_eq!(delivery.numbers(), [1, 3]);
    let status = delivery.status().await;
    assert_eq!((status.rows, status.dead_letters, status.lag), (2, 1, Some(0)));
    let letters = letters(&delivery.log).await;
    assert_eq!(letters.len(), 1);
    assert!(
        letters[0].0.starts_with("partition 1, offset 1: text: a folder"),
        "{letters:?}"
    );
    assert!(letters[0].1.starts_with("{\"n\":2,"), "{letters:?}");
}

#[tokio::test]
async fn what_retention_took_away_is_counted() {
    let delivery = Delivery::new(&[("format", "ndjson"), ("roll_interval", "1 minute")]).await;
    delivery.append(0, 0..10).await;
    delivery.advance(INTERVAL).await;
    delivery.sinks.stop(delivery.sink.id).await;
    delivery.append(0, 10..20).await;
    delivery.clock.advance(Duration::from_millis(2 * RETENTION_MS));
    delivery.append(0, 20..30).await;
    delivery.log.sweep().unwrap();
    delivery.sinks.start(&delivery.sink, &delivery.stream);
    delivery.advance(INTERVAL).await;
    assert_eq!(delivery.numbers(), (0..10).chain(20..30).collect::<Vec<_>>());
    let status = delivery.status().await;
    assert_eq!((status.rows, status.missed, status.lag), (20, 10, Some(0)));
}

#[tokio::test]
async fn a_removed_sink_keeps_its_promise_and_leaves_nothing_else() {
    let delivery = Delivery::new(&[("format", "ndjson"), ("roll_interval", "1 minute")]).await;
    delivery.append(0, 0..10).await;
    delivery.advance(INTERVAL).await;
    delivery.append(0, 10..20).await;
    delivery.sinks.caught_up().await;
    delivery.sinks.remove(&delivery.sink).await.unwrap();
    assert_eq!(delivery.numbers(), (0..10).collect::<Vec<_>>());
    let names: Vec<_> = std::fs::read_dir(delivery.out()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

/// The sink by itself, stopped between its steps.
#[tokio::test]
async fn a_promise_is_kept_once() {
    let delivery = Delivery::new(&[("format", "parquet"), ("partition_by", "text")]).await;
    delivery.sinks.stop(delivery.sink.id).await;
    let out = delivery.out();
    let (nothing, committed, within) = (Promise::new(), Offsets::new(), Within::default());
    let open = || {
        sinks::open(delivery.sink.sink().unwrap(), &delivery.stream)
            .unwrap()
            .sink
    };
    let clock: Arc<dyn Clock> = Arc::clone(&delivery.clock) as _;
    let start = |promise| Start {
        name: "out-9",
        identity: "6f1c",
        promise,
        committed: &committed,
        within: &within,
        clock: &clock,
    };
    let batch = rows(1..10);
    let some = || Rows {
        partition: 0,
        first: 5,
        rows: &batch,
    };

    // Before the promise: what was written is forgotten.
    let mut sink = open();
    sink.open(start(&nothing)).await.unwrap();
    sink.write(some()).await.unwrap();
    assert!(!sink.prepare().await.unwrap().is_empty());
    drop(sink);
    let mut sink = open();
    sink.open(start(&nothing)).await.unwrap();
    assert_eq!(visible(&out), Vec::<PathBuf>::new());
    assert!(!out.join(".out-9").exists());

    // After it, some of the files were moved already, and somebody has taken one of them away.
    sink.write(some()).await.unwrap();
    let promise = sink.prepare().await.unwrap();
    assert_eq!((promise.len(), visible(&out).len()), (4, 0));
    let (number, path) = promise.first_key_value().unwrap();
    let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    std::fs::remove_file(out.join(".out-9").join(text(number))).unwrap();
    drop(sink);
    let mut sink = open();
    sink.open(start(&promise)).await.unwrap();
    let files = visible(&out);
    assert_eq!(files.len(), 3);
    assert!(!files.contains(&out.join(text(path))));
    sink.open(start(&promise)).await.unwrap();
    assert_eq!(visible(&out), files);

    // What came after it and was not promised is not taken for it, not even where a kept file has gone.
    std::fs::remove_file(&files[0]).unwrap();
    let later = Rows { first: 14, ..some() };
    sink.write(later).await.unwrap();
    assert_eq!(sink.prepare().await.unwrap().len(), 4);
    drop(sink);
    open().open(start(&promise)).await.unwrap();
    assert_eq!(visible(&out), files[1..]);
}
