//! More than the real binary can take: clients are told to come back, memory stays below its limit,
//! and what was acknowledged is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::server::Server;

/// The least that `memory.limit` can be.
const LIMIT_BYTES: u64 = 256 << 20;
const SQL: &str = "
CREATE STREAM events (id TEXT NOT NULL, n BIGINT NOT NULL, text TEXT) PARTITION BY (id);
CREATE MATERIALIZED VIEW per_id AS SELECT id, count(*) AS rows, sum(n) AS total FROM events GROUP BY id;
";
const CLIENTS: u64 = 12;
const FLOOD: Duration = Duration::from_secs(8);
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Two views with a row for every key, by another key than the stream's: rows meet in a topic between two stages.
const SQL_OF_KEYS: &str = "
CREATE STREAM visits (page TEXT NOT NULL, visitor TEXT NOT NULL, ms BIGINT NOT NULL) PARTITION BY (page) WITH (partitions = 4);
CREATE MATERIALIZED VIEW per_visitor AS SELECT visitor, count(*) AS visits, max(ms) AS longest FROM visits GROUP BY visitor;
CREATE MATERIALIZED VIEW per_visit AS SELECT page, visitor, count(*) AS visits, sum(ms) AS total FROM visits GROUP BY page, visitor;
";
const NEW_KEYS: u64 = 30_000;
const KEYS_PER_REQUEST: u64 = 2_000;
/// Long keys fill memory with few events, so that a slow build gets there as well.
const KEY_BYTES: usize = 1_000;

/// What became of the flood's requests.
#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    rejected: AtomicU64,
    told_to_come_back: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_told_to_come_back_and_memory_stays_below_its_limit() {
    let mut server = Server::new(SQL).with(&format!("memory.limit={LIMIT_BYTES}"));
    server.start().await;
    let counts = Arc::new(Counts::default());
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let url = format!("{}/v1/streams/events/events?on_error=dead_letter", server.url());
            tokio::spawn(flood(url, client, Arc::clone(&counts), Arc::clone(&stop)))
        })
        .collect();
    let mut elapsed = Duration::ZERO;
    let mut peak = 0;
    while elapsed < FLOOD {
        tokio::time::sleep(LOOK).await;
        elapsed += LOOK;
        peak = peak.max(own_bytes(server.process_id()));
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no client panics");
    }
    server.caught_up().await;

    let accepted = counts.accepted.load(Ordering::Relaxed);
    println!(
        "{accepted} events accepted, {} requests told to come back, peak {} MiB",
        counts.told_to_come_back.load(Ordering::Relaxed),
        peak >> 20
    );
    assert!(peak < LIMIT_BYTES, "{} MiB at the peak", peak >> 20);
    assert!(counts.told_to_come_back.load(Ordering::Relaxed) > 0, "never too much");
    assert!(accepted > 0, "nothing was taken");
    let stored = server.sql("SELECT count(*) AS n FROM events").await;
    assert_eq!(stored, [json!({"n": accepted})]);
    let counted = server.sql("SELECT sum(rows) AS n FROM per_id").await;
    assert_eq!(counted, [json!({"n": accepted})]);
    let letters = server.sql("SELECT count(*) AS n FROM dead_letters").await;
    assert_eq!(letters, [json!({"n": counts.rejected.load(Ordering::Relaxed)})]);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_below_its_limit_when_every_key_is_new() {
    let mut server = Server::new(SQL_OF_KEYS).with(&format!("memory.limit={LIMIT_BYTES}"));
    server.start().await;
    let url = format!("{}/v1/streams/visits/events", server.url());
    let sending = tokio::spawn(async move {
        let http = reqwest::Client::new();
        for first in (0..NEW_KEYS).step_by(KEYS_PER_REQUEST as usize) {
            let request = http.post(&url).header("content-type", "application/x-ndjson");
            let answer = request.body(visits(first)).send().await.expect("an answer");
            assert_eq!(answer.status().as_u16(), 200);
        }
    });
    let mut peak = 0;
    let process = server.process_id();
    let caught_up = async {
        sending.await.expect("all are sent");
        server.caught_up().await;
    };
    tokio::pin!(caught_up);
    loop {
        tokio::select! {
            () = &mut caught_up => break,
            () = tokio::time::sleep(LOOK) => peak = peak.max(own_bytes(process)),
        }
    }
    println!("peak {} MiB", peak >> 20);
    assert!(peak < LIMIT_BYTES, "{} MiB at the peak", peak >> 20);
    for view in ["per_visitor", "per_visit"] {
        let counted = server
            .sql(&format!("SELECT count(*) AS n, sum(visits) AS visits FROM {view}"))
            .await;
        assert_eq!(counted, [json!({"n": NEW_KEYS, "visits": NEW_KEYS})]);
    }
}

/// A request's events, each of a visitor who was never there before.
fn visits(first: u64) -> String {
    (first..first + KEYS_PER_REQUEST)
        .map(|n| {
            // Spread over all keys, so that no part of the store gets them in order.
            let visitor = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let page = n % 50;
            format!("{{\"page\":\"/page-{page}\",\"visitor\":\"{visitor:0>KEY_BYTES$x}\",\"ms\":{n}}}\n")
        })
        .collect()
}

/// Sends bodies of some MiB, one after the other, without a pause.
async fn flood(url: String, client: u64, counts: Arc<Counts>, stop: Arc<AtomicBool>) {
    let http = reqwest::Client::new();
    let body = body(client);
    while !stop.load(Ordering::Relaxed) {
        let request = http
            .post(&url)
            .header("content-type", "application/x-ndjson")
            .body(body.clone());
        // A server that refuses early may close the connection while the body is still being sent.
        let Ok(answer) = request.send().await else { continue };
        match answer.status().as_u16() {
            200 => {
                let answer: serde_json::Value = answer.json().await.expect("JSON");
                let number = |name: &str| answer[name].as_u64().unwrap_or(0);
                counts.accepted.fetch_add(number("accepted"), Ordering::Relaxed);
                counts.rejected.fetch_add(number("rejected"), Ordering::Relaxed);
            }
            429 => {
                assert!(answer.headers().contains_key("retry-after"));
                counts.told_to_come_back.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => panic!("{other}: {}", answer.text().await.unwrap_or_default()),
        }
    }
}

/// Bodies of 1 to 12 MiB: of short events, of long ones, and with bad ones among them.
fn body(client: u64) -> bytes::Bytes {
    let bytes = (1 + client as usize) << 20;
    let text = "x".repeat([0, 100, 10_000][client as usize % 3]);
    let mut body = String::new();
    let mut n = 0;
    while body.len() < bytes {
        let bad = if n % 5000 == 4999 { "\"bad\"" } else { "1" };
        body.push_str(&format!(
            "{{\"id\":\"{client}-{}\",\"n\":{bad},\"text\":\"{text}\"}}\n",
            n % 100
        ));
        n += 1;
    }
    body.into()
}

/// What the process has in memory of its own now. The pages of the binary itself are not counted: the system can drop
/// them whenever it likes.
fn own_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process is there");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .expect("RssAnon");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}
