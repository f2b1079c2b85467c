//! NEXMark's queries, those of `examples/nexmark`: each continuous one holds what the same SELECT
//! answers over all events at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::json::ReaderBuilder;
use futures::TryStreamExt;
use headwater::cli::embedded::Embedded;
use headwater_connect::sources::nexmark::generator::{Generator, RATE, START, Table};
use headwater_event::clock::ManualClock;
use headwater_event::offset::TopicPartition;
use headwater_log::Produced;
use headwater_query::session::Answer;
use headwater_schema::encode::{json_array, json_object};
use serde_json::{Value, json};

use crate::server::Server;
use crate::sinks::{delivered, files};

const EVENTS: u64 = 2000;
/// Slower than the benchmark has it, so that the events fill some windows.
const EVENTS_PER_SECOND: u32 = 50;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/nexmark")
}

fn text(name: &str) -> String {
    let path = directory().join(format!("{name}.sql"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn rows(instance: &Embedded, sql: &str) -> Vec<Value> {
    let answers = instance.core.session().execute(sql, &[]).await;
    let answers = answers.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let Some(Answer::Rows { rows, .. }) = answers.into_iter().next() else {
        panic!("{sql} gives no rows");
    };
    let batches: Vec<RecordBatch> = rows.try_collect().await.expect("rows");
    let mut found = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let mut text = Vec::new();
            json_object(&batch, row, &mut text).expect("it can be written");
            let row: Value = serde_json::from_slice(&text).expect("JSON");
            found.push(rounded(row));
        }
    }
    found.sort_by_key(Value::to_string);
    found
}

/// An average may differ in its last digits, by the order in which it was put together.
fn rounded(mut row: Value) -> Value {
    for value in row.as_object_mut().into_iter().flat_map(|row| row.values_mut()) {
        if let (true, Some(number)) = (value.is_f64(), value.as_f64()) {
            *value = json!(format!("{number:.6e}"));
        }
    }
    row
}

async fn append(instance: &Embedded, table: Table, partition: u32, rows: RecordBatch) {
    let snapshot = instance.core.catalog.snapshot();
    let topic = snapshot.get(table.name()).expect("the stream").topic();
    let produced = Produced {
        partition: TopicPartition::new(topic, partition),
        rows,
        progress: None,
    };
    instance.core.log.append(vec![produced]).await.expect("it is appended");
}

/// A row that comes after everything, so that all windows before it are closed.
fn last(table: Table) -> RecordBatch {
    let time = "2200-01-01T00:00:00";
    let row = match table {
        Table::Person => json!({"id": -1, "name": "", "email_address": "", "credit_card": "", "city": "", "state": "",
            "date_time": time, "extra": ""}),
        Table::Auction => json!({"id": -2, "item_name": "", "description": "", "initial_bid": 0, "reserve": 0,
            "date_time": time, "expires": time, "seller": -3, "category": 0, "extra": ""}),
        Table::Bid => json!({"auction": -4, "bidder": -5, "price": 0, "channel": "", "url": "", "date_time": time,
            "extra": ""}),
    };
    let text = row.to_string();
    let mut reader = ReaderBuilder::new(table.schema())
        .build(text.as_bytes())
        .expect("a reader");
    reader.next().expect("a row").expect("it fits")
}

/// An instance with the events of the three streams, in small batches.
async fn with_events(clock: &Arc<ManualClock>) -> Embedded {
    let instance = Embedded::with_threads(Arc::clone(clock) as _, 2)
        .await
        .expect("it starts");
    let streams = text("streams").replace("partitions = 4", "partitions = 2");
    instance.core.execute(&streams).await.expect("the streams are fine");
    for table in [Table::Person, Table::Auction, Table::Bid] {
        let generator = Generator {
            rate: EVENTS_PER_SECOND.try_into().unwrap_or(RATE),
            ..Generator::standard(table, 5)
        };
        assert_eq!(generator.start, START);
        for (number, first) in (0..EVENTS).step_by(250).enumerate() {
            let rows = generator.batch(first..first + 250).expect("events");
            append(&instance, table, number as u32 % 2, rows).await;
        }
        for partition in 0..2 {
            append(&instance, table, partition, last(table)).await;
        }
    }
    instance
}

/// The SELECT of an object, and the condition for what is complete of it.
fn asked(instance: &Embedded, name: &str) -> (String, &'static str) {
    let snapshot = instance.core.catalog.snapshot();
    let definition = snapshot.get(name).expect("the query");
    let has = |name: &str| definition.columns().iter().any(|column| column.name == name);
    let complete = if has("window_end") {
        "WHERE window_end < TIMESTAMP '2100-01-01'"
    } else if has("date_time") {
        "WHERE date_time < TIMESTAMP '2100-01-01'"
    } else {
        ""
    };
    (definition.query().expect("a query").sql.clone(), complete)
}

#[tokio::test]
async fn every_query_gives_what_it_gives_as_a_batch() {
    let clock = ManualClock::new(1_767_225_600_000_000);
    let mut instance = with_events(&clock).await;
    let mut made = Vec::new();
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..=22 {
        let name = format!("q{number}");
        // What is written to files has a test of its own.
        let sql = text(&name).replace("path = '", &format!("path = '{}/", folder.path().display()));
        let created = instance.core.execute(&sql).await;
        created.unwrap_or_else(|error| panic!("{name}: {error}"));
        made.push(name);
    }
    instance.core.caught_up().await;
    instance = instance.restart().await.expect("it starts again");
    for _ in 0..4 {
        instance.core.caught_up().await;
        clock.advance(Duration::from_secs(60));
    }
    instance.core.caught_up().await;
    assert_eq!(
        rows(&instance, "SELECT reason, detail FROM dead_letters").await,
        Vec::<Value>::new()
    );
    for name in made {
        let (select, complete) = asked(&instance, &name);
        let stream = rows(&instance, &format!("SELECT * FROM {name} {complete}")).await;
        let batch = rows(&instance, &format!("SELECT * FROM ({select}) AS q {complete}")).await;
        let different = stream.iter().zip(&batch).find(|(one, other)| one != other);
        assert!(
            stream == batch && !batch.is_empty(),
            "{name}: {} rows instead of {}; {different:?}",
            stream.len(),
            batch.len()
        );
    }
}

#[tokio::test]
async fn q10_writes_every_bid_to_the_file_of_its_minute() {
    let folder = tempfile::tempdir().expect("a folder");
    let q10 = text("q10");
    let q10 = q10.replace("path = 'q10'", &format!("path = '{}'", folder.path().display()));
    let q10 = q10.replace("10 seconds", "200 ms");
    let mut server = Server::new(&format!("{}\n{q10}", text("streams")));
    server.start().await;
    let generator = Generator {
        rate: EVENTS_PER_SECOND.try_into().unwrap_or(RATE),
        ..Generator::standard(Table::Bid, 5)
    };
    for (number, first) in (0..8 * EVENTS).step_by(500).enumerate() {
        let mut bids = Vec::new();
        json_array(&generator.batch(first..first + 500).expect("events"), &mut bids).expect("JSON");
        let (status, answer) = server.post("/v1/streams/bid/events", bids).await;
        assert_eq!(status, 200, "{answer}");
        if number % 8 == 5 {
            tokio::time::sleep(Duration::from_millis(97 * number as u64 % 400)).await;
            server.kill();
            server.start().await;
        }
    }
    delivered(&server).await;

    let all = "SELECT auction, bidder, price, date_time, extra, \
               to_char(date_time, '%Y-%m-%d') AS dt, to_char(date_time, '%H:%M') AS hm FROM bid";
    let headers = [("content-type", "application/json"), ("accept", "text/csv")];
    let (status, batch) = server
        .post_as("/v1/sql", &headers, json!({"sql": all}).to_string())
        .await;
    assert_eq!(status, 200, "{batch}");
    let mut batch: Vec<String> = batch
        .as_str()
        .expect("CSV")
        .lines()
        .skip(1)
        .map(str::to_owned)
        .collect();
    let mut written = Vec::new();
    let mut folders = BTreeSet::new();
    for path in files(folder.path()) {
        let within = path
            .strip_prefix(folder.path())
            .expect("it is in the folder")
            .to_string_lossy();
        let parts: Vec<_> = within.split('/').collect();
        let [dt, hm, name] = parts[..] else { panic!("{within}") };
        let value = |part: &str, column: &str| {
            let value = part.strip_prefix(column).and_then(|rest| rest.strip_prefix('='));
            value.unwrap_or_else(|| panic!("{within}")).replace("%3A", ":")
        };
        let (dt, hm) = (value(dt, "dt"), value(hm, "hm"));
        assert!(name.starts_with("q10_files-") && name.ends_with(".csv"), "{within}");
        let text = std::fs::read_to_string(&path).expect("a file");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("auction,bidder,price,date_time,extra"));
        written.extend(lines.map(|line| format!("{line},{dt},{hm}")));
        folders.insert((dt, hm));
    }
    batch.sort();
    written.sort();
    assert_eq!(written.len(), batch.len());
    assert!(written == batch && folders.len() > 3, "{folders:?}");
}

#[test]
fn every_query_has_a_file() {
    let check = |name: &str| assert!(text(name).contains("CREATE "), "{name}");
    (0..=22).for_each(|number| check(&format!("q{number}")));
    ["streams", "sources"].into_iter().for_each(check);
}
