//! Files that sinks write, under the real binary and `kill -9`: every row is in one visible file.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::{Value, json};

use crate::crash::Load;
use crate::server::Server;

/// As `HEADWATER_CRASH_ROUNDS` and `HEADWATER_CRASH_SEED` say, like the other crash test.
const ROUNDS: u64 = 12;
const SEED: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(240);

const SQL: &str = "
CREATE STREAM events (
  id  TEXT NOT NULL,
  key TEXT NOT NULL,
  n   BIGINT NOT NULL,
  at  TIMESTAMP NOT NULL
) PARTITION BY (key) WITH (partitions = 2, idempotency_key = 'id');

CREATE MATERIALIZED VIEW per_key AS
SELECT key, count(*) AS events, sum(n) AS total FROM events GROUP BY key;

CREATE SINK by_key FROM events WITH (
  connector = 'file', path = 'FOLDER/by_key', format = 'ndjson', partition_by = 'key', roll_interval = '200 ms');
CREATE SINK small FROM events WITH (
  connector = 'file', path = 'FOLDER/small', format = 'parquet', roll_size = '20 KB', roll_interval = '300 ms');
CREATE SINK changes FROM per_key WITH (
  connector = 'file', path = 'FOLDER/changes', format = 'ndjson', roll_interval = '150 ms');
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_at_random_moments_leaves_every_row_in_one_file() {
    let from_env = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let rounds = from_env("HEADWATER_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = from_env("HEADWATER_CRASH_SEED").unwrap_or(SEED);
    println!("crash test of sinks: {rounds} rounds, HEADWATER_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::new(&SQL.replace("FOLDER", &folder.path().display().to_string()));
    server.start().await;
    let load = Arc::new(Load::new(server.url()));
    let clients = tokio::spawn(Arc::clone(&load).run(random.next_u64()));
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..900))).await;
        server.kill();
        server.start().await;
    }
    load.stop.store(true, Ordering::Relaxed);
    let sent = clients.await.expect("the clients end");
    delivered(&server).await;

    let expected: Vec<i64> = (0..sent as i64).collect();
    let of_small = files(&folder.path().join("small"))
        .iter()
        .flat_map(|path| of_parquet(path))
        .collect();
    assert_eq!(sorted(of_small), expected, "parquet");
    let mut of_keys = Vec::new();
    for path in files(&folder.path().join("by_key")) {
        let key = path
            .parent()
            .and_then(Path::file_name)
            .expect("a folder")
            .to_string_lossy()
            .into_owned();
        for row in of_lines(&path) {
            assert_eq!(row["key"], Value::Null, "the folder says it");
            let n = row["n"].as_i64().expect("a number");
            assert_eq!(key, format!("key=key-{}", n as u64 * 7919 % 23));
            of_keys.push(n);
        }
    }
    assert_eq!(sorted(of_keys), expected, "by key");
    check_changes(&server, &folder.path().join("changes")).await;

    let rows = server.sql("SHOW SINKS").await;
    for row in &rows {
        assert_eq!(
            (&row["state"], &row["missed"], &row["failure"]),
            (&json!("running"), &json!(0), &Value::Null),
            "{row}"
        );
    }
    assert_eq!(rows[0]["rows"], json!(sent), "{rows:?}");
    let hidden = |path: &PathBuf| {
        let within = path.strip_prefix(folder.path()).expect("it is in the folder");
        within.to_string_lossy().contains("/.")
    };
    assert!(!files(folder.path()).iter().any(hidden));
}

/// What the changes come to, in the order of their files and rows, is the view.
async fn check_changes(server: &Server, folder: &Path) {
    let mut result: BTreeMap<String, Value> = BTreeMap::new();
    for mut row in files(folder).iter().flat_map(|path| of_lines(path)) {
        let op = row.as_object_mut().and_then(|row| row.remove("op")).expect("an op");
        let key = row["key"].as_str().expect("a key").to_owned();
        match op.as_str() {
            Some("insert" | "update_after") => assert_eq!(result.insert(key, row), None),
            Some("update_before" | "delete") => assert_eq!(result.remove(&key), Some(row)),
            _ => panic!("no op: {op}"),
        }
    }
    let view = server.sql("SELECT * FROM per_key ORDER BY key").await;
    assert_eq!(result.into_values().collect::<Vec<_>>(), view);
}

/// Waits until queries have caught up, and sinks have delivered everything.
pub async fn delivered(server: &Server) {
    server.caught_up().await;
    let started = Instant::now();
    loop {
        let sinks = server.sql("SHOW SINKS").await;
        if sinks.iter().all(|sink| sink["lag"] == json!(0)) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{sinks:?}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All files below a folder, hidden ones too, in the order of their paths.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

fn of_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a file");
    assert!(text.ends_with('\n'), "{} is not whole", path.display());
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn of_parquet(path: &Path) -> Vec<i64> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("a file"));
    let batches = reader.expect("it is whole").build().expect("it can be read");
    let numbers = batches.map(|rows| {
        let rows = rows.expect("rows");
        let column = rows.column_by_name("n").expect("the column");
        column.as_primitive::<Int64Type>().values().to_vec()
    });
    numbers.flatten().collect()
}

fn sorted(mut numbers: Vec<i64>) -> Vec<i64> {
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn files_stay_in_the_folder_that_is_allowed() {
    let root = tempfile::tempdir().expect("a folder");
    let (inside, outside) = (root.path().join("inside"), root.path().join("outside"));
    for folder in [&inside, &outside] {
        std::fs::create_dir(folder).expect("a folder");
    }
    std::fs::write(outside.join("secret.ndjson"), "{\"n\":1}\n").expect("a file");
    std::os::unix::fs::symlink(&outside, inside.join("link")).expect("a link");
    std::os::unix::fs::symlink(outside.join("secret.ndjson"), inside.join("linked.ndjson")).expect("a link");
    let mut server =
        Server::new("CREATE STREAM events (n BIGINT NOT NULL)").with(&format!("files.directory={}", inside.display()));
    server.start().await;
    let run = async |sql: String| server.post("/v1/sql", json!({"sql": sql}).to_string()).await;
    let (inside, outside) = (inside.display().to_string(), outside.display().to_string());
    for path in [
        &outside,
        &format!("{inside}/../outside"),
        &format!("{inside}/link/deeper"),
    ] {
        let sink = format!("CREATE SINK s FROM events WITH (connector = 'file', path = '{path}', format = 'csv')");
        let (status, problem) = run(sink).await;
        assert_eq!(status, 400, "{path}: {problem}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("files.directory")),
            "{problem}"
        );
        let source = format!("CREATE SOURCE s INTO events WITH (connector = 'file', path = '{path}')");
        let (status, problem) = run(source).await;
        assert_eq!(status, 400, "{path}: {problem}");
    }
    let sink =
        format!("CREATE SINK s FROM events WITH (connector = 'file', path = '{inside}/new/deeper', format = 'csv')");
    assert_eq!(run(sink).await.0, 200);
    // A link out of the folder is seen when its turn comes.
    let source = format!("CREATE SOURCE followed INTO events WITH (connector = 'file', path = '{inside}')");
    assert_eq!(run(source).await.0, 200);
    let started = Instant::now();
    loop {
        let sources = server.sql("SHOW SOURCES").await;
        if sources[0]["state"] == json!("failing") {
            assert!(
                sources[0]["failure"]
                    .as_str()
                    .is_some_and(|why| why.contains("files.directory")),
                "{sources:?}"
            );
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{sources:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.sql("SELECT count(*) AS n FROM events").await, [json!({"n": 0})]);
}
