//! What a server says about how far its views are behind what is stored.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::server::{Server, binary};

const PATIENCE: Duration = Duration::from_secs(60);

const SQL: &str = "
CREATE STREAM events (key TEXT NOT NULL, n BIGINT NOT NULL) PARTITION BY (key);
CREATE MATERIALIZED VIEW per_n AS SELECT n, count(*) AS events FROM events GROUP BY n;
CREATE MATERIALIZED VIEW counts AS SELECT events, count(*) AS n FROM per_n GROUP BY events;";

#[tokio::test]
async fn views_say_how_far_they_are_behind() {
    let mut server = Server::new(SQL);
    server.start().await;
    for n in 0..50 {
        let (status, answer) = server
            .post("/v1/streams/events/events", json!({"key": "k", "n": n}).to_string())
            .await;
        assert_eq!(status, 200, "{answer}");
    }
    let started = Instant::now();
    loop {
        let shown = server.sql("SHOW MATERIALIZED VIEWS").await;
        let known = shown.iter().filter_map(|row| row["behind_seconds"].as_f64());
        let known: Vec<_> = known.collect();
        if known.len() == 2 && known.iter().all(|behind| *behind < 1.0) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{shown:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let metrics = server.get("/metrics").await;
    for view in ["per_n", "counts"] {
        let gauge = format!("headwater_view_behind_seconds{{view=\"{view}\"}} ");
        assert!(metrics.lines().any(|line| line.starts_with(&gauge)), "{metrics}");
    }
    let status = Command::new(binary())
        .args(["status", "--server", &server.url()])
        .output();
    let status = String::from_utf8_lossy(&status.expect("the binary runs").stdout).into_owned();
    assert!(status.contains("behind") && status.contains("counts"), "{status}");

    // What is gone is behind nothing.
    server.sql("DROP VIEW counts").await;
    let metrics = server.get("/metrics").await;
    assert!(
        metrics.contains("headwater_view_behind_seconds{view=\"counts\"} 0\n"),
        "{metrics}"
    );
}
