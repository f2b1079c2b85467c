//! Events in over HTTP, answered only when durable, with client and server on the same cores.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use headwater_connect::sources::nexmark::generator::Table;
use headwater_schema::encode;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::bench::connection::{Connection, request};
use crate::bench::events::{STREAMS_SQL, bids};
use crate::bench::report::{Measured, percentile_ms};
use crate::bench::{Bench, BenchResult};

const PATH: &str = "/v1/streams/bid/events";
const EVENTS_PER_REQUEST: usize = 1000;
const BATCHED_CONNECTIONS: usize = 8;
const SINGLE_CONNECTIONS: usize = 64;
/// Bodies are made once and sent again and again.
const BODIES: usize = 64;

/// NDJSON, 1,000 bids a request, beside what arrow-json alone decodes of the same bytes on one core.
pub async fn batched(bench: &Bench) -> BenchResult {
    let bodies = bodies(EVENTS_PER_REQUEST)?;
    let decoded = arrow_json(bench, &bodies)?;

    let server = bench.serve(STREAMS_SQL).await?;
    let requests: Arc<Vec<_>> = Arc::new(
        bodies
            .iter()
            .map(|body| request("POST", PATH, "application/x-ndjson", body))
            .collect(),
    );
    let count = (bench.events / EVENTS_PER_REQUEST).max(BODIES);
    let mut sent = send(bench, server.address(), requests, count, BATCHED_CONNECTIONS).await?;
    let bytes_per_event = server.instance.core.log.bytes_used() as f64 / (count * EVENTS_PER_REQUEST) as f64;
    server.stop().await;

    let events = (count * EVENTS_PER_REQUEST) as f64;
    let per_second = events / sent.took.as_secs_f64();
    Ok(vec![
        Measured::new("arrow-json alone, one core").figure("events_per_second", decoded),
        Measured::new("ingest, batched, durable")
            .figure("events_per_second", per_second)
            .figure("ratio_to_arrow_json", per_second / decoded)
            .figure("latency_ms_p50", percentile_ms(&mut sent.latencies, 50.0))
            .figure("latency_ms_p99", percentile_ms(&mut sent.latencies, 99.0))
            .figure("disk_mb_per_million_events", bytes_per_event),
    ])
}

/// One bid a request on 64 connections, beside a bare axum handler that echoes.
pub async fn single(bench: &Bench) -> BenchResult {
    let bodies = bodies(1)?;
    let requests: Arc<Vec<_>> = Arc::new(
        bodies
            .iter()
            .map(|body| request("POST", PATH, "application/json", body))
            .collect(),
    );
    let count = (bench.events / 10).max(SINGLE_CONNECTIONS);

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let echo = Router::new().route(PATH, post(|body: axum::body::Bytes| async { body }));
    let echo = tokio::spawn(async move { axum::serve(listener, echo).await });
    let mut echoed = send(bench, address, Arc::clone(&requests), count, SINGLE_CONNECTIONS).await?;
    echo.abort();

    let server = bench.serve(STREAMS_SQL).await?;
    let mut sent = send(bench, server.address(), requests, count, SINGLE_CONNECTIONS).await?;
    server.stop().await;

    let echo_per_second = count as f64 / echoed.took.as_secs_f64();
    let per_second = count as f64 / sent.took.as_secs_f64();
    Ok(vec![
        Measured::new("axum echo")
            .figure("requests_per_second", echo_per_second)
            .figure("latency_ms_p50", percentile_ms(&mut echoed.latencies, 50.0))
            .figure("latency_ms_p99", percentile_ms(&mut echoed.latencies, 99.0)),
        Measured::new("ingest, single, durable")
            .figure("requests_per_second", per_second)
            .figure("ratio_to_echo", per_second / echo_per_second)
            .figure("latency_ms_p50", percentile_ms(&mut sent.latencies, 50.0))
            .figure("latency_ms_p99", percentile_ms(&mut sent.latencies, 99.0)),
    ])
}

struct Sent {
    took: Duration,
    latencies: Vec<Duration>,
}

/// Sends `count` requests over so many connections, each waiting for its answers.
async fn send(
    bench: &Bench,
    address: SocketAddr,
    requests: Arc<Vec<Vec<u8>>>,
    count: usize,
    connections: usize,
) -> std::io::Result<Sent> {
    let next = Arc::new(AtomicUsize::new(0));
    let started = bench.clock.elapsed();
    let mut senders = JoinSet::new();
    for _ in 0..connections {
        let (clock, next, requests) = (Arc::clone(&bench.clock), Arc::clone(&next), Arc::clone(&requests));
        senders.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return std::io::Result::Ok(latencies);
                }
                let sent = clock.elapsed();
                connection.expect_ok(&requests[number % requests.len()]).await?;
                latencies.push(clock.elapsed() - sent);
            }
        });
    }
    let mut latencies = Vec::with_capacity(count);
    while let Some(sender) = senders.join_next().await {
        latencies.extend(sender.map_err(std::io::Error::other)??);
    }
    Ok(Sent {
        took: bench.clock.elapsed() - started,
        latencies,
    })
}

fn bodies(events: usize) -> Result<Vec<Vec<u8>>, arrow::error::ArrowError> {
    let bids = bids(BODIES * events)?;
    (0..BODIES)
        .map(|number| {
            let mut body = Vec::new();
            encode::json_lines(&bids.slice(number * events, events), &mut body)?;
            Ok(body)
        })
        .collect()
}

/// Events per second that arrow-json decodes, on one core.
fn arrow_json(bench: &Bench, bodies: &[Vec<u8>]) -> Result<f64, arrow::error::ArrowError> {
    let started = bench.clock.elapsed();
    let mut events = 0;
    while bench.clock.elapsed() - started < Duration::from_secs(2) {
        for body in bodies {
            let reader = arrow::json::ReaderBuilder::new(Table::Bid.schema()).with_batch_size(EVENTS_PER_REQUEST);
            for batch in reader.build(body.as_slice())? {
                events += batch?.num_rows();
            }
        }
    }
    Ok(events as f64 / (bench.clock.elapsed() - started).as_secs_f64())
}
