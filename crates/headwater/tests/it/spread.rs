//! `examples/clickstream/spread`: one script starts six processes on real servers, and what it says to try works.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use headwater_test_servers::kafka;
use headwater_test_servers::postgres::Postgres;
use headwater_test_servers::redis::Redis;
use serde_json::{Value, json};

use crate::server::{binary, free_port};

const PATIENCE: Duration = Duration::from_secs(240);

/// The script; what it started ends with it.
struct Spread(Child);

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
    // Six in a row that are free, most probably.
    let port = free_port().min(60_000);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/clickstream/spread/start");
    let child = Command::new(script)
        .env("HEADWATER_BIN", binary())
        .env("KAFKA_BROKERS", &broker.brokers)
        .env("PG_URL", postgres.url())
        .env("REDIS_URL", redis.url())
        .env("PORT", port.to_string())
        .env("PG_PORT", free_port().to_string())
        .env("GRPC_PORT", free_port().to_string())
        .env("DATA", data.path())
        .stdout(Stdio::null())
        .spawn();
    let spread = Spread(child.expect("the script runs"));
    let [first, query, processor, second] = [0, 1, 2, 5].map(|number| format!("http://127.0.0.1:{}", port + number));
    let client = reqwest::Client::new();
    let click = json!({"event_id": "1", "user_id": "u1", "event_type": "click", "page_url": "/home"});
    let other = json!({"event_id": "2", "user_id": "u1", "event_type": "click", "page_url": "/home"});
    // The same one to both gateways, too: a client that got no answer sends it again.
    for (gateway, event) in [(&first, &click), (&second, &click), (&second, &other)] {
        until("an event is taken", async || {
            let sent = client.post(format!("{gateway}/ingest")).json(event).send().await;
            sent.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }
    let counted = json!({"user_id": "u1", "page_url": "/home", "click_count": 2});
    for asked in [&query, &first] {
        until("the query server answers, and a gateway that asks it", async || {
            let path = format!("{asked}/analytics/events?user_id=u1&page_url=/home");
            let Ok(answer) = client.get(path).send().await else {
                return false;
            };
            answer.json::<Value>().await.is_ok_and(|answer| answer == counted)
        })
        .await;
    }
    until("the row is in PostgreSQL", async || {
        let there = postgres.value("SELECT to_regclass('page_clicks')::text").await;
        there.is_some()
            && postgres
                .value("SELECT click_count::text FROM page_clicks")
                .await
                .as_deref()
                == Some("2")
    })
    .await;
    until("the key is in Redis", async || {
        let value: Option<String> = redis.ask("GET u1__+__/home").await;
        value.is_some_and(|value| serde_json::from_str::<Value>(&value).is_ok_and(|value| value["click_count"] == 2))
    })
    .await;
    let status = Command::new(binary()).args(["status", "--server", &processor]).output();
    let status = String::from_utf8_lossy(&status.expect("the binary runs").stdout).into_owned();
    for word in ["leads", "gateway", "sinks", "page_clicks", "warehouse", "running"] {
        assert!(status.contains(word), "no '{word}' in\n{status}");
    }
    drop(spread);
    until("all have ended", async || {
        client.get(format!("{query}/healthz")).send().await.is_err()
    })
    .await;
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
