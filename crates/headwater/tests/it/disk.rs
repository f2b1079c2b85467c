//! A disk that is full, and files that were damaged, under the real binary.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::Server;
use crate::sinks::{delivered, files};

const SQL: &str = "
CREATE STREAM events (n BIGINT NOT NULL) WITH (partitions = 1);
CREATE MATERIALIZED VIEW totals AS SELECT n % 10 AS digit, count(*) AS rows FROM events GROUP BY n % 10;
";
const EVENTS: &str = "/v1/streams/events/events";

/// A small disk of its own, until it is dropped.
struct SmallDisk {
    directory: TempDir,
}

const DISK_BYTES: usize = 64 << 20;

impl SmallDisk {
    /// `None` where this user may not mount one.
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let options = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(directory.path())
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.directory.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_events_until_there_is_room_again() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: a small disk can't be mounted here");
        return;
    };
    let mut server = Server::new(SQL)
        .with_data_in(disk.path("data"))
        .with("log.disk_free_min=16MiB")
        .with("telemetry.log_format=json");
    server.start().await;
    assert_eq!(server.post(EVENTS, r#"{"n":1}"#).await.0, 200);
    std::fs::write(disk.path("filler"), vec![1; DISK_BYTES - (12 << 20)]).expect("room for the filler");

    let headers = [("content-type", "application/json"), ("x-request-id", "full-1")];
    let mut stored = 1;
    let problem = loop {
        let (status, answer) = server.post_as(EVENTS, &headers, r#"{"n":2}"#).await;
        if status != 200 {
            assert_eq!(status, 507, "{answer}");
            break answer;
        }
        // The disk is looked at now and then.
        stored += 1;
        assert!(stored < 1000, "it never fills");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(problem["type"], "https://headwater.dev/problems/disk-full");
    assert!(
        problem["detail"].as_str().is_some_and(|detail| detail.contains("data")),
        "{problem}"
    );
    let lines: Vec<Value> = server
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let of_request = |line: &&Value| line["level"] == "WARN" && line.to_string().contains("full-1");
    assert!(
        lines.iter().any(|line| of_request(&line)),
        "no warning with the request's id:\n{}",
        server.log()
    );
    let count = server.sql("SELECT count(*) AS n FROM events").await;
    assert_eq!(count, [json!({"n": stored})], "reading goes on");

    std::fs::remove_file(disk.path("filler")).expect("the filler is there");
    assert_eq!(server.post(EVENTS, r#"{"n":3}"#).await.0, 200, "there is room again");
    check_totals(&server, stored + 1).await;
    server.kill();
    server.start().await;
    check_totals(&server, stored + 1).await;
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[tokio::test]
async fn a_sink_waits_for_room_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: a small disk can't be mounted here");
        return;
    };
    let folder = disk.path("out");
    let sink = format!(
        "{SQL} CREATE SINK out FROM events WITH (connector = 'file', path = '{}', format = 'ndjson', roll_interval = '100 ms');",
        folder.display()
    );
    let mut server = Server::new(&sink);
    server.start().await;
    // A few pages are left: enough for folders, and not for the rows.
    let mut filler = std::fs::File::create(disk.path("filler")).expect("a filler");
    while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
    let length = filler.metadata().expect("its length").len();
    filler.set_len(length.saturating_sub(4 * 4096)).expect("a little room");

    let mut sent = Vec::new();
    for start in (0..20_000).step_by(1000) {
        let events: Vec<_> = (start..start + 1000).map(|n| json!({"n": n})).collect();
        assert_eq!(server.post(EVENTS, json!(events).to_string()).await.0, 200);
        sent.extend(start..start + 1000);
    }
    let state = loop {
        let sinks = server.sql("SHOW SINKS").await;
        if sinks[0]["state"] == "failing" {
            break sinks[0].clone();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(
        state["failure"]
            .as_str()
            .is_some_and(|why| why.contains("No space left")),
        "{state}"
    );
    assert!(state["lag"].as_u64().is_some_and(|lag| lag > 0), "{state}");
    assert_eq!(
        server.sql("SELECT count(*) AS n FROM events").await,
        [json!({"n": sent.len()})]
    );

    server.kill();
    server.start().await;
    drop(filler);
    std::fs::remove_file(disk.path("filler")).expect("the filler is there");
    delivered(&server).await;
    let mut found = Vec::new();
    for path in files(&folder) {
        for line in std::fs::read_to_string(path).expect("a file").lines() {
            let row: Value = serde_json::from_str(line).expect("JSON");
            found.push(row["n"].as_u64().expect("a number"));
        }
    }
    found.sort_unstable();
    assert_eq!(found, sent);
    assert_eq!(server.sql("SHOW SINKS").await[0]["failure"], Value::Null);
}

async fn check_totals(server: &Server, events: u64) {
    server.caught_up().await;
    for sql in ["SELECT count(*) AS n FROM events", "SELECT sum(rows) AS n FROM totals"] {
        assert_eq!(server.sql(sql).await, [json!({"n": events})], "{sql}\n{}", server.log());
    }
}

/// Files are damaged in so many ways, the same in every run; others with `HEADWATER_SEED`.
const ROUNDS: usize = 12;
const SEED: u64 = 1;
const EVENTS_STORED: u64 = 20_000;

#[tokio::test]
async fn damage_is_named_or_nothing_is_missing() {
    let seed = std::env::var("HEADWATER_SEED").map_or(SEED, |seed| seed.parse().expect("HEADWATER_SEED is a number"));
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::new(SQL);
    server.start().await;
    for start in (0..EVENTS_STORED).step_by(1000) {
        let events: Vec<_> = (start..start + 1000).map(|n| json!({"n": n})).collect();
        assert_eq!(server.post(EVENTS, json!(events).to_string()).await.0, 200);
    }
    server.caught_up().await;
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0));

    let mut found = 0;
    for round in 0..ROUNDS {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        copy(&server.data_directory(), &data);
        let what = damage(&data, round, &mut random);
        let mut damaged = Server::new(SQL).with_data_in(data.clone());
        let ended = damaged.start_or_end().await;
        let outcome = match ended {
            Some(status) => {
                let log = damaged.log();
                let last = log.lines().last().unwrap_or_default();
                assert_eq!(status.code(), Some(2), "{what}\n{log}");
                assert!(
                    last.contains(&*data.to_string_lossy()),
                    "{what}: no file is named in: {log}"
                );
                last.to_owned()
            }
            None => ask(&damaged).await,
        };
        println!("round {round}: {what}: {outcome}");
        found += usize::from(outcome != ALL);
        assert!(!damaged.log().contains("panicked"), "{what}\n{}", damaged.log());
    }
    assert!(found > 0, "no damage was ever found");
}

const ALL: &str = "nothing is missing";

/// Every answer is either complete or an error that tells of damage.
async fn ask(server: &Server) -> String {
    let mut outcome = ALL.to_owned();
    let sum: u64 = (0..EVENTS_STORED).sum();
    for (sql, expected) in [
        (
            "SELECT count(*) AS n, sum(n) AS s FROM events",
            json!([{"n": EVENTS_STORED, "s": sum}]),
        ),
        ("SELECT sum(rows) AS n FROM totals", json!([{"n": EVENTS_STORED}])),
    ] {
        let (status, answer) = server.post("/v1/sql", json!({"sql": sql}).to_string()).await;
        if status == 200 {
            assert_eq!(answer["rows"], expected, "{sql}\n{}", server.log());
        } else {
            outcome = answer["detail"].to_string();
            assert!(status >= 500 && outcome.contains("damaged"), "{sql}: {answer}");
        }
    }
    outcome
}

/// Flips a bit, overwrites some bytes or cuts the end off, in one file: by turns the largest, which holds
/// the events, and any.
fn damage(data: &Path, round: usize, random: &mut StdRng) -> String {
    let mut files = Vec::new();
    collect(&data.join("log"), &mut files);
    files.sort_by_key(|path| {
        (
            std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
            path.clone(),
        )
    });
    let any = random.random_range(0..files.len());
    let path = &files[if round.is_multiple_of(2) { files.len() - 1 } else { any }];
    let mut bytes = std::fs::read(path).expect("a file");
    // Journals are longer than what they hold.
    let length = bytes.iter().rposition(|&byte| byte != 0).map_or(1, |last| last + 1);
    let at = random.random_range(0..length);
    let end = length.min(at + random.random_range(1..64));
    let kind = random.random_range(0..3);
    match kind {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at..end].fill(0xa5),
        _ => bytes.truncate(at),
    }
    std::fs::write(path, &bytes).expect("the file");
    let kind = ["a bit flipped", "bytes overwritten", "cut off"][kind];
    format!("{} of {length} bytes, {kind} at {at}", path.display())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => collect(&path, files),
            false if path.metadata().is_ok_and(|metadata| metadata.len() > 0) => files.push(path),
            false => {}
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp");
}
