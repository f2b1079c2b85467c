//! `examples/clickstream/spread`: one script starts six processes on real servers, and what it says to try works.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use headwater_test_servers::kafka;
use headwater_test_servers::ports::free_ports;
use headwater_test_servers::postgres::Postgres;
use headwater_test_servers::redis::Redis;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::binary;

const PATIENCE: Duration = Duration::from_secs(240);

/// The script, and the folder of what it says and keeps; what it started ends with it.
struct Spread(Child, TempDir);

impl Spread {
    /// Waits until something is so. A script that ended, or a process that never gets there, is told with the logs.
    async fn until(&mut self, what: &str, is_so: impl AsyncFn() -> bool) {
        let started = Instant::now();
        while !is_so().await {
            let ended = self.0.try_wait().is_ok_and(|ended| ended.is_some());
            assert!(!ended && started.elapsed() < PATIENCE, "{what}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn logs(&self) -> String {
        let mut files: Vec<_> = std::fs::read_dir(self.1.path())
            .expect("the folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        files
            .iter()
            .map(|path| {
                format!(
                    "{}\n{}\n",
                    path.display(),
                    std::fs::read_to_string(path).unwrap_or_default()
                )
            })
            .collect()
    }
}

impl Drop for Spread {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-s", "TERM", &self.0.id().to_string()])
            .status();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spread_out_example_counts() {
    let Some(broker) = tokio::task::block_in_place(kafka::shared) else {
        return;
    };
    let (Some(postgres), Some(redis)) = (Postgres::start().await, Redis::start().await) else {
        return;
    };
    let data = tempfile::tempdir().expect("a temporary directory");
    let [port, _, _, _, _, _, postgres_port, grpc_port] = free_ports();
    let said = std::fs::File::create(data.path().join("said")).expect("a file");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/clickstream/spread/start");
    let child = Command::new(script)
        .env("HEADWATER_BIN", binary())
        .env("KAFKA_BROKERS", &broker.brokers)
        .env("PG_URL", postgres.url())
        .env("REDIS_URL", redis.url())
        .env("PORT", port.to_string())
        .env("PG_PORT", postgres_port.to_string())
        .env("GRPC_PORT", grpc_port.to_string())
        .env("DATA", data.path())
        .stdout(said)
        .spawn();
    let mut spread = Spread(child.expect("the script runs"), data);
    let [first, query, processor, second] = [0, 1, 2, 5].map(|number| format!("http://127.0.0.1:{}", port + number));
    let client = reqwest::Client::new();
    let click = json!({"event_id": "1", "user_id": "u1", "event_type": "click", "page_url": "/home"});
    let other = json!({"event_id": "2", "user_id": "u1", "event_type": "click", "page_url": "/home"});
    // The same one to both gateways, too: a client that got no answer sends it again.
    for (gateway, event) in [(&first, &click), (&second, &click), (&second, &other)] {
        spread
            .until("an event is taken", async || {
                let sent = client.post(format!("{gateway}/ingest")).json(event).send().await;
                sent.is_ok_and(|answer| answer.status().is_success())
            })
            .await;
    }
    let counted = json!({"user_id": "u1", "page_url": "/home", "click_count": 2});
    for asked in [&query, &first] {
        spread
            .until("the query server answers, and a gateway that asks it", async || {
                let path = format!("{asked}/analytics/events?user_id=u1&page_url=/home");
                let Ok(answer) = client.get(path).send().await else {
                    return false;
                };
                answer.json::<Value>().await.is_ok_and(|answer| answer == counted)
            })
            .await;
    }
    spread
        .until("the row is in PostgreSQL", async || {
            let there = postgres.value("SELECT to_regclass('page_clicks')::text").await;
            there.is_some()
                && postgres
                    .value("SELECT click_count::text FROM page_clicks")
                    .await
                    .as_deref()
                    == Some("2")
        })
        .await;
    // From there by way of Redis, also when the count has changed.
    let third = json!({"event_id": "3", "user_id": "u1", "event_type": "click", "page_url": "/home"});
    for clicks in [2, 3] {
        let counted = json!({"user_id": "u1", "page_url": "/home", "click_count": clicks});
        for asked in [&query, &first] {
            spread
                .until(
                    "the query server answers from PostgreSQL, and a gateway that asks it",
                    async || {
                        let path = format!("{asked}/analytics/counts?user_id=u1&page_url=/home");
                        let Ok(answer) = client.get(path).send().await else {
                            return false;
                        };
                        answer.json::<Value>().await.is_ok_and(|answer| answer == counted)
                    },
                )
                .await;
        }
        let key: Option<String> = redis.ask("GET u1__+__/home").await;
        assert_eq!(
            key.and_then(|row| serde_json::from_str::<Value>(&row).ok()),
            Some(counted)
        );
        if clicks == 2 {
            let sent = client.post(format!("{second}/ingest")).json(&third).send().await;
            assert!(sent.is_ok_and(|answer| answer.status().is_success()));
        }
    }
    let status = Command::new(binary()).args(["status", "--server", &processor]).output();
    let status = String::from_utf8_lossy(&status.expect("the binary runs").stdout).into_owned();
    for word in ["leads", "gateway", "sinks", "page_clicks", "warehouse", "running"] {
        assert!(status.contains(word), "no '{word}' in\n{status}");
    }
    drop(spread);
    let asked = client.get(format!("{query}/healthz")).send().await;
    assert!(asked.is_err(), "all have ended");
}
