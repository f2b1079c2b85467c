//! Answers: point queries over HTTP, and the time from an event's sending to its row on a live
//! subscription.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::bench::connection::{Connection, request};
use crate::bench::report::{Measured, percentile_ms};
use crate::bench::{Bench, BenchResult};

const CLICKS_SQL: &str = "
CREATE STREAM clicks (user_id TEXT NOT NULL, page_url TEXT NOT NULL, sent BIGINT NOT NULL) PARTITION BY (user_id) WITH (partitions = 2);
CREATE MATERIALIZED VIEW page_clicks AS SELECT user_id, page_url, count(*) AS click_count FROM clicks GROUP BY user_id, page_url;
";
const CLICKS_PATH: &str = "/v1/streams/clicks/events";
const KEYS: usize = 100_000;
const KEYS_PER_REQUEST: usize = 1000;
const CONNECTIONS: usize = 16;
const QUERIES: usize = 200_000;
const LATENCY_EVENTS_PER_SECOND: usize = 20_000;
const LATENCY_SECONDS: usize = 10;
/// The sender wakes this often and sends what is due.
const TICKS_PER_SECOND: usize = 200;

/// `GET /v1/views/page_clicks?user_id=…&page_url=…` over 100,000 keys.
pub async fn point(bench: &Bench) -> BenchResult {
    let server = bench.serve(CLICKS_SQL).await?;
    let address = server.address();
    let mut filling = Connection::open(address).await?;
    for first in (0..KEYS).step_by(KEYS_PER_REQUEST) {
        let lines: String = (first..first + KEYS_PER_REQUEST)
            .map(|key| {
                format!(
                    "{{\"user_id\":\"u{key}\",\"page_url\":\"/{}\",\"sent\":0}}\n",
                    key % 100
                )
            })
            .collect();
        filling
            .expect_ok(&request("POST", CLICKS_PATH, "application/x-ndjson", lines.as_bytes()))
            .await?;
    }
    server.instance.core.caught_up().await;

    let started = bench.clock.elapsed();
    let mut askers = JoinSet::new();
    for asker in 0..CONNECTIONS {
        let clock = Arc::clone(&bench.clock);
        askers.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut latencies = Vec::new();
            for query in (asker..QUERIES).step_by(CONNECTIONS) {
                let key = query.wrapping_mul(7919) % KEYS;
                let path = format!("/v1/views/page_clicks?user_id=u{key}&page_url=/{}", key % 100);
                let asked = clock.elapsed();
                connection.expect_ok(&request("GET", &path, "", b"")).await?;
                latencies.push(clock.elapsed() - asked);
            }
            io::Result::Ok(latencies)
        });
    }
    let mut latencies = Vec::with_capacity(QUERIES);
    while let Some(asker) = askers.join_next().await {
        latencies.extend(asker.map_err(io::Error::other)??);
    }
    let took = bench.clock.elapsed() - started;
    server.stop().await;
    Ok(vec![
        Measured::new("point query of a view over HTTP")
            .figure("requests_per_second", QUERIES as f64 / took.as_secs_f64())
            .figure("latency_ms_p50", percentile_ms(&mut latencies, 50.0))
            .figure("latency_ms_p99", percentile_ms(&mut latencies, 99.0)),
    ])
}

/// From the client's send to the row of a view's change on a live subscription, at 20,000 events a second.
pub async fn latency(bench: &Bench) -> BenchResult {
    let server = bench.serve(CLICKS_SQL).await?;
    let address = server.address();
    let subscribe = |path: &str| request("GET", path, "", b"");
    let total = LATENCY_EVENTS_PER_SECOND * LATENCY_SECONDS;

    let mut subscription = TcpStream::connect(address).await?;
    subscription
        .write_all(&subscribe("/v1/streams/clicks/live?from=latest"))
        .await?;
    let clock = Arc::clone(&bench.clock);
    let reader = tokio::spawn(async move {
        let mut lines = BufReader::new(subscription).lines();
        let mut latencies = Vec::with_capacity(total);
        while latencies.len() < total {
            let Some(line) = lines.next_line().await? else { break };
            if let Some(sent) = line.split("\"sent\":").nth(1) {
                let digits: String = sent.chars().take_while(char::is_ascii_digit).collect();
                let sent = Duration::from_micros(digits.parse().map_err(io::Error::other)?);
                latencies.push(clock.elapsed().saturating_sub(sent));
            }
        }
        io::Result::Ok(latencies)
    });
    bench.clock.sleep(Duration::from_millis(300)).await;
    send_steadily(bench, address, total).await?;
    let waited = tokio::time::timeout(Duration::from_secs(30), reader).await;
    let mut latencies = waited.map_err(io::Error::other)?.map_err(io::Error::other)??;
    server.stop().await;
    let steady = latencies.split_off(latencies.len() / 10);
    let mut steady = steady;
    Ok(vec![
        Measured::new("send to live row at 20,000 events/s")
            .figure("events_per_second", LATENCY_EVENTS_PER_SECOND as f64)
            .figure("latency_ms_p50", percentile_ms(&mut steady, 50.0))
            .figure("latency_ms_p99", percentile_ms(&mut steady, 99.0)),
    ])
}

async fn send_steadily(bench: &Bench, address: std::net::SocketAddr, total: usize) -> io::Result<()> {
    let mut connection = Connection::open(address).await?;
    let started = bench.clock.elapsed();
    let mut sent = 0;
    while sent < total {
        let due = (bench.clock.elapsed() - started).as_micros() as usize * LATENCY_EVENTS_PER_SECOND / 1_000_000;
        let due = due.min(total);
        if due > sent {
            let now = bench.clock.elapsed().as_micros();
            let lines: String = (sent..due)
                .map(|n| {
                    format!(
                        "{{\"user_id\":\"u{}\",\"page_url\":\"/{}\",\"sent\":{now}}}\n",
                        n % 10_000,
                        n % 100
                    )
                })
                .collect();
            connection
                .expect_ok(&request("POST", CLICKS_PATH, "application/x-ndjson", lines.as_bytes()))
                .await?;
            sent = due;
        }
        bench
            .clock
            .sleep(Duration::from_micros(1_000_000 / TICKS_PER_SECOND as u64))
            .await;
    }
    Ok(())
}
